"""Controls that see no image: what a map coordinate, a count of shops, or nothing at all is worth.

Whatever beats a picture here is spatial autocorrelation or a map, not sight.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from threadpoolctl import threadpool_limits

from .tasks import Array, Fit, Task

NEIGHBOURS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
LEAVES = (4, 16)  # of a tree
MAX_TREES = 100
SHRINKAGE = 0.1
BASIS_SIDE = 8
ROWS_PER_THREAD = 10_000  # with fewer, threads wait for each other longer than they work


def fit_mean(tasks: Sequence[Task]) -> list[Fit]:
    """Predict the mean of the training labels everywhere."""
    fits = []
    for task in tasks:
        mean = float(task.y[task.train].mean())
        mse = float(np.square(task.y[task.validation] - mean).mean())
        validation = np.full(len(task.validation), mean)
        fits.append(Fit(np.full(len(task.test), mean), mse, {}, validation))
    return fits


def fit_coordinates(
    xy: NDArray[np.float64], tasks: Sequence[Task], neighbours: Sequence[int] = NEIGHBOURS
) -> list[Fit]:
    """Predict the mean label of the k nearest training regions; validation chooses k.

    Args:
        xy: `(N, 2)` positions of the regions in local metres.
        tasks: see [`Task`].
        neighbours: grid of k; those larger than a training set are left out.

    Returns:
        One `Fit` a task, in order; its hyper-parameter is `k`.
    """
    return [_fit_knn(xy, task, neighbours) for task in tasks]


def fit_boosting(
    X: NDArray[np.float64], tasks: Sequence[Task], leaves: Sequence[int] = LEAVES
) -> list[Fit]:
    """Gradient-boosted trees on squared error; validation chooses their size and number.

    Scikit-learn's `HistGradientBoostingRegressor` with a learning rate of 0.1, each tree added in
    turn tried on the validation regions.

    Args:
        X: `(N, D)` features; trees do not mind their scale.
        tasks: see [`Task`].
        leaves: grid of the leaves of a tree.

    Returns:
        One `Fit` a task, in order; its hyper-parameters are `leaves` and `trees`.
    """
    with threadpool_limits(1 + len(X) // ROWS_PER_THREAD, user_api="openmp"):
        return [_fit_boosting(X, task, leaves) for task in tasks]


def tree_coordinates(xy: NDArray[np.float64]) -> NDArray[np.float64]:
    """`(N, 4)`: x, y and the axes turned by 45 degrees, for trees cut along axes alone."""
    x, y = xy.T
    return np.stack([x, y, x + y, x - y], axis=1)


def coordinate_basis(xy: NDArray[np.float64], side: int = BASIS_SIDE) -> NDArray[np.float64]:
    """Smooth functions of the place, for probes that are linear in what they are given.

    Products `cos(pi i u) cos(pi j v)`, u and v being x and y over the longer side of the extent:
    the basis of the two-dimensional cosine transform, without its constant.

    Args:
        xy: `(N, 2)` positions in local metres.
        side: i and j go from 0 to `side - 1`: with 8, a city of 40 km is drawn at about 6 km.

    Returns:
        `(N, side * side - 1)`.
    """
    low = xy.min(0)
    u = (xy - low) / max(float((xy.max(0) - low).max()), 1e-9)
    waves = np.cos(np.pi * np.arange(side) * u[:, :, None])  # (N, 2, side)
    products = waves[:, 0, :, None] * waves[:, 1, None, :]
    return products.reshape(len(xy), -1)[:, 1:]


def _fit_knn(xy: Array, task: Task, neighbours: Sequence[int]) -> Fit:
    ks = [k for k in neighbours if k <= len(task.train)]
    tree = cKDTree(xy[task.train])
    labels = task.y[task.train]
    fitted = _neighbour_means(tree, labels, xy[task.validation], ks)
    mse = np.square(fitted - task.y[task.validation]).mean(1)
    best = int(mse.argmin())
    tested = _neighbour_means(tree, labels, xy[task.test], [ks[best]])[0]
    return Fit(tested, float(mse[best]), {"k": float(ks[best])}, fitted[best])


def _neighbour_means(tree: cKDTree, labels: Array, xy: Array, ks: Sequence[int]) -> Array:
    """Mean label of the k nearest, `(len(ks), len(xy))`: one query serves every k."""
    _, nearest = tree.query(xy, k=np.arange(1, max(ks) + 1))
    sums = labels[nearest].cumsum(1)
    return np.stack([sums[:, k - 1] / k for k in ks])


def _fit_boosting(X: Array, task: Task, leaves: Sequence[int]) -> Fit:
    from sklearn.ensemble import HistGradientBoostingRegressor

    best: Fit | None = None
    for size in leaves:
        model = HistGradientBoostingRegressor(
            learning_rate=SHRINKAGE, max_iter=MAX_TREES, max_leaf_nodes=size, early_stopping=False
        ).fit(X[task.train], task.y[task.train])
        fitted = np.stack(list(model.staged_predict(X[task.validation])))
        mse = np.square(fitted - task.y[task.validation]).mean(1)
        trees = int(mse.argmin())
        if best is None or mse[trees] < best.validation_mse:
            tested = next(
                stage
                for number, stage in enumerate(model.staged_predict(X[task.test]))
                if number == trees
            )
            chosen = {"leaves": float(size), "trees": float(trees + 1)}
            best = Fit(tested, float(mse[trees]), chosen, fitted[trees])
    if best is None:
        raise ValueError("The grid of leaves is empty.")
    return best


__all__ = [
    "LEAVES",
    "NEIGHBOURS",
    "coordinate_basis",
    "fit_boosting",
    "fit_coordinates",
    "fit_mean",
    "tree_coordinates",
]
