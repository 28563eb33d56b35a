"""From a finished run to a dataset: every candidate in a table, the best one beside its image."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from dataset_builders.captions import clean_caption, clean_row
from dataset_builders.card import write_card
from dataset_builders.files import WrittenFiles
from dataset_builders.schema import VIEWS, DatasetMetadata, parse_config_name
from dataset_builders.storage import (
    DatasetWriter,
    list_tables,
    read_metadata,
    table_shards,
)
from dataset_builders.storage import (
    read_rejects as read_build_rejects,
)

from .errors import CaptioningError
from .inputs import list_shards
from .ledger import unit_key
from .passes import ShardFolder
from .recipe import Recipe
from .records import Candidate
from .tables import AUDIT_COLUMNS, CANDIDATES, read_candidates, read_rejects

ROWS_AT_A_TIME = 64
CANDIDATES_PER_PART = 200_000
Chosen = Mapping[str, Candidate]


def export_dataset(recipe: Recipe, dataset_dir: str | Path) -> Path:
    """Write a dataset with the captions of a finished run.

    From a dataset of this project's layout comes a whole one: `<city>-captions` holds the
    candidates, and the image tables the chosen caption, its model and its score; an image without
    one keeps what it had. From a plain set of images come `captions.parquet` (all candidates) and
    `chosen.csv`.

    Args:
        recipe: of the run.
        dataset_dir: a new folder, or that of an export that was stopped.

    Returns:
        The folder.

    Raises:
        CaptioningError: the run is not finished.
        DatasetError: the folder holds something else, or a file in the way that no export wrote.
    """
    shards = list_shards(recipe)
    folders = [ShardFolder(recipe.output_dir, shard) for shard in shards]
    if missing := [folder.shard.name for folder in folders if not folder.candidates.exists()]:
        raise CaptioningError(
            f"The run in {recipe.output_dir} is not finished: {len(missing)} of {len(folders)} "
            f"shards have no candidates yet, {missing[0]} the first. Run it to its end."
        )
    root = Path(dataset_dir)
    if all(shard.kind == "dataset" for shard in shards):
        return _export_dataset(recipe, folders, root)
    return _export_plain(folders, root)


# ---- a dataset ----------------------------------------------------------------------------------


def _export_dataset(recipe: Recipe, folders: list[ShardFolder], root: Path) -> Path:
    tables = list_tables(recipe.dataset_name)
    captioned = {folder.shard.table for folder in folders}
    cities = sorted({parse_config_name(name)[0] for name in captioned})
    metadata = _metadata(recipe, read_metadata(recipe.dataset_name, cities[0]), folders)
    writer = DatasetWriter(root, metadata)
    for city, table in tables:
        if table == "captions" and city in cities:
            continue
        for index, path in enumerate(table_shards(recipe.dataset_name, city, table)):
            mine = [folder for folder in folders if folder.shard.source == str(path)]
            writer.write_shard(city, table, index, _rows(path, mine if table in VIEWS else []))
    for city in cities:
        own = [one for one in folders if parse_config_name(one.shard.table)[0] == city]
        for index, part in enumerate(_parts(own)):
            writer.write_shard(city, "captions", index, _candidate_rows(part))
    _reject(writer, recipe, folders)
    writer.finish()
    write_card(root)
    return root


def _metadata(
    recipe: Recipe, source: DatasetMetadata, folders: list[ShardFolder]
) -> DatasetMetadata:
    marks = sorted(path.read_text() for one in folders for path in one.path.glob("*.done.json"))
    models = ", ".join(recipe.model_names)
    simulated = " Their models are simulated (synthetic)." if recipe.synthetic else ""
    return replace(
        source,
        synthetic=source.synthetic or recipe.synthetic,
        extra_columns={**source.extra_columns, "captions": AUDIT_COLUMNS},
        parameters={**source.parameters, "captions": unit_key("export", marks=marks)[:16]},
        notes=(
            *source.notes,
            f"Captions: candidates of {models}, checked against the image and chosen by "
            f"consensus.{simulated}",
        ),
    )


def _chosen(folders: list[ShardFolder]) -> Chosen:
    candidates = read_candidates([folder.candidates for folder in folders])
    return {one.image_id: one for one in candidates if one.chosen}


def _rows(path: Path, folders: list[ShardFolder]) -> Iterator[dict[str, Any]]:
    chosen = _chosen(folders)
    with pq.ParquetFile(path, pre_buffer=False) as file:
        for batch in file.iter_batches(ROWS_AT_A_TIME):
            for row in batch.to_pylist():
                if best := chosen.get(row.get("image_id", "")):
                    row |= {
                        "caption": best.text,
                        "caption_model": best.model,
                        "caption_score": best.scores.score,
                    }
                yield row


def _parts(folders: list[ShardFolder]) -> Iterator[list[ShardFolder]]:
    """The shards, in groups of at most so many candidates."""
    part: list[ShardFolder] = []
    rows = 0
    for folder in folders:
        count = pq.read_metadata(folder.candidates).num_rows
        if part and rows + count > CANDIDATES_PER_PART:
            yield part
            part, rows = [], 0
        part.append(folder)
        rows += count
    if part:
        yield part


def _candidate_rows(folders: list[ShardFolder]) -> Iterator[dict[str, Any]]:
    for folder in folders:
        with pq.ParquetFile(folder.candidates) as file:
            for batch in file.iter_batches(ROWS_AT_A_TIME):
                yield from batch.to_pylist()


def _reject(writer: DatasetWriter, recipe: Recipe, folders: list[ShardFolder]) -> None:
    """What the source had left out, and what got no caption here."""
    source = Path(recipe.dataset_name)
    if source.is_dir():
        for row in read_build_rejects(source).itertuples():
            writer.reject(*map(str, (row.table, row.item, row.reason, row.detail)))
    for folder in folders:
        for reject in read_rejects([folder.rejects]):
            detail = " ".join(part for part in (reject.stage, reject.model, reject.detail) if part)
            writer.reject(folder.shard.table, reject.image_id, reject.reason, detail)


# ---- a plain set of images ----------------------------------------------------------------------


def _export_plain(folders: list[ShardFolder], root: Path) -> Path:
    files = WrittenFiles(root, "captions")
    files.check(["captions.parquet", "chosen.csv"])
    with (
        files.writing("captions.parquet") as temporary,
        pq.ParquetWriter(temporary, CANDIDATES, compression="zstd") as writer,
    ):
        for folder in folders:
            rows = [clean_row("captions", row)[0] for row in _candidate_rows([folder])]
            writer.write_table(pa.Table.from_pylist(rows, CANDIDATES))
    rows = [
        {
            "image_id": one.image_id,
            "caption": text,
            "caption_model": one.model,
            "caption_score": one.scores.score,
        }
        for one in read_candidates([folder.candidates for folder in folders])
        if one.chosen and (text := clean_caption(one.text))
    ]
    columns = ["image_id", "caption", "caption_model", "caption_score"]
    with files.writing("chosen.csv") as temporary:
        pd.DataFrame(rows, columns=columns).to_csv(temporary, index=False)
    return root


__all__ = ["export_dataset"]
