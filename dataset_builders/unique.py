"""Uniqueness of ids: one rule for every table, wherever it is written or read.

A repeated id is never a matter of taste. A region that stands twice in a table lies in the training
and in the test part of the same split, and every score that rests on it is too high.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from .errors import DatasetError

SHOWN = 3
REMEDY = "Remove the rows or the file that were copied in, or write the table anew."


class RepeatedIdError(DatasetError):
    """An id stands in more than one row of a table."""


class SeenKeys:
    """The keys of a table's rows, of which 8 bytes each are kept.

    Keys are compared by a 64-bit hash: among ten million of them, two different ones are taken for
    equal with a probability of 3e-6.
    """

    def __init__(self) -> None:
        self._runs: list[NDArray[np.uint64]] = []  # sorted, each over twice as long as the next

    def __len__(self) -> int:
        return sum(map(len, self._runs))

    def copy(self) -> "SeenKeys":
        """An independent copy; takes no time, for runs are never changed."""
        other = SeenKeys()
        other._runs = list(self._runs)
        return other

    def add(self, keys: pd.DataFrame) -> pd.DataFrame:
        """Add the keys of some rows.

        Args:
            keys: one row per row of the table, one column per column of its key.

        Returns:
            Those of the rows whose key an earlier row has, of this call or one before.
        """
        hashes = pd.util.hash_pandas_object(keys, index=False, categorize=False).to_numpy()
        repeats = np.ones(len(hashes), dtype=bool)
        repeats[np.unique(hashes, return_index=True)[1]] = False
        for run in self._runs:
            place = np.minimum(np.searchsorted(run, hashes), len(run) - 1)
            repeats |= run[place] == hashes
        self._push(np.sort(hashes[~repeats]))
        return keys[repeats]

    def _push(self, run: NDArray[np.uint64]) -> None:
        if not len(run):
            return
        # merging runs of similar length makes n keys cost n log n, however they come
        while self._runs and len(self._runs[-1]) <= 2 * len(run):
            run = np.sort(np.concatenate([self._runs.pop(), run]), kind="stable")
        self._runs.append(run)


def key_frame(rows: pa.Table, columns: Sequence[str]) -> pd.DataFrame:
    """The key columns of rows as text, so that 1 and 1.0 are one number in columns of any type."""
    texts = [pc.cast(rows[name], pa.large_string()) for name in columns]
    return pa.table(texts, names=list(columns)).to_pandas()


def check_stream(parts: Iterable[pd.DataFrame], where: str, remedy: str = REMEDY) -> None:
    """Refuse a table that comes in parts, in memory that hardly grows with it.

    Args:
        parts: the keys of its rows, see [`key_frame`].
        where: name of the table, for the message.
        remedy: what to do about it, a sentence.

    Raises:
        RepeatedIdError: with the number of repeats and the first of them.
    """
    seen = SeenKeys()
    found = [repeats for part in parts if len(repeats := seen.add(part))]
    if found:
        refuse_repeats(pd.concat(found), where, remedy)


def require_unique(keys: pd.DataFrame, where: str, remedy: str = REMEDY) -> None:
    """Refuse a table in which two rows have the same key.

    Args:
        keys: one row per row of the table, one column per column of its key.
        where: name of the table, for the message.
        remedy: what to do about it, a sentence.

    Raises:
        RepeatedIdError: with the number of repeats and the first of them.
    """
    refuse_repeats(keys[keys.duplicated()], where, remedy)


def refuse_repeats(repeats: pd.DataFrame, where: str, remedy: str = REMEDY) -> None:
    """Raise an error that names rows whose key another row has; do nothing if there is none.

    Args:
        repeats: the keys of those rows.
        where: name of the table, for the message.
        remedy: what to do about it, a sentence.

    Raises:
        RepeatedIdError: there is any.
    """
    if not len(repeats):
        return
    distinct = repeats.drop_duplicates()
    shown = ", ".join(_shown(row) for row in distinct.head(SHOWN).to_dict("records"))
    more = ", ..." if len(distinct) > SHOWN else ""
    raise RepeatedIdError(
        f"{where}: {_count(len(repeats), 'row')} {'repeat' if len(repeats) > 1 else 'repeats'} the "
        f"{' + '.join(map(str, repeats.columns))} of an earlier row ({shown}{more}; "
        f"{_count(len(distinct), 'id')} in all). Each must be unique in the whole table. {remedy}"
    )


def _shown(row: dict[Any, Any]) -> str:
    return " + ".join(str(value) for value in row.values())


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


__all__ = [
    "REMEDY",
    "RepeatedIdError",
    "SeenKeys",
    "check_stream",
    "key_frame",
    "refuse_repeats",
    "require_unique",
]
