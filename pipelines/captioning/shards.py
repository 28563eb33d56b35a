"""Who works on which shard: leases on a folder that all machines see.

A lease is a folder, since making one is atomic everywhere. Its holder touches it now and then;
one that has not been touched for long, or whose process is gone, is taken over.
"""

import json
import os
import shutil
import socket
import threading
import uuid
from pathlib import Path
from types import TracebackType

HEARTBEATS_PER_TIMEOUT = 6
OWNER_FILE = "owner.json"


class LeaseLostError(RuntimeError):
    """Another process has taken the lease over, since this one did not show a sign of life."""


class Lease:
    """The right to work on something, held by one process at a time.

    Args:
        path: of the lease's folder; its parent must be there.
        timeout_s: seconds without a sign of life after which it may be taken over.
    """

    def __init__(self, path: Path, timeout_s: float = 120.0):
        self.path = path
        self.timeout_s = timeout_s
        self._token = uuid.uuid4().hex
        self._now = 0.0
        self._stop = threading.Event()
        self._heart: threading.Thread | None = None

    def acquire(self) -> bool:
        """Take the lease if it is free or dead; returns whether it is ours now."""
        if not self._make():
            if not self._is_dead():
                return False
            self._bury()
            if not self._make():
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
        if self._owner().get("token") != self._token:
            raise LeaseLostError(
                f"The lease {self.path} was taken over by another process: this one gave no sign "
                f"of life for {self.timeout_s:g} s. Its finished units are kept."
            )

    def release(self) -> None:
        """Give it back; does nothing if it is no longer ours."""
        self._stop.set()
        if self._heart is not None:
            self._heart.join()
        if self._owner().get("token") == self._token:
            shutil.rmtree(self.path, ignore_errors=True)

    def __enter__(self) -> "Lease":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    def _make(self) -> bool:
        # whole at once: a folder with its owner inside is renamed into place
        fresh = self.path.with_name(f".{self.path.name}.{self._token}")
        fresh.mkdir(parents=True, exist_ok=True)
        owner = {"token": self._token, "host": socket.gethostname(), "pid": os.getpid()}
        (fresh / OWNER_FILE).write_text(json.dumps(owner))
        # by the clock of the file system, since those of the machines may differ
        self._now = (fresh / OWNER_FILE).stat().st_mtime
        try:
            fresh.rename(self.path)  # fails where a folder with something in it is there
        except OSError:
            shutil.rmtree(fresh, ignore_errors=True)
            return False
        return True

    def _owner(self) -> dict[str, object]:
        try:
            return dict(json.loads((self.path / OWNER_FILE).read_text()))
        except (OSError, ValueError):
            return {}

    def _is_dead(self) -> bool:
        owner = self._owner()
        if owner.get("host") == socket.gethostname() and not _is_alive(owner.get("pid")):
            return True
        try:
            age = self._now - (self.path / OWNER_FILE).stat().st_mtime
        except OSError:
            return False  # being given back this moment
        return age > self.timeout_s

    def _bury(self) -> None:
        """Remove the dead lease, unless somebody else has just taken it over."""
        dead = self._owner().get("token")
        grave = self.path.with_name(f".{self.path.name}.dead.{self._token}")
        try:
            self.path.rename(grave)
        except OSError:
            return
        try:
            token = json.loads((grave / OWNER_FILE).read_text()).get("token")
        except (OSError, ValueError):
            token = None
        if token != dead:
            grave.rename(self.path)
            return
        shutil.rmtree(grave, ignore_errors=True)

    def _beat(self) -> None:
        while not self._stop.wait(self.timeout_s / HEARTBEATS_PER_TIMEOUT):
            try:
                os.utime(self.path / OWNER_FILE)
            except OSError:
                return  # taken over; check() will say so


def _is_alive(pid: object) -> bool:
    if not isinstance(pid, int):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


__all__ = ["Lease", "LeaseLostError"]
