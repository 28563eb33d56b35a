"""The processes of steps: in groups of their own, ended together, never two jobs in a folder."""

import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import BinaryIO

from ..errors import InputError
from .steps import PROJECT

LOCK_FILE = ".lock"
GRACE_SECONDS = 10.0
TAIL_LINES, TAIL_WIDTH, TAIL_BYTES = 12, 160, 1 << 16
TAIL_MARGIN = "    | "


class Lock:
    """A folder that one job works in.

    The lock is an open file that every step inherits: it is held until the last process has ended,
    also where the job itself was killed and a step lives on.

    Args:
        run: folder of the job.

    Raises:
        InputError: somebody works in it.
    """

    def __init__(self, run: Path):
        run.mkdir(parents=True, exist_ok=True)
        self._file = (run / LOCK_FILE).open("a+", encoding="utf-8")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.seek(0)
            known = self._file.read().strip()
            self._file.close()
            raise InputError(
                f"Somebody works in {run}: another job, or a step that one left behind when it was "
                f"killed (process {known or 'unknown'}). Wait for it, or end it."
            ) from None
        self.note([])

    @property
    def fileno(self) -> int:
        """Of the file that steps inherit."""
        return self._file.fileno()

    def note(self, pids: Sequence[int]) -> None:
        """Write down who holds it, for whoever finds it held."""
        self._file.seek(0)
        self._file.truncate()
        self._file.write(" ".join(map(str, [os.getpid(), *pids])))
        self._file.flush()

    def release(self) -> None:
        """Let the folder go, as far as this process is concerned."""
        self._file.close()


def start(
    words: Sequence[str], log: Path, environment: Mapping[str, str], lock: Lock
) -> "subprocess.Popen[bytes]":
    """Start a command from the project's folder; its output goes to the end of a log."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        output.write(f"$ {' '.join(words)}\n".encode())
        output.flush()
        return subprocess.Popen(
            list(words),
            cwd=PROJECT,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=(lock.fileno,),
        )


def stop(processes: Sequence["subprocess.Popen[bytes]"]) -> None:
    """End processes and all that they have started: asked first, then not asked."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in processes:
            with suppress(
                ProcessLookupError
            ):  # the group outlives its leader as long as it has one
                os.killpg(process.pid, number)
        until = time.monotonic() + GRACE_SECONDS
        for process in processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, until - time.monotonic()))


@contextmanager
def stoppable() -> Iterator[None]:
    """Within, a signal to end is a KeyboardInterrupt, so that steps are ended too."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {
        number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def tail(log: Path) -> str:
    """The last lines of a log; of a progress bar, its last state."""
    with log.open("rb") as file:
        _from_end(file)
        lines = file.read().decode(errors="replace").split("\n")
    # a bar overwrites its line from its beginning on
    lines = [line.rstrip().rsplit("\r", 1)[-1] for line in lines if line.strip()]
    return "\n".join(TAIL_MARGIN + line[:TAIL_WIDTH] for line in lines[-TAIL_LINES:])


def _from_end(file: BinaryIO) -> None:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - TAIL_BYTES))


__all__ = ["Lock", "start", "stop", "stoppable", "tail"]
