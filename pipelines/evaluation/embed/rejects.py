"""Table of images and regions without a vector, and the reasons."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from dataset_builders.parquet import write_parquet

SCHEMA = pa.schema([(name, pa.string()) for name in ("table", "item", "reason", "detail")])


@dataclass(frozen=True)
class Reject:
    """Image or region without a vector."""

    table: str
    item: str
    reason: str
    detail: str


def write_rejects(path: Path, rejects: Sequence[Reject]) -> None:
    """Write the table of rejects atomically; it may be empty."""
    table = pa.Table.from_pylist([vars(reject) for reject in rejects], schema=SCHEMA)
    write_parquet(path, table)


__all__ = ["Reject", "write_rejects"]
