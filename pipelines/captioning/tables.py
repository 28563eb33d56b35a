"""Candidates and rejects as Parquet: the layout's columns first, the audit trail after them."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dataset_builders.files import atomic_path

from .records import Box, Candidate, LocalCaption, Phrase, Sampling, Scores, Usage, View

# the table of captions of every dataset, then what this pipeline knows beyond it
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
_LAYOUT = {
    "image_id": "string",
    "model": "string",
    "prompt_version": "string",
    "stage": "string",
    "text": "string",
    "score": "float64",
    "kept": "bool",
    "drop_reason": "string",
}
_TYPES = {"string": pa.string(), "float64": pa.float64(), "bool": pa.bool_(), "int32": pa.int32()}
CANDIDATES = pa.schema([(name, _TYPES[kind]) for name, kind in (_LAYOUT | AUDIT_COLUMNS).items()])
REJECTS = pa.schema(
    [
        ("image_id", pa.string()),
        ("stage", pa.string()),
        ("model", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("attempts", pa.int32()),
    ]
)


@dataclass(frozen=True)
class Reject:
    """Something that could not be done, and why.

    Attributes:
        image_id: of the image.
        stage: where it failed; "image" if the image itself cannot be used or got no caption.
        model: that was asked, if any.
        reason: a short code.
        detail: what was found.
        attempts: it took.
    """

    image_id: str
    stage: str
    model: str
    reason: str
    detail: str = ""
    attempts: int = 1


def write_candidates(path: Path, candidates: Iterable[Candidate]) -> None:
    """Write a table of candidates, whole or not at all."""
    rows = [_row(candidate) for candidate in candidates]
    with atomic_path(path) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, CANDIDATES), temporary, compression="zstd")


def read_candidates(paths: Sequence[Path], batch_size: int = 256) -> Iterator[Candidate]:
    """The candidates of several tables, in stored order."""
    for path in paths:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size):
                yield from map(_candidate, batch.to_pylist())


def write_rejects(path: Path, rejects: Iterable[Reject]) -> None:
    """Write a table of rejects, whole or not at all; no row is a table too."""
    rows = sorted(
        (asdict(reject) for reject in rejects), key=lambda row: tuple(map(str, row.values()))
    )
    with atomic_path(path) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, REJECTS), temporary, compression="zstd")


def read_rejects(paths: Sequence[Path]) -> Iterator[Reject]:
    """The rejects of several tables."""
    for path in paths:
        for row in pq.read_table(path).to_pylist():
            yield Reject(**row)


def _row(one: Candidate) -> dict[str, Any]:
    return {
        "image_id": one.image_id,
        "model": one.model,
        "prompt_version": one.prompt_version,
        "stage": one.stage,
        "text": one.text,
        "score": one.scores.score,
        "kept": not one.drop_reason,
        "drop_reason": one.drop_reason or None,
        "candidate": one.index,
        "chosen": one.chosen,
        "view": one.view,
        "image_sha256": one.image_sha256,
        "model_revision": one.model_revision,
        "generated": one.generated,
        "finish_reason": one.finish_reason,
        "object_f1": one.scores.object_f1,
        "attribute_f1": one.scores.attribute_f1,
        "relation_f1": one.scores.relation_f1,
        "cross_model_score": one.scores.cross_model,
        "details": _json([asdict(detail) for detail in one.details]),
        "phrases": _json([asdict(phrase) for phrase in one.phrases]),
        "flags": _json(list(one.flags)),
        "sampling": _json(asdict(one.sampling)),
        "usage": _json(asdict(one.usage)),
    }


def _candidate(row: Mapping[str, Any]) -> Candidate:
    details = [
        LocalCaption(Box(**one["box"]), one["text"], one["reason"])
        for one in json.loads(row["details"])
    ]
    view: View = row["view"]
    return Candidate(
        image_id=row["image_id"],
        image_sha256=row["image_sha256"],
        view=view,
        model=row["model"],
        model_revision=row["model_revision"],
        prompt_version=row["prompt_version"],
        index=row["candidate"],
        sampling=Sampling(**json.loads(row["sampling"])),
        stage=row["stage"],
        text=row["text"],
        generated=row["generated"],
        finish_reason=row["finish_reason"],
        details=tuple(details),
        phrases=tuple(Phrase(**one) for one in json.loads(row["phrases"])),
        flags=tuple(json.loads(row["flags"])),
        drop_reason=row["drop_reason"] or "",
        scores=Scores(
            row["score"],
            row["object_f1"],
            row["attribute_f1"],
            row["relation_f1"],
            row["cross_model_score"],
        ),
        chosen=row["chosen"],
        usage=Usage(**json.loads(row["usage"])),
    )


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


__all__ = [
    "AUDIT_COLUMNS",
    "CANDIDATES",
    "REJECTS",
    "Reject",
    "read_candidates",
    "read_rejects",
    "write_candidates",
    "write_rejects",
]
