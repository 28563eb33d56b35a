"""Zonal means of precomputed Earth embeddings: one vector per region.

Cells are weighted by the fraction that a region covers, in the CRS of the raster (computed by
exactextract). A cell with nodata in any band is skipped.

A city may consist of several files:

- Files on one grid (same CRS, aligned cells) form a mosaic; where they overlap, the first valid
  cell in the given order is used.
- Files on different grids, such as two UTM zones, are averaged by area. The grid that covers most
  of a region counts in full, each further grid at most for the area still uncovered, so overlaps
  are not counted twice.

Only windows that intersect regions are read, so cloud-optimised GeoTIFFs are read in parts and
memory does not depend on the size of the rasters.
"""

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pyproj
import scipy.sparse
import shapely
from numpy.typing import NDArray
from tqdm import tqdm

from dataset_builders.errors import DatasetError, MissingExtraError
from dataset_builders.files import digest
from dataset_builders.rasters import import_rasterio
from dataset_builders.zonal import CellPlane

from ..errors import InputError
from .raster_files import Cells, EmbeddingRaster, Layout, open_rasters, scales_file
from .tables import Reject, earlier_metadata, rename_training, write_embeddings, write_rejects
from .trainings import Training

ENCODER = "raster"
VIEW = "satellite"
"""Column of the vectors: these embeddings are computed from satellite images."""
PAIRS_AT_ONCE = 1 << 22
"""Maximum number of (region, cell) pairs in memory."""
NUMBERS_AT_ONCE = 1 << 23
CACHE_MB = 256
"""GDAL block cache, so that adjacent windows decode shared blocks once."""
TOUCHING = 1e-6
"""Rounding error of the covered share of a region that only touches cells."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class RasterSettings:
    """Settings for reading rasters.

    Attributes:
        layout: Storage layout of the vectors; "auto" detects it from the files.
        nodata: Value of cells without data, in addition to the files' own tag.
        min_coverage: Minimum share of a region's area with valid cells, in [0, 1].
    """

    layout: Layout = "auto"
    nodata: float | None = None
    min_coverage: float = 0.1


@dataclass(frozen=True)
class RegionMeans:
    """Mean vectors of regions.

    Attributes:
        vectors: Mean vectors, `(n, dim)`, float32; NaN for skipped regions.
        coverage: Share of each region's area with valid cells, `(n,)`.
        cells: Number of valid cells of each region, counted by covered fraction, `(n,)`.
        inside: Share of each region's area on a raster, valid or not, `(n,)`.
        incomplete: Number of cells with values in some bands only.
        layout: Storage layout of the vectors.
    """

    vectors: NDArray[np.float32]
    coverage: Floats
    cells: Floats
    inside: Floats
    incomplete: int
    layout: Layout


@dataclass
class _Grid:
    """Rasters on one grid, with sums over their cells by region.

    `extent` is the area `(n,)` of each region in cells of this grid, `inside` the part of it on a
    raster, `known` the part of that with a vector; `sums` of vectors `(n, dim)` are weighted by
    covered fraction, and `incomplete` counts cells with values in some bands only.
    """

    rasters: list[EmbeddingRaster]
    extent: Floats
    inside: Floats
    known: Floats
    sums: Floats
    incomplete: int = 0


def region_means(
    paths: Sequence[str | Path],
    regions: gpd.GeoDataFrame,
    settings: RasterSettings | None = None,
) -> RegionMeans:
    """Average the vectors of raster cells over regions.

    Args:
        paths: Files of the city, in order of precedence.
        regions: Polygons in EPSG:4326, with `region_id`.
        settings: Settings for reading rasters.

    Raises:
        InputError: A raster is invalid, the rasters are incompatible, a band is empty, or no region
            intersects them.
    """
    settings = settings or RasterSettings()
    try:
        rasterio = import_rasterio()
    except MissingExtraError as error:
        raise InputError(str(error)) from error
    shapes, names = regions.geometry.to_numpy(), regions["region_id"].to_numpy()
    there = np.flatnonzero(~(shapely.is_missing(shapes) | shapely.is_empty(shapes)))
    grids: list[_Grid] = []
    with rasterio.Env(GDAL_CACHEMAX=CACHE_MB):
        rasters = open_rasters(paths, settings.layout, settings.nodata)
        for raster in tqdm(rasters, desc="raster", unit="file", disable=len(rasters) == 1):
            grid = _grid_of(raster, grids, len(shapes))
            try:
                plane = CellPlane(raster.dataset, pyproj.CRS(4326))
                pieces, of_piece = plane.place(shapes[there], names[there])
            except DatasetError as error:
                raise InputError(str(error)) from error
            owner = there[of_piece]
            grid.extent[:] = 0.0
            np.add.at(grid.extent, owner, shapely.area(pieces))
            _add_raster(grid, raster, pieces, owner)
            grid.rasters.append(raster)
    found = _combine(grids, rasters[0].layout, settings.min_coverage)
    if not np.isfinite(found.vectors).any():
        raise InputError(_no_vector(rasters, regions, found, settings.min_coverage))
    return found


def embed_raster(
    paths: Sequence[str | Path],
    regions: gpd.GeoDataFrame,
    output: Path,
    label: str,
    description: dict[str, Any],
    settings: RasterSettings | None = None,
    log: Callable[[str], None] = lambda text: print(text, file=sys.stderr),
    training: Training | None = None,
) -> Path:
    """Write `<output>/<label>.parquet` and `<label>.rejects.parquet`.

    A finished table is kept unless files, regions or settings have changed.

    Args:
        paths: Files of the city, in order of precedence.
        regions: Polygons in EPSG:4326, with `region_id`.
        output: Folder of the city's tables.
        label: Name of the system.
        description: Metadata of the dataset: dataset, city, synthetic.
        settings: Settings for reading rasters.
        log: Receives progress messages.
        training: Training metadata to store with the table.

    Raises:
        InputError: See [`region_means`].
    """
    settings = settings or RasterSettings()
    path = output / f"{label}.parquet"
    outlines = shapely.to_wkb(regions.geometry.to_numpy()).tolist()
    ids = regions["region_id"].astype(str).tolist()
    files = [one for path in paths for one in (path, scales_file(path)) if one is not None]
    stamps = [_stamp(one) for one in files]
    fingerprint = digest(vars(settings), stamps, ids, *[one or b"" for one in outlines])
    if earlier_metadata(path).get("fingerprint") == fingerprint:
        log(f"{path} already exists, from the same files and regions.")
        rename_training(path, training)
        return path
    found = region_means(paths, regions, settings)
    rejects = _rejects(ids, found, settings.min_coverage)
    reasons = Counter(reject.reason for reject in rejects)
    valid = np.isfinite(found.vectors).all(1)
    counts = np.where(valid, np.maximum(1, np.round(found.cells)), 0).astype(np.int64)
    write_rejects(path.with_name(f"{label}.rejects.parquet"), rejects)
    metadata = {
        "label": label,
        "encoder": f"{ENCODER} ({found.layout})",
        "pooling": "area-weighted mean",
        "random_init": False,
        "dim": found.vectors.shape[1],
        "fingerprint": fingerprint,
        "files": [Path(one).name for one in files],
        "images": {VIEW: 0},
        "cells": round(float(found.cells.sum()), 1),
        "incomplete_cells": found.incomplete,
        "regions_without": {VIEW: int((~valid).sum())},
        "rejects": dict(reasons),
        **description,
        **(training.metadata() if training else {}),
    }
    write_embeddings(path, ids, {VIEW: counts}, {VIEW: found.vectors}, metadata)
    log(f"Wrote {path}: {int(valid.sum())} of {len(ids)} regions, {found.vectors.shape[1]} bands.")
    if reasons:
        log(f"  skipped {dict(reasons)}, see {label}.rejects.parquet")
    if found.incomplete:
        log(f"  skipped {found.incomplete} cells with missing bands")
    return path


def _grid_of(raster: EmbeddingRaster, grids: list[_Grid], n: int) -> _Grid:
    """Find the grid of a raster, or add a new one."""
    for grid in grids:
        if grid.rasters[0].offset(raster) is not None:
            return grid
    grids.append(_Grid([], np.zeros(n), np.zeros(n), np.zeros(n), np.zeros((n, raster.dim))))
    return grids[-1]


def _add_raster(grid: _Grid, raster: EmbeddingRaster, pieces: NDArray[Any], owner: Ints) -> None:
    """Add the cells of a raster that are not valid in an earlier raster of its grid."""
    in_band = np.zeros(raster.dim, dtype=bool)
    height, width = raster.dataset.shape
    tree = shapely.STRtree(pieces)
    for left, top, right, bottom in raster.windows(*_span(pieces, width, height)):
        hit = tree.query(shapely.box(left, height - bottom, right, height - top))
        if not len(hit):
            continue
        reach = _span(pieces[hit], width, height)
        left, top = max(left, reach[0]), max(top, reach[1])
        right, bottom = min(right, reach[2]), min(bottom, reach[3])
        if right <= left or bottom <= top:
            continue
        cells = raster.read(left, top, right, bottom)
        in_band |= cells.in_band
        grid.incomplete += cells.incomplete
        taken = _taken(grid.rasters, raster, (left, top, right, bottom))
        window = (left, height - bottom, right, height - top)
        for chosen in _portions(pieces, np.sort(hit), window):
            _add_cells(grid, raster, cells, taken, pieces[chosen], owner[chosen], window)
    if in_band.any() and not in_band.all():
        lacking = np.flatnonzero(~in_band) + 1
        raise InputError(
            f"{raster.path}: band(s) {', '.join(map(str, lacking[:8]))} of {raster.dim} have no "
            "values on any region, so no cell has a complete vector. Fill or remove these bands."
        )


def _add_cells(
    grid: _Grid,
    raster: EmbeddingRaster,
    cells: Cells,
    taken: NDArray[np.bool_],
    pieces: NDArray[Any],
    owner: Ints,
    window: tuple[int, int, int, int],
) -> None:
    from dataset_builders.exact_cells import covered_cells

    piece, cell, share = covered_cells(pieces, window)
    rows, row = np.unique(owner, return_inverse=True)
    row = row[piece]
    free = ~taken[cell]
    grid.inside[rows] += np.bincount(row[free], share[free], len(rows))
    usable = free & cells.valid[cell]
    if not usable.any():
        return
    row, cell, share = row[usable], cell[usable], share[usable]
    used = np.zeros(len(cells.valid), dtype=bool)
    used[cell] = True
    column = (np.cumsum(used) - 1)[cell]
    chosen = np.flatnonzero(used)
    weights = scipy.sparse.csr_array((share, (row, column)), shape=(len(rows), len(chosen)))
    grid.known[rows] += weights.sum(axis=1)
    raster.check_length(raster.vectors(cells, slice(None), chosen[:: len(chosen) // 256 + 1]))
    at_once = max(1, NUMBERS_AT_ONCE // len(chosen))
    for start in range(0, raster.dim, at_once):
        bands = slice(start, start + at_once)
        grid.sums[rows, bands] += weights @ raster.vectors(cells, bands, chosen)


def _taken(
    earlier: Sequence[EmbeddingRaster], raster: EmbeddingRaster, window: tuple[int, int, int, int]
) -> NDArray[np.bool_]:
    """Mask of cells of a window, row by row, that are valid in an earlier raster of the grid."""
    left, top, right, bottom = window
    taken = np.zeros((bottom - top, right - left), dtype=bool)
    for other in earlier:
        x, y = raster.offset(other) or (0, 0)
        west, north = max(left, x), max(top, y)
        east = min(right, x + other.dataset.width)
        south = min(bottom, y + other.dataset.height)
        if west < east and north < south:
            valid = other.read(west - x, north - y, east - x, south - y).valid
            part = taken[north - top : south - top, west - left : east - left]
            part |= valid.reshape(part.shape)
    return taken.ravel()


def _span(pieces: NDArray[Any], width: int, height: int) -> tuple[int, int, int, int]:
    """Bounding box of polygons in cells: left, top, right, bottom, with rows from the top."""
    if not len(pieces):
        return 0, 0, 0, 0
    west, south, east, north = shapely.total_bounds(pieces)
    left, right = np.clip([np.floor(west), np.ceil(east)], 0, width).astype(int).tolist()
    top, bottom = np.clip([height - np.ceil(north), height - np.floor(south)], 0, height)
    return left, int(top), right, int(bottom)


def _portions(pieces: NDArray[Any], hit: Ints, window: tuple[int, int, int, int]) -> Iterator[Ints]:
    """Split the polygons of a window into chunks whose cells fit into memory."""
    inner = shapely.bounds(pieces[hit])
    low, high = np.maximum(inner[:, :2], window[:2]), np.minimum(inner[:, 2:], window[2:])
    pairs = np.cumsum(np.prod(np.maximum(high - low, 0.0) + 2, axis=1))
    portion = (pairs // PAIRS_AT_ONCE).astype(int)
    for number in np.unique(portion):
        yield hit[portion == number]


def _combine(grids: Sequence[_Grid], layout: Layout, min_coverage: float) -> RegionMeans:
    """Average grids by area; the grid that covers most of a region takes precedence."""
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = np.array([np.nan_to_num(grid.known / grid.extent) for grid in grids])
        inside = sum(np.nan_to_num(grid.inside / grid.extent) for grid in grids)
    shares[shares < TOUCHING] = 0.0
    order = np.argsort(-shares, axis=0, kind="stable")
    ranked = np.take_along_axis(shares, order, axis=0)
    before = np.cumsum(ranked, axis=0) - ranked
    counted = np.minimum(ranked, np.clip(1 - before, 0.0, None))
    weights = np.empty_like(counted)
    np.put_along_axis(weights, order, counted, axis=0)
    coverage = counted.sum(axis=0)
    total, cells = np.zeros_like(grids[0].sums), np.zeros(len(coverage))
    for grid, weight in zip(grids, weights, strict=True):
        known = np.where(grid.known > 0, grid.known, 1.0)
        total += grid.sums * (weight / known)[:, None]
        cells += weight * grid.extent
    with np.errstate(invalid="ignore", divide="ignore"):
        vectors = (total / coverage[:, None]).astype(np.float32)
    vectors[(coverage <= 0) | (coverage < min_coverage)] = np.nan
    incomplete = sum(grid.incomplete for grid in grids)
    return RegionMeans(vectors, coverage, cells, np.asarray(inside), incomplete, layout)


def _rejects(ids: Sequence[str], found: RegionMeans, min_coverage: float) -> list[Reject]:
    rejects = []
    for row in np.flatnonzero(~np.isfinite(found.vectors).all(1)).tolist():
        if found.inside[row] < TOUCHING:
            reason, detail = "outside_raster", "no raster intersects this region"
        elif found.coverage[row] <= 0:
            reason, detail = "no_data", "no cell of the region has values in all bands"
        else:
            reason = "low_coverage"
            detail = f"share with valid cells {found.coverage[row]:.3f} < {min_coverage:g}"
        rejects.append(Reject(ENCODER, ids[row], reason, detail))
    return rejects


def _no_vector(
    rasters: Sequence[EmbeddingRaster],
    regions: gpd.GeoDataFrame,
    found: RegionMeans,
    min_coverage: float,
) -> str:
    if (found.inside >= TOUCHING).any():
        most = float(found.coverage.max())
        return (
            f"No region has enough valid cells: at most {most:.3f} of its area, and --min_coverage "
            f"is {min_coverage:g}. {found.incomplete} cells have values in some bands only."
        )
    from rasterio.warp import transform_bounds

    first = rasters[0].dataset
    there = ", ".join(f"{one:.3f}" for one in transform_bounds(first.crs, 4326, *first.bounds))
    here = ", ".join(f"{one:.3f}" for one in regions.total_bounds)
    return (
        f"No raster intersects any region: {rasters[0].path} spans ({there}) in degrees (west, "
        f"south, east, north), the regions ({here}). Pass the files of this city to --raster."
    )


def _stamp(path: str | Path) -> tuple[str, int, int]:
    """Name, size and modification time of a file; only the name of a remote file."""
    if not os.path.exists(path):
        return str(path), 0, 0
    found = os.stat(path)
    return Path(path).name, found.st_size, found.st_mtime_ns


__all__ = ["ENCODER", "VIEW", "RasterSettings", "RegionMeans", "embed_raster", "region_means"]
