import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
from PIL import Image

from dataset_builders.city.split_report import (
    split_numbers,
    split_page,
    train_distances,
    train_gaps,
)
from dataset_builders.schema import INDICATORS, DatasetMetadata
from dataset_builders.storage import read_regions
from dataset_builders.writer import DatasetWriter

from .helpers import encoded, picture

PARTS = ("train", "train", "validation", "test", None, "test")


@pytest.fixture
def dataset(tmp_path):
    """Six adjacent squares with a side of 0.01 degrees; the third and fourth share an image."""
    metadata = DatasetMetadata(
        title="Row",
        description="Six.",
        source="here",
        licence="cc0-1.0",
        indicators=(INDICATORS["population"],),
        extra_columns={"satellite": {"sha256": "string"}},
        parameters={"block_m": 2000.0},
    )
    writer = DatasetWriter(tmp_path / "dataset", metadata)
    squares = [shapely.box(n / 100, 0, (n + 1) / 100, 0.01) for n in range(6)]
    writer.write_shard(
        "row",
        "regions",
        0,
        [
            {
                "region_id": f"r{n}",
                "city": "row",
                "geometry": square,
                "lon": square.centroid.x,
                "lat": square.centroid.y,
                "area_m2": 1.2e6,
                "population": None if n == 0 else float(n),
                "split_random": part,
                "split_block": None,
            }
            for n, (square, part) in enumerate(zip(squares, PARTS, strict=True))
        ],
    )
    writer.write_shard(
        "row",
        "satellite",
        0,
        [
            {
                "image": {"bytes": encoded(picture(n)), "path": None},
                "image_id": f"i{n}",
                "region_id": f"r{n}",
                "sha256": "same" if n in (2, 3) else f"s{n}",
            }
            for n in range(6)
        ],
    )
    writer.finish()
    return tmp_path / "dataset"


def test_numbers_say_what_lies_where_and_what_is_twice(dataset):
    regions = read_regions(dataset, "row")
    distances = train_distances(regions)
    assert list(distances) == ["split_random"]  # split_block is empty
    numbers = split_numbers(dataset, "row", regions, distances)
    assert numbers["counts"]["split_random"] == {
        "train": 2, "validation": 1, "test": 2, "none": 1,
    }  # fmt: skip
    assert numbers["labelled"]["population"]["split_random"]["train"] == 1
    assert numbers["duplicates"] == {
        "groups": 1,
        "regions": 2,
        "straddling": {"split_random": 1, "split_block": 0},
    }
    near = numbers["nearest_train_distance_m"]["split_random"]
    # 2 and 4 squares from the nearest training region
    step = 0.01 * 111_195
    np.testing.assert_allclose(near["median"], 3 * step, rtol=0.01)
    assert numbers["block_m"] == 2000
    # one square lies between the nearest training and test regions
    gap = numbers["train_gap"]["split_random"]
    np.testing.assert_allclose(gap["smallest_m"], step, rtol=0.01)
    assert gap["touching_pairs"] == 0


def test_the_page_says_that_test_regions_touch_training(dataset):
    regions = read_regions(dataset, "row")
    parts = ["train", "test", "train", None, "validation", "test"]
    regions = regions.assign(split_block=parts)
    assert train_gaps(regions)["split_block"] == {"smallest_m": 0.0, "touching_pairs": 2}
    numbers = split_numbers(dataset, "row", regions, train_distances(regions))
    assert "2 pairs of a test and a training region" in split_page("row", numbers, {})
    apart = regions.assign(split_block=["train", None, "test", "test", "test", None])
    numbers = split_numbers(dataset, "row", apart, train_distances(apart))
    page = split_page("row", numbers, {})
    assert "pairs of a test" not in page
    smallest = round(numbers["train_gap"]["split_block"]["smallest_m"])
    assert f"<td>{smallest:,}</td>" in page


def test_the_page_stands_alone_and_escapes(dataset, tmp_path):
    regions = read_regions(dataset, "row")
    numbers = split_numbers(dataset, "row", regions, train_distances(regions))
    numbers["labelled"]["<script>alert(1)</script>"] = numbers["labelled"]["population"]
    path = tmp_path / "map.png"
    Image.new("RGB", (4, 4)).save(path)
    page = split_page("<b>row</b> (synthetic)", numbers, {"a map": path, "none": tmp_path / "no"})
    assert "<script>" not in page
    assert "&lt;b&gt;row&lt;/b&gt; (synthetic)" in page
    assert "data:image/png;base64," in page
    assert page.count("<img") == 1
    assert "http" not in page.replace("http-equiv", "")
    assert "1 of them in two parts of split_random" in page
    numbers["duplicates"]["straddling"]["split_random"] = 0
    assert "in two parts of" not in split_page("row", numbers, {})


def test_distances_of_no_split_are_none():
    frame = gpd.GeoDataFrame(
        {"lon": [0.0], "lat": [0.0], "split_random": pd.Series([None]), "split_block": [None]},
        geometry=[shapely.box(0, 0, 1, 1)],
        crs="EPSG:4326",
    )
    assert train_distances(frame) == {}
