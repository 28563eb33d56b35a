"""Spatial cross-fitting: predictions by models not trained on a region's district.

Folds consist of complete districts. Each fold is predicted by a model trained on the others, except
regions that touch the fold; its hyperparameters are chosen by the same procedure within the others.
Regions without labels are predicted by a model trained on all labelled regions.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import GroupKFold

from .models import Floats, Model, Rows

NUM_FOLDS = 5
FEWEST_FOLDS = 3
FEWEST_TO_TRAIN = 8

Near = Callable[[Rows, Rows], NDArray[np.bool_]]


@dataclass(frozen=True)
class Folds:
    """Assignment of labelled regions to folds of complete districts.

    Attributes:
        number: Fold of each region, `(N,)`; -1 without a label or an embedding.
        near: Function of two arrays of rows: which of the first are too near to any of the second
            to be trained on with them.
    """

    number: NDArray[np.int64]
    near: Near

    @property
    def names(self) -> list[int]:
        """Fold numbers."""
        return np.unique(self.number[self.number >= 0]).tolist()

    def rows(self, *names: int) -> Rows:
        """Rows of the given folds."""
        return np.flatnonzero(np.isin(self.number, names))

    def training(self, *held_out: int) -> Rows:
        """Rows of the other folds that are not near the held-out folds."""
        others = self.rows(*(name for name in self.names if name not in held_out))
        return others[~self.near(others, self.rows(*held_out))]


def make_folds(
    usable: NDArray[np.bool_], districts: NDArray[np.int64], near: Near, num_folds: int = NUM_FOLDS
) -> Folds:
    """Assign usable regions to folds of similar size that consist of complete districts.

    Args:
        usable: Whether each region has a label and an embedding, `(N,)`.
        districts: District of each region, `(N,)`.
        near: See [`Folds`].
        num_folds: Maximum number of folds.
    """
    rows = np.flatnonzero(usable)
    number = np.full(len(usable), -1, dtype=np.int64)
    count = min(num_folds, len(np.unique(districts[rows])))
    if count >= 2:
        splitter = GroupKFold(n_splits=count)
        for name, (_, test) in enumerate(splitter.split(rows, groups=districts[rows])):
            number[rows[test]] = name
    elif len(rows):
        number[rows] = 0
    return Folds(number, near)


def cross_fit(model: Model, Y: Floats, folds: Folds) -> tuple[Floats, NDArray[np.int64]]:
    """Predict labelled regions by models trained on other districts.

    Args:
        model: Model with its grid of hyperparameters.
        Y: Labels, `(N, K)`, finite in all folds.
        folds: At least [`FEWEST_FOLDS`] folds.

    Returns:
        Held-out predictions `(N, K)`, NaN without a label and where too few training regions
        remain; and the index in the model's grid for regions without labels, `(K,)`.
    """
    errors = _pair_errors(model, Y, folds)
    held_out = np.full(Y.shape, np.nan)
    total: Floats | None = None
    for name in folds.names:
        train, test = folds.training(name), folds.rows(name)
        if len(train) < FEWEST_TO_TRAIN:
            continue
        grid = model(Y, train, test)
        choice = _best(errors[name], len(grid), Y.shape[1])
        held_out[test] = grid[choice, :, np.arange(Y.shape[1])].T
        error = _squared_errors(grid, Y[test])
        total = error if total is None else total + error
    points = 1 if total is None else len(total)
    return held_out, _best([] if total is None else [total], points, Y.shape[1])


def _pair_errors(model: Model, Y: Floats, folds: Folds) -> dict[int, list[Floats]]:
    """For each fold, errors `(A, K)` on each other fold of models trained on neither.

    Each model that holds out two folds is used for both.
    """
    errors: dict[int, list[Floats]] = {name: [] for name in folds.names}
    for one, two in combinations(folds.names, 2):
        train = folds.training(one, two)
        if len(train) < FEWEST_TO_TRAIN:
            continue
        rows = {name: folds.rows(name) for name in (one, two)}
        grid = model(Y, train, np.concatenate([rows[one], rows[two]]))
        first = len(rows[one])
        errors[one].append(_squared_errors(grid[:, first:], Y[rows[two]]))
        errors[two].append(_squared_errors(grid[:, :first], Y[rows[one]]))
    return errors


def _squared_errors(grid: Floats, Y: Floats) -> Floats:
    """Sums of squared errors, `(A, K)`; infinite where a model could not be fitted."""
    error = np.square(grid - Y).sum(1)
    return np.where(np.isfinite(error), error, np.inf)


def _best(errors: list[Floats], points: int, labels: int) -> NDArray[np.int64]:
    """Grid index with the smallest error, `(K,)`; the middle one without errors."""
    if not errors:
        return np.full(labels, points // 2)
    return np.sum(errors, axis=0).argmin(0)


__all__ = ["FEWEST_FOLDS", "Folds", "Near", "cross_fit", "make_folds"]
