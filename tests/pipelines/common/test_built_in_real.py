"""Minimum scores of the built-in encoders on real street views (make real; minutes)."""

import pytest

from dataset_builders.importers.base import import_dataset
from examples.importers import streetview_nyc
from pipelines.common.encoders import load_encoder
from pipelines.evaluation.embed.images import embed
from pipelines.evaluation.embed.sources import open_images
from pipelines.evaluation.embed.tables import read_embeddings
from pipelines.evaluation.probe.city import open_city
from pipelines.evaluation.probe.results import read_rows
from pipelines.evaluation.probe.run import ProbeSettings, probe

CITY = "new_york"
# R2 of population in held-out blocks of 10 km; coordinates alone are below zero
FLOORS = {"efficientnet_lite0": 0.30, "mosaiks": 0.12}
pytestmark = [pytest.mark.real, pytest.mark.timeout(0)]


@pytest.fixture(scope="module")
def scores(shared_data, tmp_path_factory) -> dict[str, float]:
    """Mean R2 over five splits by system: ridge probe, population, block protocol."""
    pytest.importorskip("efficientnet_lite_pytorch", reason="the extra `offline` is missing")
    folder = tmp_path_factory.mktemp("new_york")
    dataset = folder / "dataset"
    source = shared_data / "streetview_nyc"
    import_dataset(streetview_nyc.read, source, dataset)
    images = open_images(str(dataset), CITY)
    tables = [embed(load_encoder(name), images, folder, name) for name in FLOORS]
    path = probe(
        open_city(str(dataset), CITY),
        [read_embeddings(table) for table in tables],
        folder / "results",
        ProbeSettings(protocols=("block",), probes=("ridge",), seeds=5),
    )
    values: dict[str, list[float]] = {}
    for row in read_rows(path):
        if row.indicator == "population" and row.probe == "ridge":
            values.setdefault(row.system, []).append(row.r2)
    assert {len(values[name]) for name in FLOORS} == {5}
    return {name: sum(found) / len(found) for name, found in values.items()}


@pytest.mark.parametrize("name", FLOORS)
def test_population_of_new_york_is_seen_in_districts_held_out(scores, name):
    assert scores[name] >= FLOORS[name]
    assert scores[name] > max(scores["coordinates"], 0.0)
