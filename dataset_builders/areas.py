"""Areas on the WGS-84 ellipsoid of many polygons at once.

Each edge is taken as a great circle of the authalic sphere, the sphere on which every area equals
that on the ellipsoid (Snyder, Map Projections: A Working Manual, 1987, p. 16). Against
geodesics that is off by less than 2e-7 of the area where edges are 1 km long and 2e-5 where they
are 100 km; for squares, whose opposite edges make up for one another, by far less.
"""

from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from .coverage import sum_by

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.int64]
AXIS_M = 6378137.0
FLATTENING = 1 / 298.257223563
ECCENTRICITY = float(np.sqrt(FLATTENING * (2 - FLATTENING)))


def geodesic_areas(geometry: Any) -> Floats:
    """Areas in square metres.

    Args:
        geometry: `(n,)` polygons or multipolygons, degrees of EPSG:4326; none holds a pole. Edges
            take the shorter way round, so a polygon may cross the antimeridian.

    Returns:
        `(n,)`; 0 for an empty geometry, NaN for a null one.
    """
    shapes = np.asarray(geometry, dtype=object)
    lon_lat, of_ring, owner, sign = ring_coordinates(shapes)
    rings = ring_areas(lon_lat, of_ring, len(owner))
    areas = sum_by(owner, rings * sign, len(shapes))
    areas[shapely.is_missing(shapes)] = np.nan
    return areas


def ring_areas(lon_lat: Floats, of_ring: Ints, count: int) -> Floats:
    """`(count,)` areas within closed rings in square metres.

    Args:
        lon_lat: `(v, 2)` vertices in degrees, ring after ring.
        of_ring: `(v,)` the ring of each.
        count: of the rings.
    """
    same = of_ring[:-1] == of_ring[1:]
    excess = _excess(lon_lat[:-1], lon_lat[1:])[same]
    rings = np.abs(sum_by(of_ring[:-1][same], excess, count))
    return rings * AXIS_M**2 * _q(np.ones(1))[0] / 2


def ring_coordinates(
    shapes: NDArray[Any],
) -> tuple[Floats, Ints, Ints, Floats]:
    """All vertices of all polygons, ring after ring.

    Args:
        shapes: `(n,)` polygons, multipolygons or collections of them; other parts are left out.

    Returns:
        `(v, 2)` vertices, `(v,)` the ring of each, `(r,)` the polygon of each ring, and `(r,)` 1
        for an outline and -1 for a hole.
    """
    parts, of_part = shapely.get_parts(shapes, return_index=True)
    if np.any(shapely.get_type_id(parts) > 3):  # a multipolygon within a collection
        parts, inner = shapely.get_parts(parts, return_index=True)
        of_part = of_part[inner]
    flat = shapely.get_type_id(parts) == 3
    rings, of_rings = shapely.get_rings(parts[flat], return_index=True)
    sign = np.ones(len(rings))
    sign[1:][of_rings[1:] == of_rings[:-1]] = -1
    vertices, of_ring = shapely.get_coordinates(rings, return_index=True)
    return vertices, of_ring, of_part[flat][of_rings], sign


def _excess(start: Floats, stop: Floats) -> Floats:
    """Area between each edge and the equator on the unit sphere."""
    width = stop[:, 0] - start[:, 0]
    width = np.radians(width - 360.0 * np.round(width / 360.0))
    a, b = (np.tan(_authalic(np.radians(end[:, 1])) / 2) for end in (start, stop))
    # both halves of the angle are small: arctan is exact there
    return 2 * np.arctan(np.tan(width / 2) * (a + b) / (1 + a * b))


def _authalic(lat: Floats) -> Floats:
    return np.arcsin(np.clip(_q(np.sin(lat)) / _q(np.ones(1)), -1, 1))


def _q(sine: Floats) -> Floats:
    e = ECCENTRICITY
    return (1 - e**2) * (sine / (1 - (e * sine) ** 2) + np.arctanh(e * sine) / e)


__all__ = ["geodesic_areas", "ring_areas", "ring_coordinates"]
