"""In which order a run goes over its shards, and which of them are done.

Models on other machines all work at once: one pass does everything. A model that runs in this
process fills its memory, so models are then taken one after another, outside, and the images
inside: describe with each, filter, merge with each, consensus.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dataset_builders.files import write_json

from .inputs import InputShard
from .ledger import unit_key
from .recipe import Recipe
from .records import CaptionModel

Stage = Literal["describe", "filter", "merge", "consensus"]
CODE_VERSION = 2
"""Raised when the same units would give another table."""
LEDGER_FILE, LEASE_FOLDER = "units.sqlite", "lease"
CANDIDATES_FILE, REJECTS_FILE = "candidates.parquet", "rejects.parquet"


@dataclass(frozen=True)
class Pass:
    """One walk over all shards.

    Attributes:
        name: safe as a file's name.
        stage: how far it takes an image.
        models: that are asked.
    """

    name: str
    stage: Stage
    models: tuple[str, ...]


def plan_passes(recipe: Recipe, models: Mapping[str, CaptionModel]) -> list[Pass]:
    """The passes of a run; models behind servers form one group.

    Args:
        recipe: the run.
        models: by name; one with a true `in_process` is held in this process's memory.
    """
    names = recipe.model_names
    local = [name for name in names if getattr(models[name], "in_process", False)]
    one_at_a_time = recipe.run.one_model_at_a_time
    groups: list[tuple[str, ...]] = [tuple(name for name in names if name not in local)]
    groups = [group for group in [*groups, *((name,) for name in local)] if group]
    if one_at_a_time is False or len(groups) == 1:
        return [Pass("all", "consensus", names)]
    labelled = [("+".join(group), group) for group in groups]
    return [
        *(Pass(f"describe-{label}", "describe", group) for label, group in labelled),
        Pass("filter", "filter", ()),
        *(Pass(f"merge-{label}", "merge", group) for label, group in labelled),
        Pass("consensus", "consensus", ()),
    ]


class ShardFolder:
    """The files of a shard.

    Args:
        output_dir: of the run.
        shard: whose.
    """

    def __init__(self, output_dir: str | Path, shard: InputShard):
        self.path = Path(output_dir) / "shards" / shard.name
        self.shard = shard
        self.ledger = self.path / LEDGER_FILE
        self.lease = self.path / LEASE_FOLDER
        self.candidates = self.path / CANDIDATES_FILE
        self.rejects = self.path / REJECTS_FILE

    def marker(self, step: Pass) -> Path:
        """The file that says that a pass is done."""
        return self.path / f"{step.name}.done.json"

    def is_done(self, step: Pass, fingerprint: str) -> bool:
        """The pass is done, with what the fingerprint stands for."""
        return self.summary(step).get("fingerprint") == fingerprint

    def summary(self, step: Pass) -> dict[str, Any]:
        """What is known of a pass that is done: images, failures; empty if it is not."""
        try:
            return dict(json.loads(self.marker(step).read_text(encoding="utf-8")))
        except (OSError, ValueError):
            return {}

    def finish(self, step: Pass, fingerprint: str, summary: Mapping[str, Any]) -> None:
        """Mark a pass as done."""
        write_json(self.marker(step), {"fingerprint": fingerprint, **summary})

    def forget(self, passes: Sequence[Pass]) -> None:
        """Let the passes be gone through again; units that are done stay done."""
        for step in passes:
            self.marker(step).unlink(missing_ok=True)


def fingerprint(recipe: Recipe, revisions: Mapping[str, str], shard: InputShard, step: Pass) -> str:
    """Hash of all that the outcome of a pass over a shard depends on.

    Args:
        recipe: the run.
        revisions: of models, parser, detector, segmenter, encoder, prompts.
        shard: which images.
        step: how far.
    """
    images = (shard.table, shard.kind, shard.source, shard.start, shard.count, shard.stamp)
    return unit_key(
        "shard",
        code=CODE_VERSION,
        recipe=recipe.outcome_fields(),
        revisions=dict(revisions),
        images=images,
        step=step.name,
    )


__all__ = [
    "CANDIDATES_FILE",
    "CODE_VERSION",
    "REJECTS_FILE",
    "Pass",
    "ShardFolder",
    "fingerprint",
    "plan_passes",
]
