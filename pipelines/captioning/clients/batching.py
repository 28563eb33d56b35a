"""Requests of many coroutines, answered together."""

import asyncio
from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

In = TypeVar("In")
Out = TypeVar("Out")


class MicroBatcher(Generic[In, Out]):
    """Collects what coroutines ask for at the same time into batches for one worker thread.

    While a batch runs, the next one gathers: nobody waits for a batch to fill up. The oldest
    request goes first, and takes with it the oldest that have its group. A batch that fails is
    halved until only the requests that fail alone are left: a broken image fails for itself, and a
    batch too large for the memory becomes smaller.

    Belongs to the event loop in which it is first called.

    Args:
        run: answers a batch, in order; runs in the thread, never twice at once.
        batch_size: requests at most.
        group: requests with different groups never share a batch.
        thread: that runs the batches.
    """

    def __init__(
        self,
        run: Callable[[list[In]], list[Out]],
        batch_size: int,
        thread: ThreadPoolExecutor,
        group: Callable[[In], Hashable] = lambda item: None,
    ):
        self._run, self._batch_size, self._group = run, batch_size, group
        self._thread = thread
        self._waiting: deque[tuple[In, asyncio.Future[Out]]] = deque()
        self._worker: asyncio.Task[None] | None = None

    async def __call__(self, item: In) -> Out:
        """The answer to one request.

        Raises:
            Exception: whatever `run` raises for this request alone.
        """
        future: asyncio.Future[Out] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await future

    async def aclose(self) -> None:
        """Cancel what waits; a batch that runs is waited for."""
        while self._waiting:
            self._waiting.popleft()[1].cancel()
        if self._worker is not None:
            await asyncio.gather(self._worker, return_exceptions=True)

    async def _work(self) -> None:
        await asyncio.sleep(0)  # those who ask in this round of the loop come along
        while batch := self._next():
            await self._answer(batch)

    def _next(self) -> list[tuple[In, asyncio.Future[Out]]]:
        """The next batch, without those who no longer wait."""
        waiting = [entry for entry in self._waiting if not entry[1].done()]
        batch: list[tuple[In, asyncio.Future[Out]]] = []
        self._waiting.clear()
        for entry in waiting:
            fits = not batch or self._group(entry[0]) == self._group(batch[0][0])
            (batch if fits and len(batch) < self._batch_size else self._waiting).append(entry)
        return batch

    async def _answer(self, batch: list[tuple[In, asyncio.Future[Out]]]) -> None:
        loop = asyncio.get_running_loop()
        try:
            items = [item for item, _ in batch]
            answers = await loop.run_in_executor(self._thread, self._run, items)
            for (_, future), answer in zip(batch, answers, strict=True):
                if not future.done():
                    future.set_result(answer)
        except Exception as error:
            if len(batch) > 1:
                middle = len(batch) // 2
                await self._answer(batch[:middle])
                await self._answer(batch[middle:])
            elif not batch[0][1].done():
                batch[0][1].set_exception(error)


__all__ = ["MicroBatcher"]
