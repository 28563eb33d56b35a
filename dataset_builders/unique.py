"""Unique ids over all files of a table, checked wherever a table is written or read.

A duplicate region can be in the training and the test part of a split, which inflates every score.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from .errors import DatasetError
from .parquet import open_shard
from .schema import check_types, key_columns

KEYS_AT_ONCE = 1 << 16
SHOWN = 3
REMEDY = "Remove the duplicate rows or file, or write the table again."


class RepeatedIdError(DatasetError):
    """Raised when an id occurs in more than one row of a table."""


def repeats(keys: pd.DataFrame, seen: set[int]) -> pd.DataFrame:
    """Rows whose key occurred in an earlier row, of this call or a previous one.

    Keys are compared by a 64-bit hash: the probability of a collision among ten million different
    keys is 3e-6.

    Args:
        keys: One column per key column.
        seen: Hashes of earlier keys; those of `keys` are added.
    """
    hashes = pd.util.hash_pandas_object(keys, index=False, categorize=False)
    known = hashes.duplicated() | hashes.map(seen.__contains__)
    seen.update(hashes.tolist())
    return keys[known.to_numpy(dtype=bool)]


def key_frame(rows: pa.Table, columns: Sequence[str]) -> pd.DataFrame:
    """Key columns of rows as text, which makes 1 and 1.0 the same key."""
    texts = [pc.cast(rows[name], pa.large_string()) for name in columns]
    return pa.table(texts, names=list(columns)).to_pandas()


def require_unique(
    parts: Iterable[pd.DataFrame], where: str, remedy: str = REMEDY, seen: set[int] | None = None
) -> None:
    """Raise if two rows of a table have the same key.

    Args:
        parts: Keys of the rows, one column per key column; read one part at a time.
        where: Name of the table, for the message.
        remedy: Advice, for the message.
        seen: Hashes of earlier keys, see [`repeats`].

    Raises:
        RepeatedIdError: There are duplicate keys; the message counts them and shows the first.
    """
    seen = set() if seen is None else seen
    found = [twice for part in parts if len(twice := repeats(part, seen))]
    if not found:
        return
    rows = pd.concat(found)
    distinct = rows.drop_duplicates()
    shown = [" + ".join(map(str, key)) for key in distinct.head(SHOWN).itertuples(index=False)]
    more = ", ..." if len(distinct) > SHOWN else ""
    raise RepeatedIdError(
        f"{where}: {_count(len(rows), 'row')} {'repeat' if len(rows) > 1 else 'repeats'} the "
        f"{' + '.join(map(str, rows.columns))} of an earlier row ({', '.join(shown)}{more}; "
        f"{_count(len(distinct), 'id')} in all). Each must be unique in the whole table. {remedy}"
    )


def require_unique_shards(paths: Sequence[Path], table: str, where: str) -> None:
    """Raise if the Parquet files of a table have duplicate keys, or columns of the wrong type.

    Results are cached by path, size and modification time of every file.

    Raises:
        RepeatedIdError: See [`require_unique`].
        DatasetError: See [`check_types`][dataset_builders.schema.check_types].
    """
    stats = [(str(path), path.stat()) for path in paths]
    files = tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)
    _check_files(where, table, files)


def shard_keys(path: Path, table: str) -> Iterator[pd.DataFrame]:
    """Keys of a Parquet file, in parts; nothing if it has no id."""
    with open_shard(path) as file:
        if columns := key_columns(table, file.schema_arrow.names):
            for batch in file.iter_batches(KEYS_AT_ONCE, columns=columns):
                yield key_frame(pa.Table.from_batches([batch]), columns)


@lru_cache(maxsize=64)
def _check_files(where: str, table: str, files: tuple[tuple[str, int, int], ...]) -> None:
    for path, _, _ in files:
        with open_shard(Path(path)) as file:
            check_types(table, file.schema_arrow, where)
    require_unique((keys for path, _, _ in files for keys in shard_keys(Path(path), table)), where)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


__all__ = [
    "KEYS_AT_ONCE",
    "REMEDY",
    "RepeatedIdError",
    "key_frame",
    "repeats",
    "require_unique",
    "require_unique_shards",
    "shard_keys",
]
