"""Writer of dataset folders: Parquet shards, resumable after a kill.

The schema metadata of every shard contain what `load_dataset` (key `huggingface`), geopandas
(`geo`, GeoParquet 1.1, regions only) and this project (`urbanln`) need.
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

    A shard is written completely or not at all, and a finished one is not rewritten. Rerun a killed
    build to resume it; the result is the same.

    Args:
        root: Dataset folder; created if missing.
        metadata: Metadata of the dataset.

    Attributes:
        files: Files of the folder that a build may replace or delete.

    Raises:
        DatasetError: The folder contains files but no dataset.
        ForeignFileError: It contains a card or rejects that no build wrote, or that were edited.
    """

    def __init__(self, root: str | Path, metadata: DatasetMetadata):
        self.root = Path(root)
        self.metadata = metadata
        self.files = WrittenFiles(self.root, FILES_KIND)
        self._general: list[Reject] = []
        self._of_shard: list[Reject] | None = None
        # number of leading shards and hashes of their keys, by city and table
        self._seen: dict[tuple[str, str], tuple[int, set[int]]] = {}
        if contents(self.root) and not (self.root / DATA_FOLDER).is_dir():
            raise DatasetError(
                f"{self.root} is not empty and contains no dataset (no folder {DATA_FOLDER!r}). "
                "Give an empty or a new folder."
            )
        self.files.set_damaged_aside(REJECTS_FILE)
        self.files.check([CARD_FILE, REJECTS_FILE])  # fail early
        (self.root / DATA_FOLDER).mkdir(parents=True, exist_ok=True)

    def has_shard(self, city: str, table: str, index: int) -> bool:
        """Whether a shard is finished.

        Raises:
            DatasetError: It was built with other parameters.
        """
        path = self.root / shard_name(city, table, index)
        self.files.set_damaged_aside(shard_name(city, table, index))
        if not path.exists():
            return False
        found = dict(shard_metadata(path).parameters)
        # JSON turns tuples into lists
        if json.loads(json.dumps(dict(self.metadata.parameters))) != found:
            raise DatasetError(
                f"{path} was built with {found}, not with {dict(self.metadata.parameters)}. Give "
                "another folder, or delete this one."
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
        """Write a shard, unless it is finished.

        Images are `{"bytes": ..., "path": name or None}`; geometries are WKB or shapely, EPSG:4326.
        Missing columns and NaN become null. A generator of rows is consumed only if the shard is
        written, and items that it passes to [`reject`] are stored with the shard. Captions are
        cleaned ([`captions.clean_row`]); dropped ones are rejected.

        Args:
            city: Name of the city.
            table: One of the four tables.
            index: Number of the shard, from 0.
            rows: Rows with at least the required columns.
            made_of: Description of the inputs, as JSON. A finished shard of other inputs or
                metadata is rewritten.

        Returns:
            Path of the shard.

        Raises:
            DatasetError: Unknown column, or null in a required one.
            RepeatedIdError: An id repeats one of this shard or an earlier one.
            ForeignFileError: A file that no build wrote is in place of the shard.
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
        """Delete a shard if it exists, for it to be rewritten.

        Raises:
            ForeignFileError: No build wrote it, or it was changed since.
        """
        self.files.delete([shard_name(city, table, index)])

    def remove_shards_from(self, city: str, table: str, count: int) -> None:
        """Delete the shards of an earlier build beyond the first `count`.

        Raises:
            ForeignFileError: See [`remove_shard`].
        """
        folder = f"{DATA_FOLDER}/{config_name(city, table)}"
        found = [f"{folder}/{path.name}" for path in (self.root / folder).glob("part-*.parquet")]
        kept = {shard_name(city, table, index) for index in range(count)}
        self.files.delete(sorted(set(found) - kept))

    def reject(self, table: str, item: str, reason: str, detail: str = "") -> None:
        """Record a rejected item.

        Outside the generator of a shard, a reject belongs to the build, and every run of the
        build must record it again.

        Args:
            table: Config name, or the input file.
            item: Image id, region id or row.
            reason: Short code.
            detail: Details.
        """
        target = self._general if self._of_shard is None else self._of_shard
        target.append((str(table), str(item), str(reason), str(detail)))

    def finish(self) -> Path:
        """Write `rejects.parquet` from all shards and this run; may be called again.

        Returns:
            Path of the file.

        Raises:
            RepeatedIdError: A table has duplicate ids, whoever wrote its shards.
        """
        shards = sorted((self.root / DATA_FOLDER).glob("*/part-*.parquet"))
        for name in sorted({path.parent.name for path in shards}):
            table_shards(self.root, *parse_config_name(name))
        stored = [(pq.read_metadata(path).metadata or {}).get(REJECTS_KEY) for path in shards]
        of_shards = [tuple(row) for text in stored if text for row in json.loads(text)]
        path = self.root / REJECTS_FILE
        earlier: Counter[Reject] = Counter()
        if path.exists():
            rows = pq.read_table(path).to_pylist()
            earlier = Counter(tuple(row[name] for name in REJECT_COLUMNS) for row in rows)
            earlier -= Counter(of_shards)
        # the maximum of both counts: a second run records the same rejects again
        rejects = [*of_shards, *(earlier | Counter(self._general)).elements()]
        schema = pa.schema([(name, pa.string()) for name in REJECT_COLUMNS])
        rows = [dict(zip(REJECT_COLUMNS, reject, strict=True)) for reject in rejects]
        with self.files.writing(REJECTS_FILE) as temporary:
            pq.write_table(pa.Table.from_pylist(rows, schema=schema), temporary)
        return path

    def _keys_before(self, city: str, table: str, index: int) -> set[int]:
        """Hashes of the keys of earlier shards; later shards may be left from another build."""
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
                require_unique([ids], name, "The shard was not written.", seen)
                if len(group):  # `datasets` cannot stream an empty row group
                    writer.write_table(group, row_group_size=ROW_GROUP_SIZE)
            # complete once the rows have been consumed
            writer.add_key_value_metadata({REJECTS_KEY: json.dumps(self._of_shard)})

    def _cleaned(
        self, name: str, table: str, rows: Iterable[Mapping[str, Any]]
    ) -> Iterator[Mapping[str, Any]]:
        for row in rows:
            cleaned, reason, text = clean_row(table, row)
            if reason:
                self.reject(name, str(row.get("image_id")), reason, text)
            yield cleaned


__all__ = ["DatasetWriter"]
