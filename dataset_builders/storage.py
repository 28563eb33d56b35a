"""The dataset folder: Parquet shards that a killed build can resume, and their readers.

    <dataset>/README.md
    <dataset>/data/<city>-<table>/part-00000.parquet ...
    <dataset>/rejects.parquet

The schema of every shard carries what `load_dataset` needs (`huggingface`), what geopandas needs
(`geo`, GeoParquet 1.1, regions only) and what this project needs (`urbanln`).

Ids are unique over all shards of a table ([`schema.key_columns`]), checked on writing and reading.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import geopandas as gpd
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import shapely

from .captions import clean_row
from .errors import DatasetError
from .files import WrittenFiles
from .hub_errors import explain
from .parquet import GEO_KEY, ROW_GROUP_SIZE, geo_metadata, open_writer, row_groups
from .schema import (
    VIEWS,
    DatasetMetadata,
    Indicator,
    config_name,
    features,
    key_columns,
    parse_config_name,
)
from .unique import SeenKeys, key_frame, require_unique, require_unique_shards, shard_keys

DATA_FOLDER = "data"
CARD_FILE, REJECTS_FILE = "README.md", "rejects.parquet"
FILES_KIND = "dataset"
REJECT_COLUMNS = ("table", "item", "reason", "detail")
METADATA_KEY, REJECTS_KEY = b"urbanln", b"urbanln_rejects"

Reject = tuple[str, str, str, str]


class DatasetWriter:
    """Writes the shards of a dataset.

    A shard is written whole or not at all, and a finished one is never written again: rerun a
    killed build to resume it, and it ends with the same folder.

    Args:
        root: the dataset folder; created if it does not exist.
        metadata: metadata of the dataset.

    Attributes:
        files: the files of the folder that a build may replace or delete.

    Raises:
        DatasetError: the folder holds files but no dataset.
        ForeignFileError: it holds a card or rejects that no build wrote, or that were edited.
    """

    def __init__(self, root: str | Path, metadata: DatasetMetadata):
        self.root = Path(root)
        self.metadata = metadata
        self.files = WrittenFiles(self.root, FILES_KIND)
        self._general: list[Reject] = []
        self._of_shard: list[Reject] | None = None
        # by city and table: the number of shards, from the first, and the keys of their rows
        self._seen: dict[tuple[str, str], tuple[int, SeenKeys]] = {}
        has_files = self.root.is_dir() and any(self.root.iterdir())
        if has_files and not (self.root / DATA_FOLDER).is_dir():
            raise DatasetError(
                f"{self.root} is not empty and holds no dataset (no folder {DATA_FOLDER!r}). "
                "Give an empty or a new folder."
            )
        self.files.check([CARD_FILE, REJECTS_FILE])  # before the work, not after it
        (self.root / DATA_FOLDER).mkdir(parents=True, exist_ok=True)

    def has_shard(self, city: str, table: str, index: int) -> bool:
        """Whether the shard is finished.

        Raises:
            DatasetError: it is, but was built with other parameters.
        """
        path = self.root / _shard_name(city, table, index)
        if not path.exists():
            return False
        found = dict(_metadata(path).parameters)
        # through JSON, so that a tuple equals the list it is read back as
        if json.loads(json.dumps(dict(self.metadata.parameters))) != found:
            raise DatasetError(
                f"{path} was built with {found}, but {dict(self.metadata.parameters)} was asked "
                "for. Give another folder, or delete this one."
            )
        return True

    def write_shard(
        self, city: str, table: str, index: int, rows: Iterable[Mapping[str, Any]]
    ) -> Path:
        """Write a shard, unless it is finished already.

        Images are `{"bytes": ..., "path": name or None}`; geometries are WKB or shapely, EPSG:4326.
        Columns that a row lacks, and NaN, become null. Rows may be a generator: it is consumed
        only if the shard is written, and what it passes to [`reject`] is stored with the shard.
        Captions are cleaned ([`captions.clean_row`]); a text that is no caption is rejected.

        Args:
            city: the city of the table.
            table: one of the four tables.
            index: number of the shard, from 0.
            rows: at least the columns that cannot be null.

        Returns:
            The path of the shard.

        Raises:
            DatasetError: a column that the table does not have, or a null id.
            RepeatedIdError: an id that another row of this shard or of one before it has.
        """
        name = _shard_name(city, table, index)
        if self.has_shard(city, table, index):
            return self.root / name
        self._of_shard = []
        seen = self._keys_before(city, table, index)
        try:
            with self.files.writing(name) as temporary:
                self._write_rows(temporary, config_name(city, table), table, rows, seen)
        finally:
            self._of_shard = None
        self._seen[city, table] = (index + 1, seen)
        return self.root / name

    def remove_shard(self, city: str, table: str, index: int) -> None:
        """Delete a shard if it exists, so that it can be written anew.

        Raises:
            ForeignFileError: no build wrote it, or it was changed since.
        """
        self.files.delete([_shard_name(city, table, index)])

    def reject(self, table: str, item: str, reason: str, detail: str = "") -> None:
        """Record an item that is left out.

        Outside the generator of a shard, a reject belongs to the whole build, and every run of the
        build must record it again.

        Args:
            table: config name, or the file that was read.
            item: image id, region id or row.
            reason: a short code.
            detail: what was found.
        """
        target = self._general if self._of_shard is None else self._of_shard
        target.append((str(table), str(item), str(reason), str(detail)))

    def finish(self) -> Path:
        """Write `rejects.parquet` from all shards and this run; may be called again.

        Returns:
            Its path.

        Raises:
            RepeatedIdError: an id stands in two rows of a table, whoever wrote its shards.
        """
        shards = sorted((self.root / DATA_FOLDER).glob("*/part-*.parquet"))
        for name in sorted({path.parent.name for path in shards}):
            table_shards(self.root, *parse_config_name(name))
        of_shards = [reject for path in shards for reject in _rejects_of(path)]
        path = self.root / REJECTS_FILE
        earlier: Counter[Reject] = Counter()
        if path.exists():
            rows = pq.read_table(path).to_pylist()
            earlier = Counter(tuple(row[name] for name in REJECT_COLUMNS) for row in rows)
            earlier -= Counter(of_shards)
        # the larger count of each, so that a second run does not record its rejects twice
        rejects = [*of_shards, *(earlier | Counter(self._general)).elements()]
        schema = pa.schema([(name, pa.string()) for name in REJECT_COLUMNS])
        rows = [dict(zip(REJECT_COLUMNS, reject, strict=True)) for reject in rejects]
        with self.files.writing(REJECTS_FILE) as temporary:
            pq.write_table(pa.Table.from_pylist(rows, schema=schema), temporary)
        return path

    def _keys_before(self, city: str, table: str, index: int) -> SeenKeys:
        """The keys of the shards before this one; later ones may be left from another build."""
        known, seen = self._seen.get((city, table), (0, SeenKeys()))
        if known > index:
            known, seen = 0, SeenKeys()
        seen = seen.copy()
        for number in range(known, index):
            path = self.root / _shard_name(city, table, number)
            for keys in shard_keys(path, table) if path.exists() else ():
                seen.add(keys)
        return seen

    def _write_rows(
        self,
        temporary: Path,
        name: str,
        table: str,
        rows: Iterable[Mapping[str, Any]],
        seen: SeenKeys,
    ) -> None:
        extra = self.metadata.extra_columns.get(table)
        schema = features(table, self.metadata.indicators, extra).arrow_schema
        keys = {**(schema.metadata or {}), METADATA_KEY: self.metadata.to_json().encode()}
        schema = schema.with_metadata(keys)
        groups = row_groups(self._cleaned(name, table, rows), schema, table)
        if table == "regions":
            whole = pa.concat_tables(groups)
            schema = schema.with_metadata({**keys, GEO_KEY: geo_metadata(whole)})
            groups = iter([whole.replace_schema_metadata(schema.metadata)])
        with open_writer(temporary, schema) as writer:
            for group in groups:
                ids = key_frame(group, key_columns(table, group.column_names))
                require_unique([ids], name, "Nothing of this shard was written.", seen)
                if len(group):  # datasets cannot stream a row group without rows
                    writer.write_table(group, row_group_size=ROW_GROUP_SIZE)
            # complete only now that the rows have been consumed
            writer.add_key_value_metadata({REJECTS_KEY: json.dumps(self._of_shard)})

    def _cleaned(
        self, name: str, table: str, rows: Iterable[Mapping[str, Any]]
    ) -> Iterator[Mapping[str, Any]]:
        """The rows with clean captions; a text that is no caption is rejected."""
        for row in rows:
            cleaned, reason, text = clean_row(table, row)
            if reason:
                self.reject(name, str(row.get("image_id")), reason, text)
            yield cleaned


def read_table(
    dataset_name: str | Path, city: str, table: str, columns: Sequence[str] | None = None
) -> pd.DataFrame:
    """A table in memory, without its images.

    Args:
        dataset_name: a dataset folder, or the id of a dataset on the Hub.
        city: the city of the table.
        table: one of the four tables.
        columns: the columns to read, in this order; all but the image by default.

    Raises:
        DatasetError: no such dataset, city, table or column.
        RepeatedIdError: an id stands in two rows of the table.
    """
    paths = table_shards(dataset_name, city, table)
    if columns is None:
        columns = [name for name in pq.read_schema(paths[0]).names if name != "image"]
    parts = []
    for path in paths:
        with pq.ParquetFile(path) as file:
            _check_columns(path, file.schema_arrow.names, columns)
            parts.append(file.read(columns=list(columns)).replace_schema_metadata(None))
    return pa.concat_tables(parts).select(list(columns)).to_pandas()


def read_regions(dataset_name: str | Path, city: str) -> gpd.GeoDataFrame:
    """The regions of a city, EPSG:4326; the geometry is null where a region has no place.

    Args:
        dataset_name: a dataset folder, or the id of a dataset on the Hub.
        city: the city.

    Raises:
        DatasetError: no such dataset or city.
    """
    frame = read_table(dataset_name, city, "regions")
    geometry = shapely.from_wkb(frame.pop("geometry").to_numpy(dtype=object))
    return gpd.GeoDataFrame(frame, geometry=gpd.GeoSeries(geometry, crs="EPSG:4326"))


def read_metadata(dataset_name: str | Path, city: str) -> DatasetMetadata:
    """The metadata of a dataset, as stored in the table of regions."""
    return _metadata(_find_shards(dataset_name, city, "regions")[0])


def read_indicators(dataset_name: str | Path, city: str) -> dict[str, Indicator]:
    """The indicators of a city by name: unit, kind, transform."""
    return {one.name: one for one in read_metadata(dataset_name, city).indicators}


def list_cities(dataset_name: str | Path) -> list[str]:
    """The cities of a dataset, sorted.

    Raises:
        DatasetError: no such dataset, or no city in it.
    """
    configs = _configs(_resolve(dataset_name, "*-regions"))
    return sorted(city for city, table in configs if table == "regions")


def list_tables(dataset_name: str | Path) -> list[tuple[str, str]]:
    """City and table of everything in a dataset, sorted."""
    return sorted(_configs(_resolve(dataset_name, "*")))


def count_rows(dataset_name: str | Path, city: str, table: str) -> int:
    """Number of rows of a table, read from the footers of its shards."""
    paths = _find_shards(dataset_name, city, table)
    return sum(pq.read_metadata(path).num_rows for path in paths)


def table_shards(dataset_name: str | Path, city: str, table: str) -> list[Path]:
    """The Parquet files of a table, in order; every reader of rows starts here.

    Args:
        dataset_name: a dataset folder, or the id of a dataset on the Hub.
        city: the city of the table.
        table: one of the four tables.

    Raises:
        DatasetError: no such dataset, city or table.
        RepeatedIdError: an id stands in two rows of the table.
    """
    paths = _find_shards(dataset_name, city, table)
    require_unique_shards(paths, table, f"{dataset_name}, table {config_name(city, table)!r}")
    return paths


def iter_images(
    dataset_name: str | Path,
    city: str,
    view: str,
    columns: Sequence[str] = ("image_id", "region_id"),
    batch_size: int = 32,
) -> Iterator[dict[str, Any]]:
    """Stream the rows of an image table in stored order; memory does not grow with the table.

    Args:
        dataset_name: a dataset folder, or the id of a dataset on the Hub.
        city: the city.
        view: "street_view" or "satellite".
        columns: the columns to yield beside the image.
        batch_size: rows read at a time.

    Yields:
        `{"image": encoded bytes or None, **columns}`.

    Raises:
        DatasetError: no such dataset, city, view or column.
        RepeatedIdError: an id stands in two rows of the table.
    """
    if view not in VIEWS:
        raise DatasetError(f"A view is one of {VIEWS}, got {view!r}.")
    for path in table_shards(dataset_name, city, view):
        with pq.ParquetFile(path, pre_buffer=False) as file:
            _check_columns(path, file.schema_arrow.names, columns)
            wanted = list(dict.fromkeys(["image.bytes", *columns]))
            for batch in file.iter_batches(batch_size=batch_size, columns=wanted):
                for row in batch.to_pylist():
                    image = row.pop("image")
                    yield {"image": image["bytes"] if image else None, **row}


def read_rejects(dataset_name: str | Path) -> pd.DataFrame:
    """The items left out when the dataset was built: table, item, reason, detail.

    Raises:
        DatasetError: the build did not finish.
    """
    path = Path(dataset_name) / REJECTS_FILE
    if not path.exists():
        raise DatasetError(f"{path} does not exist: the build did not finish. Rerun it.")
    return pq.read_table(path).to_pandas()


def _shard_name(city: str, table: str, index: int) -> str:
    return f"{DATA_FOLDER}/{config_name(city, table)}/part-{index:05d}.parquet"


def _find_shards(dataset_name: str | Path, city: str, table: str) -> list[Path]:
    root = _resolve(dataset_name, name := config_name(city, table))
    paths = sorted((root / DATA_FOLDER / name).glob("part-*.parquet"))
    if not paths:
        have = ", ".join(config_name(*pair) for pair in sorted(_configs(root)))
        raise DatasetError(f"{dataset_name} has no table {name!r}; it has {have}.")
    return paths


def _resolve(dataset_name: str | Path, pattern: str) -> Path:
    """The dataset folder; from the Hub, with the tables that match the pattern."""
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
        raise DatasetError(f"No dataset {name!r}: it is no folder. {said}") from error
    return Path(folder)


def _configs(root: Path) -> set[tuple[str, str]]:
    folders = {path.parent.name for path in (root / DATA_FOLDER).glob("*-*/part-*.parquet")}
    if not folders:
        raise DatasetError(
            f"{root} holds no table ({DATA_FOLDER}/<city>-<table>/part-*.parquet). "
            "`python -m dataset_builders.importers --help` shows how to import images."
        )
    return {parse_config_name(name) for name in folders}


def _check_columns(path: Path, have: Sequence[str], wanted: Sequence[str]) -> None:
    if missing := ", ".join(name for name in wanted if name not in have):
        raise DatasetError(f"{path.parent.name} has no column {missing}; it has {', '.join(have)}.")


def _metadata(path: Path) -> DatasetMetadata:
    stored = pq.read_schema(path).metadata or {}
    if METADATA_KEY not in stored:
        raise DatasetError(
            f"{path} lacks the schema metadata {METADATA_KEY.decode()!r}: it was not written by "
            "DatasetWriter, or rewritten by a tool that drops it."
        )
    return DatasetMetadata.from_json(stored[METADATA_KEY])


def _rejects_of(path: Path) -> list[Reject]:
    stored = pq.read_metadata(path).metadata or {}
    return [tuple(row) for row in json.loads(stored.get(REJECTS_KEY, b"[]"))]


__all__ = [
    "DatasetWriter",
    "count_rows",
    "iter_images",
    "list_cities",
    "list_tables",
    "read_indicators",
    "read_metadata",
    "read_regions",
    "read_rejects",
    "read_table",
    "table_shards",
]
