"""Data of the baselines and the resumable cache of decoded images."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from dataset_builders.images import decode_image
from dataset_builders.schema import DatasetMetadata
from dataset_builders.storage import iter_images
from dataset_builders.writer import DatasetWriter
from pipelines.evaluation.baselines import pixels
from pipelines.evaluation.baselines.data import load_region_data
from pipelines.evaluation.baselines.pixels import LeftOut, decode_view, square
from pipelines.evaluation.errors import InputError
from tests.pipelines.evaluation.toy import CITY, build_toy, picture


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return build_toy(tmp_path_factory.mktemp("toy") / "dataset", side=5)


def _rows(num: int, bad: tuple[int, ...] = ()):
    for number in range(num):
        data = b"broken" if number in bad else picture(np.array([number / num, 0.5]), number)
        yield {"image": data, "image_id": f"i{number}", "region_id": f"r{number}"}


def _decode(path, num=7, bad=(), rows=None):
    known = frozenset(f"r{number}" for number in range(num))
    return decode_view(rows or _rows(num, bad), num, "satellite", 16, known, path)


def test_pixels_are_those_of_the_images_and_bad_ones_are_listed(tmp_path):
    decoded, left_out = _decode(tmp_path / "a.npy", bad=(2,))
    assert decoded.shape == (6, 16, 16, 3)
    assert decoded.dtype == np.uint8
    assert [(one.row, one.image_id, one.reason) for one in left_out] == [(2, "i2", "unreadable")]
    kept = [row for row in _rows(7) if row["image_id"] != "i2"]
    for row, values in zip(kept, decoded, strict=True):
        image = decode_image(row["image"])
        np.testing.assert_array_equal(square(image, "satellite", 16), values)


def test_a_second_call_reads_no_image(tmp_path):
    first, left_out = _decode(tmp_path / "a.npy", bad=(0, 6))

    def forbidden():
        raise AssertionError("an image was read again")
        yield

    again, left_out_again = _decode(tmp_path / "a.npy", rows=forbidden())
    np.testing.assert_array_equal(first, again)
    assert (
        left_out_again
        == left_out
        == [
            LeftOut(0, "i0", "unreadable", left_out[0].detail),
            LeftOut(6, "i6", "unreadable", left_out[1].detail),
        ]
    )


@pytest.mark.parametrize("stop_at", [0, 1, 3, 5, 9])
def test_a_killed_run_goes_on_and_ends_with_the_same_file(tmp_path, monkeypatch, stop_at):
    monkeypatch.setattr(pixels, "SAVE_EVERY", 2)
    _decode(tmp_path / "whole.npy", num=10, bad=(1, 4))

    def interrupted():
        for number, row in enumerate(_rows(10, (1, 4))):
            if number == stop_at:
                raise KeyboardInterrupt
            yield row

    with pytest.raises(KeyboardInterrupt):
        _decode(tmp_path / "cut.npy", num=10, rows=interrupted())
    assert not (tmp_path / "cut.npy").exists()
    decoded_again = []

    def watched():
        for number, row in enumerate(_rows(10, (1, 4))):
            if number < stop_at // 2 * 2:
                row["image"] = b"would be listed, were it decoded again"
            decoded_again.append(number)
            yield row

    _decode(tmp_path / "cut.npy", num=10, rows=watched())
    assert (tmp_path / "cut.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()
    names = ("whole.left_out.json", "cut.left_out.json")
    whole, cut = (json.loads((tmp_path / name).read_text()) for name in names)
    assert cut == whole
    assert not list(tmp_path.glob(".*"))


def test_a_view_of_bad_images_alone_is_no_view(tmp_path):
    decoded, left_out = _decode(tmp_path / "a.npy", num=3, bad=(0, 1, 2))
    assert decoded.shape == (0, 16, 16, 3)
    assert len(left_out) == 3


def test_of_two_runs_at_a_time_one_decodes(tmp_path):
    times_read = []

    def slow():
        times_read.append(1)
        for row in _rows(5):
            time.sleep(0.02)
            yield row

    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(_decode, tmp_path / "a.npy", num=5, rows=slow()) for _ in range(2)]
        first, second = (run.result()[0] for run in runs)
    assert len(times_read) == 1
    np.testing.assert_array_equal(first, second)


def test_numpy_reads_the_header_of_any_number_of_images(tmp_path):
    for number in (0, 1, 10**9):
        header = pixels._header((number, 224, 224, 3))
        assert len(header) == pixels.HEADER_BYTES
        path = tmp_path / "h.npy"
        path.write_bytes(header)
        with path.open("rb") as file:
            assert np.lib.format.read_magic(file) == (1, 0)
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
            assert file.tell() == pixels.HEADER_BYTES
        assert (shape, fortran, dtype) == ((number, 224, 224, 3), False, np.dtype("uint8"))


def test_satellite_is_resized_whole_and_street_views_are_cut_to_the_middle():
    # red left, green middle, blue right
    bands = np.zeros((40, 120, 3), dtype=np.uint8)
    for band in range(3):
        bands[:, 40 * band : 40 * band + 40, band] = 255
    image = Image.fromarray(bands)
    satellite, street = (square(image, view, 12) for view in ("satellite", "street_view"))
    assert satellite.shape == street.shape == (12, 12, 3)
    assert satellite[6, [1, 6, 10]].argmax(axis=1).tolist() == [0, 1, 2]
    # resampling blends some of the cropped area into the outermost columns, as in CLIP
    assert (street[:, 1:-1, 1] == 255).all()
    assert (street[:, 1:-1, [0, 2]] == 0).all()
    assert (street[:, [0, -1], 1] > 200).all()


def test_a_city_is_read_with_what_it_has(toy, tmp_path, capsys):
    data = load_region_data(str(toy), CITY, 24, tmp_path)
    assert data.region_ids == [f"r{number:04}" for number in range(25)]
    assert sorted(data.views) == ["satellite", "street_view"]
    street = data.views["street_view"]
    assert len(street) == 48
    assert street.pixels.shape == (48, 24, 24, 3)
    assert "street-bad" not in street.image_ids
    assert [f"street-{region}-{number % 2}" for number, region in enumerate(street.region)] == (
        street.image_ids
    )
    np.testing.assert_array_equal(street.lonlat, data.lonlat[street.region])
    assert np.isnan(street.heading).all()
    assert data.poi is None
    assert data.synthetic
    assert data.cell_m == pytest.approx(np.sqrt(0.8e6))
    apart = data.xy[1] - data.xy[0]
    assert apart == pytest.approx([716, 0], abs=8)  # 0.01 degrees at 50 north
    told = capsys.readouterr().out
    assert "street_view: skipped {'empty': 1, 'unknown_region': 1, 'unreadable': 1}" in told


def test_pixels_of_a_view_belong_to_its_rows(toy, tmp_path):
    view = load_region_data(str(toy), CITY, 24, tmp_path).views["street_view"]
    stored = {row["image_id"]: row["image"] for row in iter_images(toy, CITY, "street_view")}
    for row in (0, 1, 20, 47):
        image = decode_image(stored[view.image_ids[row]])
        np.testing.assert_array_equal(view.pixels[row], square(image, "street_view", 24))


def test_fingerprint_is_of_the_content_and_the_size(toy, tmp_path):
    first = load_region_data(str(toy), CITY, 24, tmp_path)
    again = load_region_data(str(toy), CITY, 24, tmp_path / "elsewhere")
    other_size = load_region_data(str(toy), CITY, 16, tmp_path)
    assert first.fingerprint == again.fingerprint != other_size.fingerprint


def test_captions_places_and_points_of_interest_are_read(tmp_path):
    def build(name: str, shops: float):
        extra = {"regions": {"poi_shop": "float64", "poi_bar": "float64", "poi_note": "string"}}
        metadata = DatasetMetadata("T", "T.", "tests", "CC0-1.0", extra_columns=extra)
        writer = DatasetWriter(tmp_path / name, metadata)
        regions = [
            {"region_id": "a", "city": "t", "lon": 8.0, "lat": 47.0, "area_m2": 1e6, "poi": 9.0}
            | {"poi_source": "map", "poi_shop": shops, "poi_bar": 1.0, "poi_note": "x"},
            {"region_id": "b", "city": "t", "lon": 8.1, "lat": 47.0, "area_m2": 1e6},
        ]
        writer.write_shard("t", "regions", 0, regions)
        image = {"bytes": picture(np.array([0.5, 0.5]), 0), "path": None}
        rows = [
            {"image": image, "image_id": "1", "region_id": "b", "lon": 8.11, "lat": 47.01}
            | {"heading": 90.0, "caption": "A street."},
            {"image": image, "image_id": "2", "region_id": "a"},
        ]
        writer.write_shard("t", "street_view", 0, rows)
        writer.finish()
        return load_region_data(str(tmp_path / name), "t", 8, tmp_path / "cache")

    data = build("one", shops=4.0)
    assert data.poi_categories == ("bar", "shop")
    assert data.poi is not None
    assert data.poi.tolist() == [[1.0, 4.0], [0.0, 0.0]]
    view = data.views["street_view"]
    assert list(data.views) == ["street_view"]
    assert view.captions == ["A street.", None]
    assert view.lonlat.tolist() == [[8.11, 47.01], [8.0, 47.0]]
    assert view.heading[0] == 90
    assert np.isnan(view.heading[1])
    assert not data.synthetic
    # same images, different counts
    assert build("other", shops=5.0).fingerprint != data.fingerprint


def test_a_city_that_is_not_there_is_told(toy, tmp_path):
    with pytest.raises(InputError, match="has no city 'atlantis'; it has: toytown"):
        load_region_data(str(toy), "atlantis", 24, tmp_path)
