"""Tables on real labels, with small inputs."""

from dataclasses import replace

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest

from examples.real_tables import in_quarters, section
from pipelines.common.encoders.colour_texture import ColourTextureEncoder
from pipelines.evaluation.embed.images import embed
from pipelines.evaluation.embed.sources import open_images
from pipelines.evaluation.embed.tables import read_embeddings
from pipelines.evaluation.probe.city import City, open_city
from pipelines.evaluation.probe.results import read_rows
from pipelines.evaluation.probe.run import ProbeSettings, probe
from pipelines.evaluation.probe.splits import BlockSplitter, block_ids, geography
from tests.pipelines.evaluation.toy import CITY, build_toy


def test_quarters_of_a_city_are_held_out():
    lon, lat = (axis.ravel() for axis in np.meshgrid(np.arange(20) / 100, np.arange(16) / 100))
    ids = [f"r{number:03d}" for number in range(len(lon))]
    points = gpd.points_from_xy(lon, lat)
    columns = {"region_id": ids, "lon": lon, "lat": lat, "split_block": "train"}
    regions = gpd.GeoDataFrame(columns, geometry=points, crs="EPSG:4326")
    city = in_quarters(City("plain", "nowhere", False, regions, []))
    place = geography(city.regions, city.block_m)
    blocks = block_ids(place)
    assert len(np.unique(blocks)) == 4
    split = BlockSplitter(city.regions, place).split(seed=0)
    tested, trained = (set(blocks[rows]) for rows in (split.test, split.train))
    assert len(tested) == 1
    assert tested.isdisjoint(trained)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("real_tables")
    dataset = str(build_toy(folder / "dataset", side=12, street_views=1))
    path = embed(ColourTextureEncoder(), open_images(dataset, CITY), folder, "colour_texture")
    settings = ProbeSettings(probes=("ridge",), seeds=3, views=("satellite",))
    city = replace(open_city(dataset, CITY), block_m=None)
    probe(city, [read_embeddings(path)], folder / "results", settings)
    return folder / "results"


def test_section_holds_the_values_of_its_rows(results):
    found = pd.DataFrame(section("toytown", results)).set_index(["table", "system", "indicator"])
    rows = [
        row
        for row in read_rows(results / "results.jsonl")
        if (row.system, row.protocol) == ("colour_texture", "block")
    ]
    for metric, title in (("r2", "R2"), ("mae", "MAE"), ("spearman", "Spearman")):
        for name in ("population", "green_share"):
            values = [getattr(row, metric) for row in rows if row.indicator == name]
            text = f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}"
            key = (f"{title}, block, splits 0 to 2", "colour_texture", name)
            assert found.loc[key, "value"] == text
    tables = set(found.index.get_level_values("table"))
    assert tables >= {
        "R2 less that of coordinates (knn), block, 95 % interval",
        "R2 of coordinates and vector less that of coordinates (ridge), random, 95 % interval",
        "Coverage of 90 % intervals on test regions, half-width, block",
    }
