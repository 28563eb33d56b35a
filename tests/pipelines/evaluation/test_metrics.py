import math
from pathlib import Path

import evaluate
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

from pipelines.evaluation import urban_regression
from pipelines.evaluation.urban_regression.metrics import METRICS, regression_metrics

METRIC = Path(urban_regression.__file__).parent


@pytest.fixture
def metric(tmp_path, monkeypatch):
    """Metric loaded from a copy in an empty cache."""
    monkeypatch.setattr(evaluate.config, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    return evaluate.load(str(METRIC), cache_dir=str(tmp_path / "cache"))


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**31), st.integers(2, 40), st.booleans())
def test_equal_to_scikit_learn_and_scipy(seed, n, ties):
    rng = np.random.default_rng(seed)
    y, y_hat = rng.normal(size=(2, n))
    if ties:
        y, y_hat = np.round(y), np.round(2 * y_hat)
    scores = regression_metrics(y_hat, y)
    np.testing.assert_allclose(scores["rmse"], root_mean_squared_error(y, y_hat), atol=1e-12)
    np.testing.assert_allclose(scores["mae"], mean_absolute_error(y, y_hat), atol=1e-12)
    if np.ptp(y):
        np.testing.assert_allclose(scores["r2"], r2_score(y, y_hat), atol=1e-12)
    if np.ptp(y) and np.ptp(y_hat):
        np.testing.assert_allclose(scores["spearman"], spearmanr(y, y_hat)[0], atol=1e-12)


def test_many_models_at_once_equal_one_by_one():
    rng = np.random.default_rng(0)
    y, y_hat = rng.normal(size=9), rng.normal(size=(4, 3, 9))
    together = regression_metrics(y_hat, y)
    for index in np.ndindex(4, 3):
        alone = regression_metrics(y_hat[index], y)
        assert all(together[name][index] == alone[name] for name in METRICS)


def test_undefined_scores_are_nan():
    constant_truth = regression_metrics([1.0, 2.0, 3.0], [0.1, 0.1, 0.1])
    assert math.isnan(constant_truth["r2"])
    assert math.isnan(constant_truth["spearman"])
    assert constant_truth["mae"] == pytest.approx(1.9)
    constant_prediction = regression_metrics([0.1, 0.1, 0.1], [1.0, 2.0, 3.0])
    assert math.isnan(constant_prediction["spearman"])
    assert constant_prediction["r2"] < 0


def test_invalid_input_raises():
    with pytest.raises(ValueError, match=r"same number of samples.*\(2,\) and \(3,\)"):
        regression_metrics([1.0, 2.0], [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="no sample"):
        regression_metrics([], [])
    with pytest.raises(ValueError, match="1 references are nan"):
        regression_metrics([1.0, 2.0], [1.0, np.nan])


def test_metric_module_from_its_cached_copy(metric):
    rng = np.random.default_rng(1)
    y, y_hat = rng.normal(size=(2, 30)) * 1e5
    scores = metric.compute(predictions=y_hat, references=y)
    assert type(metric).__module__.startswith("evaluate_modules.")
    assert set(scores) == set(METRICS)
    assert scores["rmse"] == pytest.approx(root_mean_squared_error(y, y_hat), rel=1e-12)
    assert scores["r2"] == pytest.approx(r2_score(y, y_hat), rel=1e-12)


def test_metric_module_adds_batches(metric):
    metric.add_batch(predictions=[1.0, 2.0], references=[1.0, 2.0])
    metric.add(prediction=4.0, reference=3.0)
    assert metric.compute()["r2"] == 0.5


def test_edge_cases_are_nan_or_raise(metric):
    alone = metric.compute(predictions=[2.0], references=[5.0])
    assert (alone["rmse"], alone["mae"]) == (3.0, 3.0)
    assert math.isnan(alone["r2"])
    assert math.isnan(alone["spearman"])
    assert math.isnan(metric.compute(predictions=[1.0, 2.0], references=[4.0, 4.0])["r2"])
    with pytest.raises(ValueError, match="1 predictions are nan or infinite"):
        metric.compute(predictions=[1.0, float("nan")], references=[1.0, 2.0])
    with pytest.raises(ValueError, match=r"[Mm]ismatch"):
        metric.compute(predictions=[1.0, 2.0, 3.0], references=[1.0, 2.0])
