"""Waiting: between attempts, when a server asks for it, and while it is not there."""

import asyncio
import email.utils
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC

MAX_RETRY_AFTER_S = 600.0
"""A server that asks for more is asked again after this."""

logger = logging.getLogger(__name__)


class Backoff:
    """Waits that double, are capped, and are drawn from their upper half.

    Args:
        first_s: the longest first wait.
        longest_s: the longest of all.
    """

    def __init__(self, first_s: float, longest_s: float):
        self._first_s, self._longest_s = first_s, longest_s
        self._random = random.Random()  # moves moments, never results

    def wait(self, number: int) -> float:
        """Seconds before attempt `number + 1`, counted from 1."""
        # 2.0**1024 overflows: after 64 doublings any wait has long reached its cap
        longest = min(self._longest_s, self._first_s * 2.0 ** min(number - 1, 64))
        return longest * self._random.uniform(0.5, 1.0)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server asks to wait, at most `MAX_RETRY_AFTER_S`.

    RFC 9110, section 10.2.3: a number of seconds or a date. None if it asks for nothing.
    """
    value = headers.get("retry-after", "").strip()
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            moment = email.utils.parsedate_to_datetime(value)
        except (TypeError, ValueError):
            return None
        if moment.tzinfo is None:  # "-0000", or no zone: such dates are in UTC
            moment = moment.replace(tzinfo=UTC)
        seconds = moment.timestamp() - time.time()
    if not seconds > 0:  # also of "nan"
        return 0.0
    return min(seconds, MAX_RETRY_AFTER_S)


class OutageError(Exception):
    """The server has been away for longer than anybody waits."""


class OutageGate:
    """Closed while a server is not there; all requests of a model go through one.

    The first request whose connection fails closes it. From then on nobody is sent to the server
    but a probe, at once and then at growing distances, until something answers. So a server that
    is away for minutes costs every request that was on its way one attempt, and all others none.
    After `timeout_s` the requests are given up, those that come later at once; the probe goes on,
    and opens the gate if the server comes back after all.

    Belongs to the event loop in which it is made.

    Args:
        probe: whether the server answers; must not raise.
        backoff: distances of the probes.
        timeout_s: how long requests wait.
        label: of the server, for the log; holds no secret.
    """

    def __init__(
        self,
        probe: Callable[[], Awaitable[bool]],
        backoff: Backoff,
        timeout_s: float,
        label: str,
    ):
        self._probe, self._backoff = probe, backoff
        self._timeout_s, self._label = timeout_s, label
        self._settled = asyncio.Event()  # open, or given up
        self._settled.set()
        self._given_up = False
        self._task: asyncio.Task[None] | None = None
        self._paused_until = 0.0

    async def wait(self) -> None:
        """Return when requests may go to the server.

        Raises:
            OutageError: it has been away for too long.
        """
        while True:
            await self._settled.wait()
            if self._given_up:
                raise OutageError
            pause = self._paused_until - time.monotonic()
            if pause <= 0:
                return
            await asyncio.sleep(pause)

    def pause(self, seconds: float) -> None:
        """Send nobody for so long: the server asked for it."""
        self._paused_until = max(self._paused_until, time.monotonic() + seconds)

    def close(self, why: str) -> None:
        """A request did not reach the server."""
        if self._task is None or self._task.done():
            self._settled.clear()
            self._task = asyncio.create_task(self._wait_for_server(why))

    async def aclose(self) -> None:
        """End the probing."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _wait_for_server(self, why: str) -> None:
        started = time.monotonic()
        number = 0
        while not await self._probe():
            number += 1
            if number == 1:
                logger.warning(
                    "%s does not answer (%s); asking for up to %.0f s.",
                    self._label,
                    why,
                    self._timeout_s,
                )
            away = time.monotonic() - started
            if away >= self._timeout_s and not self._given_up:
                logger.error("%s gave no answer for %.0f s; given up.", self._label, away)
                self._given_up = True
                self._settled.set()
            wait = self._backoff.wait(number)
            if not self._given_up:  # the last probe is at the end of patience, not beyond it
                wait = min(wait, max(self._timeout_s - away, 0.0))
            await asyncio.sleep(wait)
        if number:
            logger.warning("%s answers after %.0f s.", self._label, time.monotonic() - started)
        self._given_up = False
        self._settled.set()


__all__ = ["MAX_RETRY_AFTER_S", "Backoff", "OutageError", "OutageGate", "retry_after"]
