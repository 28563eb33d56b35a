"""Assignment of points to regions; a point on a shared edge goes to exactly one region."""

from collections.abc import Callable
from typing import Any

import geopandas as gpd
import numpy as np
import shapely
from numpy.typing import NDArray

from .coordinates import convert
from .errors import DatasetError

POINTS_AT_ONCE = 200_000
MIN_POINTS_TO_JUDGE = 10
EARTH_RADIUS_M = 6378137.0

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.int64]
Position = Callable[[Floats, Floats], tuple[Floats, Floats]]


def assign_points(
    lon: Any, lat: Any, regions: "gpd.GeoDataFrame | RegionIndex", *, check: bool = True
) -> Ints:
    """Assign each point to the region that contains it.

    A point in several regions (shared edges, overlaps) is assigned to the first by `region_id`, so
    the result does not depend on row order.

    Args:
        lon: `(n,)` longitudes, EPSG:4326; NaN where unknown.
        lat: `(n,)` latitudes.
        regions: Polygons in EPSG:4326, split at the antimeridian, with `region_id`; or their
            [`RegionIndex`].
        check: If most points lie outside, test whether another coordinate system fits better.

    Returns:
        `(n,)` row positions in `regions`; -1 for points outside all regions.

    Raises:
        DatasetError: The regions are not in EPSG:4326; or most points lie outside, but not in
            another coordinate system, which is named.
    """
    lon, lat = np.asarray(lon, dtype=np.float64), np.asarray(lat, dtype=np.float64)
    if lon.shape != lat.shape or lon.ndim != 1:
        raise DatasetError(
            f"`lon` and `lat` must be arrays of equal length, got {lon.shape} and {lat.shape}."
        )
    index = regions if isinstance(regions, RegionIndex) else RegionIndex(regions)
    found = np.full(len(lon), -1, dtype=np.int64)
    known = np.flatnonzero(np.isfinite(lon) & np.isfinite(lat))
    if len(index.shapes) == 0 or len(known) == 0:
        return found
    found[known] = index.find(lon[known], lat[known])
    if check and len(known) >= MIN_POINTS_TO_JUDGE:
        inside = np.count_nonzero(found >= 0) / len(known)
        if inside < 0.5:
            _suggest_system(lon[known], lat[known], inside, index)
    return found


class RegionIndex:
    """Spatial index of regions, for repeated calls of [`assign_points`].

    Raises:
        DatasetError: The regions are not in EPSG:4326.
    """

    def __init__(self, regions: gpd.GeoDataFrame):
        if regions.crs is None or not regions.crs.equals("EPSG:4326", ignore_axis_order=True):
            name = "no CRS" if regions.crs is None else regions.crs.name
            raise DatasetError(f"The regions must be in EPSG:4326, got {name}.")
        ids = np.asarray(regions.get("region_id", regions.index), dtype=object).astype(str)
        self.order = np.argsort(ids, kind="stable")
        self.shapes = regions.geometry.to_numpy()[self.order]
        shapely.prepare(self.shapes)  # outlines of thousands of vertices are slow otherwise
        self.tree = shapely.STRtree(self.shapes)

    def find(self, lon: Floats, lat: Floats) -> Ints:
        """Row positions of the regions that contain points; -1 for points outside all regions."""
        lon = np.where(np.abs(lon) > 180, (lon + 180.0) % 360.0 - 180.0, lon)
        none = len(self.shapes)
        first = np.full(len(lon), none)
        for start in range(0, len(lon), POINTS_AT_ONCE):
            part = slice(start, start + POINTS_AT_ONCE)
            point, shape = self.tree.query(shapely.points(lon[part], lat[part]))
            held = shapely.intersects_xy(self.shapes[shape], lon[part][point], lat[part][point])
            np.minimum.at(first[part], point[held], shape[held])
        return np.append(self.order, -1)[first]


def _suggest_system(lon: Floats, lat: Floats, inside: float, index: RegionIndex) -> None:
    chosen = np.unique(np.linspace(0, len(lon) - 1, 5000).astype(np.int64))
    lon, lat = lon[chosen], lat[chosen]
    shares: dict[str, float] = {}
    for name, reading in _readings().items():
        try:
            x, y = reading(lon, lat)
        except ValueError:
            continue
        good = np.isfinite(x) & np.isfinite(y)
        if good.any():
            shares[name] = float(np.count_nonzero(index.find(x[good], y[good]) >= 0)) / len(lon)
    if not shares:
        return
    likely = max(shares, key=lambda name: shares[name])
    if shares[likely] > max(0.5, inside):
        raise DatasetError(
            f"{inside:.0%} of the points lie in the regions, but {shares[likely]:.0%} if {likely}. "
            "State their coordinate system when reading them; it is never guessed."
        )


def _readings() -> dict[str, Position]:
    def of(source: str, target: str) -> Position:
        return lambda lon, lat: convert(lon, lat, source, target, outside="nan")

    def mercator(x: Floats, y: Floats) -> tuple[Floats, Floats]:
        lat = np.degrees(np.arctan(np.sinh(y / EARTH_RADIUS_M)))
        return np.degrees(x / EARTH_RADIUS_M), lat

    return {
        "lon and lat are swapped": lambda lon, lat: (lat, lon),
        "they are in gcj02 (as AMap's and Tencent's are)": of("gcj02", "wgs84"),
        "they are in bd09 (as Baidu's are)": of("bd09", "wgs84"),
        "they are in bd09mc (Baidu's metres)": of("bd09mc", "wgs84"),
        "they are in metres of Web Mercator (EPSG:3857)": mercator,
        "they were in wgs84 and not in gcj02 as stated": of("wgs84", "gcj02"),
        "they were in wgs84 and not in bd09 as stated": of("wgs84", "bd09"),
    }


__all__ = ["RegionIndex", "assign_points"]
