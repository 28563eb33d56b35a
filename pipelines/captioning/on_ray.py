"""The same shards on a Ray cluster; needs the extra `ray`.

Actors hold the models, a shard is one batch. Ray only says who takes which shard: the ledgers on
the file system, which all machines must see, are what makes a run resumable.
"""

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from .errors import MissingDependencyError
from .inputs import InputShard
from .kit import open_kit
from .passes import Pass, plan_passes
from .recipe import Recipe
from .worker import Progress, run_pass

CPUS_OF_AN_ACTOR = 0.5


class ShardActor:
    """Holds the models of a pass and brings shards through it.

    Args:
        recipe: the run.
        number: of the pass.
        shards: of the run, by their place in batches.
    """

    def __init__(self, recipe: Recipe, number: int, shards: Sequence[InputShard]):
        self._shards = shards
        # open until the actor's process ends
        self._stack = ExitStack()
        self._kit = self._stack.enter_context(open_kit(recipe))
        passes = plan_passes(recipe, self._kit.models)
        self._step, self._before = passes[number], passes[:number]
        self._runner = asyncio.Runner()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Do the shards of a batch.

        Args:
            batch: `{"shard": numbers}`.

        Returns:
            The batch with the images of each shard.
        """
        mine = [self._shards[int(number)] for number in batch["shard"]]
        self._runner.run(run_pass(self._kit, self._step, self._before, mine, Progress()))
        return {"shard": batch["shard"], "images": [shard.count for shard in mine]}


def run_on_ray(
    recipe: Recipe, shards: Sequence[InputShard], num_workers: int, progress: bool = False
) -> None:
    """Bring shards through all passes on a Ray cluster, or on this machine if there is none.

    Args:
        recipe: the run; `output_dir` and the images must be seen by all machines.
        shards: which.
        num_workers: actors.
        progress: show Ray's own bars.

    Raises:
        MissingDependencyError: Ray is not installed.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingDependencyError(
            'The Ray backend needs Ray Data: pip install -e ".[ray]"'
        ) from error
    if not ray.is_initialized():
        ray.init(log_to_driver=progress, include_dashboard=False)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = progress
    with open_kit(recipe) as kit:
        passes: list[Pass] = plan_passes(recipe, kit.models)
    for number in range(len(passes)):
        rows = ray.data.range(len(shards), override_num_blocks=len(shards))
        rows.rename_columns({"id": "shard"}).map_batches(
            ShardActor,
            fn_constructor_args=(recipe, number, list(shards)),
            batch_size=1,
            # less than one, so that on a small machine something is left to read with
            num_cpus=CPUS_OF_AN_ACTOR,
            concurrency=num_workers,
        ).materialize()


__all__ = ["ShardActor", "run_on_ray"]
