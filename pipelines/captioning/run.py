"""A run, from a recipe to finished tables: on this machine, or on a Ray cluster.

Whatever does the work, it does the same units into the same ledgers. A run may therefore be killed
at any moment and resumed anywhere, and ends with the same tables.

A process works in one event loop: requests to models run concurrently; decoding, segmentation,
parsing, detection and comparison run in threads. Memory is bounded by `images_in_flight` and by the
candidates of two shards.
"""

import asyncio
import errno
import logging
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tqdm.auto import tqdm

from pipelines.common.errors import InputError
from pipelines.common.on_ray import map_pieces

from .errors import (
    USER_ERRORS,
    CaptioningError,
    MissingDependencyError,
    ModelUnavailableError,
    explain_storage,
    is_storage_error,
)
from .inputs import BadRow, InputShard, list_shards, read_shard
from .kit import Kit, open_kit
from .ledger import Ledger, ShardFolder, fingerprint
from .recipe import Recipe
from .records import Candidate, SourceImage
from .stages import caption_image
from .tables import Reject, write_candidates, write_rejects

SHARDS_AT_ONCE = 2
"""So that the last images of one shard do not leave the models idle."""
MAX_INTERNAL_ERRORS = 20
GPUS_PER_ACTOR = 0.1
"""For detector and segmenter; most of the GPU is left to the servers of the models."""

logger = logging.getLogger(__name__)

Outcome = tuple[Sequence[Candidate], Sequence[Reject]]


@dataclass(frozen=True)
class RunState:
    """Progress of a run.

    Attributes:
        images: Images of all shards.
        shards: Number of shards.
        done: Images of finished shards.
        rejects: Rejects of finished shards.
    """

    images: int
    shards: int
    done: int
    rejects: int

    @property
    def finished(self) -> bool:
        """Whether every shard is finished."""
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
    """Do what is left of a run.

    Args:
        recipe: The run.
        shard: `(i, n)`: take only every n-th shard, starting at the i-th.
        retry_failed: Compute failed units again.
        progress: Show a bar.
        backend: "local": this process; "ray": actors of Ray Data. All machines must see
            `output_dir` and the images under the same paths.
        num_actors: Actors of the Ray backend.
        ray_address: Ray cluster; by default that of RAY_ADDRESS, else this machine.

    Returns:
        Progress of the whole run.

    Raises:
        CaptioningError: The recipe or its images cannot be used, another process is working on the
            same shard, or (Ray) some shards could not be captioned; the others were.
        ModelUnavailableError: A model cannot be asked at all.
        StorageError: The disk is full, or the run's folder cannot be written.
    """
    mine = list_shards(recipe)[shard[0] :: shard[1]]
    with explain_storage(recipe.output_dir):
        folder = Path(recipe.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):  # SQLite would only say "disk I/O error"
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        if retry_failed:
            _forget_failures(recipe, mine)
    if backend == "ray":
        _run_on_ray(recipe, mine, num_actors, ray_address, progress)
    else:
        asyncio.run(_run_here(recipe, mine, progress))
    return state(recipe)


def state(recipe: Recipe) -> RunState:
    """Progress of a run; reads only the shards' markers."""
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
        await kit.close_models()


def _finished(kit: Kit, shards: Sequence[InputShard]) -> list[ShardFolder]:
    folders = [ShardFolder(kit.recipe.output_dir, shard) for shard in shards]
    return [one for one in folders if one.is_done(_mark(kit, one.shard))]


def _mark(kit: Kit, shard: InputShard) -> str:
    return fingerprint(kit.recipe, kit.revisions, shard)


def _forget_failures(recipe: Recipe, shards: Sequence[InputShard]) -> None:
    for folder in (ShardFolder(recipe.output_dir, shard) for shard in shards):
        if folder.ledger.exists():
            with Ledger(folder.ledger) as ledger:
                if ledger.forget_failures() or folder.summary().get("rejects"):
                    folder.reopen()


# ---- one process --------------------------------------------------------------------------------


class Worker:
    """Takes shards through all stages.

    Args:
        kit: Models and all other parts.
        on_image: Called after each image with the number of its rejects.
    """

    def __init__(self, kit: Kit, on_image: Callable[[int], object] = lambda _: None):
        self._kit = kit
        self._on_image = on_image
        self._places = asyncio.Semaphore(kit.recipe.run.images_in_flight)
        self._internal_errors = 0  # images in a row that broke the code

    async def run(self, shards: Sequence[InputShard]) -> None:
        """Write the tables of all shards; finished ones are left alone.

        Raises:
            CaptioningError: Another process is working on a shard.
            ModelUnavailableError: A model cannot be asked at all; finished units are kept.
            StorageError: The disk is full or cannot be written; finished units are kept.
        """
        at_once = asyncio.Semaphore(SHARDS_AT_ONCE)

        async def one(shard: InputShard) -> None:
            async with at_once:
                await self._shard(shard)

        with explain_storage(self._kit.recipe.output_dir):
            async with _task_group() as group:
                for shard in shards:
                    group.create_task(one(shard))

    async def _shard(self, shard: InputShard) -> None:
        folder = ShardFolder(self._kit.recipe.output_dir, shard)
        mark = _mark(self._kit, shard)
        if folder.is_done(mark):
            return
        with Ledger(folder.ledger) as ledger:
            if folder.is_done(mark):  # by the process that held the ledger until now
                return
            outcomes = await self._images(shard, ledger)
            rejects = [one for _, failed in outcomes for one in failed]
            write_candidates(folder.candidates, [one for found, _ in outcomes for one in found])
            write_rejects(folder.rejects, rejects)
            folder.finish(mark, {"images": len(outcomes), "rejects": len(rejects)})

    async def _images(self, shard: InputShard, ledger: Ledger) -> list[Outcome]:
        async def one(row: SourceImage | BadRow) -> Outcome:
            try:
                outcome = await self._image(row, ledger)
                self._on_image(len(outcome[1]))
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
        except (MissingDependencyError, ModelUnavailableError, sqlite3.Error):
            raise
        except Exception as error:  # one image that breaks the code must not end days of work
            self._internal_errors += 1
            if is_storage_error(error) or self._internal_errors > MAX_INTERNAL_ERRORS:
                raise
            logger.exception("%s is left out: %r", row.image_id, error)
            return (), [Reject(row.image_id, "image", "", "internal_error", repr(error))]


@asynccontextmanager
async def _task_group() -> AsyncIterator[asyncio.TaskGroup]:
    """A task group that raises the first error itself, not a group of errors."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except ExceptionGroup as errors:
        first = errors.exceptions[0]
        raise first from first.__cause__


async def _read_ahead(rows: Iterator[Any]) -> AsyncIterator[Any]:
    """The rows of an iterator, read in a thread."""
    done = object()
    while (row := await asyncio.to_thread(next, rows, done)) is not done:
        yield row


# ---- a Ray cluster ------------------------------------------------------------------------------


class ShardActor:
    """Captions shards; an actor holds the models and takes one shard at a time.

    Args:
        recipe: The run.
        shards: The shards, by their number in batches.
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
        except USER_ERRORS as error:
            return str(error)


def _run_on_ray(
    recipe: Recipe, shards: Sequence[InputShard], actors: int, address: str | None, progress: bool
) -> None:
    with open_kit(recipe):
        pass  # an unknown name or a missing package is found here, not on the cluster
    arguments = (recipe, list(shards))
    try:
        errors = map_pieces(
            ShardActor, arguments, len(shards), actors, GPUS_PER_ACTOR, address, progress
        )
    except InputError as error:
        raise CaptioningError(str(error)) from error
    if errors:
        raise CaptioningError("\n".join(errors))
