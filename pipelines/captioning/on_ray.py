"""Captioning on a Ray cluster."""

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from dataset_builders import machine_errors
from dataset_builders.errors import ReportedError
from pipelines.common.on_ray import map_pieces

from .errors import CaptioningError
from .inputs import InputShard
from .kit import open_kit
from .recipe import Recipe
from .run import Worker

GPUS_PER_ACTOR = 0.1
"""For detector and segmenter; the rest of the GPU is left to the model servers."""


class ShardActor:
    """Ray actor that captions one shard at a time.

    Args:
        recipe: Recipe of the run.
        shards: Input shards, indexed by the numbers in a batch.
    """

    def __init__(self, recipe: Recipe, shards: Sequence[InputShard]):
        self._shards = shards
        self._stack = ExitStack()  # holds the kit open until the actor's process ends
        self._worker = Worker(self._stack.enter_context(open_kit(recipe)))
        self._runner = asyncio.Runner()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Caption the shards of a batch; see `map_pieces`."""
        return {"error": [self._caption(self._shards[int(number)]) for number in batch["id"]]}

    def _caption(self, shard: InputShard) -> str:
        try:
            self._runner.run(self._worker.run([shard]))
            return ""
        except ReportedError as error:
            return str(error)
        except Exception as error:
            if said := machine_errors.explain(error):
                return said
            raise


def caption_on_ray(
    recipe: Recipe, shards: Sequence[InputShard], actors: int, address: str | None, progress: bool
) -> None:
    """Caption shards with several actors; see `run`.

    Raises:
        CaptioningError: Some shards failed; the others are finished.
        InputError: Ray is not installed, or the cluster cannot be reached.
    """
    with open_kit(recipe):
        pass  # detects unknown names and missing packages before the cluster is used
    arguments = (recipe, list(shards))
    errors = map_pieces(
        ShardActor, arguments, len(shards), actors, GPUS_PER_ACTOR, address, progress
    )
    if errors:
        raise CaptioningError("\n".join(errors))
