"""Polygons in degrees, split at the antimeridian, and geodesic areas.

A polygon across the meridian where a projection is cut is smeared over the map if it is transformed
vertex by vertex. Here polygons are followed along their edges, and split at the meridian opposite
the centre of the map. geopandas does neither, nor does it add vertices to curved edges.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import pyproj
import shapely
from numpy.typing import NDArray

from .errors import DatasetError

EPSG_4326 = pyproj.CRS.from_epsg(4326)
WGS84 = pyproj.Geod(ellps="WGS84")
BEND_DEGREES = 1e-5
"""About one metre."""
HALVINGS = 32
# edges bent by more than this multiple of the tolerance after all halvings are discontinuous
TORN = 100.0
# share of a turn
ROUNDING = 1e-12

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.int64]
Shapes = NDArray[Any]
Move = Callable[[Floats], Floats]


def to_degrees(
    shapes: Shapes,
    crs: pyproj.CRS,
    names: NDArray[Any],
    *,
    target: pyproj.CRS = EPSG_4326,
    centre: float = 0.0,
    bend: float = BEND_DEGREES,
) -> Shapes:
    """Transform polygons to longitude and latitude, split opposite a central meridian.

    Edges are straight in the CRS of the polygons; vertices are added where they are curved in
    degrees. A polygon across the meridian opposite `centre` (180 by default) is returned in two
    parts.

    Args:
        shapes: `(n,)` valid polygons and multipolygons, none of them null or empty.
        crs: CRS of the polygons. Longitudes of a geographic CRS may lie beyond 180.
        names: `(n,)` names of the polygons, for messages.
        target: Geographic CRS of the result.
        centre: Central meridian in the units of `target`; results lie within half a turn of it.
        bend: Maximum distance of an edge from a straight line, in the units of `target`.

    Returns:
        `(n,)` polygons and multipolygons; unchanged ones are the same objects.

    Raises:
        DatasetError: An edge of a geographic CRS is longer than half a turn, so its direction
            around the globe is ambiguous; or a polygon contains or touches a pole of a projected
            CRS, or cannot be transformed.
    """
    if crs.is_geographic:
        shapes = _check_edges(shapes, full_turn(crs), names)
    if crs.equals(target, ignore_axis_order=True):
        return wrap(shapes, centre, full_turn(target))
    transformer, turn = _transformer(crs, target), full_turn(target)
    parts, of_part = shapely.get_parts(shapes, return_index=True)

    def move(xy: Floats) -> Floats:
        return np.column_stack(transformer.transform(xy[:, 0], xy[:, 1]))

    moved, torn, missing = project(parts, move, bend, turn)
    refuse(
        names, np.unique(of_part[missing > 0]), f"cannot be transformed to degrees from {crs.name}"
    )
    refuse(
        names,
        np.unique(of_part[torn]),
        "contain or touch a pole, where longitude is undefined",
        "Cut them into sectors around it, in degrees.",
    )
    single = np.bincount(of_part, minlength=len(shapes)) == 1
    done = shapely.multipolygons(moved, indices=of_part)
    done[single] = moved[single[of_part]]
    return wrap(done, centre, turn)


def wrap(shapes: Shapes, centre: float = 0.0, turn: float = 360.0) -> Shapes:
    """Shift polygons in degrees to within half a turn of a meridian, split on its far side.

    Args:
        shapes: `(n,)` polygons and multipolygons; longitudes may lie beyond 180.
        centre: Longitude of the meridian.
        turn: Full turn in the units of the longitudes.
    """
    west = centre - turn / 2
    bounds = (shapely.bounds(shapes)[:, [0, 2]] - west) / turn
    first, last = np.floor(bounds[:, 0] + ROUNDING), np.ceil(bounds[:, 1] - ROUNDING) - 1
    wrapped = shapes.copy() if np.any(first) or np.any(last) else shapes
    for k in np.flatnonzero((first != 0) | (last != 0)):
        parts: list[shapely.Geometry] = []
        for number in np.arange(first[k], last[k] + 1):
            move, part = np.array([turn * number, 0.0]), shapes[k]
            if last[k] > first[k]:
                window = shapely.box(west + move[0], -turn / 4, west + turn + move[0], turn / 4)
                part = shapely.intersection(shapes[k], window)
            pieces = shapely.get_parts(part)
            flat = pieces[(shapely.get_type_id(pieces) == 3) & (shapely.area(pieces) > 0)]
            parts += list(shapely.transform(flat, lambda xy, move=move: xy - move))
        wrapped[k] = parts[0] if len(parts) == 1 else shapely.union_all(parts)
    return wrapped


def project(
    polygons: Shapes, move: Move, bend: float, turn: float | None = None
) -> tuple[Shapes, NDArray[np.bool_], Floats]:
    """Transform polygons, adding vertices where transformed edges are curved.

    Edges are divided the same way in both directions, so adjacent polygons still share theirs.

    Args:
        polygons: `(n,)` single polygons.
        move: Transformation of `(k, 2)` coordinates; not finite where undefined.
        bend: Maximum distance of a transformed edge from a straight line.
        turn: Period of the first transformed coordinate; None if it is not periodic.

    Returns:
        `(n,)` polygons, None where a vertex is undefined; `(n,)` whether the outline crosses a
        discontinuity or encircles the globe; and `(n,)` share of undefined vertices.
    """
    vertices, of_ring, part, _ = _rings(polygons)
    of_ring, moved, torn_edges = _follow(vertices, of_ring, move, bend, turn)
    torn = np.zeros(len(polygons), dtype=bool)
    torn[part[torn_edges]] = True
    lost = ~np.isfinite(moved).all(axis=1)
    owner = part[of_ring]
    missing = np.bincount(owner, lost, len(polygons)) / np.bincount(owner, minlength=len(polygons))
    moved[lost] = 0.0
    if turn is not None and len(moved):
        moved[:, 0], around = _unwrapped(moved[:, 0], of_ring, part, turn)
        torn[part[around]] = True
    done = shapely.polygons(shapely.linearrings(moved, indices=of_ring), indices=part)
    done[missing > 0] = None
    return done, torn, missing


def geodesic_areas(geometry: Any) -> Floats:
    """Geodesic areas of polygons on the WGS-84 ellipsoid, in square metres.

    Args:
        geometry: `(n,)` polygons or multipolygons in EPSG:4326 that contain no pole. Edges take the
            shorter way, so a polygon may cross the antimeridian.

    Returns:
        `(n,)` areas; 0 for an empty geometry, NaN for a null one.
    """
    shapes = np.asarray(geometry, dtype=object)
    vertices, of_ring, owner, sign = _rings(shapes)
    stops = np.bincount(of_ring, minlength=len(owner)).cumsum()[:-1]
    rings = np.split(np.ascontiguousarray(vertices.T), stops, axis=1) if len(owner) else []
    found = np.array([abs(WGS84.polygon_area_perimeter(*ring)[0]) for ring in rings])
    areas: Floats = np.bincount(owner, sign * found, len(shapes)).astype(np.float64)
    areas[shapely.is_missing(shapes)] = np.nan
    return areas


def full_turn(crs: pyproj.CRS) -> float:
    """Full turn in the units of a geographic CRS: 360 degrees, or 400 grads."""
    return float(round(2 * np.pi / crs.axis_info[0].unit_conversion_factor, 9))


def refuse(names: NDArray[Any], which: NDArray[Any], what: str, remedy: str = "") -> None:
    """Raise an error that names the affected polygons, if there are any.

    Args:
        names: Names of all polygons.
        which: Indices or mask of the affected polygons.
        what: The problem, as in "are empty".
        remedy: Advice, in full sentences.

    Raises:
        DatasetError: A polygon is affected; the first five are named.
    """
    found = np.asarray(names, dtype=object)[which]
    if len(found):
        listed = ", ".join(repr(name) for name in found[:5])
        more = f" and {len(found) - 5} more" if len(found) > 5 else ""
        raise DatasetError(f"{len(found)} polygon(s) {what}: {listed}{more}. {remedy}".rstrip())


def check_polygons(shapes: Shapes, names: NDArray[Any]) -> None:
    """Raise a DatasetError unless all geometries are valid polygons, null or empty."""
    there = ~(shapely.is_missing(shapes) | shapely.is_empty(shapes))
    refuse(names, there & ~np.isin(shapely.get_type_id(shapes), (3, 6)), "are not polygons")
    invalid = there & ~shapely.is_valid(shapes)
    reason = shapely.is_valid_reason(shapes[invalid][0]) if invalid.any() else ""
    refuse(
        names, invalid, f"are not valid ({reason})", "Repair them, for example with `make_valid()`."
    )


def _rings(shapes: Shapes) -> tuple[Floats, Ints, Ints, Floats]:
    """Vertices, the ring of each, the shape of each ring, and its sign (-1 for holes)."""
    parts, of_part = shapely.get_parts(shapes, return_index=True)
    rings, part = shapely.get_rings(parts, return_index=True)
    vertices, of_ring = shapely.get_coordinates(rings, return_index=True)
    is_hole = np.r_[False, part[1:] == part[:-1]][: len(part)]
    return vertices, of_ring, of_part[part], np.where(is_hole, -1.0, 1.0)


def _check_edges(shapes: Shapes, turn: float, names: NDArray[Any]) -> Shapes:
    """Raise for edges of ambiguous direction around the globe, and divide other long edges."""
    bounds = shapely.bounds(shapes)
    wide = np.flatnonzero(bounds[:, 2] - bounds[:, 0] >= turn / 2)
    if len(wide) == 0:
        return shapes
    vertices, of_ring, owner, _ = _rings(shapes[wide])
    step = np.where(of_ring[:-1] == of_ring[1:], np.abs(np.diff(vertices[:, 0])), 0.0)
    # an edge of a full turn is unambiguous
    unclear = (step > turn * (0.5 + ROUNDING)) & (np.abs(step - turn) > turn * ROUNDING)
    refuse(
        names,
        wide[np.unique(owner[of_ring[:-1][unclear]])],
        f"have an edge across more than {turn / 2:g} degrees of longitude, whose direction around "
        "the globe is ambiguous",
        "If they lie across the antimeridian, write their longitudes beyond 180 (181 for -179), "
        "cut them there, or give them in their projected CRS. If they do go the long way, add "
        "vertices, for example with `shapely.segmentize(shape, 90)`.",
    )
    divided = shapes.copy()
    divided[wide] = shapely.segmentize(shapes[wide], turn / 4)
    return divided


@lru_cache(maxsize=8)
def _transformer(crs: pyproj.CRS, target: pyproj.CRS) -> pyproj.Transformer:
    return pyproj.Transformer.from_crs(crs, target, always_xy=True)


def _follow(
    vertices: Floats, of_ring: Ints, move: Move, bend: float, turn: float | None
) -> tuple[Ints, Floats, Ints]:
    """Transform rings, halving their edges until none is bent by more than `bend`.

    Returns:
        `(w,)` ring of each vertex, `(w, 2)` transformed vertices, and indices of discontinuous
        rings.
    """
    asked = np.append(of_ring[:-1] == of_ring[1:], False)
    moved = move(vertices)
    for _ in range(HALVINGS):
        edge = np.flatnonzero(asked)
        edge = edge[_bends(vertices, moved, edge, move, turn) > bend]
        if len(edge) == 0:
            break
        middle = (vertices[edge] + vertices[edge + 1]) / 2
        asked[:] = False
        asked[edge] = True
        asked = np.insert(asked, edge + 1, True)
        vertices = np.insert(vertices, edge + 1, middle, axis=0)
        moved = np.insert(moved, edge + 1, move(middle), axis=0)
        of_ring = np.insert(of_ring, edge + 1, of_ring[edge])
    edge = np.flatnonzero(asked)
    torn = edge[_bends(vertices, moved, edge, move, turn) > TORN * bend]
    return of_ring, moved, np.unique(of_ring[torn])


def _bends(vertices: Floats, moved: Floats, edge: Ints, move: Move, turn: float | None) -> Floats:
    """Distances of transformed edges from a straight line; 0 where an end is not finite."""
    start, stop = moved[edge], moved[edge + 1]
    bent = np.zeros(len(edge))
    with np.errstate(invalid="ignore"):
        for part in (0.25, 0.5, 0.75):  # the midpoint of an S-shaped edge is on the line
            on_edge = vertices[edge] * (1 - part) + vertices[edge + 1] * part
            chord = start + _short_way(stop - start, turn) * part
            off = np.abs(_short_way(move(on_edge) - chord, turn)).max(axis=1, initial=0.0)
            bent = np.maximum(bent, np.where(np.isfinite(off), off, np.inf))
    return np.where(np.isfinite(start + stop).all(axis=1), bent, 0.0)


def _short_way(step: Floats, turn: float | None) -> Floats:
    """Differences of coordinates, the first of which is periodic."""
    if turn is not None:
        step[:, 0] -= turn * np.round(step[:, 0] / turn)
    return step


def _unwrapped(lon: Floats, of_ring: Ints, part: Ints, turn: float) -> tuple[Floats, Ints]:
    """Longitudes without jumps within a ring, and indices of rings that encircle the globe."""
    first = np.flatnonzero(np.r_[True, of_ring[1:] != of_ring[:-1]])
    turns = np.r_[0.0, -np.cumsum(np.round(np.diff(lon) / turn))]
    turns -= turns[first][of_ring]
    last = np.r_[first[1:], len(lon)] - 1
    lon = lon + turn * turns
    # move holes to the turn of their outline
    middle = (np.minimum.reduceat(lon, first) + np.maximum.reduceat(lon, first)) / 2
    outline = middle[np.flatnonzero(np.r_[True, part[1:] != part[:-1]])][part]
    lon += turn * np.round((outline - middle) / turn)[of_ring]
    return lon, np.flatnonzero(turns[last] != 0)


__all__ = [
    "BEND_DEGREES",
    "EPSG_4326",
    "check_polygons",
    "full_turn",
    "geodesic_areas",
    "project",
    "refuse",
    "to_degrees",
    "wrap",
]
