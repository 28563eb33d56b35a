"""Conformal prediction intervals from validation residuals, and their coverage on test regions.

Two methods set the half-width of the intervals around the predictions:

- `split`: split conformal prediction (Lei et al., "Distribution-Free Predictive Inference for
  Regression", JASA 2018), the quantile of the absolute validation residuals. It assumes that test
  and validation regions are exchangeable, which does not hold for new districts.
- `block`: hierarchical conformal prediction (Lee, Barber, Willett, "Distribution-free inference
  with hierarchical data", 2023, arXiv:2306.06342), which assumes exchangeable *blocks*: validation
  blocks have equal weights, and the unseen test block a residual of infinity. With fewer than
  `1 / (1 - level) - 1` blocks the quantile is infinite; the largest residual is used instead, and
  `guaranteed` is False.

The validation regions are also used to choose hyper-parameters, so neither method is exact: refer
to the measured coverage.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dataset_builders.files import write_json

from ..probe.predictions import VALIDATION_FOLDER
from ..probe.splits import PROTOCOLS
from .bootstrap import read_splits

Array = NDArray[np.float64]
Method = Callable[[Array, NDArray[np.int64], float], tuple[float, bool]]

LEVEL = 0.9
INTERVALS_FILE = "intervals.json"


@dataclass(frozen=True)
class Coverage:
    """Coverage of the prediction intervals of one system on one indicator, mean over splits.

    Attributes:
        method: `split` or `block`.
        level: Nominal coverage.
        coverage: Share of test regions within their interval.
        coverage_low: Lowest coverage of any split.
        half_width: Half-width of the intervals, on the transformed scale.
        guaranteed: Share of splits whose validation set is large enough for the level.
        splits: Number of splits.
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
    """Half-width by split conformal prediction.

    Args:
        residuals: `(n,)` absolute validation residuals.
        blocks: Unused.
        level: Nominal coverage.

    Returns:
        The `ceil((n + 1) level)`-th smallest residual, or the largest if there are too few; and
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
        residuals: `(n,)` absolute validation residuals.
        blocks: `(n,)` block number of each region.
        level: Nominal coverage.

    Returns:
        The weighted `level` quantile of the residuals, each of the K blocks with a total weight of
        `1 / (K + 1)` and infinity with the rest, or the largest residual if the quantile is
        infinite; and whether it is finite.
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
    """Measure the coverage of prediction intervals and write it to `<folder>/intervals.json`.

    Args:
        folder: Results folder of one city.
        level: Nominal coverage.

    Returns:
        Coverage sorted by protocol, indicator, system, view, probe and method.

    Raises:
        InputError: The folder has no results.
    """
    found = []
    for protocol in sorted(PROTOCOLS):
        validation = {
            (split.indicator, split.split_seed): split
            for split in read_splits(folder, protocol, VALIDATION_FOLDER)
        }
        by_row: dict[tuple[str, str, str, str, str, str], list[tuple[float, float, bool]]] = {}
        for test in read_splits(folder, protocol):
            known = validation[test.indicator, test.split_seed]
            for name, predictions in test.predictions.items():
                for method, half_width in METHODS.items():
                    row = (protocol, test.indicator, *name, method)
                    measured = by_row.setdefault(row, [])
                    for own, one in zip(known.predictions[name], predictions, strict=True):
                        residuals = np.abs(known.truth - own)
                        width, guaranteed = half_width(residuals, known.blocks, level)
                        covered = np.abs(test.truth - one) <= width
                        measured.append((float(covered.mean()), width, guaranteed))
        for row, measured in sorted(by_row.items()):
            values = np.array(measured, dtype=float)
            share, width, enough = values.mean(0).tolist()
            lowest = float(values[:, 0].min())
            found.append(Coverage(*row, level, share, lowest, width, enough, len(measured)))
    write_json(folder / INTERVALS_FILE, [asdict(one) for one in found])
    return found


__all__ = [
    "INTERVALS_FILE",
    "METHODS",
    "Coverage",
    "block_half_width",
    "measure_coverage",
    "split_half_width",
]
