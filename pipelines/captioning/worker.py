"""One process at work: it takes shards that nobody holds and brings them through a pass."""

import asyncio
import logging
import sqlite3
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from .errors import (
    ModelUnavailableError,
    explain_storage,
    is_lock_contention,
    is_storage_error,
)
from .inputs import BadRow, InputShard, read_shard
from .kit import Kit
from .ledger import Ledger
from .passes import Pass, ShardFolder, fingerprint
from .records import Candidate, SourceImage
from .shards import Lease, LeaseLostError
from .stages import ImageStages
from .tables import Reject, write_candidates, write_rejects

SHARDS_AT_ONCE = 2
"""So that the last images of one shard do not leave the models idle."""
POLL_S = 2.0
MAX_INTERNAL_ERRORS = 20

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What became of an image in a pass."""

    candidates: tuple[Candidate, ...] = ()
    rejects: tuple[Reject, ...] = ()


@dataclass
class Progress:
    """Counts of a process, for its bar.

    Attributes:
        on_image: called after each image with the number of rejects of it.
        internal_errors: images that broke the code, one after another.
    """

    on_image: Callable[[int], None] = lambda _: None
    internal_errors: int = field(default=0)


async def run_pass(
    kit: Kit,
    step: Pass,
    before: Sequence[Pass],
    shards: Sequence[InputShard],
    progress: Progress,
    wait: bool = True,
) -> None:
    """Bring all shards through a pass, together with whoever else works on them.

    Args:
        kit: models and all.
        step: the pass.
        before: the passes a shard must have been through.
        shards: of the run.
        progress: is told of every image.
        wait: for shards that others hold, until they are done or can be taken over.

    Raises:
        ModelUnavailableError: a model cannot be asked at all; what has been done is kept.
        StorageError: the disk is full or cannot be written; what has been done is kept.
    """
    with explain_storage(kit.recipe.output_dir):
        await _run_pass(kit, step, before, shards, progress, wait)


async def _run_pass(
    kit: Kit,
    step: Pass,
    before: Sequence[Pass],
    shards: Sequence[InputShard],
    progress: Progress,
    wait: bool,
) -> None:
    gate = asyncio.Semaphore(kit.recipe.run.images_in_flight)
    waiting, running = deque(shards), dict[asyncio.Task[bool], InputShard]()
    try:
        while waiting or running:
            put_off: list[InputShard] = []
            while waiting and len(running) < SHARDS_AT_ONCE:
                shard = waiting.popleft()
                state = _state(kit, shard, step, before)
                if state == "done":
                    continue
                lease = Lease(_folder(kit, shard).lease, kit.recipe.run.lease_timeout_s)
                if state == "early" or not lease.acquire():
                    put_off.append(shard)
                    continue
                task = asyncio.create_task(_work(kit, shard, step, gate, progress, lease))
                running[task] = shard
            waiting.extend(put_off)
            if not running:
                if not waiting or not wait:
                    return
                await asyncio.sleep(POLL_S)
                continue
            timeout = POLL_S if waiting else None
            done, _ = await asyncio.wait(
                running, timeout=timeout, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                shard = running.pop(task)
                if not task.result() and wait:
                    waiting.append(shard)
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def _folder(kit: Kit, shard: InputShard) -> ShardFolder:
    return ShardFolder(kit.recipe.output_dir, shard)


def _state(kit: Kit, shard: InputShard, step: Pass, before: Sequence[Pass]) -> str:
    folder = _folder(kit, shard)
    if folder.is_done(step, fingerprint(kit.recipe, kit.revisions, shard, step)):
        return "done"
    ready = all(
        folder.is_done(one, fingerprint(kit.recipe, kit.revisions, shard, one)) for one in before
    )
    return "ready" if ready else "early"


async def _work(
    kit: Kit,
    shard: InputShard,
    step: Pass,
    gate: asyncio.Semaphore,
    progress: Progress,
    lease: Lease,
) -> bool:
    """One shard, whose lease is ours; False if it was lost on the way."""
    try:
        folder = _folder(kit, shard)
        mark = fingerprint(kit.recipe, kit.revisions, shard, step)
        if folder.is_done(step, mark):  # while the lease was being taken
            return True
        with Ledger(folder.ledger) as ledger:
            outcomes = await _images(kit, shard, step, gate, progress, ledger)
        lease.check()
        candidates = [one for outcome in outcomes for one in outcome.candidates]
        rejects = [one for outcome in outcomes for one in outcome.rejects]
        if step.stage == "consensus":
            write_candidates(folder.candidates, candidates)
            write_rejects(folder.rejects, rejects)
        folder.finish(step, mark, {"images": len(outcomes), "rejects": len(rejects)})
        return True
    except (LeaseLostError, sqlite3.OperationalError) as error:
        if isinstance(error, sqlite3.Error) and not is_lock_contention(error):
            raise
        logger.warning("%s is left to another process: %s", shard.name, error)
        return False
    finally:
        # not in a thread: a cancelled task would not wait for it, and one that is queued never runs
        lease.release()


async def _images(
    kit: Kit,
    shard: InputShard,
    step: Pass,
    gate: asyncio.Semaphore,
    progress: Progress,
    ledger: Ledger,
) -> list[Outcome]:
    stages = ImageStages(kit, ledger)
    tasks: list[asyncio.Task[Outcome]] = []

    async def one(row: SourceImage | BadRow) -> Outcome:
        try:
            outcome = await _image(stages, row, step, progress)
            progress.on_image(len(outcome.rejects))
            return outcome
        finally:
            gate.release()

    try:
        async for row in _read_ahead(read_shard(kit.recipe, shard)):
            await gate.acquire()
            tasks.append(asyncio.create_task(one(row)))
            for task in tasks:
                if task.done():
                    task.result()  # a failure ends the shard now, not when all is read
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _read_ahead(rows: Iterator[Any]) -> AsyncIterator[Any]:
    """The rows of an iterator, read in a thread."""
    done = object()
    while (row := await asyncio.to_thread(next, rows, done)) is not done:
        yield row


async def _image(
    stages: ImageStages, row: SourceImage | BadRow, step: Pass, progress: Progress
) -> Outcome:
    if isinstance(row, BadRow):
        return Outcome((), (Reject(row.image_id, "image", "", row.reason, row.detail),))
    try:
        outcome = Outcome(*await stages.run(row, step))
        progress.internal_errors = 0
        return outcome
    except (ModelUnavailableError, sqlite3.Error):
        raise
    except Exception as error:  # one image that breaks the code must not end days of work
        if is_storage_error(error):
            raise
        logger.exception("%s is left out: %r", row.image_id, error)
        progress.internal_errors += 1
        if progress.internal_errors > MAX_INTERNAL_ERRORS:
            raise
        return Outcome((), (Reject(row.image_id, "image", "", "internal_error", repr(error)),))


__all__ = ["Progress", "run_pass"]
