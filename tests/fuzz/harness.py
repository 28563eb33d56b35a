"""Fuzzing of all readers of external input, which must accept it or raise a reported error."""

import copy
import resource
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
from hypothesis import strategies as st

from dataset_builders.errors import ReportedError
from dataset_builders.hub_errors import causes
from dataset_builders.machine_errors import explain

FOLDER = Path(__file__).parent
TIMES = 0.3
"""Factor for the number of inputs; set by the conftest from the environment."""


@dataclass
class Count:
    """Outcomes of the inputs of a reader, and the increase of peak memory in MB."""

    inputs: int = 0
    accepted: int = 0
    refused: int = 0
    tracebacks: int = 0
    memory: float = 0.0


COUNTS: dict[str, Count] = defaultdict(Count)


def inputs(number: int, long: int | None = None) -> Callable:
    """Hypothesis settings with `number` x `TIMES` inputs in addition to the examples.

    Args:
        number: Number of inputs per unit of `TIMES`.
        long: Number of inputs in a long run, for slow readers.
    """
    count = round(number * TIMES) if long is None or TIMES < 1 else long
    phases = [hypothesis.Phase.explicit, hypothesis.Phase.generate]  # shrinking takes minutes
    return hypothesis.settings(
        phases=phases if count else phases[:1],
        max_examples=max(count, 1),
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )


def knock(door: str, call: Callable[[], Any], *refusals: type[BaseException]) -> Any:
    """Return the result of a reader, or None if it rejects the input.

    Args:
        door: Name of the reader in the table of counts.
        call: Function that reads an input.
        refusals: Expected errors in addition to those that every command reports.
    """
    count, before = COUNTS[door], peak_mb()
    count.inputs += 1
    try:
        found = call()
    except Exception as error:
        is_memory = any(isinstance(one, MemoryError) for one in causes(error))
        is_said = isinstance(error, (ReportedError, *refusals)) or explain(error) is not None
        if is_memory or not is_said:
            count.tracebacks += 1
            raise
        count.refused += 1
        return None
    finally:
        count.memory += peak_mb() - before
    count.accepted += 1
    return found


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@st.composite
def damaged(draw: Callable, whole: bytes) -> bytes:
    """File content with some bytes changed, removed, moved or repeated."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, max(len(data) - 1, 0)))
        stop = start + draw(st.integers(1, 40))
        how = draw(st.sampled_from(("flip", "write", "cut", "drop", "repeat", "splice")))
        if how == "flip" and data:
            data[start] ^= 1 << draw(st.integers(0, 7))
        elif how == "write":
            data[start:stop] = draw(st.binary(max_size=8))
        elif how == "cut":
            del data[start:]
        elif how == "drop":
            del data[start:stop]
        elif how == "repeat":
            data[start:start] = data[start:stop]
        elif how == "splice":
            data[start:start] = whole[draw(st.integers(0, len(whole))) :][:40]
    return bytes(data)


def nested(depth: int) -> list:
    value: list = []
    for _ in range(depth):
        value = [value]
    return value


TEXTS = st.text(max_size=12) | st.sampled_from(
    (
        "",
        " ",
        "\x00",
        "\ud800",
        *(["=1+1", "@x", "$x_{", "a/b", "../x", "http://[::1", "é"]),
        "100 % of $",
    )
)
ODD = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from((10**400, -(2**63), 2**64, 1e308, 181, -91.0))
    | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
"""Arbitrary JSON values."""


@st.composite
def altered(draw: Callable, valid: Any, odd: st.SearchStrategy = ODD) -> Any:
    """Nested value with up to three parts removed or replaced."""
    value = copy.deepcopy(valid)
    for _ in range(draw(st.integers(0, 3))):
        value = _alter(draw, value, odd)
    return value


def _alter(draw: Callable, value: Any, odd: st.SearchStrategy) -> Any:
    if not isinstance(value, (dict, list)) or not value or draw(st.integers(0, 7)) == 0:
        return draw(odd)
    keys = sorted(value, key=str) if isinstance(value, dict) else range(len(value))
    key = draw(st.sampled_from(keys))
    if draw(st.integers(0, 7)) == 0:
        del value[key]
    else:
        value[key] = _alter(draw, value[key], odd)
    return value
