"""The files of a shard, and whether they are up to date."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dataset_builders.files import write_json

from .inputs import InputShard, list_shards
from .ledger import unit_key
from .recipe import Recipe

CODE_VERSION = 3
"""Raised when the same units would give different tables."""


class ShardFolder:
    """The files of a shard.

    Args:
        output_dir: Folder of the run.
        shard: The shard.

    Attributes:
        ledger: Answers of all stages; held by one process at a time.
        candidates: Table of candidates, once the shard is finished.
        rejects: Table of rejects, once the shard is finished.
    """

    def __init__(self, output_dir: str | Path, shard: InputShard):
        self.shard = shard
        self.path = Path(output_dir) / "shards" / shard.name
        self.ledger = self.path / "units.sqlite"
        self.candidates = self.path / "candidates.parquet"
        self.rejects = self.path / "rejects.parquet"
        self.marker = self.path / "done.json"

    def is_done(self, fingerprint: str) -> bool:
        """Whether the tables are those that the fingerprint stands for."""
        return self.summary().get("fingerprint") == fingerprint

    def summary(self) -> dict[str, Any]:
        """Counts of a finished shard (`images`, `rejects`); empty if it is unfinished."""
        try:
            return dict(json.loads(self.marker.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            return {}

    def finish(self, fingerprint: str, counts: Mapping[str, int]) -> None:
        """Mark the shard as finished."""
        write_json(self.marker, {"fingerprint": fingerprint, **counts})

    def reopen(self) -> None:
        """Mark the shard as unfinished; its stored answers stay."""
        self.marker.unlink(missing_ok=True)


def finished_shards(recipe: Recipe) -> list[ShardFolder]:
    """The shards of a run that have their tables."""
    folders = [ShardFolder(recipe.output_dir, shard) for shard in list_shards(recipe)]
    return [folder for folder in folders if folder.candidates.exists()]


def fingerprint(recipe: Recipe, revisions: Mapping[str, str], shard: InputShard) -> str:
    """Hash of everything that the tables of a shard depend on.

    Args:
        recipe: The run.
        revisions: Of models, parser, detector, segmenter, encoder and prompts.
        shard: The images.
    """
    images = (shard.table, shard.kind, shard.source, shard.start, shard.count, shard.stamp)
    return unit_key(
        "shard",
        code=CODE_VERSION,
        recipe=recipe.outcome_fields(),
        revisions=dict(revisions),
        images=images,
    )


__all__ = ["ShardFolder", "fingerprint", "finished_shards"]
