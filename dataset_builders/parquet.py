"""Parquet files of a dataset: row groups, compression, checksums, GeoParquet metadata."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyproj
import shapely

from .errors import DatasetError
from .files import atomic_path, digest, set_aside, was_parquet
from .schema import REQUIRED

# at about 100 kB per image, below the 100 MB that the Hub's viewer allows
ROW_GROUP_SIZE = 100
GEO_KEY = b"geo"
CHECKSUM_KEY = b"digest"
NOT_CHECKED = {CHECKSUM_KEY, b"ARROW:schema"}  # the latter is added on writing
SHAPES_AT_ONCE = 2000


def open_writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """Writer with page index and statistics; images are uncompressed, other columns ZSTD."""
    compression = {name: "NONE" if name == "image.bytes" else "ZSTD" for name in _leaves(schema)}
    return pq.ParquetWriter(
        path,
        schema,
        compression=compression,
        write_page_index=True,
        write_page_checksum=True,
    )


def write_parquet(path: Path, table: pa.Table, **options: Any) -> None:
    """Write a table atomically, with checksums of its pages and its metadata.

    Args:
        path: Output file.
        table: Table to write.
        options: Options of `pyarrow.parquet.write_table`.
    """
    known = dict(table.schema.metadata or {})
    table = table.replace_schema_metadata(
        {**known, CHECKSUM_KEY: _header_digest(known, table.schema, len(table))}
    )
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, write_page_checksum=True, **options)


def read_parquet(path: Path) -> pa.Table:
    """Read a table and verify the checksums of its pages and its metadata.

    Raises:
        OSError: The file is damaged; `pyarrow.ArrowInvalid` likewise.
    """
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        _check_header(file)
        return file.read()


def _header_digest(metadata: Mapping[bytes, bytes], schema: pa.Schema, rows: int) -> str:
    # only the outermost of nested types: Parquet renames the inner fields
    columns = [(field.name, str(field.type).partition("<")[0]) for field in schema]
    known = sorted(item for item in metadata.items() if item[0] not in NOT_CHECKED)
    return digest(columns, rows, *(part for item in known for part in item))


def _check_header(file: pq.ParquetFile) -> None:
    """Verify what page checksums leave out; tables without this checksum pass."""
    metadata = file.metadata.metadata or {}
    groups = map(file.metadata.row_group, range(file.num_row_groups))
    found = _header_digest(metadata, file.schema_arrow, sum(group.num_rows for group in groups))
    if metadata.get(CHECKSUM_KEY, found.encode()) != found.encode():
        raise pa.ArrowInvalid(
            "The metadata is corrupt: it does not match its checksum. If you edited it, remove the "
            "key `digest` of the metadata"
        )


def is_whole(path: Path) -> bool:
    """Whether a Parquet file exists and matches its checksums; a damaged one is set aside.

    A file that never was a Parquet file passes: it belongs to the user.
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            _check_header(file)
            for number in range(file.num_row_groups):
                file.read_row_group(number)
    except FileNotFoundError:
        return False
    except (pa.ArrowInvalid, OSError) as error:
        if getattr(error, "errno", None):  # disk error
            raise
        if was_parquet(path):
            set_aside(path)
            return False
    return True


@contextmanager
def open_shard(path: str | Path) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file of a dataset; pages are verified as they are read.

    Raises:
        DatasetError: The file is not Parquet, or is damaged; also raised while reading.
    """
    try:
        with pq.ParquetFile(path, pre_buffer=False, page_checksum_verification=True) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        if getattr(error, "errno", None):  # disk error
            raise
        raise DatasetError(
            f"{path} is not a complete Parquet file ({error}). Recreate it with the command that "
            "wrote it, or download it again."
        ) from error


def row_groups(
    rows: Iterator[Mapping[str, Any]], schema: pa.Schema, table: str
) -> Iterator[pa.Table]:
    """Rows as tables of at most one row group; one empty table if there are no rows.

    Missing columns and NaN become null, shapely geometries WKB.

    Raises:
        DatasetError: Unknown column, or null in a required one.
    """
    first = True
    while (chunk := list(islice(rows, ROW_GROUP_SIZE))) or first:
        first = False
        if unknown := sorted({key for row in chunk for key in row} - set(schema.names)):
            raise DatasetError(
                f"The table {table!r} has no column {', '.join(unknown)}; it has "
                f"{', '.join(schema.names)}. Declare further ones in DatasetMetadata.extra_columns."
            )
        columns = [
            pa.array([_value(row.get(field.name)) for row in chunk], field.type) for field in schema
        ]
        group = pa.table(columns, schema=schema)
        for name in REQUIRED[table]:
            if group[name].null_count:
                raise DatasetError(f"The column {name!r} of the table {table!r} cannot be null.")
        yield group


def geo_metadata(table: pa.Table) -> bytes:
    """GeoParquet 1.1 metadata (schema key `geo`) of the WKB column `geometry`, EPSG:4326.

    geopandas writes this key only for complete frames, and drops the key `huggingface`.
    """
    types: set[str] = set()
    boxes = []
    # in chunks, since shapes take several times the memory of their WKB
    for start in range(0, len(table), SHAPES_AT_ONCE):
        wkb = table["geometry"].slice(start, SHAPES_AT_ONCE).to_pylist()
        shapes = shapely.from_wkb(np.array(wkb, dtype=object))
        present = shapes[~shapely.is_missing(shapes)]
        types |= {shape.geom_type for shape in present}
        boxes.append(shapely.bounds(present))
    column: dict[str, Any] = {
        "encoding": "WKB",
        "geometry_types": sorted(types),
        "crs": pyproj.CRS.from_epsg(4326).to_json_dict(),
        "edges": "planar",
    }
    if types:
        sides = np.concatenate(boxes)
        low, high = np.nanmin(sides[:, :2], axis=0), np.nanmax(sides[:, 2:], axis=0)
        column["bbox"] = [*low.tolist(), *high.tolist()]
    geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
    return json.dumps(geo).encode()


def _value(value: Any) -> Any:
    if isinstance(value, float) and np.isnan(value):
        return None
    return shapely.to_wkb(value) if isinstance(value, shapely.Geometry) else value


def _leaves(schema: pa.Schema) -> list[str]:
    """Names of the Parquet columns; a struct has one per field."""
    leaves = []
    for field in schema:
        children = field.type.fields if pa.types.is_struct(field.type) else []
        leaves += [f"{field.name}.{child.name}" for child in children] or [field.name]
    return leaves


__all__ = [
    "GEO_KEY",
    "ROW_GROUP_SIZE",
    "geo_metadata",
    "is_whole",
    "open_shard",
    "open_writer",
    "read_parquet",
    "row_groups",
    "write_parquet",
]
