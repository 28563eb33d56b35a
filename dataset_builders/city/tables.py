"""The tables of a city's dataset, shard by shard; a shard made of the same is left alone."""

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
from tqdm import tqdm

from ..files import WrittenFiles, digest, write_json
from ..schema import config_name
from ..storage import DATA_FOLDER, FILES_KIND, DatasetWriter
from .images import CityImage

REGIONS_AT_ONCE = 2000


class ShardLedger:
    """Knows of each shard what it was made of.

    Args:
        path: JSON file of the ledger.
        dataset: Folder of the dataset.
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
        """Write a shard, unless it exists and is made of the same.

        Args:
            writer: Of the dataset.
            table: City and table.
            index: Of the shard.
            made_of: Equal for equal rows.
            rows: Called if the shard is written.

        Raises:
            ForeignFileError: In its place is a shard that no build wrote.
        """
        name = f"{config_name(*table)}/part-{index:05d}.parquet"
        stamp = digest(made_of, json.loads(writer.metadata.to_json()))
        if (self._dataset / DATA_FOLDER / name).exists() and self._known.get(name) == stamp:
            return
        writer.remove_shard(*table, index)
        writer.write_shard(*table, index, rows())
        self._known[name] = stamp
        write_json(self._path, self._known)

    def drop_beyond(self, table: tuple[str, str], count: int) -> None:
        """Remove shards of an earlier build that this one does not have.

        Raises:
            ForeignFileError: One of them was written by no build.
        """
        name = config_name(*table)
        kept = {f"part-{index:05d}.parquet" for index in range(count)}
        found = {path.name for path in (self._dataset / DATA_FOLDER / name).glob("part-*.parquet")}
        gone = [f"{DATA_FOLDER}/{name}/{one}" for one in sorted(found - kept)]
        WrittenFiles(self._dataset, FILES_KIND).delete(gone)


def write_images(
    table: tuple[str, str],
    shards: Iterable[list[CityImage]],
    writer: DatasetWriter,
    ledger: ShardLedger,
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Write a table of images.

    Yields:
        Of each image in a region: the region, and what names the image's content.
    """
    count, name = 0, config_name(*table)
    for images in tqdm(shards, desc=f"{name} table", unit="shard"):
        made_of = [[one.image_id, one.region_id, one.identity, one.reason] for one in images]

        def rows(images: list[CityImage] = images) -> Iterator[dict[str, Any]]:
            for one in images:
                row = one.reason or one.row()
                if isinstance(row, str):
                    writer.reject(name, one.image_id, row, one.detail)
                else:
                    yield row

        ledger.write(writer, table, count, digest(made_of), rows)
        count += 1
        for one in images:
            if one.region_id is not None and not one.reason:
                yield one.region_id, one.names
    ledger.drop_beyond(table, count)


def write_regions(
    city: str,
    regions: gpd.GeoDataFrame,
    columns: pd.DataFrame,
    writer: DatasetWriter,
    ledger: ShardLedger,
) -> None:
    """Write the table of regions.

    Args:
        city: Its name.
        regions: With geometry, EPSG:4326.
        columns: Indicators and splits, indexed like the regions.
        writer: Of the dataset.
        ledger: Of its shards.
    """
    frame = pd.concat([pd.DataFrame(regions), columns], axis=1).assign(city=city)
    if "cover" not in frame:
        frame["cover"] = np.nan
    made_of = digest([digest(_plain(chunk)) for chunk in _in_chunks(frame)])
    rows = itertools.chain.from_iterable(_in_chunks(frame))
    ledger.write(writer, (city, "regions"), 0, made_of, lambda: rows)


def _in_chunks(frame: pd.DataFrame) -> Iterator[list[dict[str, Any]]]:
    """The rows of a table, which as dictionaries would take far more memory than the table."""
    for start in range(0, len(frame), REGIONS_AT_ONCE):
        chunk = frame.iloc[start : start + REGIONS_AT_ONCE].astype(object)
        rows: Any = chunk.where(chunk.notna(), None).to_dict("records")
        yield rows


def _plain(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row | {"geometry": row["geometry"].wkb_hex} for row in rows]


__all__ = ["ShardLedger", "write_images", "write_regions"]
