"""Models compared with scikit-learn."""

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import Ridge as ReferenceRidge
from sklearn.neighbors import KNeighborsRegressor
from sklearn.preprocessing import StandardScaler

from pipelines.prediction import models
from pipelines.prediction.models import NearestNeighbours, Ridge, Trees


def data(n: int, dim: int, labels: int = 2):
    rng = np.random.default_rng(n + dim)
    X = rng.normal(50, 3, (n, dim)) * rng.uniform(0.1, 10, dim)
    X[:, 0] = 7.0  # a constant column
    Y = X[:, 1:3] @ rng.normal(size=(2, labels)) + rng.normal(size=(n, labels))
    rows = rng.permutation(n)
    return X, Y, rows[: n // 2], rows[n // 2 :]


@pytest.mark.parametrize(("n", "dim"), [(30, 40), (200, 12)])
def test_ridge_equals_scikit_learn(n, dim, monkeypatch):
    monkeypatch.setattr(models, "ROWS_AT_ONCE", 7)
    X, Y, train, out = data(n, dim)
    X[train[0], 3] = X[out[0], 4] = np.nan
    alphas = (0.1, 10.0, 1000.0)
    found = Ridge(X, alphas)(Y, train, out)
    # a missing number counts neither in the mean nor in the scale
    scaler = StandardScaler().fit(X[train])
    Z = np.nan_to_num(scaler.transform(X))
    for a, alpha in enumerate(alphas):
        expected = ReferenceRidge(alpha).fit(Z[train], Y[train]).predict(Z[out])
        np.testing.assert_allclose(found[a], expected, rtol=1e-6, atol=1e-8)


def test_nearest_neighbours_equal_scikit_learn():
    rng = np.random.default_rng(0)
    xy, Y = rng.uniform(0, 1000, (60, 2)), rng.normal(size=(60, 3))
    train, out = np.arange(0, 20), np.arange(20, 60)
    found = NearestNeighbours(xy, (1, 5, 21))(Y, train, out)
    for a, k in enumerate((1, 5)):
        reference = KNeighborsRegressor(k).fit(xy[train], Y[train]).predict(xy[out])
        np.testing.assert_allclose(found[a], reference)
    assert np.isnan(found[2]).all()


def test_trees_equal_stages_of_scikit_learn_boosting():
    X, Y, train, out = data(80, 4)
    found = Trees(X, leaves=(4,))(Y, train, out)
    assert found.shape == (20, len(out), 2)
    reference = HistGradientBoostingRegressor(
        learning_rate=0.1, max_iter=35, max_leaf_nodes=4, early_stopping=False
    ).fit(X[train], Y[train, 1])
    np.testing.assert_allclose(found[6, :, 1], reference.predict(X[out]))
