"""The same shards on a Ray cluster, through Ray Data; needs the extra `ray`.

Each row of the Ray dataset is a shard, and an actor with the models takes one at a time. Ray only
decides who takes which shard and replaces actors that die. The ledgers, on a file system that all
machines see, make the run resumable.
"""

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from .errors import USER_ERRORS, CaptioningError, MissingDependencyError
from .inputs import InputShard
from .kit import open_kit
from .recipe import Recipe
from .worker import Worker

CPUS_PER_ACTOR = 0.5
"""Below one: actors that take every CPU would leave none to read with, and Ray Data would hang."""


class ShardActor:
    """Holds the models and captions shards.

    Args:
        recipe: The run.
        shards: The shards, by their number in batches.
    """

    def __init__(self, recipe: Recipe, shards: Sequence[InputShard]):
        self._shards = shards
        kit = ExitStack().enter_context(open_kit(recipe))  # open until the actor's process ends
        self._worker = Worker(kit)
        self._runner = asyncio.Runner()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Caption the shards of a batch.

        Args:
            batch: `{"id": numbers of shards}`.

        Returns:
            `{"error": messages}`, one for each shard, empty for a finished one. Returned and not
            raised, since Ray would wrap it and stop the other shards.
        """
        return {"error": [self._caption(self._shards[int(number)]) for number in batch["id"]]}

    def _caption(self, shard: InputShard) -> str:
        try:
            self._runner.run(self._worker.run([shard]))
            return ""
        except USER_ERRORS as error:
            return str(error)


def run_on_ray(
    recipe: Recipe,
    shards: Sequence[InputShard],
    num_workers: int,
    address: str | None = None,
    progress: bool = False,
) -> None:
    """Caption shards on a Ray cluster.

    Args:
        recipe: The run; all machines must see `output_dir` and the images under the same paths.
        shards: The shards.
        num_workers: Number of actors.
        address: Of the cluster; by default that of RAY_ADDRESS, else a cluster on this machine.
        progress: Show Ray's own bars.

    Raises:
        CaptioningError: There is no such cluster, or shards could not be captioned (the others
            were).
        MissingDependencyError: Ray is not installed.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingDependencyError(
            'The Ray backend needs Ray Data: pip install -e ".[ray]"'
        ) from error
    try:
        ray.init(address, log_to_driver=progress, ignore_reinit_error=True)
    except ConnectionError as error:
        raise CaptioningError(f"No Ray cluster at {address}: {error}. Start one first.") from error
    ray.data.DataContext.get_current().enable_progress_bars = progress
    with open_kit(recipe):
        pass  # an unknown name or a missing package is found here, not on the cluster
    rows = ray.data.range(len(shards), override_num_blocks=len(shards)).map_batches(
        ShardActor,
        fn_constructor_args=(recipe, list(shards)),
        batch_size=1,
        num_cpus=CPUS_PER_ACTOR,
        concurrency=num_workers,
    )
    if errors := sorted({row["error"] for row in rows.take_all() if row["error"]}):
        raise CaptioningError("\n".join(errors))


__all__ = ["ShardActor", "run_on_ray"]
