"""Execution of a recipe on this machine or on a Ray cluster.

Both backends store the same units in the same ledgers, so an interrupted run may be resumed by
either and gives the same tables. In a process, requests to models run concurrently in one event
loop; decoding, segmentation, parsing, detection and consensus run in threads. Memory is bounded by
`images_in_flight` and by the candidates of two shards.
"""

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal

from tqdm.auto import tqdm

from dataset_builders.machine_errors import explain

from .errors import ModelUnavailableError
from .inputs import BadRow, InputShard, list_shards, read_shard
from .kit import Kit, open_kit
from .ledger import Ledger, ShardFolder, fingerprint
from .recipe import Recipe
from .records import Candidate, SourceImage
from .stages import caption_image
from .tables import Reject, write_candidates, write_rejects

SHARDS_AT_ONCE = 2
"""Keeps the models busy during the last images of a shard."""
MAX_INTERNAL_ERRORS = 20

logger = logging.getLogger(__name__)

Outcome = tuple[Sequence[Candidate], Sequence[Reject]]


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
        DatasetError: Invalid recipe or images, or (with Ray) some shards failed and the others
            are finished.
        InputError: Ray is not installed, or the cluster cannot be reached.
        InUseError: Another process is working on the same shard.
        ModelUnavailableError: No request to a model can succeed.
        OSError: The disk is full, or the output folder is not writable; also `sqlite3.Error`.
    """
    mine = list_shards(recipe)[shard[0] :: shard[1]]
    if retry_failed:
        _forget_failures(recipe, mine)
    if backend == "ray":
        from .on_ray import caption_on_ray

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
            await Worker(kit, bar.update).run(shards)
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


# ---- one process ---------------------------------------------------------------------------------


class Worker:
    """Captions the images of shards and writes their tables.

    Args:
        kit: Models and components.
        on_image: Function called after each image.
    """

    def __init__(self, kit: Kit, on_image: Callable[[], object] = lambda: None):
        self._kit = kit
        self._on_image = on_image
        self._places = asyncio.Semaphore(kit.recipe.run.images_in_flight)
        self._internal_errors = 0  # consecutive images with an unexpected error

    async def run(self, shards: Sequence[InputShard]) -> None:
        """Write the tables of all shards that are not finished.

        Raises:
            InUseError: Another process is working on a shard.
            ModelUnavailableError: No request to a model can succeed; finished units are kept.
            OSError: The disk is full or not writable; finished units are kept.
        """
        at_once = asyncio.Semaphore(SHARDS_AT_ONCE)

        async def one(shard: InputShard) -> None:
            async with at_once:
                await self._shard(shard)

        async with _task_group() as group:
            for shard in shards:
                group.create_task(one(shard))

    async def _shard(self, shard: InputShard) -> None:
        folder = ShardFolder(self._kit.recipe.output_dir, shard)
        mark = fingerprint(self._kit.recipe, self._kit.revisions, shard)
        if folder.is_done(mark, check_tables=True):
            return
        with Ledger(folder.ledger) as ledger:
            if folder.is_done(mark, check_tables=True):
                return  # finished by the process that held the ledger
            outcomes = await self._images(shard, ledger)
            rejects = [one for _, failed in outcomes for one in failed]
            write_candidates(folder.candidates, [one for found, _ in outcomes for one in found])
            write_rejects(folder.rejects, rejects)
            folder.finish(mark, {"images": len(outcomes), "rejects": len(rejects)})

    async def _images(self, shard: InputShard, ledger: Ledger) -> list[Outcome]:
        async def one(row: SourceImage | BadRow) -> Outcome:
            try:
                outcome = await self._image(row, ledger)
                self._on_image()
                return outcome
            finally:
                self._places.release()

        tasks = []
        async with _task_group() as group:
            async for row in _read_ahead(read_shard(shard)):
                await self._places.acquire()
                tasks.append(group.create_task(one(row)))
        return [task.result() for task in tasks]

    async def _image(self, row: SourceImage | BadRow, ledger: Ledger) -> Outcome:
        if isinstance(row, BadRow):
            return (), [Reject(row.image_id, "image", "", row.reason, row.detail)]
        try:
            outcome = await caption_image(self._kit, ledger, row)
            self._internal_errors = 0
            return outcome
        except (ImportError, ModelUnavailableError, sqlite3.Error):
            raise
        except Exception as error:  # one image must not stop a long run
            self._internal_errors += 1
            is_disk = isinstance(error, OSError) and explain(error)
            if is_disk or self._internal_errors > MAX_INTERNAL_ERRORS:
                raise
            logger.exception("Skipped image %s: %r", row.image_id, error)
            return (), [Reject(row.image_id, "image", "", "internal_error", repr(error))]


@asynccontextmanager
async def _task_group() -> AsyncIterator[asyncio.TaskGroup]:
    """Task group that raises the first error instead of an `ExceptionGroup`."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except ExceptionGroup as errors:
        first = errors.exceptions[0]
        raise first from first.__cause__


async def _read_ahead(rows: Iterator[Any]) -> AsyncIterator[Any]:
    """Rows of an iterator, read in a thread."""
    done = object()
    while (row := await asyncio.to_thread(next, rows, done)) is not done:
        yield row
