"""Restore the withheld images of a published dataset, with the user's own keys."""

import asyncio
import hashlib
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from tqdm import tqdm

from .card import RECIPE_FILE, write_card
from .city.fetching import fetch_satellite, open_fetcher
from .city.images import satellite_row
from .city.recipe import CityRecipe, NetworkSettings, read_recipe
from .download import Store
from .errors import DatasetError
from .files import WrittenFiles
from .parquet import ROW_GROUP_SIZE, open_shard
from .schema import VIEWS, DatasetMetadata, config_name
from .sources.local_folder import LocalFolder
from .storage import (
    DATA_FOLDER,
    FILES_KIND,
    METADATA_KEY,
    REJECTS_FILE,
    list_tables,
    read_metadata,
    read_regions,
    read_rejects,
    read_table,
    table_shards,
)
from .trust import check_known
from .writer import DatasetWriter

NOT_FETCHED = "not_fetched_again"
Lost = Mapping[tuple[str, str], NDArray[np.bool_]]
"""Masks of rows without an image, by city and view."""
Read = Callable[[str], bytes | None]
"""Maps an image id to the fetched bytes, if any."""


@dataclass(frozen=True)
class Rehydrated:
    """A rehydrated dataset.

    Attributes:
        folder: Folder of the dataset with images.
        filled: Number of fetched images, by config name.
        missing: Number of images that could not be fetched, by config name; their rows are rejects.
        changed: Number of fetched images that differ from the published ones, by config name;
            providers re-encode.
    """

    folder: Path
    filled: Counter[str] = field(default_factory=Counter)
    missing: Counter[str] = field(default_factory=Counter)
    changed: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        lines = [f"Dataset in {self.folder}"]
        for name in self.filled | self.missing:
            text = f"  {name}: {self.filled[name]:,} images fetched"
            if self.changed[name]:
                text += f", {self.changed[name]:,} changed since publication"
            if self.missing[name]:
                text += f"; {self.missing[name]:,} could not be fetched ({REJECTS_FILE})"
            lines.append(text)
        return "\n".join(lines)


def rehydrate(
    published: str | Path,
    output: str | Path,
    *,
    recipe: CityRecipe | None = None,
    cache: str | Path | None = None,
) -> Rehydrated:
    """Write a dataset with the images that the licence gate withheld.

    Rerun it to resume: only missing images are fetched.

    Args:
        published: Folder of a published dataset.
        output: Folder of the dataset with images.
        recipe: The user's own recipe, which may name any host, variable and folder. By default the
            `recipe.yaml` of the published dataset, restricted to known providers, each with its own
            key; local folders that it names are not read.
        cache: Folder of the fetched files; `<output>/cache` by default.

    Raises:
        StoppedError: Exhausted quota or rejected key; fetched images are kept.
        DatasetError: Missing dataset or recipe, or a recipe that names an unknown host or variable
            for a missing image.
        SourceError: A key is not in the environment.
    """
    root, target = Path(published), Path(output)
    if root.resolve() == target.resolve():
        raise DatasetError(f"{root} is the published dataset itself: give another folder.")
    tables = list_tables(root)
    lost = {pair: _lost(root, *pair) for pair in tables if pair[1] in VIEWS}
    recipe = _downloaded_recipe(root, lost) if recipe is None else recipe
    store = Store(Path(cache) if cache is not None else target / "cache")
    done = Rehydrated(target)
    try:
        for pair in tables:
            if pair not in lost:
                files = WrittenFiles(target, FILES_KIND)
                for path in table_shards(root, *pair):
                    part = f"{DATA_FOLDER}/{config_name(*pair)}/{path.name}"
                    with files.writing(part) as temporary:
                        shutil.copyfile(path, temporary)
            elif pair[1] == "satellite":
                _fill(root, pair, _fetch_satellite(recipe, root, pair[0], lost[pair], store), done)
            else:
                fetched = asyncio.run(_fetch_views(recipe, root, pair[0], lost[pair], store))
                _fill(root, pair, fetched, done)
    finally:
        store.close()
    writer = DatasetWriter(target, read_metadata(root, tables[0][0]))
    for row in read_rejects(root).itertuples(index=False):
        writer.reject(*row)
    # images rejected by an earlier run may have been fetched since
    writer.files.delete([REJECTS_FILE])
    writer.finish()
    write_card(target)
    return done


def _lost(root: Path, city: str, view: str) -> NDArray[np.bool_]:
    paths = table_shards(root, city, view)
    images = (row["image"] for path in paths for row in _rows(path, ["image.bytes"]))
    return np.array([one is None or one["bytes"] is None for one in images], dtype=bool)


def _downloaded_recipe(root: Path, lost: Lost) -> CityRecipe:
    """The dataset's own recipe, if the sources of its missing images are known providers."""
    if not (root / RECIPE_FILE).exists():
        raise DatasetError(
            f"{root} has no {RECIPE_FILE}, which names the sources of its images. Give your own "
            "recipe with --recipe."
        )
    recipe = read_recipe(root / RECIPE_FILE)
    views = tuple(one for one in recipe.street_view if not isinstance(one, LocalFolder))
    # do not use rates and contact address of the publisher
    network = NetworkSettings(placeholders_above=recipe.network.placeholders_above)
    recipe = recipe.model_copy(update={"street_view": views, "network": network})
    check_known(_needed(recipe, root, lost))
    return recipe


def _needed(recipe: CityRecipe, root: Path, lost: Lost) -> Iterator[Any]:
    for (city, view), mask in lost.items():
        if mask.any() and view == "satellite":
            yield from filter(None, [recipe.satellite])
        elif mask.any():
            names = set(read_table(root, city, view, ["source"])["source"][mask])
            yield from (one for one in recipe.street_view if one.name in names)


async def _fetch_views(
    recipe: CityRecipe, root: Path, city: str, lost: NDArray[np.bool_], store: Store
) -> Read:
    keys: dict[str, str] = {}
    columns = ["image_id", "lon", "lat", "heading", "point_id", "source"]
    rows = read_table(root, city, "street_view", columns)
    for source in recipe.street_view_sources():
        mine: Any = rows[(rows["source"] == source.name) & lost].to_dict("records")
        if not mine:
            continue
        with tqdm(total=len(mine), desc=source.name, unit="image") as bar:
            async with open_fetcher(recipe.network, store, source.limits) as fetcher:
                async for image_id, key in source.pictures(mine, fetcher, store):
                    keys[image_id] = key
                    bar.update()
    return lambda image_id: store.read(keys[image_id]) if image_id in keys else None


def _fetch_satellite(
    recipe: CityRecipe, root: Path, city: str, lost: NDArray[np.bool_], store: Store
) -> Read:
    source = recipe.satellite_source()
    wanted = read_table(root, city, "satellite", ["region_id"])["region_id"][lost]
    if source is None or wanted.empty:
        return lambda image_id: None
    regions = read_regions(root, city)
    regions = regions[regions["region_id"].isin(wanted)].reset_index(drop=True)
    asyncio.run(fetch_satellite(recipe, source, regions, store))
    by_id = {one.image_id: one for one in source.pictures(regions, store)}

    def read(image_id: str) -> bytes | None:
        one = by_id.get(image_id)
        row = "" if one is None or one.reason else satellite_row(source, one, store)
        return None if isinstance(row, str) else row["image"]["bytes"]

    return read


def _fill(root: Path, pair: tuple[str, str], read: Read, done: Rehydrated) -> None:
    """Write an image table with its images; rows without one become rejects."""
    name = config_name(*pair)
    for index, path in enumerate(table_shards(root, *pair)):
        stored = pq.read_schema(path).metadata[METADATA_KEY]
        writer = DatasetWriter(done.folder, DatasetMetadata.from_json(stored))

        def rows(path: Path = path, writer: DatasetWriter = writer) -> Iterator[dict[str, Any]]:
            for row in _rows(path):
                if row["image"] is None or row["image"]["bytes"] is None:
                    content = read(row["image_id"])
                    if content is None:
                        done.missing[name] += 1
                        writer.reject(name, row["image_id"], NOT_FETCHED)
                        continue
                    done.filled[name] += 1
                    sha256 = hashlib.sha256(content).hexdigest()
                    done.changed[name] += row.get("sha256") not in (None, sha256)
                    row["image"] = {"bytes": content, "path": None}
                yield row

        writer.remove_shard(*pair, index)
        writer.write_shard(*pair, index, rows())


def _rows(path: Path, columns: list[str] | None = None) -> Iterator[dict[str, Any]]:
    with open_shard(path) as file:
        for batch in file.iter_batches(ROW_GROUP_SIZE, columns=columns):
            yield from pa.Table.from_batches([batch]).to_pylist()


__all__ = ["Rehydrated", "rehydrate"]
