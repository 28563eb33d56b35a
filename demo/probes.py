"""What pictures tell of a region whose labels no probe has seen: predictions and their intervals.

The regions are dealt into folds, whole districts where the dataset stores such folds
(`fold_block`), at random otherwise. A ridge probe that has seen no label of a fold, nor of a
region that touches it, predicts it; the fold after it chooses the probe's alpha. So
every region has one prediction, by a probe of other regions.

Half-widths are the quantile of the absolute errors that the *other* folds' regions have in their
own held-out predictions, by `pipelines.evaluation.conformal`: blocks of regions count the same
where folds are districts. The share of regions that lie within their interval is measured.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dataset_builders.splits import Neighbourhood
from pipelines.evaluation.cities import City
from pipelines.evaluation.conformal import LEVEL, METHODS
from pipelines.evaluation.probing import RidgeSettings, Task, fit_ridge
from pipelines.evaluation.splits import block_ids, geography

NUM_FOLDS, FEWEST = 5, 8
# as `evaluate.py probe`, in steps of ten
ALPHAS = tuple(10.0**exponent for exponent in range(-2, 7))

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Fold:
    """Rows of the city's regions: `fit` are those whose vectors the probe standardises on."""

    fit: Ints
    validation: Ints
    test: Ints


@dataclass(frozen=True)
class HeldOut:
    """Predictions of all regions by probes that have not seen them.

    Attributes:
        protocol: `block` (whole districts held out) or `random`.
        values: `(N, K)` predictions on the scored scale; nan where there is none.
        half_widths: `(N, K)` of the intervals.
        coverage: `(K,)` share of labelled regions within their interval; nan without any.
        level: the coverage aimed at.
        r2: `(K,)` of the held-out predictions; nan without labels.
    """

    protocol: str
    values: Floats
    half_widths: Floats
    coverage: Floats
    level: float
    r2: Floats


class Probes:
    """Ridge probes of one view of a city.

    Args:
        city: regions and indicators.
        X: `(N, D)` vectors; rows of nan where a region has none.
    """

    def __init__(self, city: City, X: Floats):
        self.city, self.X = city, X
        self.known = np.asarray(np.isfinite(X).all(1), bool)
        place = geography(city.regions, city.block_m)
        self.protocol, numbers = fold_numbers(city, place.xy)
        blocks = block_ids(place) if self.protocol == "block" else np.arange(len(X))
        self.folds = make_folds(numbers, self.known, place.neighbourhood, self.protocol)
        self.numbers, self.blocks = numbers, blocks
        self.held_out = self._hold_out()

    def predict(self, vector: Floats) -> tuple[Floats, Floats]:
        """Predictions `(K,)` of a vector `(D,)` from elsewhere, and their half-widths.

        The mean of the folds' probes; the errors that set the half-widths are those of all regions.
        """
        X = np.vstack([self.X, vector])
        outside = np.array([len(self.X)])
        found = [self._fit(X, fold, outside)[:, 0] for fold in self.folds]
        values = np.array([_mean(np.array(column)) for column in zip(*found, strict=True)])
        if not found:
            values = np.full(len(self.city.targets), np.nan)
        return values, self._half_widths(np.ones(len(self.X), bool))

    def _hold_out(self) -> HeldOut:
        shape = (len(self.X), len(self.city.targets))
        values, half_widths = np.full(shape, np.nan), np.full(shape, np.nan)
        for fold in self.folds:
            values[fold.test] = self._fit(self.X, fold, fold.test).T
        self.errors = np.abs(values - self._labels())
        for number in np.unique(self.numbers[self.numbers >= 0]):
            mine = self.numbers == number
            half_widths[mine] = self._half_widths(~mine)
        inside = np.where(np.isfinite(self.errors), self.errors <= half_widths, np.nan)
        coverage = np.array([_mean(column) for column in inside.T])
        r2 = [_r2(target.y, values[:, k]) for k, target in enumerate(self.city.targets)]
        return HeldOut(self.protocol, values, half_widths, coverage, LEVEL, np.array(r2))

    def _labels(self) -> Floats:
        return np.column_stack([target.y for target in self.city.targets])

    def _fit(self, X: Floats, fold: Fold, test: Ints) -> Floats:
        """Predictions `(K, len(test))`; nan for an indicator with too few labels."""
        found = np.full((len(self.city.targets), len(test)), np.nan)
        tasks, rows = [], []
        for k, target in enumerate(self.city.targets):
            y = np.append(target.y, np.full(len(X) - len(target.y), np.nan))
            train, validation = (part[np.isfinite(y[part])] for part in (fold.fit, fold.validation))
            if min(len(train), len(validation)) >= FEWEST:
                tasks.append(Task(y, fold.fit, train, validation, test))
                rows.append(k)
        safe = np.where(np.isfinite(X), X, 0.0)  # rows that no task names
        for k, fit in zip(rows, fit_ridge(safe, tasks, RidgeSettings(ALPHAS)), strict=True):
            found[k] = fit.predictions
        return found

    def _half_widths(self, rows: NDArray[np.bool_]) -> Floats:
        method = METHODS["block" if self.protocol == "block" else "split"]
        widths = np.full(self.errors.shape[1], np.nan)
        for k, errors in enumerate(self.errors.T):
            use = rows & np.isfinite(errors)
            if use.sum() >= FEWEST:
                widths[k], _ = method(errors[use], self.blocks[use], LEVEL)
        return widths


def fold_numbers(city: City, xy: Floats) -> tuple[str, Ints]:
    """The protocol, and the fold of each region: the stored districts, or drawn ones.

    Args:
        city: with its regions.
        xy: `(N, 2)` metres; nan where a region has no place.
    """
    regions = city.regions
    if "fold_block" in regions and regions["fold_block"].notna().all() and np.isfinite(xy).all():
        return "block", regions["fold_block"].to_numpy(np.int64)
    order = np.argsort(regions["region_id"].to_numpy(str), kind="stable")
    numbers = np.empty(len(regions), np.int64)
    numbers[order] = np.random.default_rng(0).permutation(len(regions)) % NUM_FOLDS
    return "random", numbers


def make_folds(
    numbers: Ints, known: NDArray[np.bool_], neighbourhood: Neighbourhood, protocol: str
) -> list[Fold]:
    """Each fold as test, the next one for validation, and the rest to fit on.

    Where folds are districts, regions too near to a later part than their own are left out.
    """
    names: Sequence[int] = np.unique(numbers).tolist()
    folds = []
    for position, name in enumerate(names):
        after = names[(position + 1) % len(names)]
        test = np.flatnonzero((numbers == name) & known)
        validation = np.flatnonzero((numbers == after) & known)
        fit = np.flatnonzero((numbers != name) & (numbers != after) & known)
        if protocol == "block":
            validation = validation[~neighbourhood.near(validation, test)]
            fit = fit[~neighbourhood.near(fit, np.concatenate([test, validation]))]
        folds.append(Fold(fit, validation, test))
    return [fold for fold in folds if len(fold.fit) >= FEWEST]


def _mean(column: Floats) -> float:
    known = column[np.isfinite(column)]
    return float(known.mean()) if len(known) else np.nan


def _r2(truth: Floats, prediction: Floats) -> float:
    both = np.isfinite(truth) & np.isfinite(prediction)
    spread = float(((truth[both] - truth[both].mean()) ** 2).sum()) if both.any() else 0.0
    return 1 - float(((truth - prediction)[both] ** 2).sum()) / spread if spread else np.nan


__all__ = ["Fold", "HeldOut", "Probes", "fold_numbers", "make_folds"]
