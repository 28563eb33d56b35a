"""Example importers on small inputs and on the real data."""

import json

import datasets
import numpy as np
import pandas as pd
import pytest
import shapely
from PIL import Image

from dataset_builders.errors import SourceError
from dataset_builders.importers.__main__ import main
from dataset_builders.importers.base import import_dataset
from dataset_builders.storage import read_indicators, read_regions, read_rejects, read_table
from examples.importers import NAMES, camvid, king_county, rsicd, streetview_nyc
from examples.importers.camvid import (
    BUFFER_SECONDS,
    CLASSES,
    caption_from_mask,
    class_shares,
    drive_splits,
    frame_seconds,
    read_mask,
)
from examples.importers.rsicd import joined_caption
from tests.dataset_builders.helpers import letters, sizes

SPLITS = {"train", "validation", "test"}


@pytest.fixture
def imported(shared_data, tmp_path):
    """Function that imports a source without rejects and returns the dataset."""

    def run(module):
        source = shared_data / module.__name__.rpartition(".")[2]
        assert import_dataset(module.read, source, tmp_path / "dataset").rejects == {}
        return tmp_path / "dataset"

    return run


def test_wrong_source_is_an_error(tmp_path, capsys):
    for name in NAMES:
        arguments = [name, "--source", str(tmp_path), "--output_dir", str(tmp_path / "out")]
        assert main(arguments, package="examples.importers") == 2
        assert " lacks " in capsys.readouterr().err


def test_bad_rows_of_a_csv_are_counted(tmp_path):
    (tmp_path / "in" / "images").mkdir(parents=True)
    names = ["split", *streetview_nyc.NUMBERS, "image"]
    rows = [f"train,40.{n},-73.{n},1,2,3,4,5,images/{n}.png" for n in range(3)]
    rows[1] += ",more"
    rows[2] = rows[2].replace("40.2", "north")
    for n in range(3):
        Image.new("RGB", (32, 32), (n, 0, 0)).save(tmp_path / "in" / "images" / f"{n}.png")
    path = tmp_path / "in" / "labels.csv"
    path.write_text("\n".join([",".join(names), *rows]))
    import_dataset(streetview_nyc.read, tmp_path / "in", tmp_path / "out")
    assert read_rejects(tmp_path / "out")["reason"].tolist() == ["bad_row"]
    assert read_regions(tmp_path / "out", "new_york")["population"].tolist() == [1.0, 1.0]
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(SourceError, match="cannot be read as UTF-8 CSV"):
        import_dataset(streetview_nyc.read, tmp_path / "in", tmp_path / "other")


def mask_of(*boxes: tuple[str, slice, slice]) -> np.ndarray:
    """Mask of 360 x 480 pixels with sky above road, and boxes of further classes."""
    mask = np.zeros((360, 480), dtype=np.uint8)
    mask[180:] = CLASSES.index("road")
    for name, rows, columns in boxes:
        mask[rows, columns] = CLASSES.index(name)
    return mask


def test_caption_names_objects_by_position():
    mask = mask_of(
        ("building", slice(20, 200), slice(0, 150)),
        ("car", slice(250, 330), slice(20, 120)),
        ("pedestrian", slice(150, 190), slice(400, 415)),
    )
    text = caption_from_mask(mask, "a")
    left, rest = text.index("a car close by"), text.index("a pedestrian in the distance")
    assert left < rest
    assert "no cyclists" in text
    assert "traffic sign" not in text
    assert "the left side is much more built up" in text
    assert caption_from_mask(mask[:, ::-1], "a").index("pedestrian") < caption_from_mask(
        mask[:, ::-1], "a"
    ).index("a car close by")

    texts = {caption_from_mask(mask, f"frame {i}") for i in range(20)}
    assert len(texts) > 10
    assert caption_from_mask(mask, "a", 1) == caption_from_mask(mask, "a", 1)
    assert caption_from_mask(np.full((9, 9), 11, np.uint8), "a") is None


def test_masks(tmp_path):
    shares = class_shares(np.array([[0, 0, 1, 11]], dtype=np.uint8))  # of the labelled pixels
    assert shares["share_sky"] == pytest.approx(2 / 3)
    assert sum(shares.values()) == pytest.approx(1)
    assert np.isnan(list(class_shares(np.full((2, 2), 11, np.uint8)).values())).all()
    for pixels, message in ((np.full((8, 8), 12), "up to 12"), (np.zeros((8, 8, 3)), "shape")):
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "m.png")
        with pytest.raises(SourceError, match=message):
            read_mask(tmp_path / "m.png")


def test_block_split_separates_frames_in_time():
    names = [f"A_{30 * i:05}" for i in range(200)] + [f"B_f{30 * i:05}" for i in range(100)]
    columns, problems = drive_splits(names, 0)
    assert not problems
    split, seconds = columns["split_block"], frame_seconds(names)
    for one, other in (("train", "test"), ("train", "validation"), ("validation", "test")):
        gap = np.abs(seconds[split == one][:, None] - seconds[split == other]).min()
        assert gap > BUFFER_SECONDS


def test_joined_captions_are_distinct_and_seeded():
    captions = ["a pond .", "a green pond .", "a pond .", "water , trees", ""]
    joined = joined_caption(captions, "pond_1", 0)
    assert sorted(joined.rstrip(".").split(". ")) == ["a green pond", "a pond", "water, trees"]
    assert joined_caption(captions, "pond_1", 0) == joined
    assert len({joined_caption(captions, f"pond_{i}", 0) for i in range(30)}) == 6


def test_camvid(shared_data, tmp_path):
    for path in (shared_data / "camvid").glob("*/000*.*"):  # two of the three drives
        link = tmp_path / "in" / path.parent.name / path.name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)
    root = tmp_path / "dataset"
    assert import_dataset(camvid.read, tmp_path / "in", root).rejects == {}
    regions = read_regions(root, "cambridge")
    assert len(regions) == 163
    shares = regions[list(read_indicators(root, "cambridge"))]
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-12)
    assert shares.mean()["share_road"] == pytest.approx(0.3045, abs=1e-4)
    assert regions.geometry.isna().all()
    assert set(regions["split_block"].dropna()) == SPLITS
    views = read_table(root, "cambridge", "street_view")
    assert views["caption"].str.split().str.len().between(80, 200).all()
    assert views["caption"].is_unique


def test_streetview_nyc(imported, shared_data):
    root = imported(streetview_nyc)
    table = pd.read_csv(shared_data / "streetview_nyc/labels.csv")
    regions = read_regions(root, "new_york").sort_values(["lat", "lon"])
    table = table.sort_values(["lat", "lon"])
    np.testing.assert_allclose(regions["lat"], table["lat"], atol=1e-6)
    for name, column in (("population", "pop"), ("travel_time", "travel_time")):
        np.testing.assert_array_equal(regions[name], table[column])
    assert regions["split_author"].tolist() == table["split"].tolist()
    assert regions["area_m2"].to_numpy() == pytest.approx(1e6, rel=1e-4)
    assert set(regions["split_block"].dropna()) == SPLITS
    assert {one.transform for one in read_indicators(root, "new_york").values()} == {"identity"}
    assert sizes(root, "new_york", "street_view") == {(300, 300)}
    loaded = datasets.load_dataset(str(root), "new_york-street_view", split="train", streaming=True)
    assert next(iter(loaded))["image"].size == (300, 300)


def test_king_county(imported, shared_data):
    root = imported(king_county)
    houses = pd.read_csv(shared_data / "king_county/houses.csv")
    regions = read_regions(root, "king_county").set_index("region_id")
    logs = np.log(houses["price"]).groupby(houses["cell"]).mean()
    np.testing.assert_allclose(np.log(regions["price"]), logs[regions.index])
    years = houses.groupby("cell")["yr_built"].mean()
    np.testing.assert_allclose(regions["year_built"], years[regions.index])
    shapes = regions.loc[houses["cell"], "geometry"].to_numpy()
    assert shapely.contains(shapes, shapely.points(houses["long"], houses["lat"])).all()
    assert regions["area_m2"].to_numpy() == pytest.approx(1e6, rel=0.01)
    views = read_table(root, "king_county", "satellite")
    assert (views.groupby("region_id").size() == 4).all()
    assert sizes(root, "king_county", "satellite") == {(224, 208)}


def test_rsicd(imported, shared_data):
    root = imported(rsicd)
    records = {
        record["file"][:-4]: record
        for record in json.loads((shared_data / "rsicd/captions.json").read_text())
    }
    captions = read_table(root, "rsicd", "captions")
    assert len(captions) == 5 * len(records) == 5465
    assert set(captions["stage"]) == {"human"}
    some = captions[captions["image_id"] == "airport_348"]["text"].tolist()
    assert some == records["airport_348"]["captions"]
    views = read_table(root, "rsicd", "satellite").set_index("image_id")
    for image_id, caption in views["caption"].items():
        texts = {letters(text) for text in records[image_id]["captions"]}
        assert all(text in letters(caption) for text in texts)
        distinct = set(records[image_id]["captions"])
        assert len(letters(caption)) <= sum(len(letters(text)) for text in distinct)
    regions = read_regions(root, "rsicd").set_index("region_id")
    assert regions.loc["airport_348", "scene_class"] == "airport"
    assert regions["split_block"].isna().all()
    assert read_indicators(root, "rsicd") == {}
