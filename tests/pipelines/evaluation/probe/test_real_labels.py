"""Coordinate baseline on the public labels of Beijing's tiles."""

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest

from pipelines.evaluation.probe.city import transform_labels
from pipelines.evaluation.probe.controls import fit_coordinates
from pipelines.evaluation.probe.splits import CityRegions, Task, geography, splitter_within
from pipelines.evaluation.urban_regression.metrics import regression_metrics

# column, best R2 of the paper under random splits, and R2 of coordinates alone
INDICATORS = [
    ("population (unit)", 0.705, 0.916),
    ("gdp (million yuan)", 0.440, 0.751),
    ("carbon_emissions (ton)", 0.688, 0.947),
]
BLOCK_TILES, SPLITS = 16, 15


def test_coordinates_alone_beat_published_scores_by_interpolation(shared_data):
    path = shared_data / "urbanclip_toolkit" / "indicators" / "Beijing.csv"
    if not path.is_file():
        pytest.skip(f"no labels at {path}")
    table = pd.read_csv(path)
    places = table["WGS84 coordinate"].str.extract(r"([\d.]+)[^\d.]+([\d.]+)")
    lat, lon = places.astype(float).to_numpy().T
    regions = gpd.GeoDataFrame(
        {"region_id": table["BD09 coordinate"], "lon": lon, "lat": lat},
        geometry=gpd.points_from_xy(lon, lat),
        crs="EPSG:4326",
    )
    cell_m = geography(regions).cell_m
    assert (len(regions), cell_m) == (4587, pytest.approx(787, abs=3))
    place = geography(regions, BLOCK_TILES * cell_m)
    scores = {}
    for protocol in ("random", "block"):
        splitter = splitter_within(protocol, CityRegions(regions, place))
        splits = [splitter.split(seed) for seed in range(SPLITS)]
        for column, *_ in INDICATORS:
            y, invalid = transform_labels(table[column].to_numpy(float), "ln1p")
            assert not invalid
            fits = fit_coordinates(place.xy, [Task(y, split.train, *split) for split in splits])
            r2 = [
                regression_metrics(fit.predictions, y[split.test])["r2"]
                for fit, split in zip(fits, splits, strict=True)
            ]
            scores[protocol, column] = np.mean(r2)
    for column, paper, random in INDICATORS:
        assert scores["random", column] == pytest.approx(random, abs=0.04)
        assert scores["random", column] > paper
        assert scores["block", column] < scores["random", column] - 0.4  # in new districts
