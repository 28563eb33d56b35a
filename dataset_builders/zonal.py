"""Sums and means of a raster over regions, with every cell weighted by the share that is covered.

It is the polygons that are brought to the raster, never the other way: a raster of counts that is
warped loses mass. The outlines go through the raster's own transform to its rows and columns, so
rotated and south-up rasters are no special case.

The weights are computed here ([`coverage`][dataset_builders.coverage]) and not by exactextract,
which keeps them in single precision: regions that tile a raster would sum to it to 1e-8 only.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_args

import geopandas as gpd
import numpy as np
import pandas as pd
import pyproj
import shapely
from numpy.typing import NDArray

from .areas import geodesic_areas, ring_coordinates
from .coverage import Cover, Edges, cell_cover, make_edges, sum_by
from .errors import DatasetError, MissingExtraError
from .globe import EPSG_4326, follow, refuse, to_degrees
from .planes import METRES_PER_DEGREE

ZonalKind = Literal["count", "density", "intensity"]
AreaUnit = Literal["km2", "m2"]
M2 = {"km2": 1e6, "m2": 1.0}
REGIONS_AT_ONCE = 2048
CELLS_AT_ONCE = 4_000_000
# an edge that the raster's projection bends by more than this, in cells, is cut up
BEND_CELLS = 1e-3
# what reprojection leaves where a region and a raster only touch
TOUCHING = 1e-10
# more than what PROJ takes for rounding; ten micrometres on the ground
RIM_DEGREES = 1e-10

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.int64]


def zonal(
    raster_path: str | Path,
    regions: gpd.GeoDataFrame | gpd.GeoSeries,
    kind: ZonalKind,
    *,
    band: int | None = None,
    nodata: float | Literal["none"] | None = None,
    nodata_is_zero: bool = False,
    area_unit: AreaUnit = "km2",
    min_coverage: float = 0.0,
    with_data: bool = False,
) -> pd.DataFrame:
    """Summarise a raster over regions.

    A cell counts by the share of it that the region covers, on the raster's plane. What a cell
    holds is by `kind`:

    - "count": an amount in the cell (people). The value is the sum over the cells; regions that
      tile the raster sum to the raster's sum. Of a region that is covered in part it is the sum
      over that part.
    - "density": an amount per area (people per km2). The value is the mean times the region's
      geodesic area; of a region that is covered in part, as if the rest were like that part.
    - "intensity": a measurement (radiance). The value is the mean.

    Edges of regions are straight in their own CRS. Regions may lie across 180 degrees, whatever
    the two CRS and wherever the raster begins and ends. In a geographic CRS they are then written
    with longitudes beyond 180 or cut there; an edge across more than half the globe is refused.

    Args:
        raster_path: a file that GDAL reads.
        regions: polygons with a CRS, one another's neighbours or not; they may overlap.
        kind: what a cell holds.
        band: from 1; may be left out where there is but one.
        nodata: marks cells without a value, beside the file's own tag; "none" says that all
            cells hold values whatever the tag says. Needed where the file has no tag (and no
            mask). NaN and infinity are never values.
        nodata_is_zero: cells without a value hold 0 (such as unsettled land in the constrained
            WorldPop); beyond the raster there is still no value.
        area_unit: of "density": the amount is per "km2" or per "m2".
        min_coverage: in [0, 1]; regions covered less have no value.
        with_data: add the column `data`.

    Returns:
        Indexed like `regions`: `value`, and `coverage`, the share of the region that lies on
        cells with a value. Where there is none `value` is NaN, not 0. On request also `data`, the
        share that lies on cells with a value in the file: less than `coverage` where
        `nodata_is_zero`.

    Raises:
        DatasetError: regions without CRS or that are no valid polygons; a raster that has no CRS,
            several bands and none named, no nodata tag, or negative amounts; no region touches
            the raster; a region that is not clear about its way round the globe, holds a pole of
            its CRS, or cannot be laid on the raster's plane in one piece on either side of the
            meridian opposite the plane's middle.
        MissingExtraError: rasterio is not installed.
    """
    _check_arguments(kind, area_unit, min_coverage)
    shapes, crs, index = _region_shapes(regions)
    names = index.to_numpy()
    with open_raster(raster_path) as dataset:
        raster = _Raster.check(dataset, band, nodata, nodata_is_zero, signed=kind == "intensity")
        total, known, measured, extent = _totals(raster, shapes, crs, names)
    with np.errstate(invalid="ignore", divide="ignore"):
        coverage, data = (np.nan_to_num(np.minimum(of / extent, 1.0)) for of in (known, measured))
        value = total if kind == "count" else total / known
    if kind == "density":
        value = value * _geodesic_areas(shapes, crs, names) / M2[area_unit]
    for share in (coverage, data):
        share[share <= TOUCHING] = 0.0
    valued = (coverage > 0) & (coverage >= min_coverage)
    columns = {"value": np.where(valued, value, np.nan), "coverage": coverage}
    return pd.DataFrame(columns | ({"data": data} if with_data else {}), index)


@dataclass(frozen=True)
class _Raster:
    """A band of an open raster, and how to read it."""

    dataset: Any
    band: int
    nodata: float | None
    ignore_mask: bool
    nodata_is_zero: bool
    signed: bool

    @classmethod
    def check(
        cls, dataset: Any, band: int | None, nodata: Any, nodata_is_zero: bool, signed: bool
    ) -> "_Raster":
        """The band to read, or what is wrong with it."""
        name = dataset.name
        if dataset.crs is None:
            raise DatasetError(
                f"{name} has no CRS, so nothing says where its cells lie. Write one into it, for "
                "example with `rio edit-info --crs EPSG:4326`."
            )
        if dataset.transform.is_identity or not dataset.transform.determinant:
            raise DatasetError(f"{name} has no geotransform: it is a picture, not a map.")
        if band is None and dataset.count != 1:
            raise DatasetError(f"{name} has {dataset.count} bands; say which with `band=`.")
        band = 1 if band is None else band
        if band not in range(1, dataset.count + 1):
            raise DatasetError(f"{name} has bands 1 to {dataset.count}, and {band} is asked for.")
        dtype = np.dtype(dataset.dtypes[band - 1])
        if dtype.kind not in "iuf":
            raise DatasetError(f"{name} holds {dtype}, which are no numbers to sum.")
        if nodata is None and not has_gaps(dataset, band):
            raise DatasetError(
                f"{name} has no nodata tag, so cells without a value cannot be told from others. "
                'Give `nodata=` its number, or nodata="none" if every cell holds a value.'
            )
        ignore_mask = isinstance(nodata, str)
        if ignore_mask and nodata != "none":
            raise DatasetError(f'`nodata` is a number or "none", got {nodata!r}.')
        number = None if nodata is None or ignore_mask else float(nodata)
        if number is not None and dtype.kind in "iu":
            limits = np.iinfo(dtype)
            if not (limits.min <= number <= limits.max and number % 1 == 0):
                raise DatasetError(f"{name} holds {dtype}, which is never the nodata {number:g}.")
        return cls(dataset, band, number, ignore_mask, nodata_is_zero, signed)

    def read(self, row: int, column: int, height: int, width: int) -> tuple[Floats, Floats | None]:
        """Values of a window, 0 where there is none, and 1 where there are (None: everywhere)."""
        from rasterio.windows import Window

        found = self.dataset.read(
            self.band, window=Window(column, row, width, height), masked=not self.ignore_mask
        )
        raw = np.ma.getdata(found)
        missing = np.ma.getmaskarray(found) if not self.ignore_mask else np.zeros(raw.shape, bool)
        if self.nodata is not None and not np.isnan(self.nodata):
            missing = missing | (raw == np.array(self.nodata).astype(raw.dtype))
        values = raw.astype(np.float64)
        missing |= ~np.isfinite(values)
        scale, offset = (of[self.band - 1] for of in (self.dataset.scales, self.dataset.offsets))
        if (scale, offset) != (1.0, 0.0):
            values = values * scale + offset
        values[missing] = 0.0
        if not self.signed and (values < 0).any():
            raise DatasetError(
                f"{self.dataset.name} holds negative amounts, down to {values.min():g}. If that "
                "marks cells without a value, give it as `nodata=`."
            )
        return values, (~missing).astype(np.float64) if missing.any() else None


def _totals(
    raster: _Raster, shapes: NDArray[Any], crs: pyproj.CRS, names: NDArray[Any]
) -> tuple[Floats, Floats, Floats, Floats]:
    """For each region, in cells: sum of values x share, cells known, cells measured, and area."""
    total, known, measured, extent = (np.zeros(len(shapes)) for _ in range(4))
    place = _Placing(raster.dataset, crs, names)
    touches = False
    for chosen in _chunks(shapes):
        pieces, of_region = place.pieces(shapes[chosen], chosen)
        edges = place.edges(pieces, of_region)
        np.add.at(extent, of_region, edges.areas(len(pieces)))
        for part, window in _windows(edges, raster.dataset, len(pieces)):
            touches = True
            sums = _sums(raster, part, window, len(pieces))
            for whole, share in zip((total, known, measured), sums, strict=True):
                np.add.at(whole, of_region, share)
    if not touches and np.any(~(shapely.is_missing(shapes) | shapely.is_empty(shapes))):
        raise DatasetError(_no_overlap(raster.dataset, shapes, crs))
    return total, known, measured, extent


def has_gaps(dataset: Any, band: int) -> bool:
    """Whether a raster says which cells have no value, by a nodata tag or a mask."""
    flags = [flag.name for flag in dataset.mask_flag_enums[band - 1]]
    return flags != ["all_valid"] or dataset.nodatavals[band - 1] is not None


def raster_bounds(dataset: Any) -> tuple[float, float, float, float]:
    """West, south, east and north of a raster, however it is turned."""
    of = dataset.transform
    corners = [(0, 0), (dataset.width, 0), (0, dataset.height), (dataset.width, dataset.height)]
    x = [of.a * column + of.b * row + of.c for column, row in corners]
    y = [of.d * column + of.e * row + of.f for column, row in corners]
    return min(x), min(y), max(x), max(y)


def _geodesic_areas(shapes: NDArray[Any], crs: pyproj.CRS, names: NDArray[Any]) -> Floats:
    areas = np.zeros(len(shapes))
    for chosen in _chunks(shapes):
        areas[chosen] = geodesic_areas(to_degrees(shapes[chosen], crs, names[chosen]))
    return areas


class _Placing:
    """Brings regions to the rows and columns of a raster.

    Regions in another CRS go by way of the globe, where they are cut on the far side of the
    raster's middle: its plane, projected or in degrees, is in one piece on either side.
    """

    def __init__(self, dataset: Any, crs: pyproj.CRS, names: NDArray[Any]):
        self.raster_name, self.names = dataset.name, names
        self.regions_crs, self.crs = crs, pyproj.CRS.from_user_input(dataset.crs.to_wkt())
        inverse = ~dataset.transform
        self.matrix = np.array([[inverse.a, inverse.b], [inverse.d, inverse.e]])
        self.origin = np.array([inverse.c, inverse.f])
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

    def pieces(self, shapes: NDArray[Any], number: Ints) -> tuple[NDArray[Any], Ints]:
        """Parts of regions, each in one piece on the raster's plane, and the region of each.

        Args:
            shapes: `(n,)` of regions.
            number: `(n,)` of the regions.
        """
        if self.globe is not None:
            names, where = self.names[number], {"centre": self.centre, "bend": self.bend}
            shapes = to_degrees(shapes, self.regions_crs, names, target=self.globe, **where)
        pieces, of_piece = shapely.get_parts(shapes, return_index=True)
        return pieces, number[of_piece]

    def edges(self, pieces: NDArray[Any], of_region: Ints) -> Edges:
        """Edges of pieces in columns and rows; regions beyond the raster's plane are left out."""
        vertices, of_ring, owner, sign = ring_coordinates(pieces)
        if self.projection is None:
            return make_edges(self._to_cells(vertices), of_ring, owner, sign)
        _, of_ring, cells, torn = follow(vertices, of_ring, self._project, BEND_CELLS)
        there = np.isfinite(cells).all(axis=1)
        region = of_region[owner]
        half_there = np.intersect1d(region[of_ring[there]], region[of_ring[~there]])
        refuse(
            self.names,
            np.union1d(region[torn], half_there),
            f"do not lie in one piece on the plane of {self.raster_name} ({self.crs.name}), which "
            "ends or is cut within them",
            "Cut them there, or leave them out.",
        )
        # a region is wholly there or not at all
        return make_edges(cells[there], of_ring[there], owner, sign)

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


def _chunks(shapes: NDArray[Any]) -> Iterator[Ints]:
    """Numbers of the regions that have a shape, neighbours together."""
    there = np.flatnonzero(~(shapely.is_missing(shapes) | shapely.is_empty(shapes)))
    if len(there) > REGIONS_AT_ONCE:
        there = there[np.argsort(gpd.GeoSeries(shapes[there]).hilbert_distance(), kind="stable")]
    for start in range(0, len(there), REGIONS_AT_ONCE):
        yield there[start : start + REGIONS_AT_ONCE]


def _windows(
    edges: Edges, dataset: Any, count: int
) -> Iterator[tuple[Edges, tuple[int, int, int, int]]]:
    """Windows (row, column, height, width) that hold the regions, small enough to be read."""
    low, high = np.full((count, 2), np.inf), np.full((count, 2), -np.inf)
    for end in (edges.start, edges.stop):
        np.minimum.at(low, edges.owner, end)
        np.maximum.at(high, edges.owner, end)
    size = np.array([dataset.width, dataset.height])
    low, high = np.clip(np.floor(low), 0, size), np.clip(np.ceil(high), 0, size)
    inside = np.flatnonzero((high > low).all(axis=1))
    for group in _compact(inside, low, high):
        (column, row), (right, bottom) = low[group].min(axis=0), high[group].max(axis=0)
        width, lines = int(right - column), max(1, int(CELLS_AT_ONCE // (right - column)))
        mine = np.isin(edges.owner, group)
        for top in range(int(row), int(bottom), lines):
            window = (top, int(column), min(lines, int(bottom) - top), width)
            origin = np.array([column, top])
            yield (
                Edges(
                    edges.start[mine] - origin,
                    edges.stop[mine] - origin,
                    edges.owner[mine],
                    edges.sign[mine],
                ),
                window,
            )


def _compact(group: Ints, low: Floats, high: Floats) -> Iterator[Ints]:
    """Halves of a group, and their halves, until a group's window can be read at once."""
    if len(group) == 0:
        return
    size = high[group].max(axis=0) - low[group].min(axis=0)
    if np.prod(size) <= CELLS_AT_ONCE or len(group) == 1:
        yield group
        return
    middle = len(group) // 2
    group = group[np.argsort(low[group, np.argmax(size)], kind="stable")]
    yield from _compact(group[:middle], low, high)
    yield from _compact(group[middle:], low, high)


def _sums(
    raster: _Raster, edges: Edges, window: tuple[int, int, int, int], count: int
) -> tuple[Floats, Floats, Floats]:
    """Within a window: values x share, cells whose content is known, and those with a value."""
    row, column, height, width = window
    values, there = raster.read(row, column, height, width)
    cover = cell_cover(edges, width, height)
    total = _weighted(values, cover, count)
    if there is not None:
        measured = _weighted(there, cover, count)
        if not raster.nodata_is_zero:
            return total, measured, measured
    runs = (cover.run_stop - cover.run_start) * cover.run_share
    cells = sum_by(cover.owner, cover.share, count) + sum_by(cover.run_owner, runs, count)
    return total, cells, cells if there is None else measured


def _weighted(values: Floats, cover: Cover, count: int) -> Floats:
    width = values.shape[1]
    singles = values[cover.row, cover.column] * cover.share
    total = sum_by(cover.owner, singles, count)
    if len(cover.run_owner) == 0:
        return total
    start, stop = cover.run_row * width + cover.run_start, cover.run_row * width + cover.run_stop
    order = np.argsort(start, kind="stable")
    bounds = np.column_stack([start[order], stop[order]]).ravel()
    # sums from each start to its stop; those from a stop to the next start are passed over
    runs = np.add.reduceat(np.append(values.ravel(), 0.0), bounds)[::2] * cover.run_share[order]
    return total + sum_by(cover.run_owner[order], runs, count)


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
    there = ~(shapely.is_missing(shapes) | shapely.is_empty(shapes))
    flat = np.isin(shapely.get_type_id(shapes), (3, 6))
    if np.any(there & ~flat):
        first = regions.index[there & ~flat][0]
        raise DatasetError(f"Regions are polygons; {first!r} is a {geometry.loc[first].geom_type}.")
    invalid = there & ~shapely.is_valid(shapes)
    if invalid.any():
        reasons = shapely.is_valid_reason(shapes[invalid][:3])
        listed = "; ".join(
            f"{name!r}: {why}"
            for name, why in zip(regions.index[invalid][:3], reasons, strict=True)
        )
        raise DatasetError(
            f"{invalid.sum()} region(s) are no valid polygons ({listed}). Mend them, for example "
            "with `regions.make_valid()`."
        )
    if geometry.crs.is_geographic and there.any():
        west, south, east, north = shapely.total_bounds(shapes)
        if max(abs(west), abs(east)) > 540 or max(abs(south), abs(north)) > 90:
            raise DatasetError(
                f"The regions say {geometry.crs.name}, in degrees, but reach from "
                f"({west:g}, {south:g}) to ({east:g}, {north:g}): those look like metres."
            )
    return shapes, geometry.crs, regions.index


def _no_overlap(dataset: Any, shapes: NDArray[Any], crs: pyproj.CRS) -> str:
    def text(bounds: Any) -> str:
        return "(" + ", ".join(f"{value:.6g}" for value in bounds) + ")"

    inside = shapely.total_bounds(shapes)
    there = pyproj.CRS.from_user_input(dataset.crs.to_wkt())
    moved = pyproj.Transformer.from_crs(crs, there, always_xy=True).transform_bounds(*inside)
    return (
        f"No region touches {dataset.name}. The raster spans {text(raster_bounds(dataset))} in "
        f"{there.name}; the regions span {text(inside)} in {crs.name}, which is {text(moved)} "
        "there. Is one of the two CRS wrong?"
    )


def open_raster(path: str | Path) -> Any:
    """A raster opened for reading.

    Raises:
        DatasetError: there is none, or it is no raster.
        MissingExtraError: rasterio is not installed.
    """
    rasterio = import_rasterio()
    if not Path(path).exists() and not str(path).startswith("/vsi"):
        raise DatasetError(f"There is no raster at {path}.")
    try:
        return rasterio.open(path)
    except rasterio.errors.RasterioIOError as error:
        raise DatasetError(f"{path} cannot be read as a raster: {error}") from error


def import_rasterio() -> ModuleType:
    """rasterio, which is an extra.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import rasterio
    except ImportError as error:
        raise MissingExtraError("rasterio", "geo") from error
    return rasterio


__all__ = [
    "AreaUnit",
    "ZonalKind",
    "has_gaps",
    "import_rasterio",
    "open_raster",
    "raster_bounds",
    "zonal",
]
