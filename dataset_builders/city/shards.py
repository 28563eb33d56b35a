"""Shards that follow what they are made of: one that would come out other than it is, is remade."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ..files import WrittenFiles, digest, write_json
from ..schema import config_name
from ..storage import DATA_FOLDER, FILES_KIND, DatasetWriter


class ShardLedger:
    """Knows of each shard what it was made of.

    Args:
        path: of the ledger, a JSON file.
        dataset: folder of the dataset.
    """

    def __init__(self, path: Path, dataset: Path):
        self._path, self._dataset = path, dataset
        self._known: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}

    def write(
        self,
        writer: DatasetWriter,
        table: tuple[str, str],
        index: int,
        made_of: str,
        rows: Callable[[], Iterable[Mapping[str, Any]]],
    ) -> None:
        """Write a shard, unless it is there and made of the same.

        Args:
            writer: of the dataset.
            table: city and table.
            index: of the shard.
            made_of: equal for equal rows.
            rows: called if the shard is written.

        Raises:
            ForeignFileError: a shard is in its place that no build wrote.
        """
        name = f"{config_name(*table)}/part-{index:05d}.parquet"
        stamp = digest(made_of, json.loads(writer.metadata.to_json()))
        path = self._dataset / DATA_FOLDER / name
        if path.exists() and self._known.get(name) == stamp:
            return
        writer.remove_shard(*table, index)
        writer.write_shard(*table, index, rows())
        self._known[name] = stamp
        write_json(self._path, self._known)

    def drop_beyond(self, table: tuple[str, str], count: int) -> None:
        """Remove shards of an earlier build that this one does not have.

        Raises:
            ForeignFileError: one of them was written by no build.
        """
        name = config_name(*table)
        kept = {f"part-{index:05d}.parquet" for index in range(count)}
        found = {path.name for path in (self._dataset / DATA_FOLDER / name).glob("part-*.parquet")}
        gone = [f"{DATA_FOLDER}/{name}/{one}" for one in sorted(found - kept)]
        WrittenFiles(self._dataset, FILES_KIND).delete(gone)


def sha256_of(content: bytes) -> str:
    """Fingerprint of a picture, as the column `sha256` has it."""
    return hashlib.sha256(content).hexdigest()


__all__ = ["ShardLedger", "sha256_of"]
