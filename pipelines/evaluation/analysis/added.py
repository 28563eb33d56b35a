"""What vectors add to what is known without them: alone, beside coordinates, beside other tables.

The question of a planner who holds images: what do they tell that the place, or a free table such
as precomputed Earth embeddings or counts of points of interest, does not tell already? Every system
is scored by the ridge probe alone, and with its vectors beside the others. What it adds is the
score of both less that of the others alone, on the same splits, with an interval by the paired
block bootstrap of [`bootstrap`].
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ..probe.predictions import read_summary
from ..probe.systems import COORDINATES, JOINT_PROBE, NO_VIEW, split_name
from .bootstrap import LEVEL, MEAN, REPLICATES, Array, DrawnCell, Name, drawn_cells, interval

KEY = ["protocol", "system", "view", "beside"]
COLUMNS = [*KEY, "indicator", "r2", "without", "added", "low", "high", "splits", "blocks"]


def added_table(folder: Path, replicates: int = REPLICATES, level: float = LEVEL) -> pd.DataFrame:
    """What every system of a results folder scores alone and adds to others, by ridge.

    Args:
        folder: Results of one city.
        replicates: Replicates of the bootstrap.
        level: Level of the intervals.

    Returns:
        One row per protocol, system, view, `beside` and indicator, with the columns `COLUMNS`:

        - `beside`: What the vectors stand beside; empty for vectors alone. The controls that have a
          ridge probe are there as systems alone.
        - `r2`: R2 of the vectors with what is beside them, mean over splits.
        - `without`: R2 of what is beside them alone; NaN where nothing is.
        - `added`, `low`, `high`: `r2` less `without`, and its interval; NaN for vectors alone.
        - `splits`, `blocks`: How many the interval rests on.

        A system with several trainings goes by the mean of their scores. The indicator `mean` is
        the mean over the indicators that the row has. Systems come in the order of their mean R2
        alone, the best first.

    Raises:
        InputError: There are no results.
    """

    def by_ridge(protocol: str, indicator: str, name: Name) -> bool:
        return name[2] == JOINT_PROBE

    cells = drawn_cells(folder, replicates, wanted=by_ridge)
    return added_rows(cells, companions(folder), level)


def companions(folder: Path) -> dict[str, Name]:
    """What the systems of a results folder stand beside -> the row that it has alone."""
    summary = read_summary(folder)
    views = {name: str(one["view"]) for name, one in summary["beside"].items()}
    return {
        name: (name, view, JOINT_PROBE) for name, view in {COORDINATES: NO_VIEW, **views}.items()
    }


@dataclass(frozen=True)
class _Drawn:
    """R2 with and without, `(draws,)` each, the first of the sample itself; and what is shared."""

    r2: Array
    without: Array | None
    added: Array | None
    splits: int
    blocks: int

    @classmethod
    def mean(cls, parts: Collection["_Drawn"]) -> "_Drawn":
        """Over indicators."""

        def over(name: str) -> Array | None:
            values = [getattr(one, name) for one in parts]
            return None if values[0] is None else np.mean(np.stack(values), axis=0)

        return cls(
            np.mean(np.stack([one.r2 for one in parts]), axis=0),
            over("without"),
            over("added"),
            min(one.splits for one in parts),
            max(one.blocks for one in parts),
        )


def added_rows(
    cells: Iterable[DrawnCell], companions: Mapping[str, Name], level: float = LEVEL
) -> pd.DataFrame:
    """The table of [`added_table`], from scores under the same draws of blocks.

    Args:
        cells: One per protocol and indicator.
        companions: See [`companions`].
        level: Level of the intervals.
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
    without = float(one.without[0])
    return (
        float(one.r2[0]),
        without,
        found.estimate,
        found.low,
        found.high,
        one.splits,
        one.blocks,
    )


def _ordered(table: pd.DataFrame) -> pd.DataFrame:
    """By protocol, best system alone, then alone, beside coordinates and beside the rest."""
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
