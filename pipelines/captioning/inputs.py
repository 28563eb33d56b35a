"""Input images of a run, divided into shards.

A shard is a range of rows of a Parquet file of a dataset, or of files of a folder, that one process
handles at a time. Images are read one by one.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, cast

import pyarrow.parquet as pq

from dataset_builders.parquet import open_shard
from dataset_builders.schema import VIEWS, config_name
from dataset_builders.storage import DATA_FOLDER, list_tables, table_shards

from .errors import CaptioningError
from .recipe import Recipe
from .records import SourceImage, View

IMAGE_SUFFIXES = frozenset({".avif", ".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
ROWS_AT_A_TIME = 16
Kind = Literal["dataset", "folder"]


@dataclass(frozen=True)
class InputShard:
    """A range of input images.

    Attributes:
        name: Name, unique in the run and usable as a folder name.
        table: Config name of the table, `<city>-<view>`.
        source: Parquet file, or folder.
        start: Index of the first of `count` rows or files.
        stamp: Value that changes when the images may have changed.
    """

    name: str
    table: str
    view: View
    kind: Kind
    source: str
    start: int
    count: int
    stamp: str


@dataclass(frozen=True)
class BadRow:
    """A row without a usable image."""

    image_id: str
    reason: str
    detail: str = ""


def list_shards(recipe: Recipe) -> list[InputShard]:
    """All shards of a run, in a fixed order.

    Raises:
        DatasetError: Unknown dataset, city or view, or no images.
    """
    root = Path(recipe.dataset_name)
    plain = root.is_dir() and not (root / DATA_FOLDER).is_dir()
    shards = _folder_shards(recipe, root) if plain else _dataset_shards(recipe)
    if not shards:
        raise CaptioningError(f"{recipe.dataset_name!r} has no image to caption.")
    return shards


def read_shard(shard: InputShard) -> Iterator[SourceImage | BadRow]:
    """Yield the images of a shard in order, and [`BadRow`] for unusable rows."""
    rows = _dataset_rows(shard) if shard.kind == "dataset" else _folder_rows(shard)
    for image_id, data in rows:
        if data:
            yield SourceImage(image_id, shard.view, hashlib.sha256(data).hexdigest(), data)
        else:
            yield BadRow(image_id, "missing", "the row has no image")


def _ranges(recipe: Recipe, total: int) -> list[tuple[int, int]]:
    size = recipe.run.images_per_shard
    return [(start, min(size, total - start)) for start in range(0, total, size)]


# ---- a dataset in this project's layout ---------------------------------------------------------


def _dataset_shards(recipe: Recipe) -> list[InputShard]:
    tables = [pair for pair in list_tables(recipe.dataset_name) if pair[1] in VIEWS]
    _check_known("cities", recipe.cities, {city for city, _ in tables})
    _check_known("views", recipe.views, {view for _, view in tables})
    shards = []
    for city, view in tables:
        if city not in (recipe.cities or [city]) or view not in (recipe.views or [view]):
            continue
        table, left = config_name(city, view), recipe.max_images
        for part, path in enumerate(table_shards(recipe.dataset_name, city, view)):
            total = pq.read_metadata(path).num_rows
            if left is not None:
                total = min(total, left)
                left -= total
            stamp = f"{path.stat().st_size}-{path.stat().st_mtime_ns}"
            shards += [
                InputShard(
                    f"{table}-{part:05d}-{start:06d}",
                    table,
                    cast(View, view),
                    "dataset",
                    str(path),
                    start,
                    count,
                    stamp,
                )
                for start, count in _ranges(recipe, total)
            ]
    return shards


def _dataset_rows(shard: InputShard) -> Iterator[tuple[str, bytes | None]]:
    wanted = range(shard.start, shard.start + shard.count)
    columns = ["image.bytes", "image_id"]
    with open_shard(Path(shard.source)) as file:
        at = 0
        for index in range(file.num_row_groups):
            rows = file.metadata.row_group(index).num_rows
            if at + rows <= wanted.start or at >= wanted.stop:
                at += rows
                continue
            for batch in file.iter_batches(ROWS_AT_A_TIME, row_groups=[index], columns=columns):
                first, stop = max(at, wanted.start), min(at + len(batch), wanted.stop)
                for row in batch.slice(first - at, max(0, stop - first)).to_pylist():
                    yield row["image_id"], (row["image"] or {}).get("bytes")
                at += len(batch)


def _check_known(field: str, wanted: tuple[str, ...] | None, known: set[str]) -> None:
    if unknown := sorted(set(wanted or ()) - known):
        raise CaptioningError(
            f"Unknown `{field}` {', '.join(unknown)}; the dataset has {', '.join(sorted(known))}."
        )


# ---- a folder of images -------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _files(root: Path) -> list[Path]:
    return sorted(
        path
        for path in root.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(root).parts)
    )


def _folder_shards(recipe: Recipe, root: Path) -> list[InputShard]:
    paths = _files(root)[: recipe.max_images]
    table, view = _plain_table(recipe, root.name)
    shards = []
    for start, count in _ranges(recipe, len(paths)):
        content = hashlib.sha256()
        for path in paths[start : start + count]:
            size, changed = path.stat().st_size, path.stat().st_mtime_ns
            content.update(f"{path.relative_to(root).as_posix()} {size} {changed}\n".encode())
        name, stamp = f"{table}-{start:08d}", content.hexdigest()[:16]
        shards.append(InputShard(name, table, view, "folder", str(root), start, count, stamp))
    return shards


def _folder_rows(shard: InputShard) -> Iterator[tuple[str, bytes]]:
    root = Path(shard.source)
    for path in _files(root)[shard.start : shard.start + shard.count]:
        yield path.relative_to(root).as_posix(), path.read_bytes()


def _plain_table(recipe: Recipe, name: str) -> tuple[str, View]:
    """Config name and view of a folder of images, which holds one city and one view."""
    what = f"{recipe.dataset_name!r} is a folder of images"
    if not recipe.views or len(recipe.views) != 1 or recipe.views[0] not in VIEWS:
        raise CaptioningError(
            f"{what}: set `views: [street_view]` or `views: [satellite]`, got {recipe.views!r}."
        )
    if recipe.cities and len(recipe.cities) != 1:
        raise CaptioningError(f"{what}: `cities` must have one name, got {recipe.cities!r}.")
    plain = re.sub(r"[^a-z0-9_]+", "_", name.lower()).strip("_") or "images"
    view = cast(View, recipe.views[0])
    return config_name(recipe.cities[0] if recipe.cities else plain, view), view
