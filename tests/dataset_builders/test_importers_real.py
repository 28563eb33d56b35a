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

NAMES = ("carbon", "population", "gdp")


@pytest.fixture(scope="module")
def toolkit(shared_data):
    """Values of UrbanCLIP's authors by region."""
    table = pd.read_csv(shared_data / "urbanclip_toolkit/indicators/Beijing.csv")
    table.index = ["baidu_" + name[8:-6] for name in table["satellite_img_name"]]
    columns = ["carbon_emissions (ton)", "population (unit)", "gdp (million yuan)"]
    return table[columns].set_axis(NAMES, axis=1)


def test_urbanclip(shared_data, toolkit, tmp_path):
    source = shared_data / "urbanclip_toolkit"
    report = import_dataset(urbanclip.read, source, tmp_path)
    regions = read_regions(tmp_path, "beijing")
    by_id = regions.set_index("region_id")
    assert len(toolkit) == 4587
    for name in NAMES:
        np.testing.assert_array_equal(by_id.loc[toolkit.index, f"{name}_urbanclip"], toolkit[name])
    # five tiles have a caption but no values
    assert len(regions) == 4592
    assert regions["carbon_urbanclip"].isna().sum() == 5
    assert report.rejects == {}
    assert report.regions_without_image == {
        "beijing": 4586, "guangzhou": 0, "shanghai": 0, "shenzhen": 0,
    }  # fmt: skip
    indicators = read_indicators(tmp_path, "beijing")
    assert indicators["carbon_urbanclip"].unit == "tonnes carbon, December 2021"
    check_card(
        tmp_path,
        carbon_urbanclip="one month, carbon and not carbon dioxide",
        population_urbanclip="negatives and no-data became 0",
        gdp_urbanclip="a sixth of all values is exactly 10,000",
    )
    # the geometry is the tile in WGS-84, without overlaps, and not the toolkit's column
    assert np.sqrt(regions["area_m2"]).between(775, 795).all()
    shapes = shapely.set_precision(regions.geometry.to_numpy(), 1e-9)
    assert shapely.area(shapely.union_all(shapes)) == pytest.approx(
        shapely.area(regions.geometry).sum(), rel=1e-6
    )
    x, y = regions["tile_x"].to_numpy(), regions["tile_y"].to_numpy()
    points = shapely.points(*tile_corner(x, y, 16, "baidu"))
    assert not shapely.intersects(regions.geometry.to_numpy(), points).any()
    assert set(regions["split_block"].dropna()) == {"train", "validation", "test"}
    # captions are complete sentences in their order
    captions = read_table(tmp_path, "beijing", "captions").set_index("image_id")["text"]
    assert len(captions) == 4592
    content = json.loads((source / "captions/Beijing_captions.json").read_text())
    image = content[0][0]["image"]
    first = [record["caption"].rstrip(".") for record in content[0] if record["image"] == image]
    assert captions[image.split("/")[1][:-6]] == ". ".join(first) + "."
    assert captions.str.endswith(".").all()
    views = read_table(tmp_path, "beijing", "satellite").set_index("image_id")
    assert len(views) == 6
    assert (views["caption"] == captions[views.index]).all()
    assert read_table(tmp_path, "shenzhen", "satellite")["caption"].isna().all()


def test_urbanvlp(shared_data, toolkit, tmp_path):
    report = import_dataset(urbanvlp.read, shared_data / "urbanvlp_sample", tmp_path)
    assert report.rejects == {}
    regions = read_regions(tmp_path, "beijing")
    assert regions["house_price"].notna().sum() == 18
    known = regions.set_index(["tile_x", "tile_y"]).loc[(12638, 4740)]
    assert known["carbon_urbanvlp"] == 6.482004821328005
    assert (known["poi"], known["split_author"]) == (8, "train")
    views = read_table(tmp_path, "beijing", "street_view")
    assert views["captured_at"].tolist() == ["2022-12", "2020-03", "2020-03"]
    assert views["heading"].tolist() == [166.62, 303.78, 268.44]
    placed = views.merge(regions, on="region_id", suffixes=("", "_region"))
    points = shapely.points(placed["lon"], placed["lat"])
    assert shapely.contains(placed["geometry"].to_numpy(), points).all()
    assert sizes(tmp_path, "beijing", "street_view") == {(2048, 664)}
    satellite = read_table(tmp_path, "beijing", "satellite").set_index("image_id")
    assert len(satellite) == 10
    caption = satellite.loc["16_12614_4695", "caption"]
    assert caption.startswith("The image depicts a large, open area with a river running through")
    assert caption.endswith("situated in a picturesque natural setting.")
    # the published values are those that the units describe
    indicators = read_indicators(tmp_path, "beijing")
    labelled = regions.dropna(subset=["carbon_urbanvlp"])
    assert len(labelled) == 18
    for name in NAMES:
        unit = indicators[f"{name}_urbanvlp"].unit
        constant, slope = (float(number) for number in unit.split(" ln(y)")[0].split(" + "))
        raw = toolkit.loc[labelled["region_id"], name].to_numpy()
        expected = constant + slope * np.log(raw)
        np.testing.assert_allclose(labelled[f"{name}_urbanvlp"], expected, atol=1e-6)
    assert indicators["gdp_urbanvlp"].transform == "identity"
    assert indicators["poi"].transform == "ln1p"
    check_card(tmp_path, gdp_urbanvlp="Do not take exp()")


def check_card(root, **defects):
    """Check that the card states the defects of published labels."""
    lines = (root / "README.md").read_text().splitlines()
    for indicator, defect in defects.items():
        (said,) = {line for line in lines if line.startswith(f"- `{indicator}`:")}
        assert defect in said
        assert "1 km" in said
