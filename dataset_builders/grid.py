"""Square cells of a metric grid around points."""

import numpy as np
import pyproj
import shapely

from .errors import DatasetError


def grid_cells(lon: np.ndarray, lat: np.ndarray, side_m: float) -> tuple[np.ndarray, np.ndarray]:
    """The cell of each point on the UTM grid of the middle of their extent.

    Cells are snapped to multiples of their side, so that other points of the same zone fall into
    the same cells under the same names.

    Args:
        lon: `(n,)`, EPSG:4326; NaN where unknown.
        lat: `(n,)`.
        side_m: of a cell, metres.

    Returns:
        `(n,)` ids, "epsg32650_1000_447_4417" (zone, side, column, row), and `(n,)` polygons in
        EPSG:4326; None for points without a place.

    Raises:
        DatasetError: a side that is not above 0.
    """
    if not side_m > 0:
        raise DatasetError(f"A cell needs a side above 0 m, got {side_m}.")
    lon, lat = np.asarray(lon, dtype=np.float64), np.asarray(lat, dtype=np.float64)
    ids = np.full(len(lon), None, dtype=object)
    cells = np.full(len(lon), None, dtype=object)
    known = np.flatnonzero(np.isfinite(lon) & np.isfinite(lat))
    if len(known) == 0:
        return ids, cells
    epsg = _utm_epsg(lon[known], lat[known])
    to_plane = pyproj.Transformer.from_crs("EPSG:4326", f"EPSG:{epsg}", always_xy=True)
    x, y = to_plane.transform(lon[known], lat[known])
    column, row = np.floor(x / side_m).astype(np.int64), np.floor(y / side_m).astype(np.int64)
    ids[known] = [f"epsg{epsg}_{side_m:g}_{i}_{j}" for i, j in zip(column, row, strict=True)]
    corners = ((0, 0), (1, 0), (1, 1), (0, 1))
    rings = [
        np.column_stack(
            to_plane.transform((column + i) * side_m, (row + j) * side_m, direction="INVERSE")
        )
        for i, j in corners
    ]
    cells[known] = shapely.polygons(np.stack(rings, axis=1))
    return ids, cells


def _utm_epsg(lon: np.ndarray, lat: np.ndarray) -> int:
    middle = (lon.min() + lon.max()) / 2
    zone = min(60, int((middle + 180) // 6) + 1)
    return (32600 if lat.min() + lat.max() >= 0 else 32700) + zone


__all__ = ["grid_cells"]
