"""Importers on real published data."""

import json

import numpy as np
import pandas as pd
import pytest
import shapely

from dataset_builders.coordinates import tile_corner
from dataset_builders.importers import urbanclip, urbanvlp
from dataset_builders.importers.base import import_dataset
from dataset_builders.storage import read_indicators, read_regions, read_table

from .helpers import sizes

SPLITS = {"train", "validation", "test"}


@pytest.fixture(scope="module")
def imported(shared_data, tmp_path_factory):
    """Imports of both sources, shared by the module."""
    done = {}
    for module, folder in ((urbanclip, "urbanclip_toolkit"), (urbanvlp, "urbanvlp_sample")):
        root = tmp_path_factory.mktemp(folder) / "dataset"
        done[folder] = root, import_dataset(module.read, shared_data / folder, root)
    return done


def test_urbanclip_keeps_every_tile_and_the_authors_values(imported, shared_data):
    root, report = imported["urbanclip_toolkit"]
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
    # five tiles have a caption but no values
    assert len(regions) == 4592
    assert regions["carbon_urbanclip"].isna().sum() == 5
    assert report.rejects == {}
    assert report.regions_without_image == {
        "beijing": 4586, "guangzhou": 0, "shanghai": 0, "shenzhen": 0,
    }  # fmt: skip
    units = {name: one.unit for name, one in read_indicators(root, "beijing").items()}
    assert units["carbon_urbanclip"] == "tonnes carbon, December 2021"


def test_urbanclip_geometry_is_the_tile_in_wgs84_and_not_the_toolkits_column(imported):
    root, _ = imported["urbanclip_toolkit"]
    regions = read_regions(root, "beijing")
    sides = np.sqrt(regions["area_m2"])
    assert sides.between(775, 795).all()
    # tiles do not overlap
    shapes = shapely.set_precision(regions.geometry.to_numpy(), 1e-9)
    assert shapely.area(shapely.union_all(shapes)) == pytest.approx(
        shapely.area(regions.geometry).sum(), rel=1e-6
    )
    x, y = regions["tile_x"].to_numpy(), regions["tile_y"].to_numpy()
    toolkit = shapely.points(*tile_corner(x, y, 16, "baidu"))
    assert not shapely.intersects(regions.geometry.to_numpy(), toolkit).any()
    assert set(regions["split_block"].dropna()) == SPLITS


def test_urbanclip_captions_are_whole_sentences_in_their_order(imported, shared_data):
    root, _ = imported["urbanclip_toolkit"]
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
    root, report = imported["urbanvlp_sample"]
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
    root, _ = imported["urbanvlp_sample"]
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
    ("folder", "indicator", "defect"),
    [
        ("urbanclip_toolkit", "carbon_urbanclip", "one month, carbon and not carbon dioxide"),
        ("urbanclip_toolkit", "population_urbanclip", "negatives and no-data became 0"),
        ("urbanclip_toolkit", "gdp_urbanclip", "a sixth of all values is exactly 10,000"),
        ("urbanvlp_sample", "gdp_urbanvlp", "Do not take exp()"),
    ],
)
def test_cards_state_the_defects_of_published_labels(imported, folder, indicator, defect):
    lines = (imported[folder][0] / "README.md").read_text().splitlines()
    (said,) = {line for line in lines if line.startswith(f"- `{indicator}`:")}
    assert defect in said
    assert "1 km" in said
