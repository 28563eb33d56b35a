"""Parquet tables of candidates and rejects."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter

from dataset_builders.files import atomic_path
from dataset_builders.schema import features

from .records import Candidate

AUDIT_COLUMNS: dict[str, str] = {
    "candidate": "int32",
    "chosen": "bool",
    "view": "string",
    "image_sha256": "string",
    "model_revision": "string",
    "generated": "string",
    "finish_reason": "string",
    "object_f1": "float64",
    "attribute_f1": "float64",
    "relation_f1": "float64",
    "cross_model_score": "float64",
    "details": "string",
    "phrases": "string",
    "flags": "string",
    "sampling": "string",
    "usage": "string",
}
"""Columns in addition to those of `<city>-captions` in all datasets; the last five are JSON."""
JSON_COLUMNS = ("details", "phrases", "flags", "sampling", "usage")
SCORE_COLUMNS = {
    "score": "score",
    "object_f1": "object_f1",
    "attribute_f1": "attribute_f1",
    "relation_f1": "relation_f1",
    "cross_model_score": "cross_model",
}
CANDIDATES = features("captions", (), AUDIT_COLUMNS).arrow_schema.remove_metadata()
REJECTS = pa.schema(
    [(name, pa.string()) for name in ("image_id", "stage", "model", "reason", "detail")]
    + [("attempts", pa.int32())]
)
_CANDIDATE = TypeAdapter(Candidate)


@dataclass(frozen=True)
class Reject:
    """A failure; `stage` is "image" if the image is unusable or has no caption."""

    image_id: str
    stage: str
    model: str
    reason: str
    detail: str = ""
    attempts: int = 1


def write_candidates(path: Path, candidates: Iterable[Candidate]) -> None:
    """Write a table of candidates atomically."""
    _write(path, [_row(one) for one in candidates], CANDIDATES)


def read_candidates(paths: Sequence[Path]) -> Iterator[Candidate]:
    """Yield the candidates of several tables in stored order."""
    for path in paths:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(256):
                yield from map(_candidate, batch.to_pylist())


def write_rejects(path: Path, rejects: Iterable[Reject]) -> None:
    """Write a sorted table of rejects atomically; it may be empty."""
    rows = sorted(map(asdict, rejects), key=lambda row: tuple(map(str, row.values())))
    _write(path, rows, REJECTS)


def read_rejects(paths: Sequence[Path]) -> Iterator[Reject]:
    """Yield the rejects of several tables."""
    for path in paths:
        for row in pq.read_table(path).to_pylist():
            yield Reject(**row)


def _write(path: Path, rows: list[dict[str, Any]], schema: pa.Schema) -> None:
    with atomic_path(path) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, schema), temporary, compression="zstd")


def _row(one: Candidate) -> dict[str, Any]:
    row = asdict(one)
    scores, row["candidate"] = row.pop("scores"), row.pop("index")
    row |= {column: scores[name] for column, name in SCORE_COLUMNS.items()}
    row |= {
        name: json.dumps(row[name], ensure_ascii=False, sort_keys=True) for name in JSON_COLUMNS
    }
    return row | {"kept": not one.drop_reason, "drop_reason": one.drop_reason or None}


def _candidate(row: dict[str, Any]) -> Candidate:
    row |= {name: json.loads(row[name]) for name in JSON_COLUMNS}
    row["scores"] = {name: row.pop(column) for column, name in SCORE_COLUMNS.items()}
    row["index"], row["drop_reason"] = row.pop("candidate"), row["drop_reason"] or ""
    del row["kept"]
    return _CANDIDATE.validate_python(row)
