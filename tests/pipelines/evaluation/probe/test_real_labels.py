"""Coordinate baseline on the public labels of Beijing's tiles."""

import csv
import re

import geopandas as gpd
import numpy as np
import pytest

from pipelines.evaluation.probe.city import City, Target, transform_labels
from pipelines.evaluation.probe.controls import fit_coordinates
from pipelines.evaluation.probe.loop import ProbeSettings, make_cells
from pipelines.evaluation.probe.splits import CityRegions, geography, splitter_within
from pipelines.evaluation.urban_regression.metrics import regression_metrics

COLUMNS = {
    "population": "population (unit)",
    "gdp": "gdp (million yuan)",
    "carbon": "carbon_emissions (ton)",
}
BLOCK_TILES = 16
SPLITS = 20


@pytest.fixture(scope="module")
def beijing(shared_data):
    path = shared_data / "urbanclip_toolkit" / "indicators" / "Beijing.csv"
    if not path.is_file():
        pytest.skip(f"no labels at {path}")
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    places = [re.findall(r"[\d.]+", row["WGS84 coordinate"]) for row in rows]
    lat, lon = np.array(places, dtype=float).T
    regions = gpd.GeoDataFrame(
        {"region_id": [row["BD09 coordinate"] for row in rows], "lon": lon, "lat": lat},
        geometry=gpd.points_from_xy(lon, lat),
        crs="EPSG:4326",
    )
    targets = []
    for name, column in COLUMNS.items():
        y, invalid = transform_labels(np.array([float(row[column]) for row in rows]), "ln1p")
        targets.append(Target(name, column, "ln1p", y, invalid))
    block_m = BLOCK_TILES * geography(regions).cell_m
    return City("beijing", "urbanclip_toolkit", False, regions, targets, block_m)


@pytest.fixture(scope="module")
def scores(beijing):
    """Mean R2 over splits, by protocol and indicator."""
    place = geography(beijing.regions, beijing.block_m)
    settings, regions = ProbeSettings(seeds=SPLITS), CityRegions(beijing.regions, place)
    splitters = {name: splitter_within(name, regions) for name in settings.protocols}
    cells, skipped = make_cells(beijing.targets, splitters, settings)
    assert not skipped
    found = {}
    for cell, fit in zip(
        cells, fit_coordinates(place.xy, [cell.task for cell in cells]), strict=True
    ):
        r2 = regression_metrics(fit.predictions, cell.task.y[cell.task.test])["r2"]
        found.setdefault((cell.protocol, cell.target.name), []).append(float(r2))
    return {key: float(np.mean(values)) for key, values in found.items()}


def test_tiles_match_the_published_dataset(beijing):
    assert len(beijing.regions) == 4587
    assert geography(beijing.regions).cell_m == pytest.approx(787, abs=3)


@pytest.mark.parametrize(
    ("indicator", "paper", "random"),
    # best R2 of the paper under random splits, and R2 of coordinates alone
    [("population", 0.705, 0.916), ("gdp", 0.440, 0.751), ("carbon", 0.688, 0.947)],
)
def test_coordinates_alone_beat_published_scores_by_interpolation(scores, indicator, paper, random):
    assert scores["random", indicator] == pytest.approx(random, abs=0.04)
    assert scores["random", indicator] > paper
    # lower in new districts
    assert scores["block", indicator] < scores["random", indicator] - 0.4
