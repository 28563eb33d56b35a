"""How sure a difference between two systems is: a paired bootstrap over blocks of regions.

Neighbouring regions err alike, so regions are not drawn one by one but by the blocks of the block
protocol, for random splits too. A region is tested in several splits, so a drawn block counts in
all splits at once: taking the splits for independent would make intervals too narrow. What is not
in the interval is the chance of training: the predictions are taken as they are.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from .errors import InputError
from .predictions import BLOCK_COLUMN, PREDICTIONS_FOLDER, current_predictions

Array = NDArray[np.float64]
Name = tuple[str, str, str]  # system, view, probe

REPLICATES = 2000
LEVEL = 0.95
METRICS = ("r2", "rmse")
CELL = ["protocol", "indicator"]
SYSTEM = ["system", "view", "probe"]


@dataclass(frozen=True)
class PairedSplit:
    """The test regions of one split, predicted by two systems.

    Attributes:
        truth: `(n,)`.
        first: `(n,)` predictions of the one.
        second: `(n,)` predictions of the other.
        blocks: `(n,)` number of each region's block, the same in all splits.
    """

    truth: Array
    first: Array
    second: Array
    blocks: NDArray[np.int64]


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
        indicator: what is predicted.
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


COORDINATES = Reference("coordinates", "none", "knn")


def paired_bootstrap(
    splits: Sequence[PairedSplit],
    replicates: int = REPLICATES,
    level: float = LEVEL,
    seed: int = 0,
) -> dict[str, Interval]:
    """Differences of R2 and RMSE, means over splits, with percentile intervals.

    A replicate draws as many blocks as there are, with replacement, and weighs every region by how
    often its block was drawn.

    Args:
        splits: one at least.
        replicates: of the bootstrap.
        level: of the interval.
        seed: of the draws.

    Returns:
        For each of `METRICS`, the interval of `first - second`.

    Raises:
        InputError: there is no split, or the regions all lie in one block.
    """
    if not splits:
        raise InputError("The two systems share no split, so there is nothing to compare.")
    names, numbers = np.unique(np.concatenate([s.blocks for s in splits]), return_inverse=True)
    if len(names) < 2:
        raise InputError("All test regions lie in one block: no interval can be drawn from it.")
    counts = draw_blocks(len(names), replicates, seed)
    counts = np.concatenate([np.ones((1, len(names))), counts])  # the sample itself, then the draws
    parts = np.split(numbers, np.cumsum([len(split.blocks) for split in splits])[:-1])
    by_split = [_differences(s, part, counts) for s, part in zip(splits, parts, strict=True)]
    tail = (1 - level) / 2
    intervals = {}
    for metric in METRICS:
        values = _mean_over_splits(np.stack([found[metric] for found in by_split]))
        low, high = np.nanquantile(values[1:], [tail, 1 - tail])
        intervals[metric] = Interval(float(values[0]), float(low), float(high))
    return intervals


def draw_blocks(num_blocks: int, replicates: int, seed: int) -> Array:
    """How often each block is drawn, `(replicates, num_blocks)`; rows sum to `num_blocks`."""
    rng = np.random.default_rng(seed)
    share = np.full(num_blocks, 1 / num_blocks)
    return rng.multinomial(num_blocks, share, replicates).astype(float)


def _differences(
    split: PairedSplit, numbers: NDArray[np.int64], counts: Array
) -> dict[str, NDArray[np.float64]]:
    """Differences under each weighting of blocks; nan where a draw leaves nothing to score."""
    y = split.truth - split.truth.mean()  # squares of small numbers keep their digits
    squares = [np.square(p - split.truth) for p in (split.first, split.second)]
    columns = [np.ones_like(y), y, np.square(y), *squares]
    sums = [np.bincount(numbers, column, minlength=counts.shape[1]) for column in columns]
    n, total, square, first, second = (counts @ np.stack(sums, axis=1)).T
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = square - np.square(total) / n
        spread = np.where(spread > 1e-12 * square, spread, np.nan)
        return {
            "r2": (second - first) / spread,
            "rmse": np.sqrt(first / n) - np.sqrt(second / n),
        }


def _mean_over_splits(values: Array) -> Array:
    """Of `(splits, draws)`, over the splits that a draw leaves something of."""
    defined = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.where(defined, values, 0.0).sum(0) / defined.sum(0)


def compare(
    folder: Path, reference: Reference, replicates: int = REPLICATES, level: float = LEVEL
) -> list[Difference]:
    """Every system of a results folder against a reference.

    Rows of other regions, labels, settings or vectors than the latest run's are left out, as in the
    report. Systems that share no split with the reference (an indicator it is not scored on, a view
    it does not have) are left out too.

    Args:
        folder: of one city's results.
        reference: what to compare with: [`COORDINATES`], or `Reference("clip-b16")` for the frozen
            model under the same view and probe.
        replicates: of the bootstrap.
        level: of the intervals.

    Returns:
        In the order of protocol, indicator, system, view and probe.

    Raises:
        InputError: there are no results, or the reference is not among them.
    """
    frame = current_predictions(folder, PREDICTIONS_FOLDER)
    if not (frame["system"] == reference.system).any():
        known = ", ".join(sorted(frame["system"].unique()))
        raise InputError(f"No system {reference.system!r} in {folder}; there are: {known}.")
    found = []
    for cell, group in frame.groupby(CELL):
        systems = {cast(Name, name): mine for name, mine in group.groupby(SYSTEM)}
        for name, mine in systems.items():
            other = (reference.system, reference.view or name[1], reference.probe or name[2])
            if other in systems and other != name:
                splits = list(_pairs(mine, systems[other]))
                if splits:
                    pair = cast(tuple[str, str], cell)
                    found.append(_difference(name, other, pair, splits, replicates, level))
    return found


def _difference(
    name: Name,
    other: Name,
    cell: tuple[str, str],
    splits: Sequence[PairedSplit],
    replicates: int,
    level: float,
) -> Difference:
    intervals = paired_bootstrap(splits, replicates, level)
    blocks = len(np.unique(np.concatenate([split.blocks for split in splits])))
    return Difference(*name, *other, *cell, len(splits), blocks, intervals)


def _pairs(mine: pd.DataFrame, other: pd.DataFrame) -> Iterator[PairedSplit]:
    """Splits that both have; draws of a probe that both have are paired, else all with all."""
    names = {"prediction": "other_prediction", "probe_seed": "other_seed"}
    columns = ["split_seed", "probe_seed", "region_id", "prediction"]
    joined = mine.merge(other[columns].rename(columns=names), on=["split_seed", "region_id"])
    draws = joined.groupby("split_seed")[["probe_seed", "other_seed"]].nunique()
    if (draws > 1).all(axis=None):
        joined = joined[joined["probe_seed"] == joined["other_seed"]]
    for _, split in joined.groupby(["split_seed", "probe_seed", "other_seed"]):
        yield PairedSplit(
            split["truth"].to_numpy(),
            split["prediction"].to_numpy(),
            split["other_prediction"].to_numpy(),
            split[BLOCK_COLUMN].to_numpy(),
        )


__all__ = [
    "COORDINATES",
    "Difference",
    "Interval",
    "PairedSplit",
    "Reference",
    "compare",
    "draw_blocks",
    "paired_bootstrap",
]
