"""Baselines that use no images: the training mean, and trees or k-NN on coordinates or POI counts.

Where these match an image system, its score is explained by location rather than by the images.
"""

from collections.abc import Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from threadpoolctl import threadpool_limits

from .splits import Array, Fit, Task

NEIGHBOURS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
LEAVES = (4, 16)  # per tree
MAX_TREES = 100
SHRINKAGE = 0.1
BASIS_SIDE = 8
ROWS_PER_THREAD = 10_000  # with fewer, synchronisation dominates


def fit_mean(tasks: Sequence[Task]) -> list[Fit]:
    """Predict the mean of the training labels."""
    fits = []
    for task in tasks:
        mean = float(task.y[task.train].mean())
        mse = float(np.square(task.y[task.validation] - mean).mean())
        validation = np.full(len(task.validation), mean)
        fits.append(Fit(np.full(len(task.test), mean), mse, {}, validation))
    return fits


def fit_coordinates(xy: NDArray[np.float64], tasks: Sequence[Task]) -> list[Fit]:
    """k-nearest-neighbour regression on coordinates; k is chosen on the validation set.

    Args:
        xy: `(N, 2)` positions of the regions in local metres.
        tasks: Tasks, see [`Task`].

    Returns:
        One `Fit` per task, in order, with the hyper-parameter `k`.
    """
    return [_fit_knn(xy, task) for task in tasks]


def fit_boosting(
    X: NDArray[np.float64], tasks: Sequence[Task], leaves: Sequence[int] = LEAVES
) -> list[Fit]:
    """Gradient-boosted regression trees; their size and number are chosen on the validation set.

    Scikit-learn's `HistGradientBoostingRegressor` with a learning rate of 0.1.

    Args:
        X: `(N, D)` features.
        tasks: Tasks, see [`Task`].
        leaves: Grid of the maximum number of leaves per tree.

    Returns:
        One `Fit` per task, in order, with the hyper-parameters `leaves` and `trees`.
    """
    with threadpool_limits(1 + len(X) // ROWS_PER_THREAD, user_api="openmp"):
        return [_fit_boosting(X, task, leaves) for task in tasks]


def tree_coordinates(xy: NDArray[np.float64]) -> NDArray[np.float64]:
    """`(N, 4)` coordinates with axes rotated by 45 degrees added, for axis-aligned trees."""
    x, y = xy.T
    return np.stack([x, y, x + y, x - y], axis=1)


def coordinate_basis(xy: NDArray[np.float64], side: int = BASIS_SIDE) -> NDArray[np.float64]:
    """Smooth functions of location for linear probes: a two-dimensional cosine basis.

    Products `cos(pi i u) cos(pi j v)` without the constant, with u and v being x and y divided by
    the longer side of the extent.

    Args:
        xy: `(N, 2)` positions in local metres.
        side: Number of frequencies per axis; 8 resolves about 6 km in a city of 40 km.

    Returns:
        `(N, side * side - 1)` features.
    """
    low = xy.min(0)
    u = (xy - low) / max(float((xy.max(0) - low).max()), 1e-9)
    waves = np.cos(np.pi * np.arange(side) * u[:, :, None])  # (N, 2, side)
    products = waves[:, 0, :, None] * waves[:, 1, None, :]
    return products.reshape(len(xy), -1)[:, 1:]


def _fit_knn(xy: Array, task: Task) -> Fit:
    ks = [k for k in NEIGHBOURS if k <= len(task.train)]
    tree = cKDTree(xy[task.train])
    labels = task.y[task.train]
    fitted = _neighbour_means(tree, labels, xy[task.validation], ks)
    mse = np.square(fitted - task.y[task.validation]).mean(1)
    best = int(mse.argmin())
    tested = _neighbour_means(tree, labels, xy[task.test], [ks[best]])[0]
    return Fit(tested, float(mse[best]), {"k": float(ks[best])}, fitted[best])


def _neighbour_means(tree: cKDTree, labels: Array, xy: Array, ks: Sequence[int]) -> Array:
    """`(len(ks), len(xy))` mean labels of the k nearest neighbours for every k."""
    _, nearest = tree.query(xy, k=np.arange(1, max(ks) + 1))
    sums = labels[nearest].cumsum(1)
    return np.stack([sums[:, k - 1] / k for k in ks])


def _fit_boosting(X: Array, task: Task, leaves: Sequence[int]) -> Fit:
    from sklearn.ensemble import HistGradientBoostingRegressor

    fits = []
    for size in leaves:
        model = HistGradientBoostingRegressor(
            learning_rate=SHRINKAGE, max_iter=MAX_TREES, max_leaf_nodes=size, early_stopping=False
        ).fit(X[task.train], task.y[task.train])
        fitted = np.stack(list(model.staged_predict(X[task.validation])))
        mse = np.square(fitted - task.y[task.validation]).mean(1)
        best = int(mse.argmin())
        tested = next(islice(model.staged_predict(X[task.test]), best, None))
        chosen = {"leaves": float(size), "trees": float(best + 1)}
        fits.append(Fit(tested, float(mse[best]), chosen, fitted[best]))
    return min(fits, key=lambda fit: fit.validation_mse)


__all__ = [
    "LEAVES",
    "NEIGHBOURS",
    "coordinate_basis",
    "fit_boosting",
    "fit_coordinates",
    "fit_mean",
    "tree_coordinates",
]
