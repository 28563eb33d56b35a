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


@settings(max_examples=40)
@given(st.integers(0, 2**31), st.integers(2, 40), st.booleans())
def test_scores_equal_scikit_learn_and_scipy(seed, n, ties):
    rng = np.random.default_rng(seed)
    y, y_hat = rng.normal(size=n), rng.normal(size=(3, n))
    if ties:
        y, y_hat = np.round(y), np.round(2 * y_hat)
    scores = regression_metrics(y_hat, y)
    for row, own in enumerate(y_hat):
        one = {name: values[row] for name, values in scores.items()}
        np.testing.assert_allclose(one["rmse"], root_mean_squared_error(y, own), atol=1e-12)
        np.testing.assert_allclose(one["mae"], mean_absolute_error(y, own), atol=1e-12)
        if np.ptp(y):
            np.testing.assert_allclose(one["r2"], r2_score(y, own), atol=1e-12)
        if np.ptp(y) and np.ptp(own):
            np.testing.assert_allclose(one["spearman"], spearmanr(y, own)[0], atol=1e-12)


def test_undefined_scores_are_nan_and_invalid_input_raises():
    constant_truth = regression_metrics([1.0, 2.0, 3.0], [0.1, 0.1, 0.1])
    assert math.isnan(constant_truth["r2"])
    assert math.isnan(constant_truth["spearman"])
    assert constant_truth["mae"] == pytest.approx(1.9)
    constant_prediction = regression_metrics([0.1, 0.1, 0.1], [1.0, 2.0, 3.0])
    assert math.isnan(constant_prediction["spearman"])
    assert constant_prediction["r2"] < 0
    with pytest.raises(ValueError, match=r"same number of samples.*\(2,\) and \(3,\)"):
        regression_metrics([1.0, 2.0], [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="no sample"):
        regression_metrics([], [])
    with pytest.raises(ValueError, match="1 references are nan"):
        regression_metrics([1.0, 2.0], [1.0, np.nan])


def test_metric_module_is_loaded_by_evaluate(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate.config, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = Path(urban_regression.__file__).parent
    metric = evaluate.load(str(folder), cache_dir=str(tmp_path / "cache"))
    assert type(metric).__module__.startswith("evaluate_modules.")
    y, y_hat = np.random.default_rng(1).normal(size=(2, 30)) * 1e5
    scores = metric.compute(predictions=y_hat, references=y)
    assert set(scores) == set(METRICS)
    assert scores["rmse"] == pytest.approx(root_mean_squared_error(y, y_hat), rel=1e-12)
    metric.add_batch(predictions=[1.0, 2.0], references=[1.0, 2.0])
    metric.add(prediction=4.0, reference=3.0)
    assert metric.compute()["r2"] == 0.5
    with pytest.raises(ValueError, match="1 predictions are nan or infinite"):
        metric.compute(predictions=[1.0, float("nan")], references=[1.0, 2.0])
