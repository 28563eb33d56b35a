"""The importers on the published data they are written for."""

import io
import itertools
import json

import datasets
import numpy as np
import pandas as pd
import pytest
import shapely
from PIL import Image

from dataset_builders.coordinates import tile_corner
from dataset_builders.importers import importer
from dataset_builders.storage import (
    iter_images,
    read_indicators,
    read_regions,
    read_rejects,
    read_table,
)

SPLITS = {"train", "validation", "test"}


@pytest.fixture(scope="module")
def imported(shared_data, tmp_path_factory):
    """Imports a source once for the module."""
    done = {}

    def run(name: str, folder: str | None = None):
        if name not in done:
            root = tmp_path_factory.mktemp(name) / "dataset"
            done[name] = root, importer(name).import_dataset(shared_data / (folder or name), root)
        return done[name]

    return run


def sizes(root, city, view) -> set[tuple[int, int]]:
    images = (row["image"] for row in iter_images(root, city, view))
    return {Image.open(io.BytesIO(data)).size for data in images}


def letters(text: str) -> str:
    return "".join(char for char in text if char.isalnum())


def test_urbanclip_keeps_every_tile_and_the_authors_values(imported, shared_data):
    root, report = imported("urbanclip", "urbanclip_toolkit")
    regions = read_regions(root, "beijing").set_index("region_id")
    table = pd.read_csv(shared_data / "urbanclip_toolkit/indicators/Beijing.csv")
    ids = ["baidu_" + name[8:-6] for name in table["satellite_img_name"]]
    assert len(set(ids)) == len(ids) == 4587
    for column, name in (
        ("carbon_emissions (ton)", "carbon_urbanclip"),
        ("population (unit)", "population_urbanclip"),
        ("gdp (million yuan)", "gdp_urbanclip"),
    ):
        np.testing.assert_array_equal(regions.loc[ids, name], table[column])
    # five tiles have a caption and no values
    assert len(regions) == 4592
    assert regions["carbon_urbanclip"].isna().sum() == 5
    assert report.rejects == {}
    assert report.regions_without_image == {
        "beijing": 4586, "guangzhou": 0, "shanghai": 0, "shenzhen": 0,
    }  # fmt: skip
    units = {name: one.unit for name, one in read_indicators(root, "beijing").items()}
    assert units["carbon_urbanclip"] == "tonnes carbon, December 2021"


def test_urbanclip_geometry_is_the_tile_in_wgs84_and_not_the_toolkits_column(imported):
    root, _ = imported("urbanclip", "urbanclip_toolkit")
    regions = read_regions(root, "beijing")
    sides = np.sqrt(regions["area_m2"])
    assert sides.between(775, 795).all()
    # tiles cover the city without overlap or hole
    shapes = shapely.set_precision(regions.geometry.to_numpy(), 1e-9)
    assert shapely.area(shapely.union_all(shapes)) == pytest.approx(
        shapely.area(regions.geometry).sum(), rel=1e-6
    )
    x, y = regions["tile_x"].to_numpy(), regions["tile_y"].to_numpy()
    toolkit = shapely.points(*tile_corner(x, y, 16, "baidu"))
    assert not shapely.intersects(regions.geometry.to_numpy(), toolkit).any()
    assert set(regions["split_block"].dropna()) == SPLITS


def test_urbanclip_captions_are_whole_sentences_in_their_order(imported, shared_data):
    root, _ = imported("urbanclip", "urbanclip_toolkit")
    captions = read_table(root, "beijing", "captions").set_index("image_id")["text"]
    assert len(captions) == 4592
    content = json.loads(
        (shared_data / "urbanclip_toolkit/captions/Beijing_captions.json").read_text()
    )
    first = [record for record in content[0] if record["image"] == content[0][0]["image"]]
    text = captions[content[0][0]["image"].split("/")[1][:-6]]
    assert text == ". ".join(record["caption"].rstrip(".") for record in first) + "."
    assert captions.str.endswith(".").all()
    views = read_table(root, "beijing", "satellite").set_index("image_id")
    assert len(views) == 6
    assert (views["caption"] == captions[views.index]).all()
    assert read_table(root, "shenzhen", "satellite")["caption"].isna().all()


def test_urbanvlp(imported):
    root, report = imported("urbanvlp", "urbanvlp_sample")
    assert report.rejects == {}
    regions = read_regions(root, "beijing")
    assert regions["carbon_urbanvlp"].notna().sum() == 18
    assert regions["house_price"].notna().sum() == 18
    known = regions.set_index(["tile_x", "tile_y"])
    assert known.loc[(12638, 4740), "carbon_urbanvlp"] == 6.482004821328005
    assert known.loc[(12638, 4740), "poi"] == 8
    assert known.loc[(12638, 4740), "split_author"] == "train"
    views = read_table(root, "beijing", "street_view")
    assert views["captured_at"].tolist() == ["2022-12", "2020-03", "2020-03"]
    assert views["heading"].tolist() == [166.62, 303.78, 268.44]
    placed = views.merge(regions, on="region_id", suffixes=("", "_region"))
    points = shapely.points(placed["lon"], placed["lat"])
    assert shapely.contains(placed["geometry"].to_numpy(), points).all()
    assert sizes(root, "beijing", "street_view") == {(2048, 664)}
    satellite = read_table(root, "beijing", "satellite")
    assert len(satellite) == 10
    caption = satellite.set_index("image_id").loc["16_12614_4695", "caption"]
    assert caption.startswith(
        "The image depicts a large, open area with a river running through it, surrounded by "
        "mountains. The river appears to be a tributary"
    )
    assert caption.endswith("situated in a picturesque natural setting.")
    transforms = {name: one.transform for name, one in read_indicators(root, "beijing").items()}
    assert transforms["gdp_urbanvlp"] == "identity"
    assert transforms["poi"] == "ln1p"


def test_urbanvlp_values_are_what_their_description_says(imported, shared_data):
    root, _ = imported("urbanvlp", "urbanvlp_sample")
    regions = read_regions(root, "beijing").dropna(subset=["carbon_urbanvlp"])
    table = pd.read_csv(shared_data / "urbanclip_toolkit/indicators/Beijing.csv")
    table.index = ["baidu_" + name[8:-6] for name in table["satellite_img_name"]]
    for name, column in (
        ("carbon_urbanvlp", "carbon_emissions (ton)"),
        ("population_urbanvlp", "population (unit)"),
        ("gdp_urbanvlp", "gdp (million yuan)"),
    ):
        unit = read_indicators(root, "beijing")[name].unit
        constant, slope = (float(number) for number in unit.split(" ln(y)")[0].split(" + "))
        raw = table.loc[regions["region_id"], column].to_numpy()
        np.testing.assert_allclose(regions[name], constant + slope * np.log(raw), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "folder", "defects"),
    [
        (
            "urbanclip",
            "urbanclip_toolkit",
            {
                "carbon_urbanclip": "one month, carbon and not carbon dioxide",
                "population_urbanclip": "negatives and no-data became 0",
                "gdp_urbanclip": "a sixth of all values is exactly 10,000",
            },
        ),
        (
            "urbanvlp",
            "urbanvlp_sample",
            dict.fromkeys(
                ("carbon_urbanvlp", "population_urbanvlp", "gdp_urbanvlp"), "Do not take exp()"
            ),
        ),
    ],
)
def test_cards_state_the_defects_of_published_labels(imported, name, folder, defects):
    root, _ = imported(name, folder)
    lines = (root / "README.md").read_text().splitlines()
    for indicator, defect in defects.items():
        (said,) = {line for line in lines if line.startswith(f"- `{indicator}`:")}
        assert defect in said
        assert "1 km" in said  # off the tile


def test_camvid(imported):
    root, report = imported("camvid")
    assert report.rejects == {}
    regions = read_regions(root, "cambridge")
    assert len(regions) == 367
    shares = regions[list(read_indicators(root, "cambridge"))]
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-12)
    assert shares.mean()["share_road"] == pytest.approx(0.33, abs=0.01)
    assert regions.geometry.isna().all()
    views = read_table(root, "cambridge", "street_view")
    words = views["caption"].str.split().str.len()
    assert words.between(80, 200).all()
    assert views["caption"].is_unique
    assert set(regions["split_block"].dropna()) == SPLITS
    held = regions.set_index("region_id")["split_block"]
    names = sorted(held.index)
    # a frame and the next one of the same drive are never on two sides
    for one, other in itertools.pairwise(names):
        if one.split("_")[0] == other.split("_")[0]:
            assert (
                len({held[one], held[other]} - {None, np.nan}) < 2
                or held[[one, other]].isna().any()
            )


def test_streetview_nyc(imported, shared_data):
    root, report = imported("streetview_nyc")
    assert report.rejects == {}
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


def test_king_county(imported, shared_data):
    root, report = imported("king_county")
    assert report.rejects == {}
    houses = pd.read_csv(shared_data / "king_county/houses.csv")
    regions = read_regions(root, "king_county").set_index("region_id")
    logs = np.log(houses["price"]).groupby(houses["cell"]).mean()
    np.testing.assert_allclose(np.log(regions["price"]), logs[regions.index])
    years = houses.groupby("cell")["yr_built"].mean()
    np.testing.assert_allclose(regions["year_built"], years[regions.index])
    # every house lies in its cell
    shapes = regions.loc[houses["cell"], "geometry"].to_numpy()
    assert shapely.contains(shapes, shapely.points(houses["long"], houses["lat"])).all()
    assert regions["area_m2"].to_numpy() == pytest.approx(1e6, rel=0.01)
    views = read_table(root, "king_county", "satellite")
    assert (views.groupby("region_id").size() == 4).all()
    assert sizes(root, "king_county", "satellite") == {(224, 208)}


def test_rsicd(imported, shared_data):
    root, report = imported("rsicd")
    assert report.rejects == {}
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


def test_plain_datasets_code_reads_an_import(imported, tmp_path):
    root, _ = imported("streetview_nyc")
    loaded = datasets.load_dataset(str(root), "new_york-street_view", split="train", streaming=True)
    assert next(iter(loaded))["image"].size == (300, 300)
    assert len(read_rejects(root)) == 0
