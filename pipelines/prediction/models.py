"""Models that predict labels from embeddings or location, for a grid of hyperparameters.

A model takes labels `(N, K)`, finite in the training rows, training rows, and M rows to predict. It
returns predictions `(A, M, K)` for every point of its grid, from which [`cross_fit`] chooses; NaN
where a point cannot be fitted.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from pipelines.evaluation.probe.controls import LEAVES, MAX_TREES, NEIGHBOURS, SHRINKAGE

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]
Model = Callable[[Floats, Rows, Rows], Floats]

ALPHAS = tuple(10.0**exponent for exponent in range(-1, 7))
ROWS_AT_ONCE = 4096


class Ridge:
    """Ridge regression with intercept on standardised features, equal to scikit-learn's.

    One eigendecomposition of the smaller Gram matrix serves all penalties and labels. Rows are read
    in chunks, so that memory in addition to `X` depends only on its width.

    Args:
        X: Features, `(N, D)`; NaN is replaced by the mean of the training rows.
        alphas: Grid of penalties.
    """

    def __init__(self, X: NDArray[np.floating], alphas: Sequence[float] = ALPHAS):
        self.X, self.alphas = X, np.asarray(alphas, dtype=float)

    def __call__(self, Y: Floats, train: Rows, out: Rows) -> Floats:
        """Fit and predict, see the module."""
        mean, scale = _moments(self.X, train)
        targets = Y[train]
        y_mean = targets.mean(0)
        coefficients = self._coefficients(train, mean, scale, targets - y_mean)  # (A, D, K)
        found = np.empty((len(self.alphas), len(out), Y.shape[1]))
        for part, rows in _chunks(out):
            found[:, part] = _standard(self.X[rows], mean, scale) @ coefficients + y_mean
        return found

    def _coefficients(self, train: Rows, mean: Floats, scale: Floats, Y: Floats) -> Floats:
        dim = self.X.shape[1]
        if len(train) < dim:
            Z = _standard(self.X[train], mean, scale)
            values, Q = scipy.linalg.eigh(Z @ Z.T)
            basis, projected = Z.T @ Q, Q.T @ Y
        else:
            gram, cross = np.zeros((dim, dim)), np.zeros((dim, Y.shape[1]))
            for part, rows in _chunks(train):
                Z = _standard(self.X[rows], mean, scale)
                gram += Z.T @ Z
                cross += Z.T @ Y[part]
            values, basis = scipy.linalg.eigh(gram, overwrite_a=True)
            projected = basis.T @ cross
        # rounding makes zero eigenvalues slightly negative
        shrink = 1 / (values.clip(0) + self.alphas[:, None])
        return basis @ (shrink[:, :, None] * projected)


class NearestNeighbours:
    """Mean label of the k nearest training regions.

    Args:
        xy: Coordinates in metres, `(N, 2)`.
        neighbours: Grid of k.
    """

    def __init__(self, xy: Floats, neighbours: Sequence[int] = NEIGHBOURS):
        self.xy, self.neighbours = xy, neighbours

    def __call__(self, Y: Floats, train: Rows, out: Rows) -> Floats:
        """Fit and predict, see the module."""
        most = min(max(self.neighbours), len(train))
        found = np.full((len(self.neighbours), len(out), Y.shape[1]), np.nan)
        tree = cKDTree(self.xy[train])
        for part, rows in _chunks(out):
            _, nearest = tree.query(self.xy[rows], k=np.arange(1, most + 1))
            sums = Y[train][nearest].cumsum(1)
            for a, k in enumerate(self.neighbours):
                if k <= most:
                    found[a, part] = sums[:, k - 1] / k
        return found


class Trees:
    """Gradient-boosted trees.

    Args:
        X: Features, `(N, D)`.
        leaves: Grid of the maximum number of leaves; the number of trees is the other grid axis.
    """

    STEP = 5

    def __init__(self, X: Floats, leaves: Sequence[int] = LEAVES):
        self.X, self.leaves = X, leaves

    def __call__(self, Y: Floats, train: Rows, out: Rows) -> Floats:
        """Fit and predict, see the module."""
        labels = range(Y.shape[1])
        return np.stack([self._one(Y[:, k], train, out) for k in labels], axis=2)

    def _one(self, y: Floats, train: Rows, out: Rows) -> Floats:
        from sklearn.ensemble import HistGradientBoostingRegressor
        from threadpoolctl import threadpool_limits

        stages: list[Floats] = []
        # a few features are too little work for several threads
        with threadpool_limits(1):
            for leaves in self.leaves:
                model = HistGradientBoostingRegressor(
                    learning_rate=SHRINKAGE,
                    max_iter=MAX_TREES,
                    max_leaf_nodes=leaves,
                    early_stopping=False,
                ).fit(self.X[train], y[train])
                stages += list(model.staged_predict(self.X[out]))[self.STEP - 1 :: self.STEP]
        return np.stack(stages)


def _moments(X: NDArray[np.floating], rows: Rows) -> tuple[Floats, Floats]:
    """Mean and standard deviation of columns, ignoring NaN; 1 for constant columns."""
    count, total, square = (np.zeros(X.shape[1]) for _ in range(3))
    shift = np.nan_to_num(X[rows[0]].astype(float))  # avoids cancellation
    for _, chunk in _chunks(rows):
        values = X[chunk] - shift
        known = np.isfinite(values)
        values = np.where(known, values, 0.0)
        count += known.sum(0)
        total += values.sum(0)
        square += np.square(values).sum(0)
    count = np.maximum(count, 1)
    mean = total / count
    scale = np.sqrt(np.maximum(square / count - np.square(mean), 0))
    return mean + shift, np.where(scale > 1e-9 * np.maximum(1, np.abs(mean + shift)), scale, 1.0)


def _standard(X: NDArray[np.floating], mean: Floats, scale: Floats) -> Floats:
    standard = (X - mean) / scale
    return np.where(np.isfinite(standard), standard, 0.0)


def _chunks(rows: Rows) -> Iterator[tuple[slice, Rows]]:
    for start in range(0, len(rows), ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        yield part, rows[part]


__all__ = ["ALPHAS", "Model", "NearestNeighbours", "Ridge", "Trees"]
