"""Zonal means of Earth embeddings against a brute-force computation."""

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from rasterio.transform import Affine

from dataset_builders.storage import read_regions
from pipelines.evaluation.cli import main
from pipelines.evaluation.embed.raster import RasterSettings, region_means
from pipelines.evaluation.embed.tables import read_embeddings
from pipelines.evaluation.errors import InputError
from tests.pipelines.evaluation.embed import earth
from tests.pipelines.evaluation.toy import CITY

EXACT = {"rtol": 1e-4, "atol": 1e-5}  # projected edges are accurate to 0.001 cells


@pytest.fixture(scope="module")
def regions(toy_dataset):
    return read_regions(toy_dataset, CITY)


def dequantised(stored):
    number = stored.astype(float)
    return np.where(stored == -128, np.nan, np.sign(number) * (number / 127.5) ** 2)


def flags(toy_dataset, output, *rasters, **more):
    words = [word for name, value in more.items() for word in (f"--{name}", str(value))]
    return [
        *("embed", "--encoder", "raster", "--raster", *map(str, rasters)),
        *("--dataset_name", str(toy_dataset), "--city", CITY, "--output_dir", str(output), *words),
    ]


def test_alphaearth_of_adjoining_and_overlapping_files(regions, tmp_path):
    stored = earth.quantised(earth.vectors())
    other = earth.quantised(earth.vectors(seed=1))
    stored[:, 40:44, 10:20] = -128  # filled by the overlapping file
    west = earth.write_alphaearth(tmp_path / "west.tiff", stored[:, :, :30])
    east = earth.write_alphaearth(tmp_path / "east.tiff", stored[:, :, 30:], column=30)
    over = earth.write_alphaearth(tmp_path / "over.tiff", other[:, 42:60, 5:], column=5, row=42)
    found = region_means([west, east, over], regions)
    mosaic = stored.copy()
    filled = mosaic[:, 42:60, 5:] == -128
    mosaic[:, 42:60, 5:][filled] = other[:, 42:60, 5:][filled]
    means, known, area = earth.expected(dequantised(mosaic), regions)
    np.testing.assert_allclose(found.vectors, means, **EXACT)
    np.testing.assert_allclose(found.coverage, known / area, rtol=1e-4)
    assert found.layout == "alphaearth"


def test_a_file_from_south_to_north_and_windows_of_few_cells(regions, tmp_path, monkeypatch):
    from pipelines.evaluation.embed import raster, raster_files

    stored = earth.quantised(earth.vectors())
    south = earth.NORTH - earth.ROWS * earth.CELL_M
    upward = Affine(earth.CELL_M, 0, earth.WEST, 0, earth.CELL_M, south)
    path = earth.write_alphaearth(tmp_path / "up.tiff", stored[:, ::-1], transform=upward)
    whole = region_means([path], regions)
    np.testing.assert_allclose(
        whole.vectors, earth.expected(dequantised(stored), regions)[0], **EXACT
    )
    monkeypatch.setattr(raster_files, "NUMBERS_AT_ONCE", 64 * 300)
    monkeypatch.setattr(raster, "NUMBERS_AT_ONCE", 500)
    monkeypatch.setattr(raster, "PAIRS_AT_ONCE", 100)
    parts = region_means([path], regions)
    np.testing.assert_allclose(parts.vectors, whole.vectors, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(parts.coverage, whole.coverage)


@pytest.mark.parametrize("per_band", [False, True])
def test_tessera_takes_the_scales_beside_it(regions, tmp_path, per_band):
    stored, scales = earth.tessera(earth.vectors(bands=128))
    scales[:, 5:9] = np.nan
    if per_band:
        scales = scales * np.linspace(0.5, 2, 128, dtype=np.float32)[:, None, None]
    path = earth.write(tmp_path / "grid.tif", stored)
    earth.write(tmp_path / "grid_scales.tif", scales)
    found = region_means(sorted(tmp_path.glob("*.tif")), regions)  # like a shell glob
    means, *_ = earth.expected(stored * scales.astype(float), regions)
    np.testing.assert_allclose(found.vectors, means, **EXACT)
    assert (found.layout, path.stem) == ("tessera", "grid")


def test_a_plain_raster_with_gaps_scale_and_offset_tags(regions, tmp_path):
    values = earth.vectors(bands=5).astype(np.float32)
    values[2, 30:33, 20:30] = np.nan  # one band is missing, so these cells are skipped
    values[:, 50:60] = -9.0
    path = earth.write(tmp_path / "plain.tif", values)
    import rasterio

    with rasterio.open(path, "r+") as file:
        file.scales, file.offsets = (2.0,) * 5, (0.5,) * 5
    found = region_means([path], regions, RasterSettings(nodata=-9.0))
    assert found.incomplete == 30
    cells = np.where(values == -9, np.nan, values.astype(float) * 2 + 0.5)
    np.testing.assert_allclose(found.vectors, earth.expected(cells, regions)[0], **EXACT)


def test_files_of_two_utm_zones_add_up_by_area_and_never_twice(regions, tmp_path):
    # in zone 33 the cells are rotated against the regions
    values = earth.vectors(bands=4)
    left, right = values.copy(), earth.vectors(bands=4, rows=100, columns=75, seed=2)
    left[:, :, 31:] = np.nan
    place = (141_000.0, 5_560_000.0)
    one = earth.write(tmp_path / "32.tif", left.astype(np.float32))
    two = earth.write(tmp_path / "33.tif", right.astype(np.float32), zone=33, place=place)
    found = region_means([one, two], regions)
    first, first_m2, area = earth.expected(left, regions)
    second, second_m2, area_33 = earth.expected(right, regions, zone=33, place=place)
    shares = np.array([first_m2 / area, second_m2 / area_33])
    assert (shares[1] > 0.99).all()  # zone 33 covers everything and takes precedence
    split = (shares[0] > 0) & (shares[0] < shares[1] - 0.01)
    assert split.sum() == 8
    np.testing.assert_allclose(found.vectors[split], second[split], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(found.coverage, 1, atol=1e-4)
    right[:, :, :42] = np.nan
    earth.write(two, right.astype(np.float32), zone=33, place=place)
    part = region_means([one, two], regions, RasterSettings(min_coverage=0))
    second, second_m2, _ = earth.expected(right, regions, zone=33, place=place)
    shares = np.array([first_m2 / area, second_m2 / area_33])
    order = np.argsort(-shares, axis=0)
    most, rest = np.take_along_axis(shares, order, axis=0)
    rest = np.minimum(rest, 1 - most)
    assert (rest > 0.05).sum() >= 6
    means = np.take_along_axis(np.nan_to_num([first, second]), order[:, :, None], axis=0)
    mixed = most[:, None] * means[0] + rest[:, None] * means[1]
    with np.errstate(invalid="ignore"):
        mixed = mixed / (most + rest)[:, None]
    known = most + rest > 0.1
    np.testing.assert_allclose(part.vectors[known], mixed[known], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(part.coverage, most + rest, atol=1e-3)


def test_half_a_city_is_a_table_with_reasons_and_a_probe(toy_dataset, regions, tmp_path, capsys):
    stored = earth.quantised(earth.vectors())
    stored[:, 72:, :10] = -128
    path = earth.write_alphaearth(tmp_path / "half.tiff", stored[:, :, :33])
    command = flags(toy_dataset, tmp_path / "e", path, label="alphaearth", min_coverage=0.6)
    assert main(command) == 0
    table = read_embeddings(tmp_path / "e" / CITY / "alphaearth.parquet")
    rejects = pq.read_table(tmp_path / "e" / CITY / "alphaearth.rejects.parquet").to_pandas()
    assert table.views == ["satellite"]
    assert (table.metadata["encoder"], table.metadata["dim"]) == ("raster (alphaearth)", 64)
    assert set(rejects["reason"]) == {"outside_raster", "no_data", "low_coverage"}
    left_out = ~np.isfinite(table.vectors["satellite"]).all(1)
    assert sorted(rejects["item"]) == sorted(np.array(table.region_ids)[left_out])
    assert 16 < left_out.sum() < 48
    assert main(command) == 0
    assert "already exists" in capsys.readouterr().err
    probe = [
        *("probe", "--embeddings", str(tmp_path / "e" / CITY / "alphaearth.parquet")),
        *("--dataset_name", str(toy_dataset), "--city", CITY, "--output_dir", str(tmp_path / "r")),
        *("--probes", "ridge", "--protocols", "random", "--seeds", "2"),
    ]
    assert main(probe) == 0
    rows = pd.read_json(tmp_path / "r" / CITY / "results.jsonl", lines=True)
    assert "alphaearth" in set(rows["system"])


def _bad(case, folder):
    stored = earth.quantised(earth.vectors())
    good = earth.write_alphaearth(folder / "good.tiff", stored[:, :, :30])
    bad, options = folder / "bad.tiff", {}
    if case == "band missing":
        earth.write(bad, stored[:63], column=30, nodata=-128)
        options = {"raster_layout": "plain"}
    elif case == "bands in another order":
        names = [f"A{k:02d}" for k in reversed(range(64))]
        earth.write(bad, stored, column=30, nodata=-128, names=names)
    elif case == "no CRS":
        earth.write_alphaearth(bad, stored, crs=None)
    elif case == "unknown int8":
        earth.write(bad, stored[:10])
    elif case == "not unit length":
        earth.write_alphaearth(bad, np.full_like(stored, 90))
    elif case == "elsewhere":
        earth.write_alphaearth(bad, stored, place=(300_000.0, 4_000_000.0))
    elif case == "no data":
        earth.write_alphaearth(bad, np.full_like(stored, -128))
    elif case == "no file":
        pass
    elif case == "NaN band":
        values = earth.vectors(bands=5).astype(np.float32)
        values[3] = np.nan
        earth.write(bad, values)
    elif case == "scales of another shape":
        earth.write(bad, stored)
        earth.write(folder / "bad_scales.tif", np.ones((1, 10, 10), np.float32))
    elif case == "no scales":
        earth.write(bad, stored)
        options = {"raster_layout": "tessera"}
    elif case == "not a raster":
        bad.write_text("no raster")
    pair = case in ("band missing", "bands in another order")
    return ([good, bad] if pair else [bad]), options


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("band missing", "64 bands .* has 63"),
        ("bands in another order", "'A00' is 'A63'"),
        ("no CRS", "no CRS"),
        ("unknown int8", "10 bands of int8, neither"),
        ("not unit length", "length 1, got 3.99"),
        ("elsewhere", "No raster intersects any region"),
        ("no data", "No region has enough valid cells"),
        ("no file", "There is no raster at"),
        ("NaN band", r"band\(s\) 4 of 5 have no values"),
        ("scales of another shape", "1 band.s. of 10 x 10 cells"),
        ("no scales", "needs a file of scales"),
        ("not a raster", "cannot be read"),
    ],
)
def test_what_cannot_be_used_is_an_error_of_one_line(toy_dataset, tmp_path, capsys, case, said):
    rasters, options = _bad(case, tmp_path)
    assert main(flags(toy_dataset, tmp_path / "e", *rasters, **options)) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("evaluate.py: ")
    with pytest.raises(AssertionError, match=said):
        raise AssertionError(error)
    assert not list((tmp_path / "e").rglob("*.parquet"))


def test_flags_that_do_not_go_together(toy_dataset, tmp_path):
    from pipelines.evaluation.arguments import parse_arguments

    for more in ({"shard": "1/2"}, {"backend": "ray"}, {"min_coverage": 2}, {"encoder": "mosaiks"}):
        with pytest.raises(InputError):
            parse_arguments(flags(toy_dataset, tmp_path, "a.tif", **more))
