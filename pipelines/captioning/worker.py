"""Processing of shards in one process.

Requests to models run concurrently in one event loop; decoding, segmentation, parsing, detection
and consensus run in threads. Memory is bounded by `images_in_flight` and by the candidates of two
shards.
"""

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from dataset_builders.machine_errors import explain

from .errors import MissingDependencyError, ModelUnavailableError
from .inputs import BadRow, InputShard, read_shard
from .kit import Kit
from .ledger import Ledger, ShardFolder, fingerprint
from .records import Candidate, SourceImage
from .stages import caption_image
from .tables import Reject, write_candidates, write_rejects

SHARDS_AT_ONCE = 2
"""Keeps the models busy during the last images of a shard."""
MAX_INTERNAL_ERRORS = 20

logger = logging.getLogger(__name__)

Outcome = tuple[Sequence[Candidate], Sequence[Reject]]


class Worker:
    """Captions the images of shards and writes their tables.

    Args:
        kit: Models and components.
        on_image: Function called after each image with its number of rejects.
    """

    def __init__(self, kit: Kit, on_image: Callable[[int], object] = lambda _: None):
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
