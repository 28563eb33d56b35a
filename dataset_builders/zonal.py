"""Zonal statistics: sums and means of a raster over regions, weighted by covered share.

[exactextract](https://github.com/isciences/exactextract) computes the covered shares on the grid of
the raster. Polygons are transformed to the raster, since warping a raster of counts would lose
mass; rotated and south-up rasters need no special case. This module adds what exactextract leaves
to its caller: CRS, the antimeridian, missing values, and constant memory. Shares have single
precision, so results are accurate to about 1e-7.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import geopandas as gpd
import numpy as np
import pandas as pd
import pyproj
import shapely
from numpy.typing import NDArray

from .errors import DatasetError, MissingExtraError
from .globe import EPSG_4326, check_polygons, geodesic_areas, project, refuse, to_degrees
from .planes import METRES_PER_DEGREE
from .rasters import Band, find_band, open_raster, raster_bounds

ZonalKind = Literal["count", "density", "intensity"]
M2_PER_KM2 = 1e6
REGIONS_AT_ONCE = 2048
# maximum distance of a transformed edge from a straight line, in cells
BEND_CELLS = 1e-3
# precision of covered shares
ROUNDING = 1e-6
# residual share of regions that only touch the raster, after reprojection
TOUCHING = 1e-10
# above PROJ's rounding; 10 micrometres on the ground
RIM_DEGREES = 1e-10

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.int64]


def zonal(
    raster_path: str | Path,
    regions: gpd.GeoDataFrame | gpd.GeoSeries,
    kind: ZonalKind,
    *,
    band: int | str | None = None,
    nodata: float | Literal["none"] | None = None,
    nodata_is_zero: bool = False,
    min_coverage: float = 0.0,
    with_data: bool = False,
) -> pd.DataFrame:
    """Zonal statistics of a raster over regions.

    A cell is weighted by the share that the region covers, on the raster's grid. The value depends
    on what a cell holds, the `kind`:

    - "count": an amount per cell (people). The value is the sum over the cells; regions that tile
      the raster sum to its total. For a partly covered region it is the sum over the covered part.
    - "density": an amount per km2 (people per km2). The value is the mean times the region's
      geodesic area; for a partly covered region, the mean is that of the covered part.
    - "intensity": a measurement (radiance). The value is the mean.

    Edges of regions are straight in their own CRS. Regions may cross the antimeridian in any CRS.
    In a geographic CRS they are written with longitudes beyond 180 or cut there; an edge across
    more than half the globe raises an error.

    Args:
        raster_path: Raster file that GDAL reads.
        regions: Polygons with a CRS; they may overlap.
        kind: What a cell holds.
        band: Number of the band, from 1, or its description; optional for single-band files.
        nodata: Value of missing cells, in addition to the file's tag; "none" ignores the tag.
            Required if the file has neither a tag nor a mask. NaN and infinity are always missing.
        nodata_is_zero: Missing cells count as 0 (such as unsettled land in the constrained
            WorldPop); areas beyond the raster are still missing.
        min_coverage: Minimum coverage, in [0, 1]; regions below it have no value.
        with_data: Add the column `data`.

    Returns:
        Indexed like `regions`: `value`, NaN where missing, and `coverage`, the share of the region
        on cells with a value; with `with_data` also `data`, the share on cells with data in the
        file, which is less than `coverage` if `nodata_is_zero`.

    Raises:
        DatasetError: Regions without a CRS, or invalid; a raster without a CRS or nodata tag, with
            several bands and none named, or with negative amounts; no overlap; or a region that is
            ambiguous in direction around the globe, contains a pole of its CRS, or is cut by the
            edge of the raster's projection.
        MissingExtraError: rasterio or exactextract is not installed.
    """
    if kind not in get_args(ZonalKind):
        raise DatasetError(f"The kind of a raster is one of {get_args(ZonalKind)}, got {kind!r}.")
    if not 0 <= min_coverage <= 1:
        raise DatasetError(f"`min_coverage` lies in [0, 1], got {min_coverage}.")
    shapes, crs, index = _region_shapes(regions)
    there = ~(shapely.is_missing(shapes) | shapely.is_empty(shapes))
    names = index.to_numpy()
    with open_raster(raster_path) as dataset:
        source = Band(dataset, find_band(dataset, band), nodata, signed=kind == "intensity")
        found = _totals(source, shapes, there, crs, names, nodata_is_zero)
    with np.errstate(invalid="ignore", divide="ignore"):
        coverage, data = (_share(found[name] / found["extent"]) for name in ("known", "measured"))
        value = found["total"] if kind == "count" else found["total"] / found["known"]
    if kind == "density":
        value[there] *= geodesic_areas(to_degrees(shapes[there], crs, names[there])) / M2_PER_KM2
    valued = (coverage > 0) & (coverage >= min_coverage - ROUNDING)
    columns = {"value": np.where(valued, value, np.nan), "coverage": coverage}
    return pd.DataFrame(columns | ({"data": data} if with_data else {}), index)


def _share(ratio: Floats) -> Floats:
    """Shares with rounding errors at 0 and 1 removed."""
    ratio = np.nan_to_num(ratio)
    return np.where(ratio <= TOUCHING, 0.0, np.where(ratio >= 1 - ROUNDING, 1.0, ratio))


def _totals(
    band: Band,
    shapes: NDArray[Any],
    there: NDArray[np.bool_],
    crs: pyproj.CRS,
    names: NDArray[Any],
    nodata_is_zero: bool,
) -> dict[str, Floats]:
    """Per region: `total` of values x share, and cells `known`, `measured` and in `extent`."""
    try:
        from .exact_cells import sum_cells
    except ImportError as error:
        raise MissingExtraError("exactextract", "geo") from error
    columns = ("total", "known", "measured", "extent")
    found: dict[str, Floats] = {name: np.zeros(len(shapes)) for name in columns}
    plane = CellPlane(band.dataset, crs)
    touches = False
    for chosen in _chunks(shapes, np.flatnonzero(there)):
        pieces, of_piece = plane.place(shapes[chosen], names[chosen])
        owner = chosen[of_piece]
        np.add.at(found["extent"], owner, shapely.area(pieces))
        inside, window = _window(pieces, band.dataset)
        if len(inside) == 0:
            continue
        touches = True
        total, measured = sum_cells(band, pieces[inside], window, fill=False)
        known = measured
        if nodata_is_zero:
            _, known = sum_cells(band, pieces[inside], window, fill=True)
        for name, values in (("total", total), ("known", known), ("measured", measured)):
            np.add.at(found[name], owner[inside], values)
    if there.any() and not touches:
        raise DatasetError(_no_overlap(band.dataset, shapes, crs))
    return found


class CellPlane:
    """Coordinates of a raster's cells: columns to the east, rows upward from the last.

    Regions in another CRS are transformed by way of degrees, and cut opposite the centre of the
    raster, where its projection is discontinuous.
    """

    def __init__(self, dataset: Any, crs: pyproj.CRS):
        self.raster_name = dataset.name
        self.regions_crs, self.crs = crs, pyproj.CRS.from_user_input(dataset.crs.to_wkt())
        inverse = ~dataset.transform
        self.matrix = np.array([[inverse.a, inverse.b], [-inverse.d, -inverse.e]])
        self.origin = np.array([inverse.c, dataset.height - inverse.f])
        self.bend = BEND_CELLS * np.sqrt(np.abs(dataset.transform.determinant))
        # intermediate geographic CRS, and the transformation from it to the raster's CRS
        self.globe: pyproj.CRS | None = None
        self.projection: pyproj.Transformer | None = None
        if self.crs.is_geographic:
            west, _, east, _ = raster_bounds(dataset)
            self.globe, self.centre = self.crs, (west + east) / 2
        elif not self.crs.equals(crs, ignore_axis_order=True):
            self.globe, self.centre = EPSG_4326, _central_meridian(self.crs)
            self.bend *= self.crs.axis_info[0].unit_conversion_factor / METRES_PER_DEGREE
            self.projection = pyproj.Transformer.from_crs(EPSG_4326, self.crs, always_xy=True)

    def place(self, shapes: NDArray[Any], names: NDArray[Any]) -> tuple[NDArray[Any], Ints]:
        """Polygons in cell coordinates, and the region of each; none for regions out of the domain.

        Args:
            shapes: `(n,)` regions.
            names: `(n,)` names of the regions, for messages.
        """
        if self.globe is not None:
            where = {"target": self.globe, "centre": self.centre, "bend": self.bend}
            shapes = to_degrees(shapes, self.regions_crs, names, **where)
        pieces, region = shapely.get_parts(shapes, return_index=True)
        if self.projection is None:
            return shapely.transform(pieces, self._to_cells), region
        pieces, torn, missing = project(pieces, self._project, BEND_CELLS)
        some, all_of_it = (np.zeros(len(shapes), dtype=bool) for _ in range(2))
        some[region[missing > 0]] = True
        all_of_it[region[missing < 1]] = True
        refuse(
            names,
            np.union1d(region[torn], np.flatnonzero(some & all_of_it)),
            f"cross the edge of the projection of {self.raster_name} ({self.crs.name})",
            "Cut them there, or leave them out.",
        )
        there = missing == 0
        return pieces[there], region[there]

    def _project(self, lon_lat: Floats) -> Floats:
        # both edges of the map are the same meridian, and rounding must not swap them
        half = 180.0 - RIM_DEGREES
        lon = lon_lat[:, 0].clip(self.centre - half, self.centre + half)
        assert self.projection is not None
        return self._to_cells(np.column_stack(self.projection.transform(lon, lon_lat[:, 1])))

    def _to_cells(self, xy: Floats) -> Floats:
        with np.errstate(invalid="ignore"):
            return xy @ self.matrix.T + self.origin


def _central_meridian(crs: pyproj.CRS) -> float:
    while crs.is_bound or crs.is_compound:
        crs = crs.sub_crs_list[0] if crs.is_compound else crs.source_crs  # type: ignore[assignment]
    meridian, params = crs.prime_meridian, getattr(crs.coordinate_operation, "params", ())
    origins = [one for one in params if one.name.startswith("Longitude of")]
    angles: list[Any] = [(one.value, one.unit_conversion_factor) for one in origins[:1]]
    if meridian is not None:
        angles.append((meridian.longitude, meridian.unit_conversion_factor))
    return float(np.degrees(sum(value * factor for value, factor in angles)))


def _chunks(shapes: NDArray[Any], there: Ints) -> Iterator[Ints]:
    """Indices of regions in chunks of neighbours."""
    if len(there) > REGIONS_AT_ONCE:
        there = there[np.argsort(gpd.GeoSeries(shapes[there]).hilbert_distance(), kind="stable")]
    for start in range(0, len(there), REGIONS_AT_ONCE):
        yield there[start : start + REGIONS_AT_ONCE]


def _window(pieces: NDArray[Any], dataset: Any) -> tuple[Ints, tuple[int, int, int, int]]:
    """Indices of the polygons that intersect the raster, and the window that they span."""
    low, high = np.hsplit(shapely.bounds(pieces), 2)
    size = np.array([dataset.width, dataset.height])
    low, high = np.clip(np.floor(low), 0, size), np.clip(np.ceil(high), 0, size)
    inside = np.flatnonzero((high > low).all(axis=1))
    if len(inside) == 0:
        return inside, (0, 0, 0, 0)
    left, bottom = low[inside].min(axis=0).astype(int).tolist()
    right, top = high[inside].max(axis=0).astype(int).tolist()
    return inside, (left, bottom, right, top)


def _region_shapes(
    regions: gpd.GeoDataFrame | gpd.GeoSeries,
) -> tuple[NDArray[Any], pyproj.CRS, pd.Index]:
    geometry = regions.geometry
    if geometry.crs is None:
        raise DatasetError("The regions have no CRS. Set it with `regions.set_crs(...)`.")
    shapes = geometry.to_numpy()
    check_polygons(shapes, regions.index.to_numpy())
    if geometry.crs.is_geographic and len(shapes):
        west, south, east, north = shapely.total_bounds(shapes)
        if max(abs(west), abs(east)) > 540 or max(abs(south), abs(north)) > 90:
            raise DatasetError(
                f"The CRS of the regions is {geometry.crs.name}, in degrees, but their bounds "
                f"({west:g}, {south:g}) to ({east:g}, {north:g}) look like metres."
            )
    return shapes, geometry.crs, regions.index


def _no_overlap(dataset: Any, shapes: NDArray[Any], crs: pyproj.CRS) -> str:
    there = pyproj.CRS.from_user_input(dataset.crs.to_wkt())
    inside = shapely.total_bounds(shapes)
    raster, regions = (
        "(" + ", ".join(f"{value:.6g}" for value in bounds) + ")"
        for bounds in (raster_bounds(dataset), inside)
    )
    return (
        f"No region intersects {dataset.name}. The raster spans {raster} in {there.name}; the "
        f"regions span {regions} in {crs.name}. Check the CRS of both."
    )


__all__ = ["CellPlane", "ZonalKind", "zonal"]
