"""Export of a finished run as a dataset with the chosen captions and all candidates."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from dataset_builders.card import write_card
from dataset_builders.errors import SplitError
from dataset_builders.images import BadImageError, storable_bytes
from dataset_builders.parquet import open_shard
from dataset_builders.schema import VIEWS, DatasetMetadata, parse_config_name
from dataset_builders.splits import random_split
from dataset_builders.storage import list_tables, read_metadata, read_table, table_shards
from dataset_builders.storage import read_rejects as read_build_rejects
from dataset_builders.writer import DatasetWriter

from .errors import CaptioningError
from .inputs import BadRow, list_shards, read_shard
from .ledger import ShardFolder, unit_key
from .recipe import Recipe
from .tables import AUDIT_COLUMNS, read_candidates, read_rejects

ROWS_AT_A_TIME = 64
SHARDS_PER_PART = 50
"""About 200,000 candidates, at 15 per image."""


def export_dataset(recipe: Recipe, dataset_dir: str | Path) -> Path:
    """Write a dataset with the captions of a finished run, for training with `train.py`.

    `<city>-captions` holds all candidates; the image tables hold the chosen caption, its model and
    its score. The other tables are copied from the source; an image without a chosen caption keeps
    its previous one. If the source is a folder of images, each image becomes a region without a
    location.

    Args:
        recipe: Recipe of the run.
        dataset_dir: New folder, or that of an interrupted export.

    Returns:
        The dataset folder.

    Raises:
        CaptioningError: The run is not finished.
        DatasetError: The folder contains other files.
    """
    shards = list_shards(recipe)
    folders = [ShardFolder(recipe.output_dir, shard) for shard in shards]
    if missing := [folder.shard.name for folder in folders if not folder.candidates.exists()]:
        raise CaptioningError(
            f"The run in {recipe.output_dir} is not finished: {len(missing)} of {len(folders)} "
            f"shards have no candidates yet, first {missing[0]}. Rerun the command to resume."
        )
    root = Path(dataset_dir)
    if is_plain(recipe):
        writer = _write_plain(recipe, folders, root)
    else:
        writer = _write_captioned(recipe, folders, root)
    for city in sorted({_city(folder) for folder in folders}):
        own = [folder for folder in folders if _city(folder) == city]
        for index, start in enumerate(range(0, len(own), SHARDS_PER_PART)):
            rows = _candidate_rows(own[start : start + SHARDS_PER_PART])
            writer.write_shard(city, "captions", index, rows)
    _reject(writer, recipe, folders)
    writer.finish()
    write_card(root)
    return root


def is_plain(recipe: Recipe) -> bool:
    """Whether the images are a folder instead of a dataset in this project's layout."""
    return any(shard.kind != "dataset" for shard in list_shards(recipe))


def _write_captioned(recipe: Recipe, folders: list[ShardFolder], root: Path) -> DatasetWriter:
    """Copy the tables of the source, with captions and without its table of candidates."""
    cities = {_city(folder) for folder in folders}
    source = read_metadata(recipe.dataset_name, min(cities))
    writer = DatasetWriter(root, _metadata(recipe, source, folders))
    for city, table in list_tables(recipe.dataset_name):
        if table == "captions" and city in cities:
            continue
        for index, path in enumerate(table_shards(recipe.dataset_name, city, table)):
            mine = [folder for folder in folders if folder.shard.source == str(path)]
            rows = _captioned_rows(path, mine if table in VIEWS else [])
            writer.write_shard(city, table, index, rows)
    return writer


def _captioned_rows(path: Path, folders: list[ShardFolder]) -> Iterator[dict[str, Any]]:
    chosen = _chosen(folders)
    with open_shard(path) as file:
        for batch in file.iter_batches(ROWS_AT_A_TIME):
            for row in batch.to_pylist():
                yield row | chosen.get(row.get("image_id", ""), {})


def _write_plain(recipe: Recipe, folders: list[ShardFolder], root: Path) -> DatasetWriter:
    """Write a table of images, and a table with one region per image."""
    city, view = parse_config_name(folders[0].shard.table)
    source = DatasetMetadata(
        title=f"{city}: {view.replace('_', ' ')} images",
        description=f"Images of {recipe.dataset_name} with captions.",
        source=recipe.dataset_name,
        licence="not stated",
        indicators=(),
        notes=(
            "Each image is its own region, without location and indicators, so the dataset is for "
            "pretraining only. `python -m dataset_builders.importers image_folder` builds one with "
            "regions.",
        ),
    )
    writer = DatasetWriter(root, _metadata(recipe, source, folders))
    for index, folder in enumerate(folders):
        writer.write_shard(city, view, index, _plain_rows(recipe, folder))
    ids = sorted(read_table(root, city, view, ["image_id"])["image_id"])
    try:
        splits: Sequence[str | None] = random_split(len(ids), recipe.seed).tolist()
    except SplitError:  # too few images
        splits = [None] * len(ids)
    regions = [
        {"region_id": region_id, "city": city, "split_random": split}
        for region_id, split in zip(ids, splits, strict=True)
    ]
    writer.write_shard(city, "regions", 0, regions)
    return writer


def _plain_rows(recipe: Recipe, folder: ShardFolder) -> Iterator[dict[str, Any]]:
    """Rows of the usable images of a shard; the rejects of the run list the others."""
    chosen = _chosen([folder])
    for row in read_shard(folder.shard):
        if isinstance(row, BadRow):
            continue
        try:
            image = {"bytes": storable_bytes(row.data), "path": Path(row.image_id).name}
        except BadImageError:
            continue
        ids = {"image_id": row.image_id, "region_id": row.image_id}
        yield {"image": image, **ids, **chosen.get(row.image_id, {})}


def _metadata(
    recipe: Recipe, source: DatasetMetadata, folders: list[ShardFolder]
) -> DatasetMetadata:
    marks = sorted(str(folder.summary().get("fingerprint")) for folder in folders)
    simulated = " The captioning models are simulated (synthetic)." if recipe.synthetic else ""
    return replace(
        source,
        synthetic=source.synthetic or recipe.synthetic,
        extra_columns={**source.extra_columns, "captions": AUDIT_COLUMNS},
        parameters={**source.parameters, "captions": unit_key("export", marks=marks)[:16]},
        notes=(
            *source.notes,
            f"Captions: candidates of {', '.join(recipe.model_names)}, checked against the image "
            f"and chosen by consensus.{simulated}",
        ),
    )


def _city(folder: ShardFolder) -> str:
    return parse_config_name(folder.shard.table)[0]


def _chosen(folders: list[ShardFolder]) -> dict[str, dict[str, Any]]:
    """Caption columns of each image with a chosen candidate, by `image_id`."""
    return {
        one.image_id: {
            "caption": one.text,
            "caption_model": one.model,
            "caption_score": one.scores.score,
        }
        for one in read_candidates([folder.candidates for folder in folders])
        if one.chosen
    }


def _candidate_rows(folders: list[ShardFolder]) -> Iterator[dict[str, Any]]:
    for folder in folders:
        with pq.ParquetFile(folder.candidates) as file:
            for batch in file.iter_batches(ROWS_AT_A_TIME):
                yield from batch.to_pylist()


def _reject(writer: DatasetWriter, recipe: Recipe, folders: list[ShardFolder]) -> None:
    if not is_plain(recipe) and Path(recipe.dataset_name).is_dir():
        for row in read_build_rejects(recipe.dataset_name).itertuples():
            writer.reject(*map(str, (row.table, row.item, row.reason, row.detail)))
    for folder in folders:
        for reject in read_rejects([folder.rejects]):
            detail = " ".join(part for part in (reject.stage, reject.model, reject.detail) if part)
            writer.reject(folder.shard.table, reject.image_id, reject.reason, detail)
