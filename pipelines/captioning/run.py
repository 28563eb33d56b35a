"""A run, from a recipe to a report: in this process, in several, or on a Ray cluster.

All of them do the same units into the same ledgers; who does them changes nothing. So a run may
be stopped and started anywhere, by any number of processes on any number of machines that see its
folder, and it ends with the same table.
"""

import asyncio
import logging
import multiprocessing
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from .errors import (
    CaptioningError,
    MissingDependencyError,
    ModelUnavailableError,
    StorageError,
    explain_storage,
)
from .inputs import InputShard, list_shards
from .kit import Kit, open_kit
from .ledger import Ledger
from .passes import Pass, ShardFolder, fingerprint, plan_passes
from .recipe import Recipe
from .shards import Lease
from .worker import Progress, run_pass

WORKER_RESTARTS = 3
POLL_S = 1.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunState:
    """How far a run is.

    Attributes:
        images: of all shards.
        shards: how many.
        done: for each pass, images of the shards that are through it.
        rejects: listed so far, in shards that are through the last pass.
        held: shards that somebody works on.
    """

    images: int
    shards: int
    done: dict[str, int]
    rejects: int
    held: int

    @property
    def finished(self) -> bool:
        """Every shard is through every pass."""
        return all(count == self.images for count in self.done.values())


def run(
    recipe: Recipe,
    num_workers: int = 1,
    shard: tuple[int, int] = (0, 1),
    retry_failed: bool = False,
    progress: bool = False,
    backend: str = "local",
) -> RunState:
    """Do what is left of a run.

    Args:
        recipe: what to do.
        num_workers: processes, here or on the cluster; more than one pays where models run in this
            process on a CPU, since one keeps many servers busy.
        shard: `(i, n)`, take only every n-th shard from the i-th on, with no look at the others.
        retry_failed: do again what failed before.
        progress: show a bar.
        backend: "local", or "ray".

    Returns:
        How far the run is now.

    Raises:
        CaptioningError: the recipe or its images cannot be used.
        ModelUnavailableError: a model cannot be asked at all.
        StorageError: the disk is full, or the run's folder cannot be written.
    """
    shards = list_shards(recipe)
    mine = shards[shard[0] :: shard[1]]
    with explain_storage(recipe.output_dir):
        Path(recipe.output_dir).mkdir(parents=True, exist_ok=True)
        if retry_failed:
            _forget_failures(recipe, mine)
    if backend == "ray":
        from .on_ray import run_on_ray

        run_on_ray(recipe, mine, num_workers, progress)
    elif num_workers > 1:
        _run_processes(recipe, mine, num_workers, progress)
    else:
        work(recipe, mine, wait=shard[1] == 1, progress=progress)
    return state(recipe)


def work(
    recipe: Recipe, shards: Sequence[InputShard], wait: bool = True, progress: bool = False
) -> None:
    """Take the shards through all passes, in this process.

    Raises:
        KeyboardInterrupt: SIGINT or SIGTERM came; the shards have been given back.
    """
    try:
        asyncio.run(_work(recipe, shards, wait, progress))
    except asyncio.CancelledError as error:
        raise KeyboardInterrupt from error


async def _work(recipe: Recipe, shards: Sequence[InputShard], wait: bool, show: bool) -> None:
    _stop_on_signals()
    with open_kit(recipe) as kit:
        passes = plan_passes(recipe, kit.models)
        for number, step in enumerate(passes):
            with _bar(kit, step, shards, show) as bar:
                before = passes[:number]
                await run_pass(kit, step, before, shards, Progress(_counter(bar)), wait)
            await kit.close_models()


def _stop_on_signals() -> None:
    """SIGTERM and SIGINT cancel the work, which gives its shards back; what is done stays."""
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        try:
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        except (NotImplementedError, RuntimeError, ValueError):
            return  # not the main thread, or Windows


def _bar(kit: Kit, step: Pass, shards: Sequence[InputShard], show: bool) -> Any:
    total = sum(shard.count for shard in shards)
    done = sum(shard.count for shard in shards if _is_done(kit, shard, step))
    return tqdm(total=total, initial=done, unit="image", desc=step.name, disable=not show)


def _counter(bar: Any) -> Callable[[int], None]:
    rejects = 0

    def count(new: int) -> None:
        nonlocal rejects
        rejects += new
        bar.update()
        bar.set_postfix(rejects=rejects, refresh=False)

    return count


def _is_done(kit: Kit, shard: InputShard, step: Pass) -> bool:
    folder = ShardFolder(kit.recipe.output_dir, shard)
    return folder.is_done(step, fingerprint(kit.recipe, kit.revisions, shard, step))


# ---- several processes --------------------------------------------------------------------------


def _run_processes(
    recipe: Recipe, shards: Sequence[InputShard], num_workers: int, progress: bool
) -> None:
    """The same work in several processes; one that dies is started again."""
    context = multiprocessing.get_context("spawn")
    failures = context.SimpleQueue()

    def start() -> BaseProcess:
        process = context.Process(target=_worker, args=(recipe, list(shards), failures))
        process.start()
        return process

    workers, restarts = [start() for _ in range(num_workers)], 0
    try:
        with open_kit(recipe) as kit:
            last = plan_passes(recipe, kit.models)[-1]
            with _bar(kit, last, shards, progress) as bar:
                while workers:
                    time.sleep(POLL_S)
                    bar.n = sum(one.count for one in shards if _is_done(kit, one, last))
                    bar.refresh()
                    for worker in [one for one in workers if one.exitcode is not None]:
                        workers.remove(worker)
                        if worker.exitcode == 0:
                            continue
                        if not failures.empty():
                            raise failures.get()
                        if restarts >= WORKER_RESTARTS:
                            raise CaptioningError(
                                f"A worker ended with code {worker.exitcode}; see its message "
                                "above. What is done is kept: run the same command again."
                            )
                        logger.warning(
                            "A worker died (code %s): starting it again.", worker.exitcode
                        )
                        restarts += 1
                        workers.append(start())
    finally:
        for worker in workers:
            worker.terminate()
            worker.join()


def _worker(recipe: Recipe, shards: Sequence[InputShard], failures: Any) -> None:
    """Work; what another start would not help goes to the parent, which raises it."""
    try:
        work(recipe, shards)
    except (CaptioningError, MissingDependencyError, ModelUnavailableError, StorageError) as error:
        failures.put(error)
        raise SystemExit(1) from error
    except KeyboardInterrupt:
        raise SystemExit(0) from None  # the parent was told, too


# ---- how far it is ------------------------------------------------------------------------------


def state(recipe: Recipe) -> RunState:
    """How far a run is; reads only the shards' markers."""
    shards = list_shards(recipe)
    done: dict[str, int] = {}
    rejects = held = 0
    with open_kit(recipe) as kit:
        passes = plan_passes(recipe, kit.models)
        for step in passes:
            done[step.name] = sum(one.count for one in shards if _is_done(kit, one, step))
        for one in shards:
            folder = ShardFolder(recipe.output_dir, one)
            rejects += int(folder.summary(passes[-1]).get("rejects", 0))
            held += folder.lease.exists()
    return RunState(sum(one.count for one in shards), len(shards), done, rejects, held)


def _forget_failures(recipe: Recipe, shards: Sequence[InputShard]) -> None:
    with open_kit(recipe) as kit:
        passes = plan_passes(recipe, kit.models)
    for shard in shards:
        folder = ShardFolder(recipe.output_dir, shard)
        if not folder.ledger.exists():
            continue
        lease = Lease(folder.lease, recipe.run.lease_timeout_s)
        if not lease.acquire():
            continue  # its holder is at it already
        with lease, Ledger(folder.ledger) as ledger:
            rejects = int(folder.summary(passes[-1]).get("rejects", 0))
            if ledger.forget_failures() or rejects:
                folder.forget(passes)


__all__ = ["RunState", "run", "state", "work"]
