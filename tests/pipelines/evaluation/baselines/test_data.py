"""Data of the baselines and the resumable cache of decoded images."""

import numpy as np
import pytest
from PIL import Image

from dataset_builders.images import decode_image
from dataset_builders.schema import DatasetMetadata
from dataset_builders.storage import iter_images
from dataset_builders.writer import DatasetWriter
from pipelines.evaluation.baselines import data as baseline_data
from pipelines.evaluation.baselines.data import decode_view, load_region_data, square
from pipelines.evaluation.errors import InputError
from tests.pipelines.evaluation.toy import CITY, build_toy, picture


def _rows(num: int, bad: tuple[int, ...] = ()):
    for number in range(num):
        data = b"broken" if number in bad else picture(np.array([number / num, 0.5]), number)
        yield {"image": data, "image_id": f"i{number}", "region_id": f"r{number}"}


def _decode(path, num=7, bad=(), rows=None):
    known = frozenset(f"r{number}" for number in range(num))
    return decode_view(rows or _rows(num, bad), num, "satellite", 16, known, path)


def _forbidden():
    raise AssertionError("an image was read again")
    yield


@pytest.mark.parametrize("bad", [(0, 2), (0, 1, 2, 3)])
def test_decodes_images_once_and_lists_bad_ones(tmp_path, bad):
    decoded, left_out = _decode(tmp_path / "a.npy", 4, bad)
    assert decoded.shape == (4 - len(bad), 16, 16, 3)
    assert [(one.row, one.image_id, one.reason) for one in left_out] == [
        (row, f"i{row}", "unreadable") for row in bad
    ]
    kept = [row["image"] for number, row in enumerate(_rows(4)) if number not in bad]
    for image, values in zip(kept, decoded, strict=True):
        np.testing.assert_array_equal(square(decode_image(image), "satellite", 16), values)
    again, left_out_again = _decode(tmp_path / "a.npy", 4, rows=_forbidden())
    np.testing.assert_array_equal(decoded, again)
    assert left_out_again == left_out


@pytest.mark.parametrize("stop_at", [1, 5])
def test_resumes_after_interruption(tmp_path, monkeypatch, stop_at):
    monkeypatch.setattr(baseline_data, "SAVE_EVERY", 2)
    _decode(tmp_path / "whole.npy", 7, (1, 4))

    def interrupted():
        for number, row in enumerate(_rows(7, (1, 4))):
            if number == stop_at:
                raise KeyboardInterrupt
            yield row

    with pytest.raises(KeyboardInterrupt):
        _decode(tmp_path / "cut.npy", rows=interrupted())
    assert not (tmp_path / "cut.npy").exists()

    def watched():
        for number, row in enumerate(_rows(7, (1, 4))):
            if number < stop_at // 2 * 2:
                row["image"] = b"would be listed, were it decoded again"
            yield row

    _decode(tmp_path / "cut.npy", rows=watched())
    for name in ("{}.npy", "{}.left_out.json"):
        whole, cut = (tmp_path / name.format(one) for one in ("whole", "cut"))
        assert cut.read_bytes() == whole.read_bytes()
    assert not list(tmp_path.glob(".*"))


def test_satellite_images_are_resized_and_street_views_centre_cropped():
    # red left, green middle, blue right
    bands = np.zeros((40, 120, 3), dtype=np.uint8)
    for band in range(3):
        bands[:, 40 * band : 40 * band + 40, band] = 255
    image = Image.fromarray(bands)
    satellite, street = (square(image, view, 12) for view in ("satellite", "street_view"))
    assert satellite[6, [1, 6, 10]].argmax(axis=1).tolist() == [0, 1, 2]
    # resampling blends some of the cropped area into the outermost columns, as in CLIP
    assert (street[:, 1:-1, 1] == 255).all()
    assert (street[:, 1:-1, [0, 2]] == 0).all()


def test_city_has_its_images_positions_and_fingerprint(tmp_path, capsys):
    toy = build_toy(tmp_path / "dataset", side=3)
    data = load_region_data(str(toy), CITY, 24, tmp_path)
    assert data.region_ids == [f"r{number:04}" for number in range(9)]
    assert sorted(data.views) == ["satellite", "street_view"]
    street = data.views["street_view"]
    assert street.pixels.shape == (16, 24, 24, 3)
    assert street.image_ids == [f"street-{r}-{n % 2}" for n, r in enumerate(street.region)]
    stored = {row["image_id"]: row["image"] for row in iter_images(toy, CITY, "street_view")}
    for name, pixels in zip(street.image_ids, street.pixels, strict=True):
        image = decode_image(stored[name])
        np.testing.assert_array_equal(pixels, square(image, "street_view", 24))
    np.testing.assert_array_equal(street.lonlat, data.lonlat[street.region])
    assert data.poi is None
    assert data.synthetic
    assert data.cell_m == pytest.approx(np.sqrt(0.8e6))
    assert data.xy[1] - data.xy[0] == pytest.approx([716, 0], abs=8)  # 0.01 degrees at 50 north
    told = capsys.readouterr().out
    assert "street_view: skipped {'empty': 1, 'unknown_region': 1, 'unreadable': 1}" in told
    again = load_region_data(str(toy), CITY, 24, tmp_path / "elsewhere")
    other_size = load_region_data(str(toy), CITY, 16, tmp_path)
    assert data.fingerprint == again.fingerprint != other_size.fingerprint
    with pytest.raises(InputError, match="has no city 'atlantis'; it has: toytown"):
        load_region_data(str(toy), "atlantis", 24, tmp_path)


def test_reads_captions_positions_and_points_of_interest(tmp_path):
    def build(shops: float):
        folder = tmp_path / f"{shops}"
        columns = {"regions": {"poi_shop": "float64", "poi_note": "string"}}
        metadata = DatasetMetadata("T", "T.", "tests", "CC0-1.0", extra_columns=columns)
        writer = DatasetWriter(folder, metadata)
        region = {"city": "t", "lon": 8.0, "lat": 47.0, "area_m2": 1e6}
        shop = {"region_id": "a", "poi_shop": shops, "poi_note": "x"}
        writer.write_shard("t", "regions", 0, [region | shop, region | {"region_id": "b"}])
        image = {"image": {"bytes": picture(np.array([0.5, 0.5]), 0), "path": None}}
        own = {"lon": 8.11, "lat": 47.01, "heading": 90.0, "caption": "A street."}
        rows = [image | {"image_id": one, "region_id": one} for one in "ab"]
        writer.write_shard("t", "street_view", 0, [rows[0], rows[1] | own])
        writer.finish()
        return load_region_data(str(folder), "t", 8, tmp_path / "cache")

    data = build(4.0)
    assert data.poi_categories == ("shop",)
    assert data.poi.tolist() == [[4.0], [0.0]]
    view = data.views["street_view"]
    assert list(data.views) == ["street_view"]
    assert view.captions == [None, "A street."]
    assert view.lonlat.tolist() == [[8.0, 47.0], [8.11, 47.01]]
    np.testing.assert_array_equal(view.heading, [np.nan, 90])
    assert not data.synthetic
    assert build(5.0).fingerprint != data.fingerprint, "same images, other counts"
