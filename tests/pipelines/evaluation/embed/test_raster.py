"""Zonal means of Earth embeddings against a brute-force computation."""

import re

import numpy as np
import pyarrow.parquet as pq
import pyproj
import pytest
import rasterio
import shapely
from rasterio.transform import Affine, from_origin

from dataset_builders.storage import read_regions
from pipelines.evaluation.cli import main
from pipelines.evaluation.embed import raster, raster_files
from pipelines.evaluation.embed.raster import RasterSettings, region_means
from pipelines.evaluation.embed.tables import read_embeddings
from tests.pipelines.evaluation.toy import CITY

EXACT = {"rtol": 1e-4, "atol": 1e-5}  # projected edges are accurate to 0.001 cells
CELL_M = 100.0
CORNER = 571_500.0, 5_548_100.0  # north-west of the toy's regions in EPSG:32632
ROWS, COLUMNS = 94, 62
NAMES = [f"A{k:02d}" for k in range(64)]


@pytest.fixture(scope="module")
def regions(toy_dataset):
    return read_regions(toy_dataset, CITY)


def vectors(bands=64, rows=ROWS, columns=COLUMNS, seed=0):
    """Unit vectors `(bands, rows, columns)` that vary smoothly in space, with noise."""
    y, x = np.mgrid[:rows, :columns] / max(rows, columns)
    rng = np.random.default_rng(seed)
    waves = rng.uniform(-4, 4, (bands, 3))
    values = np.sin(waves[:, 0, None, None] * x + waves[:, 1, None, None] * y + seed)
    values += 0.3 * rng.normal(size=values.shape)
    return values / np.linalg.norm(values, axis=0)


def quantised(seed=0):
    """Vectors quantised as in AlphaEarth: the inverse of `sign(q) (q / 127.5) ** 2`."""
    values = vectors(seed=seed)
    return np.round(np.sign(values) * np.sqrt(np.abs(values)) * 127.5).astype(np.int8)


def decoded(stored):
    number = stored.astype(float)
    return np.where(stored == -128, np.nan, np.sign(number) * (number / 127.5) ** 2)


def write(path, stored, *, column=0, row=0, names=(), zone=32, corner=CORNER, **profile):
    """Write `(bands, rows, columns)` with its corner at a cell of the toy city's grid."""
    bands, rows, columns = stored.shape
    west, north = corner
    profile = {
        "crs": f"EPSG:326{zone}",
        "transform": from_origin(west + column * CELL_M, north - row * CELL_M, CELL_M, CELL_M),
        **{"tiled": True, "blockxsize": 16, "blockysize": 16},
        **{"count": bands, "height": rows, "width": columns, "dtype": stored.dtype},
        **profile,
    }
    with rasterio.open(path, "w", driver="GTiff", **profile) as file:
        file.write(stored)
        for band, name in enumerate(names, 1):
            file.set_band_description(band, name)
    return path


def write_alphaearth(path, stored, **where):
    return write(path, stored, **{"nodata": -128, "names": NAMES, **where})


def expected(values, regions, *, zone=32, corner=CORNER):
    """Zonal means by intersecting every cell with every region; NaN marks cells to skip.

    Returns:
        Means `(n, bands)` and the covered share of each region `(n,)`.
    """
    shapes = shapely.segmentize(regions.geometry.to_numpy(), 1e-4)
    project = pyproj.Transformer.from_crs(4326, f"EPSG:326{zone}", always_xy=True).transform
    shapes = shapely.transform(shapes, lambda xy: np.column_stack(project(*xy.T)))
    _, rows, columns = values.shape
    row, column = np.divmod(np.arange(rows * columns), columns)
    west, north = corner[0] + column * CELL_M, corner[1] - row * CELL_M
    cells = shapely.box(west, north - CELL_M, west + CELL_M, north)
    pair = shapely.STRtree(cells).query(shapes)
    share = np.zeros((len(shapes), len(cells)))
    share[*pair] = shapely.area(shapely.intersection(shapes[pair[0]], cells[pair[1]]))
    flat = values.reshape(len(values), -1)
    share = share * np.isfinite(flat).all(0)
    known = share.sum(1)
    with np.errstate(invalid="ignore"):
        return share @ np.nan_to_num(flat).T / known[:, None], known / shapely.area(shapes)


def test_alphaearth_of_adjacent_and_overlapping_files(regions, tmp_path):
    stored, other = quantised(), quantised(seed=1)
    stored[:, 40:44, 10:20] = -128  # filled by the overlapping file
    west = write_alphaearth(tmp_path / "west.tiff", stored[:, :, :30])
    east = write_alphaearth(tmp_path / "east.tiff", stored[:, :, 30:], column=30)
    over = write_alphaearth(tmp_path / "over.tiff", other[:, 42:60, 5:], column=5, row=42)
    found = region_means([west, east, over], regions)
    part = stored[:, 42:60, 5:]
    part[part == -128] = other[:, 42:60, 5:][part == -128]
    means, coverage = expected(decoded(stored), regions)
    np.testing.assert_allclose(found.vectors, means, **EXACT)
    np.testing.assert_allclose(found.coverage, coverage, rtol=1e-4)
    assert found.layout == "alphaearth"


def test_south_up_file_in_small_windows(regions, tmp_path, monkeypatch):
    stored = quantised()
    upward = Affine(CELL_M, 0, CORNER[0], 0, CELL_M, CORNER[1] - ROWS * CELL_M)
    path = write_alphaearth(tmp_path / "up.tiff", stored[:, ::-1], transform=upward)
    monkeypatch.setattr(raster_files, "NUMBERS_AT_ONCE", 64 * 300)
    monkeypatch.setattr(raster, "NUMBERS_AT_ONCE", 500)
    monkeypatch.setattr(raster, "PAIRS_AT_ONCE", 100)
    found = region_means([path], regions)
    means, coverage = expected(decoded(stored), regions)
    np.testing.assert_allclose(found.vectors, means, **EXACT)
    np.testing.assert_allclose(found.coverage, coverage, rtol=1e-4)


@pytest.mark.parametrize("per_band", [False, True])
def test_tessera_with_scales_per_cell_or_band(regions, tmp_path, per_band):
    values = vectors(bands=8)
    scales = (np.abs(values).max(0, keepdims=True) / 127).astype(np.float32)
    stored = np.round(values / scales).astype(np.int8)
    scales[:, 5:9] = np.nan
    if per_band:
        scales = scales * np.linspace(0.5, 2, 8, dtype=np.float32)[:, None, None]
    write(tmp_path / "grid.tif", stored)
    write(tmp_path / "grid_scales.tif", scales)
    found = region_means(sorted(tmp_path.glob("*.tif")), regions)  # like a shell glob
    np.testing.assert_allclose(found.vectors, expected(stored * scales, regions)[0], **EXACT)
    assert found.layout == "tessera"


def test_plain_raster_with_gaps_scale_and_offset_tags(regions, tmp_path):
    values = vectors(bands=5).astype(np.float32)
    values[2, 30:33, 20:30] = np.nan  # one band is missing, so these cells are skipped
    values[:, 50:60] = -9.0
    path = write(tmp_path / "plain.tif", values)
    with rasterio.open(path, "r+") as file:
        file.scales, file.offsets = (2.0,) * 5, (0.5,) * 5
    found = region_means([path], regions, RasterSettings(nodata=-9.0))
    assert found.incomplete == 30
    cells = np.where(values == -9, np.nan, values.astype(float) * 2 + 0.5)
    np.testing.assert_allclose(found.vectors, expected(cells, regions)[0], **EXACT)


def test_utm_zones_are_averaged_by_area_without_counting_twice(regions, tmp_path):
    # in zone 33 the cells are rotated against the regions
    left, right = vectors(bands=4), vectors(bands=4, rows=100, columns=75, seed=2)
    left[:, :, 31:] = np.nan
    corner = 141_000.0, 5_560_000.0
    files = [write(tmp_path / "32.tif", left.astype(np.float32)), tmp_path / "33.tif"]
    for first_column in (0, 42):  # zone 33 covers everything, then a part
        right[:, :, :first_column] = np.nan
        write(files[1], right.astype(np.float32), zone=33, corner=corner)
        found = region_means(files, regions, RasterSettings(min_coverage=0))
        parts = expected(left, regions), expected(right, regions, zone=33, corner=corner)
        means, shares = (np.nan_to_num([part[i] for part in parts]) for i in (0, 1))
        if not first_column:  # within rounding, all of every region
            assert ((shares[0] > 0) & (shares[0] < 0.99)).sum() == 8
            shares[1] = 1
        order = np.argsort(-shares, axis=0)
        most, rest = np.take_along_axis(shares, order, axis=0)
        rest = np.minimum(rest, 1 - most)
        means = np.take_along_axis(means, order[:, :, None], axis=0)
        known = (most + rest > 0.1) & (shares.min(0) < 0.99)  # not decided by rounding
        assert ((rest > 0.05).sum() >= 6) == bool(first_column)
        mixed = most[known, None] * means[0, known] + rest[known, None] * means[1, known]
        mixed /= (most + rest)[known, None]
        np.testing.assert_allclose(found.vectors[known], mixed, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(found.coverage, most + rest, atol=1e-3)


def flags(toy_dataset, output, path, *more):
    where = ["--dataset_name", str(toy_dataset), "--city", CITY, "--output_dir", str(output)]
    return ["embed", "--encoder", "raster", "--raster", str(path), *where, *more]


def test_regions_without_a_vector_are_rejected_with_reason(toy_dataset, tmp_path, capsys):
    stored = quantised()
    stored[:, 72:, :10] = -128
    path = write_alphaearth(tmp_path / "half.tiff", stored[:, :, :33])
    command = flags(toy_dataset, tmp_path, path, "--label", "half", "--min_coverage", "0.6")
    assert main(command) == 0
    table = read_embeddings(tmp_path / CITY / "half.parquet")
    rejects = pq.read_table(tmp_path / CITY / "half.rejects.parquet").to_pandas()
    assert table.views == ["satellite"]
    assert (table.metadata["encoder"], table.metadata["dim"]) == ("raster (alphaearth)", 64)
    assert set(rejects["reason"]) == {"outside_raster", "no_data", "low_coverage"}
    left_out = ~np.isfinite(table.vectors["satellite"]).all(1)
    assert sorted(rejects["item"]) == sorted(np.array(table.region_ids)[left_out])
    assert 16 < left_out.sum() < 48
    assert main(command) == 0
    assert "already exists" in capsys.readouterr().err


def _reversed(path, stored):
    write_alphaearth(path.with_name("other.tiff"), stored[:, :, :30])
    write_alphaearth(path, stored, column=30, names=NAMES[::-1])


UNUSABLE = {
    "'A00' is 'A63'": _reversed,
    "no CRS": lambda path, stored: write_alphaearth(path, stored, crs=None),
    "10 bands of int8, neither": lambda path, stored: write(path, stored[:10]),
    "length 1, got 3.99": lambda path, stored: write_alphaearth(path, np.full_like(stored, 90)),
    "No raster intersects any region": lambda path, stored: write_alphaearth(
        path, stored, corner=(300_000.0, 4_000_000.0)
    ),
    r"band\(s\) 4 of 5 have no values": lambda path, _: write(
        path, np.where(np.arange(5)[:, None, None] == 3, np.nan, vectors(5)).astype(np.float32)
    ),
}


@pytest.mark.parametrize("message", UNUSABLE)
def test_unusable_raster_is_a_one_line_error(toy_dataset, tmp_path, capsys, message):
    path = tmp_path / "bad.tiff"
    UNUSABLE[message](path, quantised())
    command = flags(toy_dataset, tmp_path / "e", path)
    at = command.index(str(path))
    command[at:at] = map(str, tmp_path.glob("other.tiff"))
    assert main(command) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("evaluate.py: ")
    assert re.search(message, error), error
    assert not list((tmp_path / "e").rglob("*.parquet"))
