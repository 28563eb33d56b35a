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

ZonalKind = Literal["count", "density", "intensity"]
AreaUnit = Literal["km2", "m2"]
M2 = {"km2": 1e6, "m2": 1.0}
REGIONS_AT_ONCE = 2048
CELLS_AT_ONCE = 4_000_000
# an edge that the raster's projection bends by more than this, in cells, is cut up
BEND_CELLS = 1e-3
# what reprojection leaves where a region and a raster only touch
TOUCHING = 1e-10

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

    Returns:
        Indexed like `regions`: `value`, and `coverage`, the share of the region that lies on
        cells with a value. Where there is none `value` is NaN, not 0.

    Raises:
        DatasetError: regions without CRS or that are no valid polygons; a raster that has no CRS,
            several bands and none named, no nodata tag, or negative amounts; no region touches
            the raster.
        MissingExtraError: rasterio is not installed.
    """
    _check_arguments(kind, area_unit, min_coverage)
    shapes, crs, index = _region_shapes(regions)
    with open_raster(raster_path) as dataset:
        raster = _Raster.check(dataset, band, nodata, nodata_is_zero, signed=kind == "intensity")
        total, covered, extent = _totals(raster, shapes, crs)
    with np.errstate(invalid="ignore", divide="ignore"):
        coverage = np.nan_to_num(np.minimum(covered / extent, 1.0))
        value = total if kind == "count" else total / covered
    if kind == "density":
        value = value * _geodesic_areas(shapes, crs) / M2[area_unit]
    known = (coverage > TOUCHING) & (coverage >= min_coverage)
    coverage[coverage <= TOUCHING] = 0.0
    return pd.DataFrame({"value": np.where(known, value, np.nan), "coverage": coverage}, index)


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

    def read(self, row: int, column: int, height: int, width: int) -> tuple[Floats, Any]:
        """Values of a window, 0 where there is none, and where there are (None: everywhere)."""
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
        if self.nodata_is_zero or not missing.any():
            return values, None
        return values, (~missing).astype(np.float64)


def _totals(
    raster: _Raster, shapes: NDArray[Any], crs: pyproj.CRS
) -> tuple[Floats, Floats, Floats]:
    """For each region: sum of values x share, covered cells with a value, and its area in cells."""
    total, covered, extent = (np.zeros(len(shapes)) for _ in range(3))
    place = _Placing(raster.dataset, crs)
    touches = False
    for chosen in _chunks(shapes):
        for shift in place.shifts(shapes[chosen]):
            edges = place.edges(shapes[chosen], shift)
            if shift == 0.0:
                extent[chosen] = edges.areas(len(chosen))
            for part, window in _windows(edges, raster.dataset, len(chosen)):
                touches = True
                sums = _sums(raster, part, window, len(chosen))
                total[chosen] += sums[0]
                covered[chosen] += sums[1]
    if not touches and np.any(~(shapely.is_missing(shapes) | shapely.is_empty(shapes))):
        raise DatasetError(_no_overlap(raster.dataset, shapes, crs))
    return total, covered, extent


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


def _geodesic_areas(shapes: NDArray[Any], crs: pyproj.CRS) -> Floats:
    areas = np.empty(len(shapes))
    for start in range(0, len(shapes), REGIONS_AT_ONCE):
        part = slice(start, start + REGIONS_AT_ONCE)
        areas[part] = geodesic_areas(gpd.GeoSeries(shapes[part], crs=crs).to_crs("EPSG:4326"))
    return areas


class _Placing:
    """Brings regions to the rows and columns of a raster."""

    def __init__(self, dataset: Any, crs: pyproj.CRS):
        self.crs = pyproj.CRS.from_user_input(dataset.crs.to_wkt())
        self.to_raster = pyproj.Transformer.from_crs(crs, self.crs, always_xy=True)
        self.same = self.crs.equals(crs, ignore_axis_order=True)
        inverse = ~dataset.transform
        self.matrix = np.array([[inverse.a, inverse.b], [inverse.d, inverse.e]])
        self.origin = np.array([inverse.c, inverse.f])
        self.west, _, self.east, _ = raster_bounds(dataset)

    def shifts(self, shapes: NDArray[Any]) -> list[float]:
        """Turns of the globe after which regions may lie on a raster in degrees."""
        if not self.crs.is_geographic:
            return [0.0]
        bounds = shapely.bounds(shapes)
        if not self.same:
            xy = self.to_raster.transform(bounds[:, [0, 2]].ravel(), bounds[:, [1, 3]].ravel())
            west, east = np.nanmin(xy[0]) - 1, np.nanmax(xy[0]) + 1
        else:
            west, east = np.nanmin(bounds[:, 0]), np.nanmax(bounds[:, 2])
        # the first pass also measures the regions
        return [0.0] + [
            turn for turn in (-360.0, 360.0) if west + turn < self.east and east + turn > self.west
        ]

    def edges(self, shapes: NDArray[Any], shift: float) -> Edges:
        """Edges of the regions in columns and rows; those that cannot be placed are left out."""
        vertices, of_ring, owner, sign = ring_coordinates(shapes)
        if not self.same:
            vertices, of_ring = self._bend(vertices, of_ring)
        cells = self._to_cells(vertices, shift)
        lost = ~np.isfinite(cells).all(axis=1)
        if lost.any():
            bad = np.isin(owner, owner[of_ring[lost]])
            keep = ~bad[of_ring]
            cells, of_ring = cells[keep], of_ring[keep]
        return make_edges(cells, of_ring, owner, sign)

    def _to_cells(self, vertices: Floats, shift: float = 0.0) -> Floats:
        xy = vertices
        if not self.same:
            xy = np.column_stack(self.to_raster.transform(vertices[:, 0], vertices[:, 1]))
        return (xy + np.array([shift, 0.0])) @ self.matrix.T + self.origin

    def _bend(self, vertices: Floats, of_ring: Ints) -> tuple[Floats, Ints]:
        """Vertices added where a straight edge of a region is bent on the raster's plane."""
        same = np.append(of_ring[:-1] == of_ring[1:], False)
        start, stop = vertices, np.roll(vertices, -1, axis=0)
        ends = self._to_cells(vertices)
        middle = (ends + np.roll(ends, -1, axis=0)) / 2
        off = np.abs(self._to_cells((start + stop) / 2) - middle).max(axis=1)
        off = np.where(same & np.isfinite(off), off, 0.0)
        count = np.ceil(np.sqrt(off / BEND_CELLS)).clip(1, 256).astype(np.int64)
        if count.max(initial=1) == 1:
            return vertices, of_ring
        edge = np.repeat(np.arange(len(count)), count)
        step = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count)
        # from the same end whichever way an edge is walked, so that neighbours cut it alike
        swap = (start[:, 0] > stop[:, 0]) | (
            (start[:, 0] == stop[:, 0]) & (start[:, 1] > stop[:, 1])
        )
        low = np.where(swap[:, None], stop, start)[edge]
        high = np.where(swap[:, None], start, stop)[edge]
        part = (np.where(swap[edge], count[edge] - step, step) / count[edge])[:, None]
        added = np.where(part == 1.0, high, low + (high - low) * part)
        return added, of_ring[edge]


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
    cells = np.prod(high[group].max(axis=0) - low[group].min(axis=0))
    if cells <= CELLS_AT_ONCE or len(group) == 1:
        yield group
        return
    middle = len(group) // 2
    yield from _compact(group[:middle], low, high)
    yield from _compact(group[middle:], low, high)


def _sums(
    raster: _Raster, edges: Edges, window: tuple[int, int, int, int], count: int
) -> tuple[Floats, Floats]:
    """Values x share and cells with a value x share within a window."""
    row, column, height, width = window
    values, there = raster.read(row, column, height, width)
    cover = cell_cover(edges, width, height)
    total = _weighted(values, cover, count)
    if there is not None:
        return total, _weighted(there, cover, count)
    cells = sum_by(cover.owner, cover.share, count)
    runs = (cover.run_stop - cover.run_start) * cover.run_share
    return total, cells + sum_by(cover.run_owner, runs, count)


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
