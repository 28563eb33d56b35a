"""Prediction intervals from validation residuals, with the coverage they have on test regions.

Two ways to set the half-width, both around the probe's prediction:

- `split`: split-conformal (Lei et al., "Distribution-Free Predictive Inference for Regression",
  JASA 2018): the quantile of the absolute residuals of all validation regions. It presumes that a
  test region is exchangeable with them, which a region of a new district is not.
- `block`: hierarchical conformal prediction (Lee, Barber, Willett, "Distribution-free inference
  with hierarchical data", 2023, arXiv:2306.06342): every block of validation regions counts the
  same, and one block more, the unseen one, counts as infinitely far. It presumes that *blocks* are
  exchangeable. Where there are fewer than `1 / (1 - level) - 1` blocks that infinite one lies
  within the quantile: the largest residual is taken, and `guaranteed` says so.

The validation regions also chose the probe's hyper-parameters, so neither is exact: read the
measured coverage.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dataset_builders.files import write_json

from ..probe.predictions import VALIDATION_FOLDER, PredictedSplit, predicted_splits
from ..probe.splits import PROTOCOLS

Array = NDArray[np.float64]
Method = Callable[[Array, NDArray[np.int64], float], tuple[float, bool]]

LEVEL = 0.9
INTERVALS_FILE = "intervals.json"


@dataclass(frozen=True)
class Coverage:
    """Prediction intervals of one system on one indicator, means over splits.

    Attributes:
        protocol: of the splits.
        indicator: what is predicted.
        system: whose predictions; with `view` and `probe`.
        view: of the system.
        probe: of the system.
        method: `split` or `block`.
        level: the coverage aimed at.
        coverage: share of test regions within their interval.
        coverage_low: that of the split that has least.
        half_width: of the intervals, on the scale that is scored.
        guaranteed: share of the splits whose validation set is large enough for the level.
        splits: averaged over.
    """

    protocol: str
    indicator: str
    system: str
    view: str
    probe: str
    method: str
    level: float
    coverage: float
    coverage_low: float
    half_width: float
    guaranteed: float
    splits: int


def split_half_width(
    residuals: Array, blocks: NDArray[np.int64], level: float
) -> tuple[float, bool]:
    """Half-width by split-conformal; blocks are not looked at.

    Args:
        residuals: `(n,)` absolute, of validation regions.
        blocks: `(n,)`.
        level: the coverage aimed at.

    Returns:
        The `ceil((n + 1) level)`-th smallest residual, or the largest where there are too few; and
        whether there are enough.
    """
    rank = math.ceil((len(residuals) + 1) * level - 1e-9)
    ordered = np.sort(residuals)
    return float(ordered[min(rank, len(ordered)) - 1]), rank <= len(ordered)


def block_half_width(
    residuals: Array, blocks: NDArray[np.int64], level: float
) -> tuple[float, bool]:
    """Half-width by hierarchical conformal prediction.

    Args:
        residuals: `(n,)` absolute, of validation regions.
        blocks: `(n,)` number of each region's block.
        level: the coverage aimed at.

    Returns:
        The `level` quantile of the residuals where each of K blocks weighs `1 / (K + 1)`, spread
        evenly over its regions, and infinity weighs the rest; the largest residual where that is
        infinite; and whether it is not.
    """
    _, members, sizes = np.unique(blocks, return_inverse=True, return_counts=True)
    weights = 1 / sizes[members] / (len(sizes) + 1)
    order = np.argsort(residuals, kind="stable")
    reached = np.flatnonzero(np.cumsum(weights[order]) >= level - 1e-9)
    if not len(reached):
        return float(residuals.max()), False
    return float(residuals[order[reached[0]]]), True


METHODS: dict[str, Method] = {"split": split_half_width, "block": block_half_width}


def measure_coverage(folder: Path, level: float = LEVEL) -> list[Coverage]:
    """Intervals of every system of a results folder, and their coverage on its test regions.

    Args:
        folder: of one city's results.
        level: the coverage aimed at.

    Returns:
        In the order of protocol, indicator, system, view, probe and method. They are also written
        to `intervals.json` in the folder.

    Raises:
        InputError: there are no results.
    """
    found = []
    for protocol in sorted(PROTOCOLS):
        validation = {
            (split.indicator, split.split_seed): split
            for split in predicted_splits(folder, protocol, VALIDATION_FOLDER)
        }
        by_row: dict[tuple[str, str, str, str, str, str], list[tuple[float, float, bool]]] = {}
        for test in predicted_splits(folder, protocol):
            known = validation[test.indicator, test.split_seed]
            for name, predictions in test.predictions.items():
                for method, half_width in METHODS.items():
                    row = (protocol, test.indicator, *name, method)
                    by_row.setdefault(row, []).extend(
                        _measure(known, test, own, one, half_width, level)
                        for own, one in zip(known.predictions[name], predictions, strict=True)
                    )
        for row, measured in sorted(by_row.items()):
            shares, widths, guaranteed = np.array(measured, dtype=float).T
            found.append(
                Coverage(
                    *row,
                    level=level,
                    coverage=float(shares.mean()),
                    coverage_low=float(shares.min()),
                    half_width=float(widths.mean()),
                    guaranteed=float(guaranteed.mean()),
                    splits=len(measured),
                )
            )
    write_json(folder / INTERVALS_FILE, [asdict(one) for one in found])
    return found


def _measure(
    validation: PredictedSplit,
    test: PredictedSplit,
    validated: Array,
    tested: Array,
    half_width: Method,
    level: float,
) -> tuple[float, float, bool]:
    residuals = np.abs(validation.truth - validated)
    width, guaranteed = half_width(residuals, validation.blocks, level)
    return float((np.abs(test.truth - tested) <= width).mean()), width, guaranteed


__all__ = [
    "INTERVALS_FILE",
    "METHODS",
    "Coverage",
    "block_half_width",
    "measure_coverage",
    "split_half_width",
]
