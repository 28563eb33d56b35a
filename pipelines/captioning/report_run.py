"""The report of a run, from what lies in its folder."""

from collections.abc import Iterator
from pathlib import Path

from .inputs import list_shards, read_shard
from .recipe import Recipe
from .records import SourceImage
from .report import write_report
from .shards import ShardFolder

REPORT_FOLDER = "report"


def report_run(recipe: Recipe) -> Path:
    """Write the report of what is finished of a run.

    Args:
        recipe: of the run.

    Returns:
        The path of report.md.
    """
    folders = [ShardFolder(recipe.output_dir, shard) for shard in list_shards(recipe)]
    finished = [folder for folder in folders if folder.candidates.exists()]

    def images(wanted: frozenset[str]) -> Iterator[SourceImage]:
        for folder in finished:
            for row in read_shard(recipe, folder.shard):
                if isinstance(row, SourceImage) and row.image_id in wanted:
                    yield row

    return write_report(
        Path(recipe.output_dir) / REPORT_FOLDER,
        [folder.candidates for folder in finished],
        [folder.rejects for folder in finished],
        images,
        gallery_size=recipe.run.gallery_size,
        seed=recipe.seed,
        synthetic=recipe.synthetic,
        title=f"Captions of {Path(recipe.dataset_name).name}",
    )


__all__ = ["report_run"]
