"""Writes the dataset folder: Parquet shards that a killed build can resume.

The schema of every shard carries what `load_dataset` needs (`huggingface`), what geopandas needs
(`geo`, GeoParquet 1.1, regions only) and what this project needs (`urbanln`).
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .captions import clean_row
from .errors import DatasetError
from .files import WrittenFiles, contents, digest
from .parquet import GEO_KEY, ROW_GROUP_SIZE, geo_metadata, open_writer, row_groups
from .schema import DatasetMetadata, config_name, features, key_columns, parse_config_name
from .storage import (
    CARD_FILE,
    DATA_FOLDER,
    FILES_KIND,
    METADATA_KEY,
    REJECTS_FILE,
    Reject,
    shard_metadata,
    shard_name,
    stored_metadata,
    table_shards,
)
from .unique import key_frame, repeats, require_unique, shard_keys

REJECT_COLUMNS = ("table", "item", "reason", "detail")
REJECTS_KEY, STAMP_KEY = b"urbanln_rejects", b"urbanln_made_of"


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
        # by city and table: the number of shards, from the first, and hashes of their rows' keys
        self._seen: dict[tuple[str, str], tuple[int, set[int]]] = {}
        if contents(self.root) and not (self.root / DATA_FOLDER).is_dir():
            raise DatasetError(
                f"{self.root} is not empty and holds no dataset (no folder {DATA_FOLDER!r}). "
                "Give an empty or a new folder."
            )
        self.files.set_damaged_aside(REJECTS_FILE)
        self.files.check([CARD_FILE, REJECTS_FILE])  # before the work, not after it
        (self.root / DATA_FOLDER).mkdir(parents=True, exist_ok=True)

    def has_shard(self, city: str, table: str, index: int) -> bool:
        """Whether the shard is finished.

        Raises:
            DatasetError: it is, but was built with other parameters.
        """
        path = self.root / shard_name(city, table, index)
        self.files.set_damaged_aside(shard_name(city, table, index))
        if not path.exists():
            return False
        found = dict(shard_metadata(path).parameters)
        # through JSON, so that a tuple equals the list it is read back as
        if json.loads(json.dumps(dict(self.metadata.parameters))) != found:
            raise DatasetError(
                f"{path} was built with {found}, but {dict(self.metadata.parameters)} was asked "
                "for. Give another folder, or delete this one."
            )
        return True

    def write_shard(
        self,
        city: str,
        table: str,
        index: int,
        rows: Iterable[Mapping[str, Any]],
        made_of: Any = None,
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
            made_of: what the rows are made of, as JSON has it. A finished shard that was made of
                something else, or with other metadata, is then written anew.

        Returns:
            The path of the shard.

        Raises:
            DatasetError: a column that the table does not have, or a null id.
            RepeatedIdError: an id that another row of this shard or of one before it has.
            ForeignFileError: in place of the shard is a file that no build wrote.
        """
        name, stamp = shard_name(city, table, index), b""
        if made_of is None:
            is_done = self.has_shard(city, table, index)
        else:
            self.files.set_damaged_aside(name)
            stamp = digest(made_of, json.loads(self.metadata.to_json())).encode()
            is_done = stored_metadata(self.root / name).get(STAMP_KEY) == stamp
        if is_done:
            return self.root / name
        self._of_shard = []
        seen = self._keys_before(city, table, index)
        try:
            with self.files.writing(name) as temporary:
                self._write_rows(temporary, config_name(city, table), table, rows, seen, stamp)
        finally:
            self._of_shard = None
        self._seen[city, table] = (index + 1, seen)
        return self.root / name

    def remove_shard(self, city: str, table: str, index: int) -> None:
        """Delete a shard if it exists, so that it can be written anew.

        Raises:
            ForeignFileError: no build wrote it, or it was changed since.
        """
        self.files.delete([shard_name(city, table, index)])

    def remove_shards_from(self, city: str, table: str, count: int) -> None:
        """Delete the shards of an earlier build beyond the first `count`.

        Raises:
            ForeignFileError: see [`remove_shard`].
        """
        folder = f"{DATA_FOLDER}/{config_name(city, table)}"
        found = [f"{folder}/{path.name}" for path in (self.root / folder).glob("part-*.parquet")]
        kept = {shard_name(city, table, index) for index in range(count)}
        self.files.delete(sorted(set(found) - kept))

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

    def _keys_before(self, city: str, table: str, index: int) -> set[int]:
        """Hashes of the keys before this shard; later ones may be left from another build."""
        known, seen = self._seen.pop((city, table), (0, set()))
        if known > index:
            known, seen = 0, set()
        for number in range(known, index):
            path = self.root / shard_name(city, table, number)
            for keys in shard_keys(path, table) if path.exists() else ():
                repeats(keys, seen)
        return seen

    def _write_rows(
        self,
        temporary: Path,
        name: str,
        table: str,
        rows: Iterable[Mapping[str, Any]],
        seen: set[int],
        stamp: bytes,
    ) -> None:
        extra = self.metadata.extra_columns.get(table)
        schema = features(table, self.metadata.indicators, extra).arrow_schema
        keys = {**(schema.metadata or {}), METADATA_KEY: self.metadata.to_json().encode()}
        keys |= {STAMP_KEY: stamp} if stamp else {}
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


def _rejects_of(path: Path) -> list[Reject]:
    stored = pq.read_metadata(path).metadata or {}
    return [tuple(row) for row in json.loads(stored.get(REJECTS_KEY, b"[]"))]


__all__ = ["DatasetWriter"]
