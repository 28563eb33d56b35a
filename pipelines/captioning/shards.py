"""Who works on which shard: leases on a folder that all machines see.

A lease is a folder with one file, whose name says who holds it. To put the folder in its place, to
give the file another name and to delete it are atomic on every file system, network ones too, so
of many that try at once one wins. The holder touches the file now and then; a lease that has not
been touched for long, or whose process is gone, is taken over.
"""

import errno
import os
import socket
import threading
import uuid
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

HEARTBEATS_PER_TIMEOUT = 6
SEPARATOR = "--"
HELD = (errno.EEXIST, errno.ENOTEMPTY)
GONE = (errno.ENOENT, errno.ESTALE)


class LeaseLostError(RuntimeError):
    """Another process has taken the lease over, since this one did not show a sign of life."""


@dataclass(frozen=True)
class _Owner:
    host: str
    pid: int
    token: str

    @property
    def file_name(self) -> str:
        return SEPARATOR.join((self.host, str(self.pid), self.token))


class Lease:
    """The right to work on something, held by one process at a time.

    Args:
        path: of the lease's folder; its parent is made if need be.
        timeout_s: seconds without a sign of life after which it may be taken over.
    """

    def __init__(self, path: Path, timeout_s: float = 120.0):
        self.path = path
        self.timeout_s = timeout_s
        self._me = _Owner(socket.gethostname(), os.getpid(), uuid.uuid4().hex)
        self._now = 0.0
        self._stop = threading.Event()
        self._heart: threading.Thread | None = None

    @property
    def _mine(self) -> Path:
        return self.path / self._me.file_name

    def acquire(self) -> bool:
        """Take the lease if it is free or dead; returns whether it is ours now.

        Raises:
            OSError: the folder cannot be written.
        """
        if not self._create() and not self._take_over():
            return False
        self._stop.clear()
        self._heart = threading.Thread(target=self._beat, daemon=True)
        self._heart.start()
        return True

    def check(self) -> None:
        """Make sure that it is still ours.

        Raises:
            LeaseLostError: it is not.
        """
        if not self._mine.exists():
            raise LeaseLostError(
                f"The lease {self.path} was taken over by another process: this one gave no sign "
                f"of life for {self.timeout_s:g} s. Its finished units are kept."
            )

    def release(self) -> None:
        """Give it back; does nothing if it is no longer ours."""
        self._stop.set()
        if self._heart is not None:
            self._heart.join()
        try:
            self._mine.unlink()
            self.path.rmdir()
        except OSError:
            pass  # taken over, or taken anew between the two

    def __enter__(self) -> "Lease":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    def _create(self) -> bool:
        """Put a folder with our name in its place; fails where one with something in it is."""
        fresh = self.path.with_name(f".{self.path.name}.{self._me.token}")
        fresh.mkdir(parents=True)
        try:
            (fresh / self._me.file_name).touch()
            # by the clock of the file system, since those of the machines may differ
            self._now = (fresh / self._me.file_name).stat().st_mtime
            fresh.rename(self.path)
        except OSError as error:
            (fresh / self._me.file_name).unlink(missing_ok=True)
            fresh.rmdir()
            if error.errno not in HELD:
                raise
            return False
        return True

    def _take_over(self) -> bool:
        """Put our name in place of a dead one's."""
        for file in list(self.path.glob(f"*{SEPARATOR}*")):
            try:
                if not self._is_dead(file):
                    return False
                os.utime(file)  # before it bears our name, so that it is never ours and old
                file.rename(self._mine)
                return True
            except OSError as error:
                if error.errno not in GONE:
                    raise
                return False  # somebody else was faster
        return False

    def _is_dead(self, file: Path) -> bool:
        host, pid, _ = file.name.rsplit(SEPARATOR, 2)
        if host == self._me.host and not _is_alive(int(pid)):
            return True
        return self._now - file.stat().st_mtime > self.timeout_s

    def _beat(self) -> None:
        while not self._stop.wait(self.timeout_s / HEARTBEATS_PER_TIMEOUT):
            try:
                os.utime(self._mine)
            except OSError as error:
                if error.errno in GONE:
                    return  # taken over; check() will say so


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


__all__ = ["Lease", "LeaseLostError"]
