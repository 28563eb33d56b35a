"""Polygons of any CRS in degrees, split where longitudes wrap around.

A projection maps single points, and puts the two sides of the meridian at which its map is cut at
opposite ends of the plane. A polygon across that meridian, transformed vertex by vertex, is smeared
over the whole map. Here polygons are followed along their edges instead, and split at the meridian
opposite the middle of the map.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import pyproj
import shapely
from numpy.typing import NDArray

from .areas import ring_coordinates
from .errors import DatasetError

EPSG_4326 = pyproj.CRS.from_epsg(4326)
# about a metre
BEND_DEGREES = 1e-5
# an edge is divided into so many parts at most, and these again, so many times
MAX_PARTS = 256
ROUNDS = 6
# an edge bent by so many times the tolerance is looked at again, and torn if it stays so
TORN = 100.0
# of a turn
ROUNDING = 1e-12

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.int64]
Shapes = NDArray[Any]


def to_degrees(
    shapes: Shapes,
    crs: pyproj.CRS,
    names: NDArray[Any],
    *,
    target: pyproj.CRS = EPSG_4326,
    centre: float = 0.0,
    bend: float = BEND_DEGREES,
) -> Shapes:
    """Transform polygons to longitudes and latitudes, split where longitudes wrap around.

    Edges are straight in the CRS of the polygons; vertices are added where they are not straight
    in degrees. Longitudes are returned within half a turn of `centre`, and a polygon across the
    opposite meridian (180 by default) in parts on both sides of it.

    Args:
        shapes: `(n,)` valid polygons and multipolygons, none of them null or empty.
        crs: of the polygons. Longitudes of a geographic CRS may lie beyond 180.
        names: `(n,)` of the polygons, for messages.
        target: geographic CRS.
        centre: longitude in the units of `target`.
        bend: an edge that would be further than this off a straight line is divided; in the units
            of `target`.

    Returns:
        `(n,)` polygons and multipolygons; those that need no change are the same objects.

    Raises:
        DatasetError: an edge of a geographic CRS is longer than half a turn, so that it is not
            clear which way round it goes; a polygon holds or touches a pole of a projected CRS, or
            has no place on the globe.
    """
    if crs.is_geographic:
        shapes = _check_edges(shapes, full_turn(crs), names)
    if not crs.equals(target, ignore_axis_order=True):
        shapes = _transformed(shapes, crs, names, target, bend)
    return wrap(shapes, centre, full_turn(target))


def wrap(shapes: Shapes, centre: float = 0.0, turn: float = 360.0) -> Shapes:
    """Move polygons in degrees to within half a turn of a meridian, split on its far side.

    Args:
        shapes: `(n,)` polygons and multipolygons with longitudes as x; they may lie beyond 180.
        centre: longitude.
        turn: around the globe, in the units of the longitudes.
    """
    west = centre - turn / 2
    bounds = (shapely.bounds(shapes)[:, [0, 2]] - west) / turn
    first, last = np.floor(bounds[:, 0] + ROUNDING), np.ceil(bounds[:, 1] - ROUNDING) - 1
    if not (np.any(first) or np.any(last)):
        return shapes
    wrapped = shapes.copy()
    whole = np.flatnonzero((first == last) & (first != 0))
    by = turn * np.repeat(first[whole], shapely.get_num_coordinates(shapes[whole]))
    wrapped[whole] = shapely.transform(
        shapes[whole], lambda xy: np.column_stack([xy[:, 0] - by, xy[:, 1]])
    )
    for k in np.flatnonzero(last > first):
        parts: list[shapely.Geometry] = []
        for number in np.arange(first[k], last[k] + 1):
            move = np.array([turn * number, 0.0])
            window = shapely.box(west + move[0], -turn / 4, west + turn + move[0], turn / 4)
            part = shapely.get_parts(shapely.intersection(shapes[k], window))
            flat = part[(shapely.get_type_id(part) == 3) & (shapely.area(part) > 0)]
            parts += list(shapely.transform(flat, lambda xy, move=move: xy - move))
        wrapped[k] = shapely.union_all(parts)
    return wrapped


def follow(
    vertices: Floats,
    of_ring: Ints,
    move: Callable[[Floats], Floats],
    bend: float,
    turn: float | None = None,
) -> tuple[Floats, Ints, Floats, Ints]:
    """Add vertices to rings where their straight edges are bent by a transformation.

    Edges are divided alike whichever way they are walked, so neighbours still share theirs.

    Args:
        vertices: `(v, 2)`, ring after ring, closed.
        of_ring: `(v,)` the ring of each.
        move: the transformation, of `(k, 2)` coordinates; not finite where it has no value.
        bend: how far off a straight line an edge may be after it.
        turn: after which the transformation's first coordinate starts anew; never by default.

    Returns:
        `(w, 2)` vertices, `(w,)` their rings, `(w, 2)` the vertices transformed, and the numbers
        of the rings that are torn: the transformation is not continuous along them.
    """
    asked = np.append(of_ring[:-1] == of_ring[1:], False)
    moved = move(vertices)
    for _ in range(ROUNDS):
        edge = np.flatnonzero(asked)
        bent = _bends(vertices, moved, edge, move, turn)
        if not np.any(bent > bend):
            return vertices, of_ring, moved, np.zeros(0, dtype=np.int64)
        count = np.ones(len(vertices), dtype=np.int64)
        count[edge] = np.ceil(np.sqrt(bent / bend)).clip(1, MAX_PARTS)
        asked[edge] = bent > TORN * bend
        asked = np.repeat(asked, count)
        vertices, of_ring = _divided(vertices, of_ring, count)
        moved = move(vertices)
    edge = np.flatnonzero(asked)
    bent = _bends(vertices, moved, edge, move, turn)
    return vertices, of_ring, moved, np.unique(of_ring[edge[bent > TORN * bend]])


def _bends(
    vertices: Floats,
    moved: Floats,
    edge: Ints,
    move: Callable[[Floats], Floats],
    turn: float | None,
) -> Floats:
    """Distances of transformed edges from a straight line; 0 where an end is not finite."""
    low, high = _low_and_high(vertices, edge)
    start, stop = moved[low], moved[high]
    bent = np.zeros(len(edge))
    with np.errstate(invalid="ignore"):
        for part in (0.25, 0.5):  # an edge bent like an S is straight in its middle
            on_edge = vertices[low] + (vertices[high] - vertices[low]) * part
            chord = start + _short_way(stop - start, turn) * part
            off = np.abs(_short_way(move(on_edge) - chord, turn)).max(axis=1, initial=0.0)
            bent = np.maximum(bent, np.where(np.isfinite(off), off, np.inf))
    return np.where(np.isfinite(start + stop).all(axis=1), bent, 0.0)


def full_turn(crs: pyproj.CRS) -> float:
    """A turn around the globe in the units of a geographic CRS: 360, or 400 of grads."""
    return float(round(2 * np.pi / crs.axis_info[0].unit_conversion_factor, 9))


def refuse(names: NDArray[Any], which: NDArray[Any], what: str, remedy: str = "") -> None:
    """Raise an error that names the polygons with a problem, if there are any.

    Args:
        names: of all polygons.
        which: numbers of those, or a mask.
        what: is wrong with them.
        remedy: what to do, in sentences.

    Raises:
        DatasetError: there are some; the first are named.
    """
    found = np.asarray(names, dtype=object)[which]
    if len(found):
        listed = ", ".join(repr(name) for name in found[:5])
        more = f" and {len(found) - 5} more" if len(found) > 5 else ""
        raise DatasetError(f"{len(found)} polygon(s) {what}: {listed}{more}. {remedy}".rstrip())


def _check_edges(shapes: Shapes, turn: float, names: NDArray[Any]) -> Shapes:
    """Refuse edges that may go either way around the globe, and divide other long ones."""
    bounds = shapely.bounds(shapes)
    wide = np.flatnonzero(bounds[:, 2] - bounds[:, 0] >= turn / 2)
    if len(wide) == 0:
        return shapes
    vertices, of_ring, owner, _ = ring_coordinates(shapes[wide])
    step = np.where(of_ring[:-1] == of_ring[1:], np.abs(np.diff(vertices[:, 0])), 0.0)
    # the whole way round is clear
    unclear = (step > turn * (0.5 + ROUNDING)) & (np.abs(step - turn) > turn * ROUNDING)
    refuse(
        names,
        wide[np.unique(owner[of_ring[:-1][unclear]])],
        f"have an edge across more than {turn / 2:g} degrees of longitude, which may go either way "
        "round the globe",
        "If they lie across the antimeridian, write their longitudes beyond 180 (181 for -179), "
        "cut them there, or give them in their projected CRS. If they do go the long way, add "
        "vertices, as with `shapely.segmentize(shape, 90)`.",
    )
    divided = shapes.copy()
    divided[wide] = shapely.segmentize(shapes[wide], turn / 4)
    return divided


def _transformed(
    shapes: Shapes, crs: pyproj.CRS, names: NDArray[Any], target: pyproj.CRS, bend: float
) -> Shapes:
    """Polygons in degrees of another CRS, each ring without a jump in its longitudes."""
    transformer = _transformer(crs, target)
    turn = full_turn(target)
    parts, of_part = shapely.get_parts(shapes, return_index=True)
    vertices, of_ring, part, _ = ring_coordinates(parts)

    def move(xy: Floats) -> Floats:
        return np.column_stack(transformer.transform(xy[:, 0], xy[:, 1]))

    _, of_ring, moved, torn = follow(vertices, of_ring, move, bend, turn)
    lost = np.unique(of_part[part[of_ring[~np.isfinite(moved).all(axis=1)]]])
    refuse(names, lost, f"have no place on the globe in {crs.name}")
    moved[:, 0], around = _unwrapped(moved[:, 0], of_ring, part, turn)
    refuse(
        names,
        np.unique(of_part[part[np.union1d(torn, around)]]),
        "hold or touch a pole, where longitudes end",
        "Cut them into sectors around it, in degrees.",
    )
    rings = shapely.linearrings(moved, indices=of_ring)
    polygons = shapely.polygons(rings, indices=part)
    single = np.bincount(of_part, minlength=len(shapes)) == 1
    done = shapely.multipolygons(polygons, indices=of_part)
    done[single] = polygons[single[of_part]]
    return done


@lru_cache(maxsize=8)
def _transformer(crs: pyproj.CRS, target: pyproj.CRS) -> pyproj.Transformer:
    return pyproj.Transformer.from_crs(crs, target, always_xy=True)


def _unwrapped(lon: Floats, of_ring: Ints, part: Ints, turn: float) -> tuple[Floats, Ints]:
    """Longitudes that go on beyond 180, and the rings that go all the way round the globe."""
    first = np.flatnonzero(np.r_[True, of_ring[1:] != of_ring[:-1]])
    turns = np.r_[0.0, -np.cumsum(np.round(np.diff(lon) / turn))]
    turns -= turns[first][of_ring]
    last = np.r_[first[1:], len(lon)] - 1
    lon = lon + turn * turns
    # a hole lies in the turn of its outline
    middle = (np.minimum.reduceat(lon, first) + np.maximum.reduceat(lon, first)) / 2
    outline = middle[np.flatnonzero(np.r_[True, part[1:] != part[:-1]])][part]
    lon += turn * np.round((outline - middle) / turn)[of_ring]
    return lon, np.flatnonzero(turns[last] != 0)


def _short_way(step: Floats, turn: float | None) -> Floats:
    """Differences of coordinates whose first one starts anew after a turn."""
    if turn is not None:
        step[:, 0] -= turn * np.round(step[:, 0] / turn)
    return step


def _low_and_high(vertices: Floats, edge: Ints) -> tuple[Ints, Ints]:
    """Numbers of the ends of edges, in an order that does not depend on the way they are walked."""
    start, stop = vertices[edge], vertices[edge + 1]
    swap = (start[:, 0] > stop[:, 0]) | ((start[:, 0] == stop[:, 0]) & (start[:, 1] > stop[:, 1]))
    return edge + swap, edge + ~swap


def _divided(vertices: Floats, of_ring: Ints, count: Ints) -> tuple[Floats, Ints]:
    """Rings of which the edge from vertex i is divided into `count[i]` equal parts."""
    edge = np.repeat(np.arange(len(count)), count)
    step = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count)
    added = vertices[edge]
    new = np.flatnonzero(step)
    low, high = _low_and_high(vertices, edge[new])
    whole = count[edge[new]]
    part = np.where(low > edge[new], whole - step[new], step[new]) / whole
    added[new] = vertices[low] + (vertices[high] - vertices[low]) * part[:, None]
    return added, of_ring[edge]


__all__ = [
    "BEND_DEGREES",
    "EPSG_4326",
    "follow",
    "full_turn",
    "refuse",
    "to_degrees",
    "wrap",
]
