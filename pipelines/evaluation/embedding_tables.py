"""The table of region vectors: where embedding and probing meet.

One Parquet file a system: `region_id`, `n_street_views`, `n_satellite` and for each view a
fixed-size list of float32, null where the region has no image of it. The schema metadata
`urbanln` says where the vectors come from.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dataset_builders.files import atomic_path, digest
from dataset_builders.schema import VIEWS

from .errors import InputError

METADATA_KEY = b"urbanln"
COUNT_COLUMNS = {"street_view": "n_street_views", "satellite": "n_satellite"}
BOTH = "both"
NOT_VECTORS = "{path} is no embedding table ({why}). Make one with `python evaluate.py embed`."


@dataclass(frozen=True)
class EmbeddingTable:
    """Vectors of a city's regions by one encoder.

    Attributes:
        label: name of the system in tables and plots.
        metadata: of the file: encoder, city, dataset, rejects...
        region_ids: `(N,)`.
        vectors: view -> `(N, D)` float32, rows of nan where the region has no image.
        hash: of the vectors.
    """

    label: str
    metadata: dict[str, Any]
    region_ids: list[str]
    vectors: dict[str, NDArray[np.float32]]
    hash: str

    def has(self, view: str) -> NDArray[np.bool_]:
        """Which regions have a vector of this view (`both`: of either of the two)."""
        views = VIEWS if view == BOTH else (view,)
        return np.logical_and.reduce([np.isfinite(self.vectors[v]).all(1) for v in views])

    def matrix(self, view: str) -> NDArray[np.float64]:
        """`(N, D)` of a view, or both views side by side."""
        views = VIEWS if view == BOTH else (view,)
        return np.concatenate([self.vectors[v] for v in views], axis=1).astype(np.float64)


def write_embeddings(
    path: Path,
    region_ids: Sequence[str],
    counts: dict[str, NDArray[np.int64]],
    vectors: dict[str, NDArray[np.float32]],
    metadata: dict[str, Any],
) -> None:
    """Write a table atomically.

    Args:
        path: of the Parquet file.
        region_ids: of length N.
        counts: view -> `(N,)` images pooled; a region with 0 gets a null vector.
        vectors: view -> `(N, D)`.
        metadata: for the schema's `urbanln` entry, JSON.
    """
    columns: dict[str, Any] = {"region_id": pa.array(region_ids, pa.string())}
    for view in VIEWS:
        columns[COUNT_COLUMNS[view]] = pa.array(counts[view], pa.int32())
    for view in VIEWS:
        flat = pa.array(np.ascontiguousarray(vectors[view], np.float32).reshape(-1))
        columns[view] = pa.FixedSizeListArray.from_arrays(
            flat, vectors[view].shape[1], mask=pa.array(counts[view] == 0)
        )
    table = pa.table(columns).replace_schema_metadata({METADATA_KEY: json.dumps(metadata)})
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary)


def read_embeddings(path: Path) -> EmbeddingTable:
    """Read a table.

    Raises:
        InputError: the file is missing or is no such table.
    """
    if not path.is_file():
        raise InputError(f"There is no embedding table at {path}. Check --embeddings.")
    try:
        table = pq.read_table(path)
    except pa.ArrowInvalid as error:
        raise InputError(NOT_VECTORS.format(path=path, why=f"not Parquet: {error}")) from error
    metadata = read_metadata(table.schema)
    missing = {"region_id", *VIEWS} - set(table.column_names)
    if metadata is None or missing:
        why = "no `urbanln` metadata" if metadata is None else f"no column {sorted(missing)}"
        raise InputError(NOT_VECTORS.format(path=path, why=why))
    vectors = {view: _matrix(table[view].combine_chunks()) for view in VIEWS}
    region_ids = table["region_id"].to_pylist()
    content = digest(region_ids, *(vectors[view].tobytes() for view in VIEWS))
    return EmbeddingTable(metadata["label"], metadata, region_ids, vectors, content)


def read_metadata(schema: pa.Schema) -> dict[str, Any] | None:
    """The `urbanln` entry of a schema's metadata."""
    raw = (schema.metadata or {}).get(METADATA_KEY)
    return None if raw is None else json.loads(raw)


def _matrix(column: pa.FixedSizeListArray) -> NDArray[np.float32]:
    values = np.full((len(column), column.type.list_size), np.nan, dtype=np.float32)
    valid = np.asarray(column.is_valid())
    # flatten() passes over nulls
    values[valid] = column.flatten().to_numpy().reshape(-1, column.type.list_size)
    return values


__all__ = ["BOTH", "EmbeddingTable", "read_embeddings", "read_metadata", "write_embeddings"]
