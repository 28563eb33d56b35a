"""The metric planes that grids of squares lie on.

A plane is named in the ids of its cells, so that equal ids are the same square wherever they are
met: "epsg32650" is UTM zone 50 north, "laea40n120e" the equal-area plane (Lambert, azimuthal)
around 40 N, 120 E.
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
# coarse, so that another outline of the same city has the same plane
CENTRE_LATITUDES = 10
NAME = re.compile(r"epsg(\d+)|laea(\d+)([ns])(\d+)([ew])")

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Plane:
    """A plane in metres.

    Attributes:
        name: "epsg<code>" or "laea<lat><n|s><lon><e|w>", whole degrees.
    """

    name: str

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise DatasetError(
                f"A plane is named like epsg32650 or laea40n120e, got {self.name!r}."
            )
        axes = {axis.unit_name for axis in self.crs.axis_info}
        if not self.crs.is_projected or axes != {"metre"}:
            raise DatasetError(f"{self.name} is {self.crs.name}, which is no plane in metres.")

    @cached_property
    def crs(self) -> pyproj.CRS:
        """Of the plane."""
        epsg, lat, ns, lon, ew = NAME.fullmatch(self.name).groups()  # type: ignore[union-attr]
        if epsg:
            try:
                return pyproj.CRS.from_epsg(int(epsg))
            except pyproj.exceptions.CRSError as error:
                raise DatasetError(f"There is no EPSG:{epsg}: {error}") from error
        lat_0, lon_0 = int(lat) * (-1 if ns == "s" else 1), int(lon) * (-1 if ew == "w" else 1)
        return pyproj.CRS.from_proj4(f"+proj=laea +lat_0={lat_0} +lon_0={lon_0} +datum=WGS84")

    @cached_property
    def _transformer(self) -> pyproj.Transformer:
        return pyproj.Transformer.from_crs("EPSG:4326", self.crs, always_xy=True)

    def to_plane(self, lon: Floats, lat: Floats) -> tuple[Floats, Floats]:
        """Metres east and north; infinite where the plane does not reach."""
        return self._transformer.transform(lon, lat)

    def to_degrees(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Degrees of EPSG:4326."""
        return self._transformer.transform(x, y, direction="INVERSE")


def choose_plane(boundary: shapely.Geometry, side_m: float) -> Plane:
    """The plane for a grid over a boundary.

    UTM if the boundary lies within one zone and squares there have their area to 0.1 % (near the
    equator they have not at the rim of a zone). Otherwise the equal-area plane whose centre is the
    nearest edge between two zones and the nearest tenth degree of latitude (0, 10, 20, ...): it
    stays the same for most other outlines of the same city.

    Args:
        boundary: EPSG:4326, in one piece.
        side_m: of a square.
    """
    west, south, east, north = boundary.bounds
    lon, lat = (west + east) / 2, (south + north) / 2
    first, last = (west + 180) // ZONE_DEGREES, math.ceil((east + 180) / ZONE_DEGREES) - 1
    if last <= first:
        hemisphere = 32600 if lat >= 0 else 32700
        utm = Plane(f"epsg{hemisphere + int(first) % 60 + 1}")
        if _area_error(utm, boundary, side_m) <= AREA_TOLERANCE:
            return utm
    lon_0 = round(_half_up(lon / ZONE_DEGREES) * ZONE_DEGREES + 180) % 360 - 180
    lat_0 = _half_up(lat / CENTRE_LATITUDES) * CENTRE_LATITUDES
    lat_0 = max(-80, min(80, lat_0))
    return Plane(
        f"laea{abs(lat_0)}{'s' if lat_0 < 0 else 'n'}{abs(lon_0)}{'w' if lon_0 < 0 else 'e'}"
    )


def _half_up(value: float) -> int:
    return math.floor(value + 0.5)


def _area_error(plane: Plane, boundary: shapely.Geometry, side_m: float) -> float:
    """The largest relative error of a square's area within the boundary's bounding box."""
    west, south, east, north = boundary.bounds
    lat_room = 1.5 * side_m / METRES_PER_DEGREE
    highest = min(89.0, max(abs(south), abs(north)) + lat_room)
    lon_room = lat_room / math.cos(math.radians(highest))
    lon = np.linspace(west - lon_room, east + lon_room, 9)
    lat = np.clip(np.linspace(south - lat_room, north + lat_room, 9), -89, 89)
    grid = np.meshgrid(lon, lat)
    scale = pyproj.Proj(plane.crs).get_factors(grid[0].ravel(), grid[1].ravel()).areal_scale
    return float(np.abs(1 / np.asarray(scale) - 1).max())


__all__ = ["Plane", "choose_plane"]
