"""Embedding tables: one Parquet file of region vectors per system.

Columns: `region_id`, `n_street_views`, `n_satellite`, and for each view of the system a fixed-size
list of float32, null where the region has no image; column `both` holds vectors fused from both
views. The schema metadata `urbanln` records the encoder, the inputs of the system (`uses`: "poi",
"captions"...), the POI columns among them (`poi_columns`) and the training ([`trainings`]).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dataset_builders.files import digest
from dataset_builders.parquet import is_whole, read_parquet, write_parquet
from dataset_builders.schema import VIEWS
from dataset_builders.unique import RepeatedIdError, require_unique

from ..errors import InputError
from .poi import POI
from .trainings import METADATA_NAME, Training

METADATA_KEY = b"urbanln"
COUNT_COLUMNS = {"street_view": "n_street_views", "satellite": "n_satellite"}
BOTH = "both"
COLUMNS = (*VIEWS, BOTH)  # of vectors
REJECTS = pa.schema([(name, pa.string()) for name in ("table", "item", "reason", "detail")])
NOT_VECTORS = "{path} is no embedding table ({why}). Create one with `python evaluate.py embed`."


@dataclass(frozen=True)
class EmbeddingTable:
    """Vectors of a city's regions from one system.

    Attributes:
        label: Name of the system in tables and plots.
        metadata: Metadata of the file: encoder, city, dataset, rejects...
        region_ids: Region ids, `(N,)`.
        vectors: Vectors by column, `(N, D)`, float32; rows are NaN where the region has no image.
        hash: Hash of region ids and vectors.
    """

    label: str
    metadata: dict[str, Any]
    region_ids: list[str]
    vectors: dict[str, NDArray[np.float32]]
    hash: str

    @property
    def views(self) -> list[str]:
        """Views with at least one vector, `both` last."""
        return [view for view in COLUMNS if self.has(view).any()]

    @property
    def uses(self) -> list[str]:
        """Inputs of the system from the metadata; by default its views."""
        return sorted(self.metadata.get("uses", [view for view in self.views if view != BOTH]))

    @property
    def inputs(self) -> list[str]:
        """POI columns among the inputs; `["poi"]`, meaning all, if the metadata lists none."""
        return self.metadata.get("poi_columns", [POI]) if POI in self.uses else []

    def has(self, view: str) -> NDArray[np.bool_]:
        """Mask of regions with a vector of the view (`both`: fused, or one of each view)."""
        none = np.full((len(self.region_ids), 1), np.nan)
        columns = [self.vectors.get(name, none) for name in self._columns(view)]
        return np.logical_and.reduce([np.isfinite(values).all(1) for values in columns])

    def incomplete(self, view: str) -> NDArray[np.bool_]:
        """Mask of regions whose vector of the view is partly non-finite."""
        finite = [np.isfinite(self.vectors[name]) for name in self._columns(view)]
        return np.logical_or.reduce([known.any(1) & ~known.all(1) for known in finite])

    def matrix(self, view: str) -> NDArray[np.float64]:
        """Vectors of a view, `(N, D)`; `both`: fused vectors, or both views concatenated."""
        columns = [self.vectors[name] for name in self._columns(view)]
        return np.concatenate(columns, axis=1).astype(np.float64)

    def _columns(self, view: str) -> Sequence[str]:
        return VIEWS if view == BOTH and BOTH not in self.vectors else (view,)


def write_embeddings(
    path: Path,
    region_ids: Sequence[str],
    counts: Mapping[str, NDArray[np.int64]],
    vectors: Mapping[str, NDArray[np.float32]],
    metadata: dict[str, Any],
) -> None:
    """Write an embedding table atomically.

    Args:
        path: Path of the Parquet file.
        region_ids: Region ids, N of them.
        counts: Number of pooled images by view, `(N,)`, default 0; regions with 0 get null vectors.
        vectors: Vectors by column (`satellite`, `street_view`, `both`), `(N, D)`; rows with
            non-finite values become null.
        metadata: JSON-serialisable metadata for the schema's `urbanln` entry.

    Raises:
        ValueError: Unknown view, or wrong number of rows.
        InputError: Region ids are duplicated.
    """
    _require_unique(region_ids, str(path), "Write one row per region.")
    columns: dict[str, Any] = {"region_id": pa.array(region_ids, pa.string())}
    zeros = np.zeros(len(region_ids), dtype=np.int64)
    for view in VIEWS:
        columns[COUNT_COLUMNS[view]] = pa.array(counts.get(view, zeros), pa.int32())
    for view, values in vectors.items():
        if view not in COLUMNS or len(values) != len(region_ids):
            raise ValueError(
                f"Vectors must be of {', '.join(COLUMNS)} and of {len(region_ids)} regions, got "
                f"{view!r} with shape {values.shape}."
            )
    for view in [name for name in COLUMNS if name in vectors]:
        values = vectors[view]
        absent = ~np.isfinite(values).all(1)
        if view != BOTH:
            absent |= counts.get(view, zeros) == 0
        flat = pa.array(np.ascontiguousarray(values, np.float32).reshape(-1))
        columns[view] = pa.FixedSizeListArray.from_arrays(
            flat, values.shape[1], mask=pa.array(absent)
        )
    table = pa.table(columns).replace_schema_metadata({METADATA_KEY: json.dumps(metadata)})
    write_parquet(path, table)


def read_embeddings(path: Path) -> EmbeddingTable:
    """Read an embedding table.

    Raises:
        InputError: The file is missing, is no embedding table, or has duplicate region ids.
    """
    if not path.is_file():
        raise InputError(f"There is no embedding table at {path}. Check --embeddings.")
    try:
        table = read_parquet(path)
    except (pa.ArrowException, OSError) as error:
        raise InputError(NOT_VECTORS.format(path=path, why=f"not Parquet: {error}")) from error
    metadata = read_metadata(table.schema)
    views = [view for view in COLUMNS if view in table.column_names]
    if why := _fault(table, metadata, views):
        raise InputError(NOT_VECTORS.format(path=path, why=why))
    assert metadata is not None
    vectors = {view: _matrix(table[view].combine_chunks()) for view in views}
    region_ids = table["region_id"].to_pylist()
    _require_unique(region_ids, str(path), "Recreate the table with `python evaluate.py embed`.")
    content = digest(region_ids, views, *(vectors[view].tobytes() for view in views))
    return EmbeddingTable(metadata["label"], metadata, region_ids, vectors, content)


def _fault(table: pa.Table, metadata: dict[str, Any] | None, views: Sequence[str]) -> str:
    """Reason why a table is no embedding table; empty if it is one."""
    if metadata is None or not isinstance(metadata.get("label"), str):
        return "no `urbanln` metadata" if metadata is None else "no label in its metadata"
    if "region_id" not in table.column_names or not views:
        return "no region_id or no column of vectors"
    types = [table.schema.field(view).type for view in views]
    if not all(
        pa.types.is_fixed_size_list(one) and pa.types.is_floating(one.value_type) for one in types
    ):
        return "vectors are not fixed-size lists"
    ids = table["region_id"]
    is_text = pa.types.is_string(ids.type) or pa.types.is_large_string(ids.type)
    return "" if is_text and not ids.null_count else "region_id is null or no string"


def read_metadata(schema: pa.Schema) -> dict[str, Any] | None:
    """Parsed `urbanln` entry of a schema's metadata; None if missing or invalid."""
    raw = (schema.metadata or {}).get(METADATA_KEY)
    try:
        found = None if raw is None else json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def earlier_metadata(path: Path) -> dict[str, Any]:
    """Metadata of an existing table; empty if there is none. A damaged table is moved aside.

    Raises:
        InputError: The file is no embedding table and must not be overwritten.
    """
    if not is_whole(path):
        return {}
    try:
        metadata = read_metadata(pq.read_schema(path))
    except (pa.ArrowInvalid, OSError):
        metadata = None
    if metadata is None:
        raise InputError(
            f"{path} exists and is no embedding table: move it away, or choose another "
            "--output_dir or --label."
        )
    return metadata


def rename_training(path: Path, training: Training | None) -> None:
    """Update the training in a table's metadata."""
    table = read_parquet(path)
    known = read_metadata(table.schema) or {}
    metadata = {name: value for name, value in known.items() if name != METADATA_NAME}
    metadata |= training.metadata() if training else {}
    if metadata != known:
        table = table.replace_schema_metadata({METADATA_KEY: json.dumps(metadata)})
        write_parquet(path, table)


@dataclass(frozen=True)
class Reject:
    """Image or region without a vector."""

    table: str
    item: str
    reason: str
    detail: str


def write_rejects(path: Path, rejects: Sequence[Reject]) -> None:
    """Write the table of rejects atomically; it may be empty."""
    table = pa.Table.from_pylist([vars(reject) for reject in rejects], schema=REJECTS)
    write_parquet(path, table)


def mean_by_region(
    vectors: NDArray[np.float32], region: NDArray[np.int64], num_regions: int
) -> NDArray[np.float32]:
    """Mean vector of each region's images.

    Args:
        vectors: Image vectors, `(M, D)`.
        region: Row index of each image's region, `(M,)`.
        num_regions: Number of regions, N.

    Returns:
        Region vectors, `(N, D)`; NaN for regions without images.
    """
    sums = np.zeros((num_regions, vectors.shape[1]), dtype=np.float64)
    np.add.at(sums, region, vectors)
    counts = np.bincount(region, minlength=num_regions)[:, None].astype(np.float64)
    means = np.full_like(sums, np.nan)
    np.divide(sums, counts, out=means, where=counts > 0)
    return means.astype(np.float32)


def _require_unique(region_ids: Sequence[str], where: str, remedy: str) -> None:
    try:
        require_unique([pd.DataFrame({"region_id": region_ids}, dtype=object)], where, remedy)
    except RepeatedIdError as error:
        raise InputError(str(error)) from error


def _matrix(column: pa.FixedSizeListArray) -> NDArray[np.float32]:
    values = np.full((len(column), column.type.list_size), np.nan, dtype=np.float32)
    valid = np.asarray(column.is_valid())
    # flatten() skips nulls
    values[valid] = column.flatten().to_numpy().reshape(-1, column.type.list_size)
    return values


__all__ = [
    "BOTH",
    "EmbeddingTable",
    "Reject",
    "earlier_metadata",
    "mean_by_region",
    "read_embeddings",
    "read_metadata",
    "rename_training",
    "write_embeddings",
    "write_rejects",
]
