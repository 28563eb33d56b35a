"""What gave no vector, and why: the table beside every table of vectors."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from dataset_builders.parquet import write_parquet

SCHEMA = pa.schema([(name, pa.string()) for name in ("table", "item", "reason", "detail")])


@dataclass(frozen=True)
class Reject:
    """An image or a region that gave no vector, and why."""

    table: str
    item: str
    reason: str
    detail: str


def write_rejects(path: Path, rejects: Sequence[Reject]) -> None:
    """Write the rejects atomically; a table without rows if there are none."""
    table = pa.Table.from_pylist([vars(reject) for reject in rejects], schema=SCHEMA)
    write_parquet(path, table)


__all__ = ["Reject", "write_rejects"]
