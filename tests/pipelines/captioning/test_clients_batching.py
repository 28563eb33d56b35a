import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipelines.captioning.clients.batching import MicroBatcher


def run(items, work, batch_size=4, group=lambda item: None):
    """Answers or errors, and the batches that `work` saw."""
    batches: list[list[int]] = []

    def seen(batch):
        batches.append(list(batch))
        return work(batch)

    async def main():
        with ThreadPoolExecutor(1) as thread:
            batcher = MicroBatcher(seen, batch_size, thread, group)
            return await asyncio.gather(*map(batcher, items), return_exceptions=True)

    return asyncio.run(main()), batches


def test_batcher_answers_each_in_full_batches():
    answers, batches = run(range(10), lambda batch: [item * 10 for item in batch])
    assert answers == [item * 10 for item in range(10)]
    assert batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_batcher_keeps_groups_apart_and_the_oldest_first():
    _, batches = run(range(7), list, group=lambda item: item % 2)
    assert batches == [[0, 2, 4, 6], [1, 3, 5]]


def test_batcher_lets_only_those_fail_that_fail_alone():
    def work(batch):
        if 5 in batch:
            raise ValueError("five")
        return batch

    answers, batches = run(range(8), work, batch_size=8)
    assert [one for one in answers if not isinstance(one, ValueError)] == [0, 1, 2, 3, 4, 6, 7]
    assert isinstance(answers[5], ValueError)
    assert batches == [list(range(8)), [0, 1, 2, 3], [4, 5, 6, 7], [4, 5], [4], [5], [6, 7]]


def test_batcher_shrinks_batches_that_do_not_fit():
    def work(batch):
        if len(batch) > 2:
            raise MemoryError
        return batch

    answers, _ = run(range(8), work, batch_size=8)
    assert answers == list(range(8))


class Held:
    """Answers batches that wait, from the first one on, until they may go."""

    def __init__(self) -> None:
        self.began, self.may_go = threading.Event(), threading.Event()
        self.running = threading.Lock()
        self.batches: list[list[int]] = []

    def __call__(self, batch):
        assert self.running.acquire(blocking=False)
        self.began.set()
        self.may_go.wait()
        self.batches.append(list(batch))
        self.running.release()
        return batch

    async def until_it_begins(self) -> None:
        await asyncio.to_thread(self.began.wait)


def test_batcher_gathers_while_a_batch_runs_and_never_runs_two():
    work = Held()

    async def main():
        with ThreadPoolExecutor(2) as thread:
            batcher = MicroBatcher(work, 8, thread)
            first = asyncio.create_task(batcher(0))
            await work.until_it_begins()
            later = [asyncio.create_task(batcher(item)) for item in range(1, 6)]
            await asyncio.sleep(0)  # they ask
            work.may_go.set()
            return await asyncio.gather(first, *later)

    assert asyncio.run(main()) == list(range(6))
    assert work.batches == [[0], [1, 2, 3, 4, 5]]


def test_batcher_leaves_out_those_who_no_longer_wait():
    work = Held()

    async def main():
        with ThreadPoolExecutor(1) as thread:
            batcher = MicroBatcher(work, 1, thread)
            tasks = [asyncio.create_task(batcher(item)) for item in range(3)]
            await work.until_it_begins()
            tasks[1].cancel()
            await asyncio.sleep(0)
            work.may_go.set()
            return await asyncio.gather(*tasks, return_exceptions=True)

    first, second, third = asyncio.run(main())
    assert (first, third) == (0, 2)
    assert isinstance(second, asyncio.CancelledError)
    assert work.batches == [[0], [2]]


def test_batcher_that_gets_too_few_answers_fails_all():
    answers, _ = run(range(2), lambda batch: [])
    assert [type(one) for one in answers] == [ValueError, ValueError]


def test_batcher_closes_those_who_wait():
    work = Held()

    async def main():
        with ThreadPoolExecutor(1) as thread:
            batcher = MicroBatcher(work, 1, thread)
            tasks = [asyncio.create_task(batcher(item)) for item in range(2)]
            await work.until_it_begins()
            closing = asyncio.create_task(batcher.aclose())
            await asyncio.sleep(0)
            work.may_go.set()
            await closing
            assert await tasks[0] == 0
            with pytest.raises(asyncio.CancelledError):
                await tasks[1]

    asyncio.run(main())
    assert work.batches == [[0]]
