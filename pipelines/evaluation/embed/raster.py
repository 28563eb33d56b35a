"""Precomputed Earth embeddings to one vector per region: area-weighted means of raster cells.

A cell counts by the share of it that a region covers, on the raster's own plane; exactextract
computes the shares. A cell that lacks a value in any band has no vector and does not count.

Several files make one city:

- Files on one grid (the same CRS and cells that coincide) are one mosaic. Where they overlap, a
  cell takes the first file, in the order given, that has a vector there.
- Files on other grids, such as those of two UTM zones, add up by area. The grid that covers most
  of a region counts in full; each further one counts for as much of the region as the others have
  left uncovered, at most. What two grids both cover is thus never counted twice.

Only the windows that regions touch are read, so that a cloud-optimised GeoTIFF is read in parts.
Memory grows with the regions and not with the rasters.
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
from .rejects import Reject, write_rejects
from .tables import earlier_metadata, rename_training, write_embeddings
from .trainings import Training

ENCODER = "raster"
VIEW = "satellite"
"""The column of vectors: these embeddings are made of satellite images."""
PAIRS_AT_ONCE = 1 << 22
"""Pairs of a region and a cell that are held at a time."""
NUMBERS_AT_ONCE = 1 << 23
CACHE_MB = 256
"""Of GDAL's blocks: the blocks that neighbouring windows share are decoded once."""
TOUCHING = 1e-6
"""Share of a region that rounding leaves where it only touches cells."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class RasterSettings:
    """How rasters are read.

    Attributes:
        layout: How vectors are stored; "auto" tells it from the files.
        nodata: Value of cells without data, beside the files' own tag.
        min_coverage: Share of a region, in [0, 1], that must have vectors.
    """

    layout: Layout = "auto"
    nodata: float | None = None
    min_coverage: float = 0.1


@dataclass(frozen=True)
class RegionMeans:
    """Vectors of regions.

    Attributes:
        vectors: `(n, dim)` float32; NaN where a region is left out.
        coverage: `(n,)` share of the region that has vectors.
        cells: `(n,)` cells behind each vector, partly covered ones in part.
        inside: `(n,)` share of the region that lies on a raster, with or without vectors.
        incomplete: Cells that lack some bands, and so have no vector.
        layout: How the files store vectors.
    """

    vectors: NDArray[np.float32]
    coverage: Floats
    cells: Floats
    inside: Floats
    incomplete: int
    layout: Layout


@dataclass
class _Grid:
    """Files of one grid, and the sums of the regions over their cells.

    Attributes:
        rasters: The files.
        extent: `(n,)` cells that a region spans on this grid, whether there are files or not.
        inside: `(n,)` of these, those that lie on a file.
        known: `(n,)` of these, those with a vector.
        sums: `(n, dim)` sums of the vectors, weighted by the covered share of a cell.
        incomplete: Cells that lack some bands.
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
    """Average the vectors of rasters over regions.

    Args:
        paths: Files of the city; see this module for what happens where they overlap.
        regions: Polygons in EPSG:4326, with `region_id`.
        settings: How rasters are read.

    Raises:
        InputError: A raster cannot be used, they do not belong together, a band holds no value, or
            no region lies on them.
    """
    try:
        rasterio = import_rasterio()
    except MissingExtraError as error:
        raise InputError(str(error)) from error
    with rasterio.Env(GDAL_CACHEMAX=CACHE_MB):
        return _region_means(paths, regions, settings or RasterSettings())


def _region_means(
    paths: Sequence[str | Path], regions: gpd.GeoDataFrame, settings: RasterSettings
) -> RegionMeans:
    rasters = open_rasters(paths, settings.layout, settings.nodata)
    shapes, names = regions.geometry.to_numpy(), regions["region_id"].to_numpy()
    there = np.flatnonzero(~(shapely.is_missing(shapes) | shapely.is_empty(shapes)))
    grids: list[_Grid] = []
    for raster in tqdm(rasters, desc="raster", unit="file", disable=len(rasters) == 1):
        grid = _grid_of(raster, grids, len(shapes))
        try:
            pieces, of_piece = CellPlane(raster.dataset, pyproj.CRS(4326)).place(
                shapes[there], names[there]
            )
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

    A finished table is left alone unless files, regions or settings have changed.

    Args:
        paths: Files of the city.
        regions: Polygons in EPSG:4326, with `region_id`.
        output: Folder of the city's tables.
        label: Name of the system.
        description: For the table's metadata: dataset, city, synthetic...
        settings: How rasters are read.
        log: Takes messages for the user.
        training: Of which system the table is one training.

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
        log(f"{path} is there already, from the same files and regions.")
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
        log(f"  left out {dict(reasons)}, see {label}.rejects.parquet")
    if found.incomplete:
        log(f"  {found.incomplete} cells lack some bands and do not count")
    return path


def _grid_of(raster: EmbeddingRaster, grids: list[_Grid], n: int) -> _Grid:
    """The grid that a raster lies on; a new one if there is none."""
    for grid in grids:
        if grid.rasters[0].offset(raster) is not None:
            return grid
    grids.append(_Grid([], np.zeros(n), np.zeros(n), np.zeros(n), np.zeros((n, raster.dim))))
    return grids[-1]


def _add_raster(grid: _Grid, raster: EmbeddingRaster, pieces: NDArray[Any], owner: Ints) -> None:
    """Add the cells of a raster that no earlier one of its grid has a vector for.

    Args:
        grid: Sums to add to.
        raster: The file.
        pieces: Polygons on the plane of its cells, y from the last row up.
        owner: Region of each.
    """
    in_band = np.zeros(raster.dim, dtype=bool)
    height, width = raster.dataset.shape
    tree = shapely.STRtree(pieces)
    for left, top, right, bottom in raster.windows(*_span(pieces, width, height)):
        hit = tree.query(shapely.box(left, height - bottom, right, height - top))
        if not len(hit):
            continue
        # no more than the pieces reach
        reach = _span(pieces[hit], width, height)
        left, top = max(left, reach[0]), max(top, reach[1])
        right, bottom = min(right, reach[2]), min(bottom, reach[3])
        if right <= left or bottom <= top:
            continue
        cells = raster.read(left, top, right, bottom)
        in_band |= cells.in_band
        grid.incomplete += cells.incomplete
        taken = _taken(grid.rasters, raster, left, top, right, bottom)
        window = (left, height - bottom, right, height - top)
        for chosen in _portions(pieces, np.sort(hit), window):
            _add_cells(grid, raster, cells, taken, pieces[chosen], owner[chosen], window)
    if in_band.any() and not in_band.all():
        lacking = np.flatnonzero(~in_band) + 1
        raise InputError(
            f"{raster.path}: band(s) {', '.join(map(str, lacking[:8]))} of {raster.dim} hold no "
            "value on any region, while others do, so no cell has a whole vector. Write the file "
            "again, with all bands or without these."
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
    """Add the cells of a window, weighted by the share that the regions cover."""
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
    earlier: Sequence[EmbeddingRaster],
    raster: EmbeddingRaster,
    left: int,
    top: int,
    right: int,
    bottom: int,
) -> NDArray[np.bool_]:
    """Which cells of a window have a vector in an earlier raster of the same grid, row by row."""
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
    """Left, top, right and bottom of the cells that polygons reach, rows from the top."""
    if not len(pieces):
        return 0, 0, 0, 0
    west, south, east, north = shapely.total_bounds(pieces)
    left, right = np.clip([np.floor(west), np.ceil(east)], 0, width).astype(int).tolist()
    top, bottom = np.clip([height - np.ceil(north), height - np.floor(south)], 0, height)
    return left, int(top), right, int(bottom)


def _portions(pieces: NDArray[Any], hit: Ints, window: tuple[int, int, int, int]) -> Iterator[Ints]:
    """Numbers of the polygons in a window, few enough that their cells fit into memory."""
    inner = shapely.bounds(pieces[hit])
    low, high = np.maximum(inner[:, :2], window[:2]), np.minimum(inner[:, 2:], window[2:])
    pairs = np.cumsum(np.prod(np.maximum(high - low, 0.0) + 2, axis=1))
    portion = (pairs // PAIRS_AT_ONCE).astype(int)
    for number in np.unique(portion):
        yield hit[portion == number]


def _combine(grids: Sequence[_Grid], layout: Layout, min_coverage: float) -> RegionMeans:
    """Vectors of the regions: by area over the grids, the one that covers most of each first."""
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
    """The regions without a vector, and why."""
    rejects = []
    for row in np.flatnonzero(~np.isfinite(found.vectors).all(1)).tolist():
        if found.inside[row] < TOUCHING:
            reason, detail = "outside_raster", "no raster reaches this region"
        elif found.coverage[row] <= 0:
            reason, detail = "no_data", "no cell of the region has a value in every band"
        else:
            reason = "low_coverage"
            detail = f"{found.coverage[row]:.3f} of it has vectors, wanted {min_coverage:g}"
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
            f"No region has vectors on enough of its area: {most:.3f} at most, and --min_coverage "
            f"is {min_coverage:g}. {found.incomplete} cells lack some bands; cells without data do "
            "not count."
        )
    from rasterio.warp import transform_bounds

    first = rasters[0].dataset
    there = ", ".join(f"{one:.3f}" for one in transform_bounds(first.crs, 4326, *first.bounds))
    here = ", ".join(f"{one:.3f}" for one in regions.total_bounds)
    return (
        f"No raster reaches any region: {rasters[0].path} spans ({there}) in degrees (west, south, "
        f"east, north), the regions ({here}). Give the files of this city with --raster."
    )


def _stamp(path: str | Path) -> tuple[str, int, int]:
    """Name, size and time of a file; of a remote one, its name."""
    if not os.path.exists(path):
        return str(path), 0, 0
    found = os.stat(path)
    return Path(path).name, found.st_size, found.st_mtime_ns


__all__ = ["ENCODER", "VIEW", "RasterSettings", "RegionMeans", "embed_raster", "region_means"]
