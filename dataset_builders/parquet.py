"""From rows to the Parquet files of a dataset: row groups, compression, GeoParquet metadata."""

import json
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyproj
import shapely

from .errors import DatasetError
from .files import atomic_path, set_aside, was_parquet
from .schema import REQUIRED

# an image takes about 100 kB, and the Hub's viewer wants row groups below 100 MB
ROW_GROUP_SIZE = 100
GEO_KEY = b"geo"
SHAPES_AT_ONCE = 2000


def open_writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """A writer with page index and statistics; images are stored as they are, all else as ZSTD."""
    compression = {name: "NONE" if name == "image.bytes" else "ZSTD" for name in _leaves(schema)}
    return pq.ParquetWriter(
        path,
        schema,
        compression=compression,
        write_page_index=True,
        write_page_checksum=True,
        write_statistics=True,
    )


def write_parquet(path: Path, table: pa.Table, **options: Any) -> None:
    """Write a table atomically, with a checksum for each page.

    Args:
        path: The file.
        table: The table.
        options: Of `pyarrow.parquet.write_table`.
    """
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, write_page_checksum=True, **options)


def is_whole(path: Path) -> bool:
    """Whether a Parquet file is there and agrees with its checksums; a damaged one is set aside.

    A file that never was a Parquet file passes: it is somebody else's.
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            for _ in file.iter_batches():
                pass
    except FileNotFoundError:
        return False
    except (pa.ArrowInvalid, OSError) as error:
        if getattr(error, "errno", None):  # of the disk
            raise
        if was_parquet(path):
            set_aside(path)
            return False
    return True


def row_groups(
    rows: Iterator[Mapping[str, Any]], schema: pa.Schema, table: str
) -> Iterator[pa.Table]:
    """Rows as tables of at most a row group; one empty table if there are no rows.

    Missing columns and NaN become null, shapely geometries WKB.

    Raises:
        DatasetError: a column that the schema does not have, or a null where none may be.
    """
    first = True
    while (chunk := list(islice(rows, ROW_GROUP_SIZE))) or first:
        first = False
        if unknown := sorted({key for row in chunk for key in row} - set(schema.names)):
            raise DatasetError(
                f"The table {table!r} has no column {', '.join(unknown)}; it has "
                f"{', '.join(schema.names)}. Name further ones in DatasetMetadata.extra_columns."
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
    """Value of the schema key `geo` (GeoParquet 1.1) for the WKB column `geometry`, EPSG:4326.

    geopandas writes this key too, but only for a frame that it writes whole, and it drops the key
    `huggingface`.
    """
    types: set[str] = set()
    boxes = []
    # in parts: shapes take several times the memory of their WKB
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
    "open_writer",
    "row_groups",
    "write_parquet",
]
