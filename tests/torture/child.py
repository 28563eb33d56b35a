"""Run a command and inject a fault at its N-th step; started by `faults.py`.

    python -m tests.torture.child SPEC -m MODULE ARGUMENTS... | SCRIPT ARGUMENTS...

Steps are file operations of this process below its working directory (open for writing, rename,
remove, sync, make a folder) and SQLite statements, so they do not depend on timing. SPEC is JSON:
`step`, `action` (kill, term, pause, jump, "" for none), `steps` (file for the total number of
steps), `gate` (see `pause`), `seconds` (jump of the clock), `file_bytes` (maximum file size).
"""

import datetime as dt
import itertools
import json
import os
import resource
import runpy
import signal
import sqlite3
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link")
_time, _time_ns, _datetime, _fsync = time.time, time.time_ns, dt.datetime, os.fsync


class Steps:
    """Counts the steps of this process and performs the action at one of them."""

    def __init__(self, spec: dict[str, Any], folder: str):
        self.spec, self.folder = spec, folder + os.sep
        self.process, self.taken, self.numbers = os.getpid(), 0, itertools.count(1)

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Count file operations; see `sys.addaudithook`."""
        if event == "open":
            path, _, flags = arguments
            if not isinstance(flags, int) or not flags & WRITES:
                return
        elif event in CHANGES:
            path = arguments[0]
        else:
            return
        if isinstance(path, str | bytes | os.PathLike) and self._is_below(os.fspath(path)):
            self.take()

    def _is_below(self, path: str | bytes) -> bool:
        name = os.fsdecode(path)
        return not os.path.isabs(name) or name.startswith(self.folder)

    def take(self) -> None:
        """Count a step, before it happens."""
        if os.getpid() != self.process:
            return
        self.taken = next(self.numbers)
        if self.taken == self.spec.get("step"):
            getattr(self, self.spec["action"])()

    def kill(self) -> None:
        os.kill(self.process, signal.SIGKILL)

    def term(self) -> None:
        os.kill(self.process, signal.SIGTERM)

    def pause(self) -> None:
        """Create the file `gate` and wait until it is removed."""
        gate = Path(self.spec["gate"])
        gate.touch()
        while gate.exists():
            time.sleep(0.02)

    def jump(self) -> None:
        seconds = self.spec["seconds"]
        time.time = lambda: _time() + seconds
        time.time_ns = lambda: _time_ns() + round(seconds * 1e9)
        JumpedDatetime.offset = dt.timedelta(seconds=seconds)


class _IsDatetime(type):
    def __instancecheck__(cls, one: Any) -> bool:
        return isinstance(one, _datetime)


class JumpedDatetime(_datetime, metaclass=_IsDatetime):
    """Replacement for `datetime.datetime`, which does not use `time.time`."""

    offset = dt.timedelta(0)

    @classmethod
    def now(cls, tz: dt.tzinfo | None = None) -> dt.datetime:  # type: ignore[override]
        return _datetime.now(tz) + cls.offset


def main() -> None:
    spec, command = json.loads(sys.argv[1]), sys.argv[2:]
    steps = Steps(spec, os.getcwd())

    class Connection(sqlite3.Connection):
        def execute(self, *arguments: Any) -> sqlite3.Cursor:
            steps.take()
            return super().execute(*arguments)

        def executemany(self, *arguments: Any) -> sqlite3.Cursor:
            steps.take()
            return super().executemany(*arguments)

    def fsync(file: int) -> None:
        steps.take()
        _fsync(file)

    os.fsync = fsync
    sqlite3.connect = partial(sqlite3.connect, factory=Connection)  # type: ignore[assignment]
    if spec.get("action") == "jump":
        dt.datetime = JumpedDatetime  # type: ignore[misc]
    if limit := spec.get("file_bytes"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    sys.addaudithook(steps.audit)
    try:
        if command[0] == "-m":
            sys.argv = command[1:]
            runpy.run_module(command[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = command
            runpy.run_path(command[0], run_name="__main__")
    finally:
        if "steps" in spec and os.getpid() == steps.process:
            steps.process = 0
            Path(spec["steps"]).write_text(str(steps.taken))


if __name__ == "__main__":
    main()
