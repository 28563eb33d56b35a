"""Paired block bootstrap of a score, and of the difference between two systems.

Neighbouring regions have similar errors, so blocks of the block protocol are resampled instead of
regions, under random splits too. A region is tested in several splits, and a resampled block counts
in all of them at once: treating splits as independent would make the intervals too narrow.

A system with several trainings is scored training by training, under the same resampled blocks, and
goes by the mean of those scores. The mean prediction would be another system, an ensemble. The
interval does not cover the randomness of training; [`claims`] draws the trainings too.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..embed.trainings import members
from ..errors import InputError
from ..probe.predictions import (
    NO_RESULTS,
    PREDICTIONS_FOLDER,
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
ROUNDING = 1e-12  # below it, equal scores differ by their order of summation
MEAN = "mean"  # in place of an indicator: over all of them
DIFFERENCES_FILE = "differences.json"  # of a city, where the report writes them


@dataclass(frozen=True)
class Interval:
    """A difference `first - second` with its confidence interval."""

    estimate: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the two differ beyond what the draw of blocks explains."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Difference:
    """A system against a reference, on one indicator under one protocol.

    Attributes:
        system: whose row it is; with `view` and `probe`.
        view: of the system.
        probe: of the system.
        reference: the system it is compared with.
        reference_view: its view.
        reference_probe: its probe.
        protocol: of the splits.
        indicator: what is predicted; `mean`: over all indicators that both are scored on, of R2
            alone, for errors are on scales of their own.
        splits: that both have.
        blocks: in which any test region lies.
        intervals: metric -> interval of `system - reference`: above 0 is better for `r2`, below 0
            for `rmse`.
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
    """What all others are compared with; a view or a probe of None is that of the other."""

    system: str
    view: str | None = None
    probe: str | None = None

    def name(self, other: Name) -> Name:
        """As it is beside another system."""
        return self.system, self.view or other[1], self.probe or other[2]


@dataclass(frozen=True)
class DrawnScores:
    """A system's scores on one indicator under every draw of blocks; the first is the sample.

    Attributes:
        splits: seeds of the splits.
        scores: metric -> `(splits, draws)`, means over trainings and seeds of the probe.
    """

    splits: tuple[int, ...]
    scores: Mapping[str, Array]

    def shared(self, other: "DrawnScores") -> list[int]:
        """Seeds of the splits that both have."""
        return [seed for seed in self.splits if seed in other.splits]

    def mean(self, metric: str) -> Array:
        """`(draws,)`: the score, mean over the splits."""
        return _mean_over_splits(self.scores[metric])

    def less(self, other: "DrawnScores", metric: str) -> Array:
        """`(draws,)`: the score less that of another, mean over the splits that both have."""
        shared = self.shared(other)
        mine, others = (
            one.scores[metric][[one.splits.index(seed) for seed in shared]] for one in (self, other)
        )
        return _mean_over_splits(mine - others)


@dataclass(frozen=True)
class DrawnCell:
    """All systems on one indicator under one protocol, under the same draws.

    Attributes:
        protocol: of the splits.
        indicator: what is predicted.
        blocks: in which any test region lies.
        systems: by system, view and probe.
    """

    protocol: str
    indicator: str
    blocks: int
    systems: dict[Name, DrawnScores] = field(default_factory=dict)


COORDINATES = Reference("coordinates", "none", "knn")


def draw_blocks(num_blocks: int, replicates: int, seed: int) -> Array:
    """How often each block is drawn, `(replicates, num_blocks)`; rows sum to `num_blocks`."""
    rng = np.random.default_rng(seed)
    share = np.full(num_blocks, 1 / num_blocks)
    return rng.multinomial(num_blocks, share, replicates).astype(float)


def interval(values: Array, level: float = LEVEL) -> Interval:
    """Of `(draws,)` differences, the first of which is the estimate."""
    values = np.where(np.abs(values) < ROUNDING, 0.0, values)
    tail = (1 - level) / 2
    low, high = np.nanquantile(values[1:], [tail, 1 - tail])
    return Interval(float(values[0]), float(low), float(high))


def drawn_r2(
    truth: Array,
    predictions: Array,
    blocks: NDArray[np.int64],
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Array:
    """R2 of predictions on one test set, under the same draws of blocks for all.

    Args:
        truth: `(n,)`.
        predictions: `(k, n)`.
        blocks: `(n,)` number of each region's block.
        replicates: number of draws.
        seed: seed of the draws.

    Returns:
        `(k, 1 + replicates)`; the first column is the sample itself.

    Raises:
        InputError: the regions all lie in one block.
    """
    names, counts = draw_counts([blocks], replicates, seed)
    return _scores(truth, predictions, np.searchsorted(names, blocks), counts)["r2"]


def draw_counts(
    blocks: Iterable[NDArray[np.int64]], replicates: int, seed: int
) -> tuple[NDArray[np.int64], Array]:
    """Numbers of the blocks, and how often each counts: in the sample, then in each draw.

    Raises:
        InputError: The regions all lie in one block.
    """
    names = np.unique(np.concatenate(list(blocks)))
    if len(names) < 2:
        raise InputError("All test regions lie in one block: a block bootstrap needs two or more.")
    counts = draw_blocks(len(names), replicates, seed)
    return names, np.concatenate([np.ones((1, len(names))), counts])


def _scores(
    truth: Array, predictions: Array, numbers: NDArray[np.int64], counts: Array
) -> dict[str, Array]:
    """R2 and RMSE of `(k, n)` predictions under every weighting of blocks, each `(k, draws)`.

    nan where a draw leaves nothing to score.
    """
    y = truth - truth.mean()  # squares of small numbers keep their digits
    columns = np.concatenate([[np.ones_like(y), y, np.square(y)], np.square(predictions - truth)])
    member = np.zeros((len(truth), counts.shape[1]))
    member[np.arange(len(truth)), numbers] = 1
    n, total, square, *errors = (columns @ member) @ counts.T
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = square - np.square(total) / n
        spread = np.where(spread > 1e-12 * square, spread, np.nan)
        return {"r2": 1 - np.stack(errors) / spread, "rmse": np.sqrt(np.stack(errors) / n)}


def _mean_over_splits(values: Array) -> Array:
    """Of `(splits, draws)`, over the splits that a draw leaves something of."""
    defined = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.where(defined, values, 0.0).sum(0) / defined.sum(0)


def drawn_cells(
    folder: Path,
    replicates: int = REPLICATES,
    seed: int = 0,
    wanted: Callable[[str, str, Name], bool] = lambda protocol, indicator, name: True,
    by_training: bool = False,
) -> Iterator[DrawnCell]:
    """Every system of a results folder under the same draws, indicator by indicator.

    Rows of other regions, labels, settings or vectors than the latest run's are left out, as in the
    report. The trainings of a system are one: see above. The blocks that are drawn are those with a
    test region of the protocol, so that draws are the same for all indicators.

    Args:
        folder: of one city's results.
        replicates: of the bootstrap.
        seed: of the draws.
        wanted: tells by protocol, indicator and name which systems to score.
        by_training: keep the trainings of a system apart, by their labels.

    Raises:
        InputError: there are no results.
    """
    if not (folder / PREDICTIONS_FOLDER).is_dir():
        raise InputError(NO_RESULTS.format(folder))
    systems = read_summary(folder)["systems"]
    group_of = (lambda name: name) if by_training else group_names(systems)
    for protocol in ("block", "random"):
        splits = predicted_splits(folder, protocol)
        if not splits:
            continue
        names, counts = draw_counts((split.blocks for split in splits), replicates, seed)
        by_indicator: dict[str, list[PredictedSplit]] = {}
        for split in splits:
            by_indicator.setdefault(split.indicator, []).append(split)
        for own in by_indicator.values():
            kept = [
                replace(
                    split,
                    predictions={
                        name: predictions
                        for name, predictions in split.predictions.items()
                        if wanted(protocol, split.indicator, group_of(name))
                    },
                )
                for split in own
            ]
            if kept := [split for split in kept if split.predictions]:
                yield draw_cell(kept, names, counts, group_of)


def group_names(systems: Mapping[str, Mapping[str, Any]]) -> Callable[[Name], Name]:
    """Name of a training -> name of the system it is a training of; a control is its own.

    Args:
        systems: Label -> metadata of its table, as in probe.json.
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
    """Score all systems on one indicator under the same draws.

    Args:
        splits: Of one protocol and indicator.
        names: `(B,)` numbers of the blocks, ascending.
        counts: `(1 + draws, B)` how often each block counts, see [`draw_counts`].
        group_of: Name of a training -> name of its system.
    """
    found: dict[Name, dict[int, dict[str, Array]]] = {}
    for split in splits:
        numbers = np.searchsorted(names, split.blocks)
        predictions = np.concatenate(list(split.predictions.values()))
        owners: dict[Name, list[Array]] = {}
        start = 0
        for name, own in split.predictions.items():
            # trainings weigh the same, however often a probe was drawn for each
            weight = np.zeros(len(predictions))
            weight[start : start + len(own)] = 1 / len(own)
            owners.setdefault(group_of(name), []).append(weight)
            start += len(own)
        mixing = np.stack([np.mean(weights, axis=0) for weights in owners.values()])
        for metric, values in _scores(split.truth, predictions, numbers, counts).items():
            for name, scores in zip(owners, _mix(mixing, values), strict=True):
                found.setdefault(name, {}).setdefault(split.split_seed, {})[metric] = scores
    first = splits[0]
    blocks = len(np.unique(np.concatenate([split.blocks for split in splits])))
    return DrawnCell(
        first.protocol,
        first.indicator,
        blocks,
        {
            name: DrawnScores(
                tuple(own),
                {metric: np.stack([one[metric] for one in own.values()]) for metric in METRICS},
            )
            for name, own in found.items()
        },
    )


def _mix(weights: Array, values: Array) -> Array:
    """`weights @ values` where whole columns may be nan."""
    undefined = ~np.isfinite(values).all(0)
    mixed = weights @ np.where(undefined, 0.0, values)
    mixed[:, undefined] = np.nan
    return mixed


def compare(
    folder: Path, reference: Reference, replicates: int = REPLICATES, level: float = LEVEL
) -> list[Difference]:
    """Every system of a results folder against a reference; see [`compare_all`]."""
    return compare_all(folder, [reference], replicates, level)[0]


def compare_all(
    folder: Path,
    references: Sequence[Reference],
    replicates: int = REPLICATES,
    level: float = LEVEL,
) -> list[list[Difference]]:
    """Every system of a results folder against each of some references.

    Systems that share no split with the reference (an indicator it is not scored on, a view it does
    not have) are left out.

    Args:
        folder: of one city's results.
        references: what to compare with: [`COORDINATES`], or `Reference("clip-b16")` for the frozen
            model under the same view and probe. A system of several trainings goes by its group.
        replicates: of the bootstrap.
        level: of the intervals.

    Returns:
        For each reference, in the order of protocol, indicator, system, view and probe; the means
        over indicators of a protocol come last.

    Raises:
        InputError: there are no results, or a reference is not among them.
    """
    cells = drawn_cells(folder, replicates)
    known: set[str] = set()
    found: list[list[Difference]] = [[] for _ in references]
    sums: list[dict[tuple[str, Name], list[tuple[int, int, Array]]]] = [{} for _ in references]
    for cell in cells:
        known |= {name[0] for name in cell.systems}
        for reference, mine, total in zip(references, found, sums, strict=True):
            for name in sorted(cell.systems):
                other = reference.name(name)
                if other == name or other not in cell.systems:
                    continue
                pair = cell.systems[name], cell.systems[other]
                shared = len(pair[0].shared(pair[1]))
                if not shared:
                    continue
                drawn = {metric: pair[0].less(pair[1], metric) for metric in METRICS}
                made = {metric: interval(values, level) for metric, values in drawn.items()}
                mine.append(
                    Difference(
                        *name, *other, cell.protocol, cell.indicator, shared, cell.blocks, made
                    )
                )
                of_pair = total.setdefault((cell.protocol, name), [])
                of_pair.append((shared, cell.blocks, drawn["r2"]))
    for reference, mine, total in zip(references, found, sums, strict=True):
        if reference.system not in known:
            raise InputError(
                f"No system {reference.system!r} in {folder}; there are: "
                f"{', '.join(sorted(known))}."
            )
        mine += [
            _mean_difference(name, reference, protocol, parts, level)
            for (protocol, name), parts in sorted(total.items(), key=lambda item: item[0])
            if len(parts) > 1
        ]
    return found


def _mean_difference(
    name: Name,
    reference: Reference,
    protocol: str,
    parts: Sequence[tuple[int, int, Array]],
    level: float,
) -> Difference:
    splits, blocks, drawn = zip(*parts, strict=True)
    made = {"r2": interval(np.mean(np.stack(drawn), axis=0), level)}
    return Difference(
        *name, *reference.name(name), protocol, MEAN, min(splits), max(blocks), made
    )  # fmt: skip


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
]
