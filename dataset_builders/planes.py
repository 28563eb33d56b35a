"""Metric map projections of square grids.

Cell ids start with the name of the projection, so equal ids denote the same square everywhere:
"epsg32650" is UTM zone 50 north, "laea40n120e" the Lambert azimuthal equal-area projection centred
on 40 N, 120 E.
"""

import math
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyproj
import shapely
from numpy.typing import NDArray

from .errors import DatasetError

AREA_TOLERANCE = 0.001
METRES_PER_DEGREE = 111_320.0
ZONE_DEGREES = 6
# coarse, so that other boundaries of a city get the same projection
CENTRE_LATITUDES = 10
NAME = re.compile(r"epsg(\d+)|laea(\d+)([ns])(\d+)([ew])")

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Plane:
    """Map projection in metres."""

    name: str  # "epsg<code>" or "laea<lat><n|s><lon><e|w>", whole degrees

    def __post_init__(self) -> None:
        axes = {axis.unit_name for axis in self.crs.axis_info}
        if not self.crs.is_projected or axes != {"metre"}:
            raise DatasetError(
                f"{self.name} is {self.crs.name}, which is not a projection in metres."
            )

    @cached_property
    def crs(self) -> pyproj.CRS:
        """CRS of the projection."""
        match = NAME.fullmatch(self.name)
        if match is None:
            raise DatasetError(
                f"A plane is named like epsg32650 or laea40n120e, got {self.name!r}."
            )
        epsg, lat, ns, lon, ew = match.groups()
        if epsg is None:
            lat_0, lon_0 = ("-" * (ns == "s") + lat), ("-" * (ew == "w") + lon)
            return pyproj.CRS.from_proj4(f"+proj=laea +lat_0={lat_0} +lon_0={lon_0} +datum=WGS84")
        try:
            return pyproj.CRS.from_epsg(int(epsg))
        except pyproj.exceptions.CRSError as error:
            raise DatasetError(f"There is no EPSG:{epsg}: {error}") from error

    @cached_property
    def _transformer(self) -> pyproj.Transformer:
        return pyproj.Transformer.from_crs("EPSG:4326", self.crs, always_xy=True)

    def to_plane(self, lon: Floats, lat: Floats) -> tuple[Floats, Floats]:
        """Convert EPSG:4326 to metres east and north; infinite outside the projection's domain."""
        return self._transformer.transform(lon, lat)

    def to_degrees(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Convert metres to degrees of EPSG:4326."""
        return self._transformer.transform(x, y, direction="INVERSE")


def choose_plane(boundary: shapely.Geometry, side_m: float) -> Plane:
    """Choose the projection for a grid over a boundary.

    UTM, if the boundary lies within one zone and areas of squares are exact to 0.1 % there (not the
    case at the edge of a zone near the equator). Otherwise the equal-area projection centred on the
    nearest zone edge and multiple of 10 degrees of latitude, which most other boundaries of the
    same city share.

    Args:
        boundary: Boundary in EPSG:4326, in one piece.
        side_m: Side of a square in metres.
    """
    west, south, east, north = boundary.bounds
    lon, lat = (west + east) / 2, (south + north) / 2
    first, last = (west + 180) // ZONE_DEGREES, math.ceil((east + 180) / ZONE_DEGREES) - 1
    if last <= first:
        utm = utm_plane(west, lat)
        if _area_error(utm, boundary, side_m) <= AREA_TOLERANCE:
            return utm
    lon_0 = round(math.floor(lon / ZONE_DEGREES + 0.5) * ZONE_DEGREES + 180) % 360 - 180
    lat_0 = max(-80, min(80, math.floor(lat / CENTRE_LATITUDES + 0.5) * CENTRE_LATITUDES))
    north_south, east_west = "s" if lat_0 < 0 else "n", "w" if lon_0 < 0 else "e"
    return Plane(f"laea{abs(lat_0)}{north_south}{abs(lon_0)}{east_west}")


def utm_plane(lon: float, lat: float) -> Plane:
    """UTM projection of a location."""
    zone = int((lon + 180) // ZONE_DEGREES) % 60 + 1
    return Plane(f"epsg{(32600 if lat >= 0 else 32700) + zone}")


def _area_error(plane: Plane, boundary: shapely.Geometry, side_m: float) -> float:
    west, south, east, north = boundary.bounds
    lat_room = 1.5 * side_m / METRES_PER_DEGREE
    highest = min(89.0, max(abs(south), abs(north)) + lat_room)
    lon_room = lat_room / math.cos(math.radians(highest))
    lon = np.linspace(west - lon_room, east + lon_room, 9)
    lat = np.clip(np.linspace(south - lat_room, north + lat_room, 9), -89, 89)
    grid = np.meshgrid(lon, lat)
    scale = pyproj.Proj(plane.crs).get_factors(grid[0].ravel(), grid[1].ravel()).areal_scale
    return float(np.abs(1 / np.asarray(scale) - 1).max())


__all__ = ["METRES_PER_DEGREE", "Plane", "choose_plane", "utm_plane"]
