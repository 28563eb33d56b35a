"""Added value of embeddings over coordinates and over other tables.

Each system is scored with the ridge probe alone and concatenated with the other inputs: location,
or a free table such as precomputed Earth embeddings or counts of points of interest. Its added
value is the score of both minus that of the other input alone, on the same splits, with a
confidence interval from the paired block bootstrap of [`bootstrap`].
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..probe.predictions import read_summary
from ..probe.systems import COORDINATES, JOINT_PROBE, NO_VIEW, split_name
from .bootstrap import LEVEL, MEAN, REPLICATES, Array, DrawnCell, Name, drawn_cells, interval

KEY = ["protocol", "system", "view", "beside"]
COLUMNS = [*KEY, "indicator", "r2", "without", "added", "low", "high", "splits", "blocks"]


def added_table(folder: Path, replicates: int = REPLICATES) -> pd.DataFrame:
    """R2 of every system alone and in combination with other inputs, ridge probe.

    Args:
        folder: Results folder of one city.
        replicates: Number of bootstrap replicates.

    Returns:
        One row per protocol, system, view, `beside` and indicator, with the columns `COLUMNS`:

        - `beside`: Name of the input combined with the system; empty for the system alone.
          Controls with a ridge probe appear as systems alone.
        - `r2`: R2 of the combination, mean over splits.
        - `without`: R2 of the other input alone; NaN for a system alone.
        - `added`, `low`, `high`: `r2` minus `without` with its confidence interval; NaN for a
          system alone.
        - `splits`, `blocks`: Numbers of splits and blocks behind the interval.

        Scores are averaged over the trainings of a system. The indicator `mean` is the mean over
        the row's indicators. Systems are sorted by their mean R2 alone, best first.

    Raises:
        InputError: The folder has no results.
    """

    def by_ridge(protocol: str, indicator: str, name: Name) -> bool:
        return name[2] == JOINT_PROBE

    cells = drawn_cells(folder, replicates, wanted=by_ridge)
    return added_rows(cells, companions(folder))


def companions(folder: Path) -> dict[str, Name]:
    """Mapping of the inputs that systems are combined with to their results alone."""
    summary = read_summary(folder)
    views = {name: str(one["view"]) for name, one in summary["beside"].items()}
    return {
        name: (name, view, JOINT_PROBE) for name, view in {COORDINATES: NO_VIEW, **views}.items()
    }


@dataclass(frozen=True)
class _Drawn:
    """R2 with and without a system, each `(draws,)`; index 0 is the estimate on the sample."""

    r2: Array
    without: Array | None
    added: Array | None
    splits: int
    blocks: int

    @classmethod
    def mean(cls, parts: Collection["_Drawn"]) -> "_Drawn":
        """Mean over indicators."""

        def over(name: str) -> Any:
            values = [getattr(one, name) for one in parts]
            return None if values[0] is None else np.mean(values, axis=0)

        splits, blocks = min(one.splits for one in parts), max(one.blocks for one in parts)
        return cls(over("r2"), over("without"), over("added"), splits, blocks)


def added_rows(
    cells: Iterable[DrawnCell], companions: Mapping[str, Name], level: float = LEVEL
) -> pd.DataFrame:
    """Table of [`added_table`] from scores under shared bootstrap draws.

    Args:
        cells: Drawn scores, one per protocol and indicator.
        companions: Mapping returned by [`companions`].
        level: Confidence level of the intervals.
    """
    drawn: dict[tuple[str, str, str, str], dict[str, _Drawn]] = {}
    for cell in cells:
        for name in cell.systems:
            beside, system = split_name(name[0])
            other = companions.get(beside)
            if not beside or other in cell.systems:
                key = (cell.protocol, system, name[1], beside)
                drawn.setdefault(key, {})[cell.indicator] = _pair(cell, name, other)
    rows = [
        (*key, indicator, *_numbers(one, level))
        for key, own in drawn.items()
        for indicator, one in {MEAN: _Drawn.mean(own.values()), **own}.items()
    ]
    return _ordered(pd.DataFrame(rows, columns=COLUMNS))


def _pair(cell: DrawnCell, name: Name, other: Name | None) -> _Drawn:
    scores = cell.systems[name]
    if other is None:
        return _Drawn(scores.mean("r2"), None, None, len(scores.splits), cell.blocks)
    known = cell.systems[other]
    shared = len(scores.shared(known))
    added = scores.less(known, "r2")
    return _Drawn(scores.mean("r2"), known.mean("r2"), added, shared, cell.blocks)


def _numbers(one: _Drawn, level: float) -> tuple[float, ...]:
    if one.without is None or one.added is None:
        return (float(one.r2[0]), *[np.nan] * 4, one.splits, one.blocks)
    found = interval(one.added, level)
    return (float(one.r2[0]), float(one.without[0]), *astuple(found), one.splits, one.blocks)


def _ordered(table: pd.DataFrame) -> pd.DataFrame:
    """Sort by protocol, R2 of the system alone, and `beside` (empty, coordinates, others)."""
    alone = table[(table["beside"] == "") & (table["indicator"] == MEAN)]
    scores = alone.set_index(["protocol", "system", "view"])["r2"]
    known = pd.MultiIndex.from_frame(table[["protocol", "system", "view"]])
    return (
        table.assign(
            score=-scores.reindex(known).to_numpy(),
            rank=table["beside"].map({"": 0, COORDINATES: 1}).fillna(2),
        )
        .sort_values(["protocol", "score", "system", "view", "rank", "beside"], kind="stable")
        .drop(columns=["score", "rank"])
        .reset_index(drop=True)
    )


__all__ = ["COLUMNS", "added_rows", "added_table", "companions"]
