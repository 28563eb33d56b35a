"""A clock that jumps: what waits under it takes no time, however busy the machine."""

import asyncio
from collections.abc import Coroutine
from typing import Any


class FakeTime:
    """Stands in for the module `time`, and runs coroutines by its own clock.

    When all coroutines wait, the clock jumps to the moment for which the first of them waits. For
    code without threads and sockets: they are waited for only while nobody waits for a moment.
    """

    def __init__(self) -> None:
        self.now = 0.0  # small, so that a sum of it and a wait is exact enough for the event loop

    def time(self) -> float:
        return 1_000_000_000 + self.now

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        """Let time pass while the event loop is held up."""
        self.now += seconds

    def run(self, main: Coroutine[Any, Any, Any]) -> Any:
        """As `asyncio.run`."""
        with asyncio.Runner(loop_factory=lambda: _JumpingLoop(self)) as runner:
            return runner.run(main)


class _JumpingLoop(asyncio.SelectorEventLoop):
    def __init__(self, clock: FakeTime):
        self._clock = clock
        super().__init__()
        select = self._selector.select  # type: ignore[attr-defined]

        def jump(timeout: float | None = None) -> Any:
            clock.now += max(timeout or 0.0, 1e-7)  # a round of the loop takes time, too
            return select(timeout and 0)

        self._selector.select = jump  # type: ignore[attr-defined]

    def time(self) -> float:
        return self._clock.now
