"""Execution of a recipe on this machine or on a Ray cluster.

Both backends store the same units in the same ledgers, so an interrupted run may be resumed by
either and gives the same tables.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tqdm.auto import tqdm

from .inputs import InputShard, list_shards
from .kit import Kit, open_kit
from .ledger import Ledger, ShardFolder, fingerprint
from .on_ray import caption_on_ray
from .recipe import Recipe
from .worker import Worker


@dataclass(frozen=True)
class RunState:
    """Numbers of images and shards, and of images and rejects in finished shards."""

    images: int
    shards: int
    done: int
    rejects: int

    @property
    def finished(self) -> bool:
        """Whether all shards are finished."""
        return self.done == self.images


def run(
    recipe: Recipe,
    shard: tuple[int, int] = (0, 1),
    retry_failed: bool = False,
    progress: bool = False,
    backend: Literal["local", "ray"] = "local",
    num_actors: int = 1,
    ray_address: str | None = None,
) -> RunState:
    """Run a recipe, or resume it.

    Args:
        recipe: Recipe of the run.
        shard: `(i, n)`: process only every n-th shard, starting at index i.
        retry_failed: Compute failed units again.
        progress: Show a progress bar.
        backend: "local" (this process) or "ray" (actors of Ray Data). All machines must access
            `output_dir` and the images under the same paths.
        num_actors: Number of Ray actors.
        ray_address: Address of the Ray cluster; RAY_ADDRESS, or this machine, by default.

    Returns:
        Progress of all shards of the run.

    Raises:
        CaptioningError: Invalid recipe or images, or (with Ray) some shards failed and the others
            are finished.
        InUseError: Another process is working on the same shard.
        ModelUnavailableError: No request to a model can succeed.
        OSError: The disk is full, or the output folder is not writable; also `sqlite3.Error`.
    """
    mine = list_shards(recipe)[shard[0] :: shard[1]]
    if retry_failed:
        _forget_failures(recipe, mine)
    if backend == "ray":
        caption_on_ray(recipe, mine, num_actors, ray_address, progress)
    else:
        asyncio.run(_run_here(recipe, mine, progress))
    return state(recipe)


def state(recipe: Recipe) -> RunState:
    """Progress of a run, from the markers of its shards."""
    shards = list_shards(recipe)
    with open_kit(recipe) as kit:
        finished = _finished(kit, shards)
    return RunState(
        images=sum(shard.count for shard in shards),
        shards=len(shards),
        done=sum(folder.shard.count for folder in finished),
        rejects=sum(int(folder.summary()["rejects"]) for folder in finished),
    )


async def _run_here(recipe: Recipe, shards: Sequence[InputShard], show: bool) -> None:
    with open_kit(recipe) as kit:
        done = sum(folder.shard.count for folder in _finished(kit, shards))
        total = sum(shard.count for shard in shards)
        with tqdm(total=total, initial=done, unit="image", disable=not show) as bar:
            await Worker(kit, lambda _: bar.update()).run(shards)
        for model in kit.models.values():
            await model.close()


def _finished(kit: Kit, shards: Sequence[InputShard]) -> list[ShardFolder]:
    recipe, revisions = kit.recipe, kit.revisions
    folders = [ShardFolder(recipe.output_dir, shard) for shard in shards]
    return [one for one in folders if one.is_done(fingerprint(recipe, revisions, one.shard))]


def _forget_failures(recipe: Recipe, shards: Sequence[InputShard]) -> None:
    for folder in (ShardFolder(recipe.output_dir, shard) for shard in shards):
        if folder.ledger.exists():
            with Ledger(folder.ledger) as ledger:
                if ledger.forget_failures() or folder.summary().get("rejects"):
                    folder.marker.unlink(missing_ok=True)
