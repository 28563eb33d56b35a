"""Paired block bootstrap of scores and of differences between systems.

Errors of neighbouring regions are correlated, so blocks of the block protocol are resampled instead
of regions, also for random splits. Each region is in the test sets of several splits, and a
resampled block counts in all of them: treating splits as independent would make the intervals too
narrow.

Scores of a system with several trainings are computed per training, under the same resampled
blocks, and averaged; averaging predictions would evaluate an ensemble instead. The interval does
not include the variance between trainings; [`claims`] resamples the trainings too.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..embed.trainings import members
from ..errors import InputError
from ..probe.predictions import (
    NO_RESULTS,
    PREDICTIONS_FOLDER,
    SUMMARY_FILE,
    PredictedSplit,
    predicted_splits,
    read_summary,
)
from ..probe.systems import joint_name, split_name

Array = NDArray[np.float64]
Name = tuple[str, str, str]  # system, view, probe

REPLICATES = 2000
LEVEL = 0.95
METRICS = ("r2", "rmse")
ROUNDING = 1e-12  # differences of equal scores due to the order of summation
MEAN = "mean"  # pseudo-indicator: mean over all indicators
DIFFERENCES_FILE = "differences.json"  # in the city's folder, written by the report


@dataclass(frozen=True)
class Interval:
    """Estimate with its confidence interval."""

    estimate: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Difference:
    """Difference between a system and a reference on one indicator under one protocol.

    Attributes:
        indicator: Predicted indicator; `mean` is the mean over all shared indicators, for R2 only
            because errors of different indicators have different scales.
        splits: Number of shared splits.
        blocks: Number of blocks with test regions.
        intervals: Metric to interval of `system - reference`; higher is better for `r2`, lower for
            `rmse`.
    """

    system: str
    view: str
    probe: str
    reference: str
    reference_view: str
    reference_probe: str
    protocol: str
    indicator: str
    splits: int
    blocks: int
    intervals: dict[str, Interval]


@dataclass(frozen=True)
class Reference:
    """Reference system; a view or probe of None matches that of the compared system."""

    system: str
    view: str | None = None
    probe: str | None = None

    def name(self, other: Name) -> Name:
        """Name of the reference for a given system."""
        return self.system, self.view or other[1], self.probe or other[2]


@dataclass(frozen=True)
class DrawnScores:
    """Scores of a system on one indicator for every bootstrap draw; draw 0 is the sample.

    Attributes:
        splits: Split seeds.
        scores: Metric to `(splits, draws)` scores, averaged over trainings and probe seeds.
    """

    splits: tuple[int, ...]
    scores: Mapping[str, Array]

    def shared(self, other: "DrawnScores") -> list[int]:
        """Split seeds of both systems."""
        return [seed for seed in self.splits if seed in other.splits]

    def mean(self, metric: str) -> Array:
        """`(draws,)` scores, averaged over splits."""
        return _mean_over_splits(self.scores[metric])

    def less(self, other: "DrawnScores", metric: str) -> Array:
        """`(draws,)` differences `self - other`, averaged over the shared splits."""
        shared = self.shared(other)
        mine, others = (
            one.scores[metric][[one.splits.index(seed) for seed in shared]] for one in (self, other)
        )
        return _mean_over_splits(mine - others)


@dataclass(frozen=True)
class DrawnCell:
    """Scores of all systems on one indicator and protocol, under shared draws.

    Attributes:
        blocks: Number of blocks with test regions.
        systems: System, view and probe to drawn scores.
    """

    protocol: str
    indicator: str
    blocks: int
    systems: dict[Name, DrawnScores]


COORDINATES = Reference("coordinates", "none", "knn")


def draw_blocks(num_blocks: int, replicates: int, seed: int) -> Array:
    """`(replicates, num_blocks)` bootstrap counts of each block; rows sum to `num_blocks`."""
    rng = np.random.default_rng(seed)
    share = np.full(num_blocks, 1 / num_blocks)
    return rng.multinomial(num_blocks, share, replicates).astype(float)


def interval(values: Array, level: float = LEVEL) -> Interval:
    """Percentile interval of `(draws,)` values, the first of which is the estimate."""
    values = np.where(np.abs(values) < ROUNDING, 0.0, values)
    tail = (1 - level) / 2
    low, high = np.nanquantile(values[1:], [tail, 1 - tail])
    return Interval(float(values[0]), float(low), float(high))


def drawn_r2(truth: Array, predictions: Array, blocks: NDArray[np.int64]) -> Array:
    """Bootstrap R2 of several predictions of one test set, under shared draws of blocks.

    Args:
        truth: `(n,)` true values.
        predictions: `(k, n)` predictions.
        blocks: `(n,)` block number of each region.

    Returns:
        `(k, 1 + REPLICATES)` scores; the first column is the score on the sample.

    Raises:
        InputError: All regions lie in one block.
    """
    names, counts = draw_counts([blocks], REPLICATES)
    return _scores(truth, predictions, np.searchsorted(names, blocks), counts)["r2"]


def draw_counts(
    blocks: Iterable[NDArray[np.int64]], replicates: int, seed: int = 0
) -> tuple[NDArray[np.int64], Array]:
    """Block numbers, and the `(1 + replicates, B)` counts of each block; row 0 is the sample.

    Raises:
        InputError: All regions lie in one block.
    """
    names = np.unique(np.concatenate(list(blocks)))
    if len(names) < 2:
        raise InputError("All test regions lie in one block: a block bootstrap needs two or more.")
    counts = draw_blocks(len(names), replicates, seed)
    return names, np.concatenate([np.ones((1, len(names))), counts])


def _scores(
    truth: Array, predictions: Array, numbers: NDArray[np.int64], counts: Array
) -> dict[str, Array]:
    """R2 and RMSE, each `(k, draws)`, of `(k, n)` predictions; NaN for draws without regions."""
    y = truth - truth.mean()  # numerically stable sums of squares
    columns = np.concatenate([[np.ones_like(y), y, np.square(y)], np.square(predictions - truth)])
    member = np.zeros((len(truth), counts.shape[1]))
    member[np.arange(len(truth)), numbers] = 1
    n, total, square, *errors = (columns @ member) @ counts.T
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = square - np.square(total) / n
        spread = np.where(spread > 1e-12 * square, spread, np.nan)
        return {"r2": 1 - np.stack(errors) / spread, "rmse": np.sqrt(np.stack(errors) / n)}


def _mean_over_splits(values: Array) -> Array:
    """Mean of `(splits, draws)` over the finite scores of each draw."""
    defined = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.where(defined, values, 0.0).sum(0) / defined.sum(0)


def read_splits(
    folder: Path, protocol: str, part: str = PREDICTIONS_FOLDER
) -> list[PredictedSplit]:
    """[`predicted_splits`], read once for all statistics of a city; not to be changed."""
    files = [folder / SUMMARY_FILE, *sorted((folder / part).glob("*.parquet"))]
    times = tuple((path, path.stat().st_mtime_ns) for path in files if path.is_file())
    return _read_splits(folder, protocol, part, times)


@lru_cache(maxsize=4)
def _read_splits(folder: Path, protocol: str, part: str, times: object) -> list[PredictedSplit]:
    return predicted_splits(folder, protocol, part)


def drawn_cells(
    folder: Path,
    replicates: int = REPLICATES,
    wanted: Callable[[str, str, Name], bool] = lambda protocol, indicator, name: True,
    by_training: bool = False,
) -> Iterator[DrawnCell]:
    """Bootstrap scores of all systems of a results folder, one cell per protocol and indicator.

    Only rows comparable with the latest run are used, as in the report. Blocks are drawn from those
    with test regions of any indicator, so draws are shared by all indicators of a protocol. A
    protocol whose test regions lie in one block has no cells.

    Args:
        folder: Results folder of one city.
        replicates: Number of bootstrap replicates.
        wanted: Predicate on protocol, indicator and name that selects systems to score.
        by_training: Whether to score each training of a system separately, by its label.

    Raises:
        InputError: The folder has no results.
    """
    if not (folder / PREDICTIONS_FOLDER).is_dir():
        raise InputError(NO_RESULTS.format(folder))
    systems = read_summary(folder)["systems"]
    group_of = (lambda name: name) if by_training else group_names(systems)
    for protocol in ("block", "random"):
        splits = read_splits(folder, protocol)
        if len({block for split in splits for block in split.blocks.tolist()}) < 2:
            continue
        names, counts = draw_counts((split.blocks for split in splits), replicates)
        by_indicator: dict[str, list[PredictedSplit]] = {}
        for split in splits:
            by_indicator.setdefault(split.indicator, []).append(split)
        for own in by_indicator.values():
            kept = []
            for split in own:
                chosen = {
                    name: predictions
                    for name, predictions in split.predictions.items()
                    if wanted(protocol, split.indicator, group_of(name))
                }
                kept += [replace(split, predictions=chosen)] if chosen else []
            if kept:
                yield draw_cell(kept, names, counts, group_of)


def group_names(systems: Mapping[str, Mapping[str, Any]]) -> Callable[[Name], Name]:
    """Function from the name of a training to that of its system; controls are unchanged.

    Args:
        systems: Label to table metadata, as in probe.json.
    """
    known = {label: group for group, labels in members(systems).items() for label in labels}

    def of(name: Name) -> Name:
        label, view, probe = name
        beside, own = split_name(label)
        return joint_name(beside, known.get(own, own)), view, probe

    return of


def draw_cell(
    splits: Sequence[PredictedSplit],
    names: NDArray[np.int64],
    counts: Array,
    group_of: Callable[[Name], Name] = lambda name: name,
) -> DrawnCell:
    """Score all systems on one indicator under shared draws.

    Args:
        splits: Predictions of one protocol and indicator.
        names: `(B,)` block numbers, ascending.
        counts: `(1 + draws, B)` counts of each block, from [`draw_counts`].
        group_of: Function from the name of a training to that of its system.
    """
    found: dict[Name, dict[int, dict[str, Array]]] = {}
    for split in splits:
        numbers = np.searchsorted(names, split.blocks)
        predictions = np.concatenate(list(split.predictions.values()))
        rows = np.repeat(range(len(split.predictions)), list(map(len, split.predictions.values())))
        owners: dict[Name, list[Array]] = {}
        for number, (name, own) in enumerate(split.predictions.items()):
            # equal weight per training, whatever its number of probe seeds
            owners.setdefault(group_of(name), []).append((rows == number) / len(own))
        mixing = np.stack([np.mean(weights, axis=0) for weights in owners.values()])
        for metric, values in _scores(split.truth, predictions, numbers, counts).items():
            for name, scores in zip(owners, _mix(mixing, values), strict=True):
                found.setdefault(name, {}).setdefault(split.split_seed, {})[metric] = scores
    systems = {
        name: DrawnScores(
            tuple(own),
            {metric: np.stack([one[metric] for one in own.values()]) for metric in METRICS},
        )
        for name, own in found.items()
    }
    blocks = len(np.unique(np.concatenate([split.blocks for split in splits])))
    return DrawnCell(splits[0].protocol, splits[0].indicator, blocks, systems)


def _mix(weights: Array, values: Array) -> Array:
    """`weights @ values`, NaN in every column of `values` with a NaN."""
    undefined = ~np.isfinite(values).all(0)
    mixed = weights @ np.where(undefined, 0.0, values)
    mixed[:, undefined] = np.nan
    return mixed


def compare(folder: Path, reference: Reference, replicates: int = REPLICATES) -> list[Difference]:
    """Differences of all systems from one reference; see [`compare_all`]."""
    return compare_all(folder, [reference], replicates)[0]


def compare_all(
    folder: Path, references: Sequence[Reference], replicates: int = REPLICATES
) -> list[list[Difference]]:
    """Differences of all systems of a results folder from each reference.

    Systems without a split shared with the reference (other indicators or views) are skipped.

    Args:
        folder: Results folder of one city.
        references: References, e.g. [`COORDINATES`], or `Reference("clip-b16")` for the frozen
            model with the same view and probe; several trainings are named by their group.
        replicates: Number of bootstrap replicates.

    Returns:
        Differences per reference, sorted by protocol, indicator, system, view and probe, followed
        by the means over indicators of each protocol.

    Raises:
        InputError: The folder has no results, or none of a reference.
    """
    known: set[str] = set()
    found: list[list[Difference]] = [[] for _ in references]
    sums: list[dict[tuple[str, Name], list[tuple[int, int, Array]]]] = [{} for _ in references]
    for cell in drawn_cells(folder, replicates):
        known |= {name[0] for name in cell.systems}
        for reference, mine, total in zip(references, found, sums, strict=True):
            for name in sorted(cell.systems):
                other = reference.name(name)
                if other == name or other not in cell.systems:
                    continue
                first, second = cell.systems[name], cell.systems[other]
                counts = len(first.shared(second)), cell.blocks
                if not counts[0]:
                    continue
                drawn = {metric: first.less(second, metric) for metric in METRICS}
                made = {metric: interval(values) for metric, values in drawn.items()}
                mine.append(Difference(*name, *other, cell.protocol, cell.indicator, *counts, made))
                total.setdefault((cell.protocol, name), []).append((*counts, drawn["r2"]))
    for reference, mine, total in zip(references, found, sums, strict=True):
        if known and reference.system not in known:
            raise InputError(
                f"No system {reference.system!r} in {folder}; there are: "
                f"{', '.join(sorted(known))}."
            )
        for protocol, name in sorted(key for key, parts in total.items() if len(parts) > 1):
            splits, blocks, values = zip(*total[protocol, name], strict=True)
            made = {"r2": interval(np.mean(values, axis=0))}
            counts = min(splits), max(blocks)
            mine.append(Difference(*name, *reference.name(name), protocol, MEAN, *counts, made))
    return found


__all__ = [
    "COORDINATES",
    "DIFFERENCES_FILE",
    "MEAN",
    "Difference",
    "DrawnCell",
    "DrawnScores",
    "Interval",
    "Reference",
    "compare",
    "compare_all",
    "draw_blocks",
    "draw_cell",
    "draw_counts",
    "drawn_cells",
    "drawn_r2",
    "group_names",
    "interval",
    "read_splits",
]
