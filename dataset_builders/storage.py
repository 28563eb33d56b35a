"""Readers of dataset folders, which [`writer`][dataset_builders.writer] writes.

    <dataset>/README.md
    <dataset>/data/<city>-<table>/part-00000.parquet ...
    <dataset>/rejects.parquet

Ids are unique over all shards of a table ([`schema.key_columns`]), checked on writing and reading.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import shapely

from .errors import DatasetError
from .hub_errors import explain
from .parquet import open_shard
from .schema import VIEWS, DatasetMetadata, Indicator, config_name, parse_config_name
from .unique import require_unique_shards

DATA_FOLDER = "data"
CARD_FILE, REJECTS_FILE = "README.md", "rejects.parquet"
FILES_KIND = "dataset"
METADATA_KEY = b"urbanln"
ROWS_AT_ONCE = 32

Reject = tuple[str, str, str, str]


def table_shards(dataset_name: str | Path, city: str, table: str) -> list[Path]:
    """Parquet files of a table, in order, after a check for duplicate ids.

    Args:
        dataset_name: Dataset folder, or id of a dataset on the Hub.
        city: Name of the city.
        table: One of the four tables.

    Raises:
        DatasetError: Unknown dataset, city or table.
        RepeatedIdError: Two rows of the table have the same id.
    """
    paths = _find_shards(dataset_name, city, table)
    require_unique_shards(paths, table, f"{dataset_name}, table {config_name(city, table)!r}")
    return paths


def read_table(
    dataset_name: str | Path, city: str, table: str, columns: Sequence[str] | None = None
) -> pd.DataFrame:
    """Read a table into memory; errors as in [`table_shards`].

    Args:
        dataset_name: Dataset folder, or id of a dataset on the Hub.
        city: Name of the city.
        table: One of the four tables.
        columns: Columns to read, in this order; all except the image by default.
    """
    paths = table_shards(dataset_name, city, table)
    if columns is None:
        columns = [name for name in pq.read_schema(paths[0]).names if name != "image"]
    parts = []
    for path in paths:
        with open_shard(path) as file:
            _check_columns(path, file.schema_arrow.names, columns)
            parts.append(file.read(columns=list(columns)).replace_schema_metadata(None))
    return pa.concat_tables(parts).select(list(columns)).to_pandas()


def read_regions(dataset_name: str | Path, city: str) -> gpd.GeoDataFrame:
    """Read the regions of a city, EPSG:4326; unknown geometries are null."""
    frame = read_table(dataset_name, city, "regions")
    try:
        geometry = shapely.from_wkb(frame.pop("geometry").to_numpy(dtype=object))
    except (KeyError, shapely.errors.ShapelyError) as error:
        raise DatasetError(f"{dataset_name} has no valid geometries of regions: {error}") from error
    return gpd.GeoDataFrame(frame, geometry=gpd.GeoSeries(geometry, crs="EPSG:4326"))


def read_metadata(dataset_name: str | Path, city: str) -> DatasetMetadata:
    """Read the metadata of a dataset, as stored in a table of regions."""
    return shard_metadata(_find_shards(dataset_name, city, "regions")[0])


def read_indicators(dataset_name: str | Path, city: str) -> dict[str, Indicator]:
    """Read the indicators of a city, by name."""
    return {one.name: one for one in read_metadata(dataset_name, city).indicators}


def list_cities(dataset_name: str | Path) -> list[str]:
    """Cities of a dataset, sorted.

    Raises:
        DatasetError: Unknown or empty dataset.
    """
    configs = _configs(_resolve(dataset_name, "*-regions"))
    return sorted(city for city, table in configs if table == "regions")


def list_tables(dataset_name: str | Path) -> list[tuple[str, str]]:
    """City and table of all tables of a dataset, sorted."""
    return sorted(_configs(_resolve(dataset_name, "*")))


def count_rows(dataset_name: str | Path, city: str, table: str) -> int:
    """Number of rows of a table, from the footers of its shards."""
    paths = _find_shards(dataset_name, city, table)
    return sum(pq.read_metadata(path).num_rows for path in paths)


def iter_images(
    dataset_name: str | Path,
    city: str,
    view: str,
    columns: Sequence[str] = ("image_id", "region_id"),
) -> Iterator[dict[str, Any]]:
    """Stream the rows of an image table in stored order, with constant memory.

    Args:
        dataset_name: Dataset folder, or id of a dataset on the Hub.
        city: Name of the city.
        view: "street_view" or "satellite".
        columns: Columns to yield in addition to the image.

    Yields:
        `{"image": encoded bytes or None, **columns}`.

    Raises:
        DatasetError: Unknown view, or as in [`table_shards`].
    """
    if view not in VIEWS:
        raise DatasetError(f"A view is one of {VIEWS}, got {view!r}.")
    for path in table_shards(dataset_name, city, view):
        with open_shard(path) as file:
            _check_columns(path, file.schema_arrow.names, ["image", *columns])
            wanted = list(dict.fromkeys(["image.bytes", *columns]))
            for batch in file.iter_batches(batch_size=ROWS_AT_ONCE, columns=wanted):
                for row in batch.to_pylist():
                    image = row.pop("image")
                    yield {"image": image["bytes"] if image else None, **row}


def sample_images(
    dataset_name: str | Path, city: str, view: str, count: int
) -> list[tuple[str, bytes]]:
    """Images evenly spread over a table, each with its region id."""
    total = count_rows(dataset_name, city, view)
    wanted = set(np.linspace(0, total - 1, min(count, total)).astype(int).tolist())
    return [
        (row["region_id"], row["image"])
        for number, row in enumerate(iter_images(dataset_name, city, view))
        if number in wanted and row["image"]
    ]


def read_rejects(dataset_name: str | Path) -> pd.DataFrame:
    """Items rejected by the build of a dataset: table, item, reason, detail.

    Raises:
        DatasetError: The build did not finish.
    """
    path = Path(dataset_name) / REJECTS_FILE
    if not path.exists():
        raise DatasetError(f"{path} does not exist: the build did not finish. Rerun it.")
    return pq.read_table(path).to_pandas()


def shard_name(city: str, table: str, index: int) -> str:
    """Path of a shard, relative to the dataset folder."""
    return f"{DATA_FOLDER}/{config_name(city, table)}/part-{index:05d}.parquet"


def _find_shards(dataset_name: str | Path, city: str, table: str) -> list[Path]:
    root = _resolve(dataset_name, name := config_name(city, table))
    paths = sorted((root / DATA_FOLDER / name).glob("part-*.parquet"))
    if not paths:
        have = ", ".join(config_name(*pair) for pair in sorted(_configs(root)))
        raise DatasetError(f"{dataset_name} has no table {name!r}; it has {have}.")
    return paths


def _resolve(dataset_name: str | Path, pattern: str) -> Path:
    """Dataset folder; from the Hub, it contains the tables that match `pattern`."""
    root, name = Path(dataset_name), str(dataset_name)
    if root.is_dir():
        return root
    if isinstance(dataset_name, Path) or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise DatasetError(f"No dataset at {name}: there is no such folder.")
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(
            name, repo_type="dataset", allow_patterns=[f"{DATA_FOLDER}/{pattern}/*.parquet"]
        )
    except Exception as error:
        said = explain(error, name)
        if said is None:
            raise
        raise DatasetError(f"No dataset {name!r}: it is not a folder. {said}") from error
    return Path(folder)


def _configs(root: Path) -> set[tuple[str, str]]:
    folders = {path.parent.name for path in (root / DATA_FOLDER).glob("*-*/part-*.parquet")}
    if not folders:
        raise DatasetError(
            f"{root} contains no table ({DATA_FOLDER}/<city>-<table>/part-*.parquet). "
            "`python -m dataset_builders.importers --help` shows how to import images."
        )
    return {parse_config_name(name) for name in folders}


def _check_columns(path: Path, have: Sequence[str], wanted: Sequence[str]) -> None:
    if missing := ", ".join(name for name in wanted if name not in have):
        raise DatasetError(f"{path.parent.name} has no column {missing}; it has {', '.join(have)}.")


def shard_metadata(path: Path) -> DatasetMetadata:
    """Metadata of a dataset, as stored in one of its shards."""
    stored = stored_metadata(path)
    if METADATA_KEY not in stored:
        raise DatasetError(
            f"{path} lacks the schema metadata {METADATA_KEY.decode()!r}: it was not written by "
            "DatasetWriter, or rewritten by a tool that drops it."
        )
    return DatasetMetadata.from_json(stored[METADATA_KEY])


def stored_metadata(path: Path) -> dict[bytes, bytes]:
    """Schema metadata of a shard; empty if missing or unreadable."""
    try:
        return pq.read_schema(path).metadata or {}
    except (FileNotFoundError, pa.ArrowInvalid):
        return {}


__all__ = [
    "count_rows",
    "iter_images",
    "list_cities",
    "list_tables",
    "read_indicators",
    "read_metadata",
    "read_regions",
    "read_rejects",
    "read_table",
    "sample_images",
    "shard_metadata",
    "shard_name",
    "stored_metadata",
    "table_shards",
]
