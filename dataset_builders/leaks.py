"""Search for API keys in files, before they are uploaded."""

import mmap
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import quote, quote_plus

import pyarrow as pa
import pyarrow.parquet as pq

from .errors import DatasetError

ROWS_AT_ONCE = 100
MIN_LENGTH = 6
"""Shorter values occur by chance and are ignored."""


def check_leaks(root: Path, names: Iterable[str], variables: Iterable[str]) -> None:
    """Raise if files contain the value of an environment variable, plain or percent-encoded.

    Parquet files are searched raw and decoded, since their pages are compressed.

    Args:
        root: Folder of the files.
        names: File names, relative to the folder.
        variables: Names of environment variables that hold keys.

    Raises:
        DatasetError: A value was found. The message names files and variables, never the value.
    """
    needles = {
        form.encode(): variable
        for variable in sorted(variables)
        if len(value := os.environ.get(variable, "")) >= MIN_LENGTH
        for form in (value, quote(value, safe=""), quote_plus(value))
    }
    if not needles:
        return
    found = {name: sorted(set(_found_in(root / name, needles))) for name in names}
    said = [f"{name} ({', '.join(held)})" for name, held in found.items() if held]
    if said:
        raise DatasetError(
            f"Files of {root} contain the value of an environment variable: {', '.join(said[:5])}"
            f"{f' and {len(said) - 5} more' if len(said) > 5 else ''}. Nothing was sent. Remove it "
            "from the recipe or the dataset, then build and publish again."
        )


def _found_in(path: Path, needles: dict[bytes, str]) -> Iterator[str]:
    if path.stat().st_size == 0:
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        yield from (variable for needle, variable in needles.items() if content.find(needle) >= 0)
    if path.suffix != ".parquet":
        return
    with pq.ParquetFile(path, pre_buffer=False) as table:
        for batch in table.iter_batches(batch_size=ROWS_AT_ONCE):
            rows = _plain(batch)
            yield from (variable for needle, variable in needles.items() if needle in rows)


def _plain(batch: pa.RecordBatch) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    return sink.getvalue().to_pybytes()


__all__ = ["check_leaks"]
