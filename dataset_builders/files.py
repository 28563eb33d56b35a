"""Locks, atomic writes, files that this program may replace or delete, and fingerprints."""

import contextlib
import datetime as dt
import errno
import fcntl
import functools
import hashlib
import itertools
import json
import os
import re
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from .errors import DatasetError, InUseError

NAMES_SHOWN = 5
CHECKSUM = "digest"  # name of the entry, or column, that the others are checked against
LOCK_FILE = ".urbanln.lock"
NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)  # of some network file systems
REMEDY = "Wait until it ends, or give another folder."
ORPHANS_S = 10.0
"""How long to wait for what a killed run leaves: PyTorch's workers end within 5 seconds."""
_HOST = socket.gethostname()
# some libraries want an ending of their own
_TEMPORARY = re.compile(r"\..+\.([0-9a-f]{6})-(\d+)-\d+\.(tmp|gpkg)(-journal|-wal|-shm)?")
_numbers = itertools.count()


@functools.cache
def _machine() -> str:
    """6 hex digits for the host, and for the container: their processes are numbered apart."""
    container = "/proc/self/ns/pid"
    return digest(_HOST, os.readlink(container) if os.path.lexists(container) else "")[:6]


@contextmanager
def locked(folder: Path, name: str = LOCK_FILE, remedy: str = REMEDY) -> Iterator[int]:
    """Keep other runs out of a folder, and remove what killed ones had begun to write there.

    The operating system releases the lock of a process that dies.

    Args:
        folder: Created if it does not exist.
        name: Of the lock's file, which is there within the block only.
        remedy: What to do if another run holds it.

    Yields:
        The lock's file descriptor: a process that inherits it shares the lock.

    Raises:
        InUseError: Another run holds the lock; the message names it.
        OSError: The folder cannot be written.
    """
    path, is_new = folder / name, not folder.exists()
    with _acquire(path, remedy) as file:
        try:
            now = dt.datetime.now().astimezone().isoformat(" ", "seconds")
            file.truncate(0)
            file.write(json.dumps({"host": _HOST, "pid": os.getpid(), "since": now}))
            file.flush()
            _remove_abandoned(folder)
            yield file.fileno()
        finally:
            path.unlink(missing_ok=True)
            if is_new and not any(folder.iterdir()):
                folder.rmdir()


def _acquire(path: Path, remedy: str) -> TextIO:
    patience = time.monotonic() + ORPHANS_S
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            said = _holder(file.read())
            file.close()
            if not _has_ended(said.get("host"), said.get("pid")) or time.monotonic() > patience:
                who = ", ".join(f"{key} {value}" for key, value in said.items())
                raise InUseError(
                    f"Another run writes to {path.parent}{f' ({who})' if who else ''}. {remedy}"
                ) from None
            time.sleep(0.1)
            continue
        except OSError as error:
            if error.errno not in NO_LOCKS:
                file.close()
                raise
        with contextlib.suppress(FileNotFoundError):  # the holder removes it when it ends
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()


def _holder(text: str) -> dict[str, Any]:
    """Host, process and start of who holds a lock; nothing if it has not said so yet."""
    try:
        return dict(json.loads(text))
    except (ValueError, TypeError):
        return {}


def _has_ended(host: Any, pid: Any) -> bool:
    """Whether a process was one of this machine, and is none any more."""
    if host not in (_HOST, _machine()) or not isinstance(pid, int):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:  # somebody else's
        return False
    return False


def _remove_abandoned(folder: Path) -> None:
    for left in [*folder.rglob(".*"), *folder.parent.glob(f".{folder.name}.*")]:
        if _is_abandoned(left):
            shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)


def _is_abandoned(path: Path) -> bool:
    """Whether a temporary file or folder is left from a process that was killed."""
    name = _TEMPORARY.fullmatch(path.name)
    return name is not None and _has_ended(name[1], int(name[2]))


def contents(folder: Path) -> list[Path]:
    """What lies in a folder, if there is one, besides its lock and temporary files."""
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    return [p for p in found if p.name != LOCK_FILE and not _TEMPORARY.fullmatch(p.name)]


def _mark() -> str:
    """The end of a temporary name: whose it is, and that nobody else has it."""
    return f"{_machine()}-{os.getpid()}-{next(_numbers)}.tmp"


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that replaces it, synced to the disk, after the block.

    A process killed within the block leaves `path` as it was, and so does an error. No two blocks
    have the same temporary path.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{_mark()}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically; nan is not allowed."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def signed(values: Mapping[str, Any]) -> dict[str, Any]:
    """JSON values with a checksum as their last entry."""
    return {**values, CHECKSUM: digest(json.loads(json.dumps(values)))}


def verified(value: Any) -> Any:
    """JSON without its checksum; values that have none pass as they are.

    Raises:
        ValueError: They are not those that [`signed`] was given.
    """
    if not isinstance(value, dict) or CHECKSUM not in value:
        return value
    values = {name: one for name, one in value.items() if name != CHECKSUM}
    if value[CHECKSUM] != digest(values):
        raise ValueError("The JSON is corrupt: it does not match its checksum.")
    return values


def write_state(path: Path, values: Mapping[str, Any]) -> None:
    """Write JSON that a later run reads back: atomically, and with a checksum."""
    write_json(path, signed(values))


def append(path: Path, content: bytes) -> None:
    """Append to a file, on the disk before this returns; all of it or nothing.

    Raises:
        OSError: The disk is full; the file is as it was.
    """
    with path.open("ab", buffering=0) as file:
        size, rest = file.seek(0, os.SEEK_END), memoryview(content)
        try:
            while rest:
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
        except OSError:
            file.truncate(size)
            raise


def set_aside(path: Path) -> None:
    """Rename a damaged file to `<name>.damaged-<time>`, and say so; it can be made again then."""
    aside = path.with_name(f"{path.name}.damaged-{dt.datetime.now():%Y%m%d-%H%M%S-%f}")
    path.replace(aside)
    print(f"{path} is damaged: kept as {aside.name}, and made again.", file=sys.stderr)


def read_json(path: Path) -> Any:
    """Read JSON without its checksum; None if there is none. A damaged file is set aside."""
    try:
        return verified(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError):
        set_aside(path)
        return None


class ForeignFileError(DatasetError):
    """Raised when a file in the way was not written by this program, or was changed since."""


class WrittenFiles:
    """The files of a folder that this program wrote, and may therefore replace or delete.

    The folder lists them in `.urbanln-<kind>.jsonl`, by name and SHA-256. A file that is not
    listed, or was changed since, belongs to somebody else: it is never replaced or deleted. Lines
    are only appended, each before its file takes its place, so a kill leaves nothing unlisted.

    Args:
        root: The folder; it need not exist.
        kind: What the files make up. Only files of the same kind are known.
    """

    def __init__(self, root: str | Path, kind: str):
        self.root = Path(root)
        self._list = self.root / f".urbanln-{kind}.jsonl"

    def names(self) -> list[str]:
        """All listed names, sorted; some of the files may be gone."""
        return sorted(self._read())

    def check(self, names: Iterable[str]) -> None:
        """Check that files may be replaced or deleted; those that do not exist may.

        Args:
            names: Relative to the folder.

        Raises:
            ForeignFileError: One is there and is not as this program wrote it.
        """
        known = self._read()
        foreign = [name for name in names if self._is_foreign(name, known.get(name, set()))]
        if foreign:
            more = f" and {len(foreign) - NAMES_SHOWN} more" if len(foreign) > NAMES_SHOWN else ""
            raise ForeignFileError(
                f"{self.root} holds files that were not written by this command, or were changed "
                f"since: {', '.join(foreign[:NAMES_SHOWN])}{more}. They would be replaced or "
                "deleted: move them away, or give another folder."
            )

    def altered(self, names: Iterable[str]) -> list[str]:
        """Those of some files that are there, listed, and not as this program wrote them."""
        known = self._read()
        return [one for one in names if one in known and self._is_foreign(one, known[one])]

    def set_damaged_aside(self, name: str) -> None:
        """Set a Parquet file aside that is not as this program wrote it; others are left alone."""
        path = self.root / name
        if self.altered([name]) and was_parquet(path):
            set_aside(path)

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """Like [`atomic_path`], for a file that is listed.

        Raises:
            ForeignFileError: See [`check`].
        """
        self.check([name])
        with atomic_path(self.root / name) as temporary:
            yield temporary
            self._append({name: file_sha256(temporary)})

    @contextmanager
    def staging(self, *, whole: bool = False) -> Iterator[Path]:
        """A temporary folder whose files move here once the block is done; hidden ones do not.

        Args:
            whole: Also delete the listed files that the block did not write again.

        Raises:
            ForeignFileError: See [`check`]; nothing has been touched then.
        """
        root = self.root.resolve()
        root.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(f".{_mark()}", f".{root.name}.", root.parent) as folder:
            staged = Path(folder)
            yield staged
            found = _shown_files(staged)
            gone = set(self.names()) - set(found) if whole else set()
            self.check([*sorted(found), *sorted(gone)])
            self.delete(gone)
            self._append({name: file_sha256(path) for name, path in found.items()})
            for name, path in found.items():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.move(path, root / name)

    def delete(self, names: Iterable[str]) -> None:
        """Delete files, and the folders that this leaves empty.

        Raises:
            ForeignFileError: See [`check`]; nothing has been deleted then.
        """
        names = list(names)
        self.check(names)
        for name in names:
            (self.root / name).unlink(missing_ok=True)
            for folder in (self.root / name).parents:
                if folder == self.root or not folder.is_dir() or any(folder.iterdir()):
                    break
                folder.rmdir()

    def _is_foreign(self, name: str, hashes: set[str]) -> bool:
        path = self.root / name
        if not os.path.lexists(path):
            return False
        inside = path.resolve().is_relative_to(self.root.resolve())
        plain = path.is_file() and not path.is_symlink()
        return not (inside and plain and file_sha256(path) in hashes)

    def _read(self) -> dict[str, set[str]]:
        """SHA-256 of all that was written, by name; lines cut off by a kill are skipped."""
        found: dict[str, set[str]] = {}
        if not self._list.is_file():
            return found
        for line in self._list.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                entry = json.loads(line)
                found.setdefault(str(entry["name"]), set()).add(str(entry["sha256"]))
            except (ValueError, TypeError, KeyError):
                continue
        return found

    def _append(self, hashes: dict[str, str]) -> None:
        known = self._read()
        fresh = [name for name in sorted(hashes) if hashes[name] not in known.get(name, set())]
        if not fresh:  # a run that was killed had come as far
            return
        lines = [json.dumps({"name": name, "sha256": hashes[name]}) for name in fresh]
        self.root.mkdir(parents=True, exist_ok=True)
        # begins a line of its own also after one that was cut off
        append(self._list, "".join(f"\n{line}" for line in lines).encode() + b"\n")


def was_parquet(path: Path) -> bool:
    """Whether a file begins or ends like a Parquet file, or holds nothing: only zeros, or no bytes.

    Such a file in place of a table is a damaged table, and any other is somebody's.
    """
    content = path.read_bytes()
    return content[:4] == b"PAR1" or content[-4:] == b"PAR1" or not content.strip(b"\0")


def _shown_files(folder: Path) -> dict[str, Path]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    named = {path.relative_to(folder).as_posix(): path for path in files}
    return {name: named[name] for name in named if not any(p[0] == "." for p in name.split("/"))}


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(*parts: Any) -> str:
    """16 hex digits of a SHA-256 over bytes as they are and anything else as JSON."""
    sha = hashlib.sha256()
    for part in parts:
        content = part if isinstance(part, bytes) else json.dumps(part, sort_keys=True).encode()
        sha.update(len(content).to_bytes(8, "little") + content)
    return sha.hexdigest()[:16]


__all__ = [
    "CHECKSUM",
    "LOCK_FILE",
    "ForeignFileError",
    "WrittenFiles",
    "append",
    "atomic_path",
    "contents",
    "digest",
    "file_sha256",
    "locked",
    "read_json",
    "set_aside",
    "signed",
    "verified",
    "was_parquet",
    "write_json",
    "write_state",
]
