"""Predictions of regions by models that have not seen their district.

Labelled regions are dealt into folds by whole districts. Each fold is predicted by a model of the
others, less the regions that touch the fold; that model's settings are chosen by the same procedure
within the others, so nothing of a region's district takes part in its prediction. Regions without a
label are predicted by a model of all labelled ones.
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
    """Labelled regions in folds of whole districts.

    Attributes:
        number: `(N,)` fold of each region; -1 for those without a label or a vector.
        near: which of some rows are too near to any of others to be trained on beside them.
    """

    number: NDArray[np.int64]
    near: Near

    @property
    def names(self) -> list[int]:
        """Numbers of the folds."""
        return np.unique(self.number[self.number >= 0]).tolist()

    def rows(self, *names: int) -> Rows:
        """Rows of some folds."""
        return np.flatnonzero(np.isin(self.number, names))

    def training(self, *held_out: int) -> Rows:
        """Rows of the other folds that are far enough from the folds held out."""
        others = self.rows(*(name for name in self.names if name not in held_out))
        return others[~self.near(others, self.rows(*held_out))]


@dataclass(frozen=True)
class CrossFit:
    """What a model predicts of regions it has not seen.

    Attributes:
        held_out: `(N, K)` of labelled regions, each by a model of other districts; NaN elsewhere,
            and where a fold leaves too few regions to train on.
        chosen: `(K,)` point of the model's grid for regions without a label.
    """

    held_out: Floats
    chosen: NDArray[np.int64]


def make_folds(
    usable: NDArray[np.bool_], districts: NDArray[np.int64], near: Near, num_folds: int = NUM_FOLDS
) -> Folds:
    """Deal the usable regions into folds of about equal size, by whole districts.

    Args:
        usable: `(N,)` regions with a label and a vector.
        districts: `(N,)` number of each region's district.
        near: see [`Folds`].
        num_folds: fewer where there are fewer districts.
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


def cross_fit(model: Model, Y: Floats, folds: Folds) -> CrossFit:
    """Predict every labelled region by a model of other districts.

    Args:
        model: with its grid of settings.
        Y: `(N, K)` labels, finite in all folds.
        folds: at least [`FEWEST_FOLDS`].
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
    return CrossFit(held_out, _best([] if total is None else [total], points, Y.shape[1]))


def fit_all(model: Model, Y: Floats, folds: Folds, fit: CrossFit, out: Rows) -> Floats:
    """Predictions `(len(out), K)` of rows without a label, by a model of all labelled ones."""
    if not len(out):
        return np.empty((0, Y.shape[1]))
    grid = model(Y, folds.rows(*folds.names), out)
    return grid[fit.chosen, :, np.arange(Y.shape[1])].T


def _pair_errors(model: Model, Y: Floats, folds: Folds) -> dict[int, list[Floats]]:
    """For each fold, errors `(A, K)` on the other folds of models that saw neither.

    One fit that holds out two folds serves the choice for both.
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
    """`(A, K)`; infinite where a point of the grid could not be fitted."""
    error = np.square(grid - Y).sum(1)
    return np.where(np.isfinite(error), error, np.inf)


def _best(errors: list[Floats], points: int, labels: int) -> NDArray[np.int64]:
    """`(K,)` point of the grid with the least error; the middle one where nothing was measured."""
    if not errors:
        return np.full(labels, points // 2)
    return np.sum(errors, axis=0).argmin(0)


__all__ = ["FEWEST_FOLDS", "CrossFit", "Folds", "Near", "cross_fit", "fit_all", "make_folds"]
