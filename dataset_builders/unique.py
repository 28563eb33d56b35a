"""Ids are unique over all files of a table: one rule, wherever a table is written or read.

A region that stands twice in a table lies in the training and in the test part of the same split,
and every score computed from it is too high.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from .errors import DatasetError
from .schema import key_columns

KEYS_AT_ONCE = 1 << 16
SHOWN = 3
REMEDY = "Remove the rows or the file that were copied in, or write the table anew."


class RepeatedIdError(DatasetError):
    """An id occurs in more than one row of a table."""


class SeenKeys:
    """The keys of the rows seen so far, at 8 bytes per key.

    Keys are compared by a 64-bit hash: the probability that two of ten million different keys are
    taken for equal is 3e-6.
    """

    def __init__(self) -> None:
        self._runs: list[NDArray[np.uint64]] = []  # sorted, each over twice as long as the next

    def __len__(self) -> int:
        return sum(map(len, self._runs))

    def copy(self) -> "SeenKeys":
        """An independent copy; costs nothing, since runs are never changed."""
        other = SeenKeys()
        other._runs = list(self._runs)
        return other

    def add(self, keys: pd.DataFrame) -> pd.DataFrame:
        """Add the keys of some rows, one column per key column.

        Returns:
            The rows whose key an earlier row has, in this call or one before.
        """
        hashes = pd.util.hash_pandas_object(keys, index=False, categorize=False).to_numpy()
        repeats = np.ones(len(hashes), dtype=bool)
        repeats[np.unique(hashes, return_index=True)[1]] = False
        for run in self._runs:
            place = np.minimum(np.searchsorted(run, hashes), len(run) - 1)
            repeats |= run[place] == hashes
        fresh = np.sort(hashes[~repeats]).astype(np.uint64)
        # merging runs of similar length keeps the cost at n log n
        while len(fresh) and self._runs and len(self._runs[-1]) <= 2 * len(fresh):
            fresh = np.sort(np.concatenate([self._runs.pop(), fresh]), kind="stable")
        self._runs += [fresh] * bool(len(fresh))
        return keys[repeats]


def key_frame(rows: pa.Table, columns: Sequence[str]) -> pd.DataFrame:
    """The key columns of rows as text, so that 1 and 1.0 are the same key."""
    texts = [pc.cast(rows[name], pa.large_string()) for name in columns]
    return pa.table(texts, names=list(columns)).to_pandas()


def require_unique(
    parts: Iterable[pd.DataFrame], where: str, remedy: str = REMEDY, seen: SeenKeys | None = None
) -> None:
    """Refuse a table in which two rows have the same key.

    Args:
        parts: the keys of the rows, one column per key column; read one part at a time.
        where: name of the table, for the message.
        remedy: what to do about it, for the message.
        seen: keys of earlier rows; those of `parts` are added.

    Raises:
        RepeatedIdError: gives the number of repeats and the first of them.
    """
    seen = SeenKeys() if seen is None else seen
    found = [repeats for part in parts if len(repeats := seen.add(part))]
    if not found:
        return
    repeats = pd.concat(found)
    distinct = repeats.drop_duplicates()
    shown = [" + ".join(map(str, key)) for key in distinct.head(SHOWN).itertuples(index=False)]
    more = ", ..." if len(distinct) > SHOWN else ""
    raise RepeatedIdError(
        f"{where}: {_count(len(repeats), 'row')} {'repeat' if len(repeats) > 1 else 'repeats'} the "
        f"{' + '.join(map(str, repeats.columns))} of an earlier row ({', '.join(shown)}{more}; "
        f"{_count(len(distinct), 'id')} in all). Each must be unique in the whole table. {remedy}"
    )


def require_unique_shards(paths: Sequence[Path], table: str, where: str) -> None:
    """Refuse a table in Parquet files in which two rows have the same key.

    The outcome is cached, by path, size and time of every file.

    Raises:
        RepeatedIdError: see [`require_unique`].
    """
    stats = [(str(path), path.stat()) for path in paths]
    files = tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)
    _check_files(where, table, files)


def shard_keys(path: Path, table: str) -> Iterator[pd.DataFrame]:
    """The keys of a Parquet file's rows in parts; nothing if it has no id."""
    with pq.ParquetFile(path, pre_buffer=False) as file:
        if columns := key_columns(table, file.schema_arrow.names):
            for batch in file.iter_batches(KEYS_AT_ONCE, columns=columns):
                yield key_frame(pa.Table.from_batches([batch]), columns)


@lru_cache(maxsize=64)
def _check_files(where: str, table: str, files: tuple[tuple[str, int, int], ...]) -> None:
    require_unique((keys for path, _, _ in files for keys in shard_keys(Path(path), table)), where)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


__all__ = [
    "KEYS_AT_ONCE",
    "REMEDY",
    "RepeatedIdError",
    "SeenKeys",
    "key_frame",
    "require_unique",
    "require_unique_shards",
    "shard_keys",
]
