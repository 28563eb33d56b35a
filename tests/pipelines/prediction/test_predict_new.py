import geopandas as gpd
import numpy as np
import pytest
import shapely
from sklearn.linear_model import Ridge as Reference

from pipelines.prediction.inputs import Inputs
from pipelines.prediction.labels import Indicator
from pipelines.prediction.models import ALPHAS
from pipelines.prediction.predict import predict, predict_new, predictable
from pipelines.prediction.vectors import Vectors

SIDE = 12


def grid(y: np.ndarray, *others: Indicator, transform: str = "identity") -> Inputs:
    """Grid of 1 km cells on the equator with an indicator `height`."""
    rows, columns = np.divmod(np.arange(SIDE * SIDE), SIDE)
    lon, lat = 10 + columns * 0.009, rows * 0.009
    frame = gpd.GeoDataFrame(
        {"region_id": [f"r{i:03d}" for i in range(len(lon))], "lon": lon, "lat": lat},
        geometry=shapely.box(lon - 0.0045, lat - 0.0045, lon + 0.0045, lat + 0.0045),
        crs="EPSG:4326",
    )
    height = Indicator("height", "m", transform, y)
    return Inputs(frame, [height, *others], None, [], block_m=4000.0)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def learnt():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(SIDE * SIDE, 6))
    y = X @ rng.normal(size=6) + 0.3 * rng.normal(size=len(X)) + 20
    y[::7] = np.nan
    vectors = Vectors(np.arange(len(X)), X, np.ones(len(X), int))
    return X, y, predict(grid(y), vectors)


def test_new_regions_are_predicted_by_ridge_on_all_labels(learnt):
    X, y, found = learnt
    twins = np.flatnonzero(np.isnan(y))
    new = predict_new(found, X[twins])
    for part in ("predicted", "low", "high"):  # as unlabelled regions with the same embeddings
        wanted = found.table[f"height_{part}"].to_numpy()[twins]
        np.testing.assert_allclose(new[f"height_{part}"], wanted, rtol=1e-9)
    known = np.isfinite(y)
    mean, scale = X[known].mean(0), X[known].std(0)
    alpha = ALPHAS[found.estimates[0].chosen]
    model = Reference(alpha=alpha).fit((X[known] - mean) / scale, y[known])
    expected = model.predict((X[twins] - mean) / scale)
    np.testing.assert_allclose(new["height_predicted"], expected, rtol=1e-6)
    far = np.stack([X[1] + 0.01, X[1] + 50])
    assert predict_new(found, far)["height_status"].tolist() == ["unlabelled", "unlike_training"]


def test_omits_indicators_with_too_few_labels(learnt):
    X, y, _ = learnt
    few = np.where(np.arange(len(y)) < 5, 1.0 + np.arange(len(y)), np.nan)
    corner = np.where((np.arange(len(y)) % SIDE < 3) & (np.arange(len(y)) < 84), y, np.nan)
    inputs = grid(
        y, Indicator("few", "u", "identity", few), Indicator("one", "u", "identity", corner)
    )
    vectors = Vectors(np.arange(len(X)), X, np.ones(len(X), int))
    assert [one.name for one in predictable(inputs, vectors).indicators] == ["height"]
    at_random = predictable(inputs, vectors, "random").indicators
    assert [one.name for one in at_random] == ["height", "one"]
