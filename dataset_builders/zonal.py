"""Sums and means of a raster over regions, every cell weighted by the share that is covered.

[exactextract](https://github.com/isciences/exactextract) computes the shares, on the raster's own
rows and columns: polygons are brought to the raster, since a raster of counts that is warped loses
mass, and rotated or south-up rasters are no special case. What exactextract leaves to its caller is
done here: CRS, the antimeridian, missing values, and memory that does not grow with the regions.
It keeps shares in single precision, so results are exact to about 1e-7.
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
AreaUnit = Literal["km2", "m2"]
M2 = {"km2": 1e6, "m2": 1.0}
REGIONS_AT_ONCE = 2048
# vertices are added to edges that the raster's projection bends by more than this, in cells
BEND_CELLS = 1e-3
# precision of a share
ROUNDING = 1e-6
# what reprojection leaves where a region and a raster only touch
TOUCHING = 1e-10
# more than PROJ's rounding; ten micrometres on the ground
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
    area_unit: AreaUnit = "km2",
    min_coverage: float = 0.0,
    with_data: bool = False,
) -> pd.DataFrame:
    """Summarise a raster over regions.

    A cell counts by the share of it that the region covers, on the raster's plane. The value
    depends on what a cell holds, which is the `kind`:

    - "count": an amount per cell (people). The value is the sum over the cells; regions that tile
      the raster sum to the raster's sum. Of a partly covered region it is the sum over that part.
    - "density": an amount per area (people per km2). The value is the mean times the region's
      geodesic area; of a partly covered region, as if the rest were like that part.
    - "intensity": a measurement (radiance). The value is the mean.

    Edges of regions are straight in their own CRS. Regions may lie across 180 degrees, whatever
    the two CRS and wherever the raster begins and ends. In a geographic CRS they are then written
    with longitudes beyond 180 or cut there; an edge across more than half the globe is refused.

    Args:
        raster_path: A file that GDAL reads.
        regions: Polygons with a CRS; they may overlap.
        kind: What a cell holds.
        band: Number of the band, from 1, or its description; not needed where there is only one.
        nodata: Value of cells without data, beside the file's own tag; "none" means that all
            cells hold values whatever the tag says. Needed where the file has neither a tag nor a
            mask. NaN and infinity are never values.
        nodata_is_zero: Cells without data hold 0 (such as unsettled land in the constrained
            WorldPop); beyond the raster there is still no value.
        area_unit: Unit of the area of a "density".
        min_coverage: Coverage, in [0, 1], below which a region has no value.
        with_data: Add the column `data`.

    Returns:
        Indexed like `regions`: `value`, and `coverage`, the share of the region that lies on
        cells with a value. Where there is none `value` is NaN, not 0. On request also `data`, the
        share that lies on cells with data in the file: less than `coverage` where
        `nodata_is_zero`.

    Raises:
        DatasetError: Regions without a CRS or that are not valid polygons; a raster without a CRS,
            with several bands and none named, without a nodata tag, or with negative amounts; no
            region touches the raster; a region is ambiguous about its way round the globe,
            contains a pole of its CRS, or cannot be laid on the raster's plane in one piece on
            either side of the meridian opposite the plane's middle.
        MissingExtraError: rasterio or exactextract is not installed.
    """
    _check_arguments(kind, area_unit, min_coverage)
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
        areas = geodesic_areas(to_degrees(shapes[there], crs, names[there]))
        value[there] *= areas / M2[area_unit]
    valued = (coverage > 0) & (coverage >= min_coverage - ROUNDING)
    columns = {"value": np.where(valued, value, np.nan), "coverage": coverage}
    return pd.DataFrame(columns | ({"data": data} if with_data else {}), index)


def _share(ratio: Floats) -> Floats:
    """Shares of regions, free of what rounding leaves at 0 and 1."""
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
    """For each region: `total` of values x share, and cells `known`, `measured` and in `extent`."""
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
    """The plane of a raster's cells: columns to the east, rows from the last one up.

    Regions in another CRS go by way of the globe, where they are cut on the far side of the
    raster's middle: its plane, projected or in degrees, is in one piece on either side.
    """

    def __init__(self, dataset: Any, crs: pyproj.CRS):
        self.raster_name = dataset.name
        self.regions_crs, self.crs = crs, pyproj.CRS.from_user_input(dataset.crs.to_wkt())
        inverse = ~dataset.transform
        self.matrix = np.array([[inverse.a, inverse.b], [-inverse.d, -inverse.e]])
        self.origin = np.array([inverse.c, dataset.height - inverse.f])
        self.bend = BEND_CELLS * np.sqrt(np.abs(dataset.transform.determinant))
        # the degrees between the plane of the regions and the raster's, and the way from there
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
        """Polygons on this plane, and the number of each one's region; regions beyond it have none.

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
            f"do not lie in one piece on the plane of {self.raster_name} ({self.crs.name}), which "
            "ends or is cut within them",
            "Cut them there, or leave them out.",
        )
        there = missing == 0
        return pieces[there], region[there]

    def _project(self, lon_lat: Floats) -> Floats:
        # the rims of the map are one meridian: rounding must not change sides
        half = 180.0 - RIM_DEGREES
        lon = lon_lat[:, 0].clip(self.centre - half, self.centre + half)
        assert self.projection is not None
        return self._to_cells(np.column_stack(self.projection.transform(lon, lon_lat[:, 1])))

    def _to_cells(self, xy: Floats) -> Floats:
        with np.errstate(invalid="ignore"):
            return xy @ self.matrix.T + self.origin


def _central_meridian(crs: pyproj.CRS) -> float:
    """Longitude of the middle of a projection, in degrees from Greenwich."""
    while crs.is_bound or crs.is_compound:
        crs = crs.sub_crs_list[0] if crs.is_compound else crs.source_crs  # type: ignore[assignment]
    meridian, params = crs.prime_meridian, getattr(crs.coordinate_operation, "params", ())
    origins = [one for one in params if one.name.startswith("Longitude of")]
    angles: list[Any] = [(one.value, one.unit_conversion_factor) for one in origins[:1]]
    if meridian is not None:
        angles.append((meridian.longitude, meridian.unit_conversion_factor))
    return float(np.degrees(sum(value * factor for value, factor in angles)))


def _chunks(shapes: NDArray[Any], there: Ints) -> Iterator[Ints]:
    """Numbers of the regions that have a shape, neighbours together."""
    if len(there) > REGIONS_AT_ONCE:
        there = there[np.argsort(gpd.GeoSeries(shapes[there]).hilbert_distance(), kind="stable")]
    for start in range(0, len(there), REGIONS_AT_ONCE):
        yield there[start : start + REGIONS_AT_ONCE]


def _window(pieces: NDArray[Any], dataset: Any) -> tuple[Ints, tuple[int, int, int, int]]:
    """Numbers of the polygons that reach into the raster, and the window of it that they span."""
    low, high = np.hsplit(shapely.bounds(pieces), 2)
    size = np.array([dataset.width, dataset.height])
    low, high = np.clip(np.floor(low), 0, size), np.clip(np.ceil(high), 0, size)
    inside = np.flatnonzero((high > low).all(axis=1))
    if len(inside) == 0:
        return inside, (0, 0, 0, 0)
    left, bottom = low[inside].min(axis=0).astype(int).tolist()
    right, top = high[inside].max(axis=0).astype(int).tolist()
    return inside, (left, bottom, right, top)


def _check_arguments(kind: str, area_unit: str, min_coverage: float) -> None:
    if kind not in get_args(ZonalKind):
        raise DatasetError(f"The kind of a raster is one of {get_args(ZonalKind)}, got {kind!r}.")
    if area_unit not in M2:
        raise DatasetError(f"`area_unit` is one of {tuple(M2)}, got {area_unit!r}.")
    if not 0 <= min_coverage <= 1:
        raise DatasetError(f"`min_coverage` lies in [0, 1], got {min_coverage}.")


def _region_shapes(
    regions: gpd.GeoDataFrame | gpd.GeoSeries,
) -> tuple[NDArray[Any], pyproj.CRS, pd.Index]:
    if not isinstance(regions, gpd.GeoDataFrame | gpd.GeoSeries):
        raise DatasetError(f"Regions are a GeoDataFrame, got {type(regions).__name__}.")
    geometry = regions.geometry
    if geometry.crs is None:
        raise DatasetError("The regions have no CRS. Set it, as in `regions.set_crs(...)`.")
    shapes = geometry.to_numpy()
    check_polygons(shapes, regions.index.to_numpy())
    if geometry.crs.is_geographic and len(shapes):
        west, south, east, north = shapely.total_bounds(shapes)
        if max(abs(west), abs(east)) > 540 or max(abs(south), abs(north)) > 90:
            raise DatasetError(
                f"The regions say {geometry.crs.name}, in degrees, but reach from "
                f"({west:g}, {south:g}) to ({east:g}, {north:g}): those look like metres."
            )
    return shapes, geometry.crs, regions.index


def _no_overlap(dataset: Any, shapes: NDArray[Any], crs: pyproj.CRS) -> str:
    there = pyproj.CRS.from_user_input(dataset.crs.to_wkt())
    inside = shapely.total_bounds(shapes)
    moved = pyproj.Transformer.from_crs(crs, there, always_xy=True).transform_bounds(*inside)
    raster, regions, same = (
        "(" + ", ".join(f"{value:.6g}" for value in bounds) + ")"
        for bounds in (raster_bounds(dataset), inside, moved)
    )
    return (
        f"No region touches {dataset.name}. The raster spans {raster} in {there.name}; the regions "
        f"span {regions} in {crs.name}, which is {same} there. Is one of the two CRS wrong?"
    )


__all__ = ["AreaUnit", "CellPlane", "ZonalKind", "zonal"]
