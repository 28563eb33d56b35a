"""Added value of embeddings over coordinates and over other tables.

Each system is scored with the ridge probe alone and concatenated with the other inputs: location,
or a free table such as precomputed Earth embeddings or counts of points of interest. Its added
value is the score of both minus that of the other input alone, on the same splits, with a
confidence interval from the paired block bootstrap of [`bootstrap`].
"""

from collections.abc import Iterable, Mapping
from dataclasses import astuple
from pathlib import Path

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
    cells = drawn_cells(folder, replicates, lambda _, __, name: name[2] == JOINT_PROBE)
    return added_rows(cells, companions(folder))


def companions(folder: Path) -> dict[str, Name]:
    """Mapping of the inputs that systems are combined with to their results alone."""
    summary = read_summary(folder)
    views = {name: str(one["view"]) for name, one in summary["beside"].items()}
    return {
        name: (name, view, JOINT_PROBE) for name, view in {COORDINATES: NO_VIEW, **views}.items()
    }


def added_rows(
    cells: Iterable[DrawnCell], companions: Mapping[str, Name], level: float = LEVEL
) -> pd.DataFrame:
    """Table of [`added_table`] from scores under shared bootstrap draws.

    Args:
        cells: Drawn scores, one per protocol and indicator.
        companions: Mapping returned by [`companions`].
        level: Confidence level of the intervals.
    """
    # indicator to scores of both, of the other input alone, and their difference; splits, blocks
    drawn: dict[tuple[str, str, str, str], dict[str, tuple[Array, int, int]]] = {}
    for cell in cells:
        for name, scores in cell.systems.items():
            beside, system = split_name(name[0])
            values, splits = [scores.mean("r2")], len(scores.splits)
            if beside:
                if (other := companions.get(beside)) not in cell.systems:
                    continue
                known = cell.systems[other]
                values += [known.mean("r2"), scores.less(known, "r2")]
                splits = len(scores.shared(known))
            own = drawn.setdefault((cell.protocol, system, name[1], beside), {})
            own[cell.indicator] = np.stack(values), splits, cell.blocks
    rows = []
    for key, own in drawn.items():
        scored, shared, districts = zip(*own.values(), strict=True)
        mean = np.mean(scored, axis=0), min(shared), max(districts)
        for indicator, (both, *counts) in {MEAN: mean, **own}.items():
            added = (both[1, 0], *astuple(interval(both[2], level))) if key[3] else [np.nan] * 4
            rows.append((*key, indicator, both[0, 0], *added, *counts))
    return _ordered(pd.DataFrame(rows, columns=COLUMNS))


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
