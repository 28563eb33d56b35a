"""The dataset folder: Parquet shards written so that a killed build goes on, and reading them.

    <dataset>/README.md
    <dataset>/data/<city>-<table>/part-00000.parquet ...
    <dataset>/rejects.parquet

Every shard carries in its schema what `load_dataset` needs (`huggingface`), what geopandas needs
(`geo`, GeoParquet 1.1, regions only) and what this project needs (`urbanln`).

Ids are unique over all shards of a table ([`schema.key_columns`]); writing and reading check it.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pyproj
import shapely

from .captions import clean_row
from .errors import DatasetError
from .files import WrittenFiles
from .hub_errors import explain
from .schema import (
    REQUIRED,
    VIEWS,
    DatasetMetadata,
    Indicator,
    config_name,
    features,
    key_columns,
    parse_config_name,
)
from .unique import SeenKeys, check_stream, key_frame, refuse_repeats

DATA_FOLDER = "data"
CARD_FILE, REJECTS_FILE = "README.md", "rejects.parquet"
FILES_KIND = "dataset"
REJECT_COLUMNS = ("table", "item", "reason", "detail")
# an image is about 100 kB: the viewer of the Hub wants row groups below 100 MB
ROW_GROUP_SIZE = 100
SHAPES_AT_ONCE = 2000
KEYS_AT_ONCE = 1 << 16
METADATA_KEY, REJECTS_KEY, GEO_KEY = b"urbanln", b"urbanln_rejects", b"geo"

Reject = tuple[str, str, str, str]


class DatasetWriter:
    """Writes the shards of a dataset.

    A shard appears whole or not at all, and one that is there is never written again: run the
    same build again after a kill and it goes on, and ends with the same folder.

    Args:
        root: the dataset folder; made if need be.
        metadata: of the dataset.

    Attributes:
        files: those of the folder that a build may replace or delete.

    Raises:
        DatasetError: the folder holds files that are no dataset.
        ForeignFileError: it holds a card or rejects that no build wrote, or that were edited.
    """

    def __init__(self, root: str | Path, metadata: DatasetMetadata):
        self.root = Path(root)
        self.metadata = metadata
        self.files = WrittenFiles(self.root, FILES_KIND)
        self._general: list[Reject] = []
        self._of_shard: list[Reject] | None = None
        # by city and table: how many shards, counted from the first, and the keys of their rows
        self._seen: dict[tuple[str, str], tuple[int, SeenKeys]] = {}
        if (
            self.root.is_dir()
            and any(self.root.iterdir())
            and not (self.root / DATA_FOLDER).is_dir()
        ):
            raise DatasetError(
                f"{self.root} is not empty and holds no dataset (no folder {DATA_FOLDER!r}). "
                "Give an empty or a new folder."
            )
        self.files.check([CARD_FILE, REJECTS_FILE])  # now, and not when all else is done
        (self.root / DATA_FOLDER).mkdir(parents=True, exist_ok=True)

    def has_shard(self, city: str, table: str, index: int) -> bool:
        """Whether the shard is finished.

        Raises:
            DatasetError: it is, but was built with other parameters.
        """
        path = self._path(city, table, index)
        if not path.exists():
            return False
        found = _metadata(path)
        # through JSON, so that a tuple equals the list it comes back as
        if json.loads(json.dumps(dict(self.metadata.parameters))) != dict(found.parameters):
            raise DatasetError(
                f"{path} was built with {dict(found.parameters)}, and now "
                f"{dict(self.metadata.parameters)} is asked for. Give another folder, or delete "
                "this one."
            )
        return True

    def write_shard(
        self, city: str, table: str, index: int, rows: Iterable[Mapping[str, Any]] | pa.Table
    ) -> Path:
        """Write a shard, unless it is there already.

        Images are `{"bytes": ..., "path": name or None}`; geometries are WKB or shapely, lon-lat
        in EPSG:4326. Columns that a row lacks are null, and so is NaN in a number. Rows may be a
        generator: it is read as it is written, not at all if the shard is there, and what it
        passes to [`reject`] is stored with the shard, so that a later run need not find it again.
        Captions are cleaned ([`captions.clean_row`]); a text that is no caption is rejected.

        Args:
            city: of the table's config.
            table: one of the four.
            index: number of the shard, from 0.
            rows: at least the columns that cannot be null.

        Raises:
            DatasetError: a column the table does not have, a null id, or an id that another row of
                this shard or of one before it has.
        """
        path = self._path(city, table, index)
        if self.has_shard(city, table, index):
            return path
        self._of_shard = []
        seen = self._keys_before(city, table, index)
        try:
            with self.files.writing(self._name(city, table, index)) as temporary:
                self._write_rows(temporary, config_name(city, table), table, rows, seen)
        finally:
            self._of_shard = None
        self._seen[city, table] = (index + 1, seen)
        return path

    def remove_shard(self, city: str, table: str, index: int) -> None:
        """Delete a shard if it is there, so that it can be written anew.

        Raises:
            ForeignFileError: no build wrote it, or it was changed since.
        """
        self.files.delete([self._name(city, table, index)])

    def reject(self, table: str, item: str, reason: str, detail: str = "") -> None:
        """List something that is left out.

        Outside the generator of a shard it is a finding of the whole build, which every run of
        the build must make again.

        Args:
            table: config name, or the file it was read from.
            item: image id, region id or row.
            reason: a short code.
            detail: what was found.
        """
        target = self._general if self._of_shard is None else self._of_shard
        target.append((str(table), str(item), str(reason), str(detail)))

    def finish(self) -> Path:
        """Write `rejects.parquet` from all shards and this run; safe to call again.

        Returns:
            Its path.

        Raises:
            RepeatedIdError: an id stands in two rows of a table, whoever wrote its shards.
        """
        for name in sorted({path.parent.name for path in _shards(self.root)}):
            table_shards(self.root, *parse_config_name(name))
        of_shards = [reject for path in _shards(self.root) for reject in _rejects(path)]
        path = self.root / REJECTS_FILE
        earlier: Counter[Reject] = Counter()
        if path.exists():
            rows = pq.read_table(path).to_pylist()
            earlier = Counter(tuple(row[name] for name in REJECT_COLUMNS) for row in rows)
            earlier -= Counter(of_shards)
        # the larger count of each, so that a second run does not list its findings twice
        rejects = [*of_shards, *(earlier | Counter(self._general)).elements()]
        columns = list(zip(*rejects, strict=True)) or [()] * len(REJECT_COLUMNS)
        arrays = [pa.array(column, pa.string()) for column in columns]
        with self.files.writing(REJECTS_FILE) as temporary:
            pq.write_table(pa.table(arrays, names=list(REJECT_COLUMNS)), temporary)
        return path

    def _name(self, city: str, table: str, index: int) -> str:
        return f"{DATA_FOLDER}/{config_name(city, table)}/part-{index:05d}.parquet"

    def _path(self, city: str, table: str, index: int) -> Path:
        return self.root / self._name(city, table, index)

    def _schema(self, table: str) -> pa.Schema:
        extra = self.metadata.extra_columns.get(table)
        schema = features(table, self.metadata.indicators, extra).arrow_schema
        metadata = {**(schema.metadata or {}), METADATA_KEY: self.metadata.to_json().encode()}
        return schema.with_metadata(metadata)

    def _keys_before(self, city: str, table: str, index: int) -> SeenKeys:
        """The keys of the shards before this one; later ones may be of an earlier build."""
        known, seen = self._seen.get((city, table), (0, SeenKeys()))
        if known > index:
            known, seen = 0, SeenKeys()
        seen = seen.copy()
        for path in (self._path(city, table, number) for number in range(known, index)):
            for keys in _keys_of(path, table) if path.exists() else ():
                seen.add(keys)
        return seen

    def _write_rows(
        self,
        temporary: Path,
        name: str,
        table: str,
        rows: Iterable[Mapping[str, Any]] | pa.Table,
        seen: SeenKeys,
    ) -> None:
        schema = self._schema(table)
        groups = _groups(self._cleaned(name, table, rows), schema, table)
        if table == "regions":
            whole = pa.concat_tables(groups)
            schema = schema.with_metadata({**schema.metadata, GEO_KEY: geo_metadata(whole)})
            groups = iter([whole.replace_schema_metadata(schema.metadata)])
        compression = {
            name: "NONE" if name == "image.bytes" else "ZSTD" for name in _leaves(schema)
        }
        with (
            temporary.open("wb") as file,
            pq.ParquetWriter(
                file, schema, compression=compression, write_page_index=True, write_statistics=True
            ) as writer,
        ):
            for group in groups:
                _check_required(group, table)
                keys = key_frame(group, key_columns(table, group.column_names))
                refuse_repeats(seen.add(keys), name, "Nothing of this shard was written.")
                if len(group) == 0:  # datasets cannot stream a row group of no rows
                    continue
                writer.write_table(group, row_group_size=ROW_GROUP_SIZE)
            # known only now that the rows have been read
            writer.add_key_value_metadata({REJECTS_KEY: json.dumps(self._of_shard)})

    def _cleaned(
        self, name: str, table: str, rows: Iterable[Mapping[str, Any]] | pa.Table
    ) -> Iterator[Mapping[str, Any]]:
        """The rows with clean captions; a text that is none is rejected."""
        for row in rows.to_pylist() if isinstance(rows, pa.Table) else rows:
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
        city: of the table.
        table: one of the four.
        columns: which, in this order; all but the image by default.

    Raises:
        DatasetError: no such dataset, city, table or column.
    """
    paths = table_shards(dataset_name, city, table)
    if columns is None:
        columns = [name for name in pq.read_schema(paths[0]).names if name != "image"]
    return _read_columns(paths, columns).to_pandas()


def read_regions(dataset_name: str | Path, city: str) -> gpd.GeoDataFrame:
    """The regions of a city with their geometry, EPSG:4326; null where a region has no place.

    Args:
        dataset_name: a dataset folder, or the id of a dataset on the Hub.
        city: which.

    Raises:
        DatasetError: no such dataset or city.
    """
    frame = read_table(dataset_name, city, "regions")
    geometry = shapely.from_wkb(frame.pop("geometry").to_numpy(dtype=object))
    return gpd.GeoDataFrame(frame, geometry=gpd.GeoSeries(geometry, crs="EPSG:4326"))


def read_metadata(dataset_name: str | Path, city: str) -> DatasetMetadata:
    """What the dataset says of itself, from the table of regions."""
    return _metadata(_find_shards(dataset_name, city, "regions")[0])


def read_indicators(dataset_name: str | Path, city: str) -> dict[str, Indicator]:
    """The targets of a city by name: unit, kind, transform."""
    return {one.name: one for one in read_metadata(dataset_name, city).indicators}


def list_cities(dataset_name: str | Path) -> list[str]:
    """The cities of a dataset, sorted.

    Raises:
        DatasetError: no such dataset, or no city in it.
    """
    root = _resolve(dataset_name, "*-regions")
    return sorted({city for city, table in _configs(root) if table == "regions"})


def list_tables(dataset_name: str | Path) -> list[tuple[str, str]]:
    """City and table of everything in a dataset folder, sorted."""
    return sorted(_configs(_resolve(dataset_name, "*")))


def count_rows(dataset_name: str | Path, city: str, table: str) -> int:
    """Rows of a table, read from the footers of its shards."""
    paths = _find_shards(dataset_name, city, table)
    return sum(pq.read_metadata(path).num_rows for path in paths)


def table_shards(dataset_name: str | Path, city: str, table: str) -> list[Path]:
    """The Parquet files of a table, in order; all reading of rows starts here.

    Args:
        dataset_name: a dataset folder, or the id of a dataset on the Hub.
        city: of the table.
        table: one of the four.

    Raises:
        DatasetError: no such dataset, city or table.
        RepeatedIdError: an id stands in two rows of the table.
    """
    paths = _find_shards(dataset_name, city, table)
    known = [path.stat() for path in paths]
    _check_unique(
        f"{dataset_name}, table {config_name(city, table)!r}",
        table,
        tuple(
            (str(path), one.st_size, one.st_mtime_ns)
            for path, one in zip(paths, known, strict=True)
        ),
    )
    return paths


def _find_shards(dataset_name: str | Path, city: str, table: str) -> list[Path]:
    name = config_name(city, table)
    root = _resolve(dataset_name, name)
    paths = sorted((root / DATA_FOLDER / name).glob("part-*.parquet"))
    if not paths:
        have = ", ".join(config_name(*pair) for pair in sorted(_configs(root)))
        raise DatasetError(f"{dataset_name} has no table {name!r}; it has {have}.")
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
        city: which.
        view: "street_view" or "satellite".
        columns: what to yield beside the image.
        batch_size: rows read at a time.

    Yields:
        `{"image": encoded bytes or None, **columns}`.

    Raises:
        DatasetError: no such dataset, city, view or column.
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
    """What was left out while the dataset was built: table, item, reason, detail."""
    path = Path(dataset_name) / REJECTS_FILE
    if not path.exists():
        raise DatasetError(f"{path} is not there: the build did not end. Run it again.")
    return pq.read_table(path).to_pandas()


def _groups(
    iterator: Iterator[Mapping[str, Any]], schema: pa.Schema, table: str
) -> Iterator[pa.Table]:
    """Tables of at most a row group; one empty table if there are no rows."""
    names = schema.names
    first = True
    while (chunk := list(islice(iterator, ROW_GROUP_SIZE))) or first:
        first = False
        unknown = sorted({key for row in chunk for key in row} - set(names))
        if unknown:
            raise DatasetError(
                f"The table {table!r} has no column {', '.join(unknown)}; it has "
                f"{', '.join(names)}. Name further ones in DatasetMetadata.extra_columns."
            )
        yield pa.table(
            [
                pa.array([_value(row.get(name)) for row in chunk], schema.field(name).type)
                for name in names
            ],
            schema=schema,
        )


def _value(value: Any) -> Any:
    if isinstance(value, float) and np.isnan(value):
        return None
    if isinstance(value, shapely.Geometry):
        return shapely.to_wkb(value)
    return value


def _check_required(group: pa.Table, table: str) -> None:
    for name in REQUIRED[table]:
        if group[name].null_count:
            raise DatasetError(f"The column {name!r} of the table {table!r} cannot be null.")


def _keys_of(path: Path, table: str) -> Iterator[pd.DataFrame]:
    """The keys of a shard's rows in parts; nothing if it has no id."""
    with pq.ParquetFile(path, pre_buffer=False) as file:
        if columns := key_columns(table, file.schema_arrow.names):
            for batch in file.iter_batches(KEYS_AT_ONCE, columns=columns):
                yield key_frame(pa.Table.from_batches([batch]), columns)


@lru_cache(maxsize=64)
def _check_unique(name: str, table: str, files: tuple[tuple[str, int, int], ...]) -> None:
    """Refuse a table whose ids are not unique over its files: path, size and time of each.

    Cached, so that a table is checked once, and again after it has changed.
    """
    check_stream((keys for path, _, _ in files for keys in _keys_of(Path(path), table)), name)


def _leaves(schema: pa.Schema) -> list[str]:
    """Names of the Parquet columns, of which a struct has several."""
    leaves = []
    for field in schema:
        children = field.type.fields if pa.types.is_struct(field.type) else []
        leaves += [f"{field.name}.{child.name}" for child in children] or [field.name]
    return leaves


def geo_metadata(table: pa.Table) -> bytes:
    """GeoParquet 1.1 column metadata of the table of regions."""
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


def _resolve(dataset_name: str | Path, pattern: str) -> Path:
    """The dataset folder; from the Hub, with the tables that match the pattern."""
    root = Path(dataset_name)
    if root.is_dir():
        return root
    name = str(dataset_name)
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
        raise DatasetError(
            f"No dataset {name!r}: there is no such folder, and the Hub does not give it. {said}"
        ) from error
    return Path(folder)


def _configs(root: Path) -> set[tuple[str, str]]:
    found = set()
    for folder in (root / DATA_FOLDER).glob("*-*"):
        if any(folder.glob("part-*.parquet")):
            found.add(parse_config_name(folder.name))
    if not found:
        raise DatasetError(
            f"{root} holds no table ({DATA_FOLDER}/<city>-<table>/part-*.parquet). "
            "`python -m dataset_builders.importers --help` shows how to import images."
        )
    return found


def _shards(root: Path) -> list[Path]:
    return sorted((root / DATA_FOLDER).glob("*/part-*.parquet"))


def _read_columns(paths: Sequence[Path], columns: Sequence[str]) -> pa.Table:
    parts = []
    for path in paths:
        _check_columns(path, pq.read_schema(path).names, columns)
        with pq.ParquetFile(path) as file:
            parts.append(file.read(columns=list(columns)).replace_schema_metadata(None))
    return pa.concat_tables(parts).select(list(columns))


def _check_columns(path: Path, have: Sequence[str], wanted: Sequence[str]) -> None:
    missing = [name for name in wanted if name not in have]
    if missing:
        raise DatasetError(
            f"{path.parent.name} has no column {', '.join(missing)}; it has {', '.join(have)}."
        )


def _metadata(path: Path) -> DatasetMetadata:
    stored = pq.read_schema(path).metadata or {}
    if METADATA_KEY not in stored:
        raise DatasetError(
            f"{path} lacks the schema metadata {METADATA_KEY.decode()!r}: it was not written by "
            "DatasetWriter, or rewritten by a tool that drops it."
        )
    return DatasetMetadata.from_json(stored[METADATA_KEY])


def _rejects(path: Path) -> list[Reject]:
    stored = pq.read_metadata(path).metadata or {}
    rows = json.loads(stored.get(REJECTS_KEY, b"[]"))
    return [(table, item, reason, detail) for table, item, reason, detail in rows]


__all__ = [
    "DatasetWriter",
    "count_rows",
    "geo_metadata",
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
