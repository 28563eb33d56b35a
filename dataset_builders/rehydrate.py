"""Fetch again, with one's own key, the pictures that a published dataset may only name."""

import asyncio
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from .city.fetching import fetch_satellite, open_fetcher
from .city.recipe import CityRecipe, NetworkSettings, read_recipe
from .city.satellite import picture_row
from .city.shards import sha256_of
from .download import Store
from .errors import DatasetError
from .files import WrittenFiles
from .publish import write_card
from .schema import VIEWS, DatasetMetadata, config_name
from .storage import (
    DATA_FOLDER,
    FILES_KIND,
    REJECTS_FILE,
    DatasetWriter,
    list_tables,
    read_metadata,
    read_regions,
    read_rejects,
    read_table,
    table_shards,
)
from .trust import check_known

ROWS_AT_ONCE = 500
Lost = Mapping[tuple[str, str], Any]
"""For each row of each table of images, by city and view, whether its image is missing."""
Read = Callable[[str], bytes | None]
"""From an image id to its bytes, if they were had."""


@dataclass(frozen=True)
class Rehydrated:
    """What was fetched again.

    Attributes:
        folder: of the dataset with pictures.
        filled: pictures fetched, by config name.
        missing: pictures that could not be had, by config name; their rows are in the rejects.
        changed: of the filled, those that are not the published bytes: providers encode anew.
    """

    folder: Path
    filled: dict[str, int]
    missing: dict[str, int]
    changed: dict[str, int]

    def __str__(self) -> str:
        lines = [f"Dataset in {self.folder}"]
        for name in self.filled | self.missing:
            text = f"  {name}: {self.filled.get(name, 0):,} pictures fetched"
            if self.changed.get(name):
                text += f", {self.changed[name]:,} with other bytes than were published"
            if self.missing.get(name):
                text += f"; {self.missing[name]:,} could not be had (rejects.parquet)"
            lines.append(text)
        return "\n".join(lines)


def rehydrate(
    published: str | Path,
    output: str | Path,
    *,
    recipe: CityRecipe | None = None,
    cache: str | Path | None = None,
) -> Rehydrated:
    """Write a dataset with the pictures that its licence gate left out.

    Run again after a stop, it fetches only what is missing.

    Args:
        published: folder of a published dataset.
        output: folder of the dataset with pictures; what was fetched lies in `<output>/cache`
            unless `cache` says otherwise.
        recipe: of the sources: your own, which may name any host, variable and folder. By default
            the `recipe.yaml` of the published dataset, of which only known providers are used,
            each with its own key; local folders that it names are not read.
        cache: folder of the ledger.

    Raises:
        StoppedError: quota used up or key refused; what is there is kept.
        DatasetError: no dataset, no recipe in it, or one that names an unknown host or variable
            as the source of a missing picture.
        SourceError: a key is not in the environment.
    """
    root, target = Path(published), Path(output)
    if root.resolve() == target.resolve():
        raise DatasetError(f"{root} is the published dataset itself: give another folder.")
    lost = {table: _lost(root, *table) for table in list_tables(root) if table[1] in VIEWS}
    if recipe is None:
        recipe = _downloaded_recipe(root, lost)
    store = Store(Path(cache) if cache is not None else target / "cache")
    filled: Counter[str] = Counter()
    missing: Counter[str] = Counter()
    changed: Counter[str] = Counter()
    try:
        for city, view in list_tables(root):
            if view in VIEWS:
                read = _fetch(recipe, root, city, view, lost[city, view], store)
                _fill(root, target, city, view, read, (filled, missing, changed))
            else:
                _copy(root, target, city, view)
    finally:
        store.close()
    writer = DatasetWriter(target, read_metadata(root, list_tables(root)[0][0]))
    for row in read_rejects(root).itertuples(index=False):
        writer.reject(*row)
    # of an earlier run, which may have missed pictures that are here now
    writer.files.delete([REJECTS_FILE])
    writer.finish()
    write_card(target)
    return Rehydrated(target, dict(filled), dict(missing), dict(changed))


def _downloaded_recipe(root: Path, lost: Lost) -> CityRecipe:
    """The dataset's own recipe, if those of its sources that are needed are known providers."""
    if not (root / "recipe.yaml").exists():
        raise DatasetError(f"{root} has no recipe.yaml that would say where its pictures are.")
    recipe = read_recipe(root / "recipe.yaml")
    views = tuple(one for one in recipe.street_view if one["provider"] != "folder")
    # the pace and the contact address are the user's own affair
    network = NetworkSettings(placeholders_above=recipe.network.placeholders_above)
    recipe = replace(recipe, street_view=views, network=network)
    check_known(_needed(recipe, root, lost))
    return recipe


def _needed(recipe: CityRecipe, root: Path, lost: Lost) -> Iterator[Any]:
    """The sources that missing pictures came from."""
    for (city, view), mask in lost.items():
        if not mask.any():
            continue
        if view == "satellite":
            yield from filter(None, [recipe.open_satellite()])
        else:
            names = set(read_table(root, city, view, ["source"])["source"][mask])
            yield from (one for one in recipe.open_street_views() if one.name in names)


def _fetch(recipe: CityRecipe, root: Path, city: str, view: str, lost: Any, store: Store) -> Read:
    if view == "satellite":
        return _fetch_satellite(recipe, root, city, lost, store)
    keys = asyncio.run(_fetch_views(recipe, root, city, lost, store))
    return lambda image_id: store.read(keys[image_id]) if image_id in keys else None


async def _fetch_views(
    recipe: CityRecipe, root: Path, city: str, lost: Any, store: Store
) -> dict[str, str]:
    """Fetch the street views that are missing; returns the key of each in the store."""
    keys: dict[str, str] = {}
    columns = ["image_id", "lon", "lat", "heading", "point_id", "source"]
    rows = read_table(root, city, "street_view", columns)
    for source in recipe.open_street_views():
        mine: Any = rows[(rows["source"] == source.name) & lost].to_dict("records")
        if not mine:
            continue
        with tqdm(total=len(mine), desc=source.name, unit="picture") as bar:
            async with open_fetcher(recipe.network, store, dict(source.limits)) as fetcher:
                async for image_id, key in source.pictures(mine, fetcher, store):
                    keys[image_id] = key
                    bar.update()
    return keys


def _fetch_satellite(recipe: CityRecipe, root: Path, city: str, lost: Any, store: Store) -> Read:
    source = recipe.open_satellite()
    rows = read_table(root, city, "satellite", ["image_id", "region_id"])
    wanted = rows[lost]
    if source is None or len(wanted) == 0:
        return lambda image_id: None
    regions = read_regions(root, city)
    regions = regions[regions["region_id"].isin(wanted["region_id"])].reset_index(drop=True)
    asyncio.run(fetch_satellite(recipe, source, regions, store))
    by_id = {one.image_id: one for one in source.pictures(regions, store)}

    def read(image_id: str) -> bytes | None:
        one = by_id.get(image_id)
        row = "" if one is None or one.reason else picture_row(source, one, store)
        return None if isinstance(row, str) else row["image"]["bytes"]

    return read


def _lost(root: Path, city: str, view: str) -> Any:
    """Of each row whether its picture is missing."""
    parts = []
    for path in table_shards(root, city, view):
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=ROWS_AT_ONCE, columns=["image.bytes"]):
                image = batch.column("image")
                parts += [one is None or one["bytes"] is None for one in image.to_pylist()]
    return np.array(parts, dtype=bool)


def _fill(
    root: Path,
    target: Path,
    city: str,
    view: str,
    read: Read,
    counts: tuple[Counter[str], Counter[str], Counter[str]],
) -> None:
    """Write a table's shards with their pictures; rows that have none are listed."""
    filled, missing, changed = counts
    name = config_name(city, view)
    for index, path in enumerate(table_shards(root, city, view)):
        metadata = _metadata(path)
        writer = DatasetWriter(target, metadata)

        def rows(path: Path = path, writer: DatasetWriter = writer) -> Iterator[Mapping[str, Any]]:
            for row in _rows(path):
                if row["image"] is None or row["image"]["bytes"] is None:
                    content = read(row["image_id"])
                    if content is None:
                        missing[name] += 1
                        writer.reject(name, row["image_id"], "not_fetched_again")
                        continue
                    filled[name] += 1
                    changed[name] += row.get("sha256") not in (None, sha256_of(content))
                    row["image"] = {"bytes": content, "path": None}
                yield row

        writer.remove_shard(city, view, index)
        writer.write_shard(city, view, index, rows())


def _copy(root: Path, target: Path, city: str, table: str) -> None:
    files = WrittenFiles(target, FILES_KIND)
    for path in table_shards(root, city, table):
        with files.writing(f"{DATA_FOLDER}/{config_name(city, table)}/{path.name}") as temporary:
            shutil.copyfile(path, temporary)


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with pq.ParquetFile(path, pre_buffer=False) as file:
        for batch in file.iter_batches(batch_size=100):
            yield from pa.Table.from_batches([batch]).to_pylist()


def _metadata(path: Path) -> DatasetMetadata:
    stored = pq.read_schema(path).metadata or {}
    return DatasetMetadata.from_json(stored[b"urbanln"])


__all__ = ["Rehydrated", "rehydrate"]
