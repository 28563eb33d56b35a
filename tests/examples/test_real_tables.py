"""Tables on real labels, with small inputs."""

from dataclasses import replace

import geopandas as gpd
import numpy as np
import pytest

from examples.real_tables import LEFT_OUT, SMALL_SYSTEMS, cells, in_quarters, section
from pipelines.common.encoders.colour_texture import ColourTextureEncoder
from pipelines.evaluation.baselines.registry import FROZEN, RANDOM, SYSTEMS
from pipelines.evaluation.embed.images import embed
from pipelines.evaluation.embed.sources import open_images
from pipelines.evaluation.embed.tables import read_embeddings
from pipelines.evaluation.probe.city import City, open_city
from pipelines.evaluation.probe.results import read_rows
from pipelines.evaluation.probe.run import ProbeSettings, probe
from pipelines.evaluation.probe.splits import BlockSplitter, block_ids, geography
from tests.pipelines.evaluation.toy import CITY, build_toy


def test_every_system_is_in_the_tables_or_has_a_reason_not_to_be():
    loaded = {name for name in FROZEN if not name.endswith(RANDOM)}
    assert LEFT_OUT.keys().isdisjoint(SMALL_SYSTEMS)
    assert LEFT_OUT.keys() | set(SMALL_SYSTEMS) == SYSTEMS.keys() | loaded


def test_a_quarter_is_trained_on_the_others():
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


def test_the_tidy_table_holds_every_cell():
    text = "## city\n\nR2, block:\n\n| system | probe | rent | gdp |\n| --- | --- | --- | --- |\n"
    found = cells(text + "| mean | mean | 0.1 | – |\n| coordinates | knn | 0.2 | 0.3 |\n")
    assert found["value"].tolist() == ["0.1", "–", "0.2", "0.3"]
    assert found.iloc[3].tolist() == ["city", "R2, block", "coordinates", "knn", "gdp", "0.3"]


def test_a_section_holds_what_its_rows_say(results):
    text = section("toytown", results)
    rows = [
        row
        for row in read_rows(results / "results.jsonl")
        if (row.system, row.protocol) == ("colour_texture", "block")
    ]
    for metric, title in (("r2", "R2"), ("mae", "MAE"), ("spearman", "Spearman")):
        (table,) = (part for part in text.split("\n\n|")[1:] if _above(text, part, title))
        for name in ("population", "green_share"):
            values = [getattr(row, metric) for row in rows if row.indicator == name]
            assert f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}" in table
    assert "R2 less that of coordinates (knn), block, 95 % interval" in text
    assert "R2 of coordinates and vector less that of coordinates (ridge), random" in text
    assert "Coverage of 90 % intervals on test regions, half-width, block" in text


def _above(text: str, table: str, title: str) -> bool:
    return text.split(table)[0].rstrip("\n|").splitlines()[-1].startswith(f"{title}, block")
