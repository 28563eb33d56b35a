"""Time and memory of the functions that benchmarks compare."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Seconds = dict[str, np.ndarray]


def timed(function: Callable[..., Any], *args: Any, **options: Any) -> tuple[np.ndarray, Any]:
    """Wall time and CPU time of a call in seconds, and its result."""
    start = _clocks()
    found = function(*args, **options)
    return _clocks() - start, found


def alternate(repeats: int, **functions: Callable[[], object]) -> Seconds:
    """Wall and CPU seconds of each function, of shape (repeats, 2), after a warm-up run.

    The runs alternate, so that other processes affect all functions. They affect CPU time least;
    run with OMP_NUM_THREADS=1, as waiting threads count.
    """
    for function in functions.values():
        function()
    seconds: dict[str, list[np.ndarray]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            seconds[name].append(timed(function)[0])
    return {name: np.stack(rows) for name, rows in seconds.items()}


def cpu_seconds(repeats: int, **functions: Callable[[], object]) -> dict[str, float]:
    """Minimum CPU time of each function."""
    return {name: rows[:, 1].min() for name, rows in alternate(repeats, **functions).items()}


def peak_mb() -> float:
    """Peak memory of this process; getrusage starts at the peak of the parent."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def in_subprocess(module: str, *args: object) -> Any:
    """The JSON that `python -m MODULE ARGS` prints on its last line."""
    command = [sys.executable, "-m", module, *map(str, args)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _clocks() -> np.ndarray:
    return np.array([time.perf_counter(), time.process_time()])


__all__ = ["alternate", "cpu_seconds", "in_subprocess", "peak_mb", "timed"]
