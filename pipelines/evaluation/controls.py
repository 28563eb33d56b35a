"""Controls that see no image: what a map coordinate, or nothing at all, is worth."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from .probing import Array, Fit, Task

NEIGHBOURS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)


def fit_mean(tasks: Sequence[Task]) -> list[Fit]:
    """Predict the mean of the training labels everywhere."""
    fits = []
    for task in tasks:
        mean = float(task.y[task.train].mean())
        mse = float(np.square(task.y[task.validation] - mean).mean())
        fits.append(Fit(np.full(len(task.test), mean), mse, {}))
    return fits


def fit_coordinates(
    xy: NDArray[np.float64], tasks: Sequence[Task], neighbours: Sequence[int] = NEIGHBOURS
) -> list[Fit]:
    """Predict the mean label of the k nearest training regions; validation chooses k.

    Whatever beats a picture here is spatial autocorrelation, not sight.

    Args:
        xy: `(N, 2)` positions of the regions in local metres.
        tasks: see [`Task`].
        neighbours: grid of k; those larger than a training set are left out.

    Returns:
        One `Fit` a task, in order; its hyper-parameter is `k`.
    """
    return [_fit_knn(xy, task, neighbours) for task in tasks]


def _fit_knn(xy: Array, task: Task, neighbours: Sequence[int]) -> Fit:
    ks = [k for k in neighbours if k <= len(task.train)]
    tree = cKDTree(xy[task.train])
    labels = task.y[task.train]
    fitted = _neighbour_means(tree, labels, xy[task.validation], ks)
    mse = np.square(fitted - task.y[task.validation]).mean(1)
    best = int(mse.argmin())
    tested = _neighbour_means(tree, labels, xy[task.test], [ks[best]])[0]
    return Fit(tested, float(mse[best]), {"k": float(ks[best])})


def _neighbour_means(tree: cKDTree, labels: Array, xy: Array, ks: Sequence[int]) -> Array:
    """Mean label of the k nearest, `(len(ks), len(xy))`: one query serves every k."""
    _, nearest = tree.query(xy, k=np.arange(1, max(ks) + 1))
    sums = labels[nearest].cumsum(1)
    return np.stack([sums[:, k - 1] / k for k in ks])


__all__ = ["NEIGHBOURS", "fit_coordinates", "fit_mean"]
