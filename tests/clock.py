"""Simulated time for asyncio code, in which waiting takes no real time."""

import asyncio
from collections.abc import Coroutine
from typing import Any


class FakeTime:
    """Replacement for the module `time` that runs coroutines by its own clock.

    When all coroutines wait, the clock jumps to the earliest moment waited for. Not for code with
    threads or sockets, which the loop only serves while no coroutine waits for a moment.
    """

    def __init__(self) -> None:
        self.now = 0.0  # small, so that adding a wait is exact enough for the event loop

    def time(self) -> float:
        return 1_000_000_000 + self.now

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        """Advance the clock while blocking the event loop."""
        self.now += seconds

    def run(self, main: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine as `asyncio.run` does."""
        with asyncio.Runner(loop_factory=lambda: _JumpingLoop(self)) as runner:
            return runner.run(main)


class _JumpingLoop(asyncio.SelectorEventLoop):
    def __init__(self, clock: FakeTime):
        self._clock = clock
        super().__init__()
        select = self._selector.select  # type: ignore[attr-defined]

        def jump(timeout: float | None = None) -> Any:
            clock.now += max(timeout or 0.0, 1e-7)  # an iteration of the loop takes time
            return select(timeout and 0)

        self._selector.select = jump  # type: ignore[attr-defined]

    def time(self) -> float:
        return self._clock.now
