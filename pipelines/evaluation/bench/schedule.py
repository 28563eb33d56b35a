"""In which order steps go, and how long it may take."""

import heapq
import re
from collections.abc import Callable, Collection, Mapping, Sequence

from ..errors import InputError
from .steps import Step


def check_steps(steps: Sequence[Step]) -> None:
    """Names are unique, and every step stands behind all that it waits for.

    Raises:
        InputError: they are not, or it does not.
    """
    seen: set[str] = set()
    for step in steps:
        if step.name in seen:
            raise InputError(f"Two steps are called {step.name!r}.")
        for name in step.before:
            if name not in seen:
                raise InputError(f"The step {step.name!r} waits for {name!r}, which no step is.")
        seen.add(step.name)


def with_needed(steps: Sequence[Step], wanted: Collection[str]) -> list[Step]:
    """The wanted steps and all that they wait for, in their order."""
    keep = set(wanted)
    for step in reversed(steps):
        if step.name in keep:
            keep |= set(step.before)
    return [step for step in steps if step.name in keep]


class Durations:
    """What steps took here tells what others will take.

    A step is expected to take the mean of those that differ from it by the seed alone; where none
    has ended yet, of those of its kind, which is the first word of its name.
    """

    def __init__(self) -> None:
        self._taken: dict[str, list[float]] = {}

    def add(self, name: str, seconds: float) -> None:
        """A step that has ended."""
        for group in _groups(name):
            self._taken.setdefault(group, []).append(seconds)

    def expected(self, name: str) -> float | None:
        """Seconds; None where no step of the kind has ended."""
        for group in _groups(name):
            if taken := self._taken.get(group):
                return sum(taken) / len(taken)
        return None


def _groups(name: str) -> tuple[str, str]:
    return re.sub(r"-s\d+\b", "", name), name.split("-")[0] + "-*"


def expected_end(
    steps: Sequence[Step],
    workers: int,
    seconds: Callable[[Step], float],
    running: Mapping[str, float] | None = None,
) -> float:
    """Seconds until the last step ends, if each takes what is expected of it.

    Args:
        steps: not ended yet, in order; what they wait for beyond these has ended.
        workers: steps at a time.
        seconds: that a step takes.
        running: seconds that are left of those that run now.
    """
    left = {step.name: step for step in steps}
    ends = [(rest, name) for name, rest in (running or {}).items()]
    heapq.heapify(ends)
    waiting = [step for step in steps if step.name not in dict(running or {})]
    now = 0.0
    while waiting or ends:
        for step in list(waiting):
            if len(ends) < workers and not any(name in left for name in step.before):
                heapq.heappush(ends, (now + seconds(step), step.name))
                waiting.remove(step)
        if not ends:  # nothing can start: not a list that `check_steps` has passed
            break
        now, name = heapq.heappop(ends)
        del left[name]
    return now


__all__ = ["Durations", "check_steps", "expected_end", "with_needed"]
