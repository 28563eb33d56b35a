"""Locks, atomic writes, ownership of files, and checksums."""

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
END_BYTES = 1 << 16  # read for a fingerprint
CHECKSUM = "digest"  # name of the entry or column that holds the checksum
LOCK_FILE = ".urbanln.lock"
NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)  # file systems without locks
REMEDY = "Wait until it ends, or give another folder."
SHARE_REMEDY = "Wait until it ends, or give each process its own share with --shard I/N."
ORPHANS_S = 10.0
"""Seconds to wait for child processes of a killed run; PyTorch's workers end within 5."""
_HOST = socket.gethostname()
# some libraries require their own suffix
_TEMPORARY = re.compile(r"\..+\.([0-9a-f]{6})-(\d+)-\d+\.(tmp|gpkg)(-journal|-wal|-shm)?")
_numbers = itertools.count()


@functools.cache
def _machine() -> str:
    """6 hex digits that identify the host and the container, which has its own process ids."""
    container = "/proc/self/ns/pid"
    return digest(_HOST, os.readlink(container) if os.path.lexists(container) else "")[:6]


@contextmanager
def locked(folder: Path, name: str = LOCK_FILE, remedy: str = REMEDY) -> Iterator[int]:
    """Lock a folder against other runs, and delete temporary files of killed runs.

    The operating system releases the lock of a process that dies.

    Args:
        folder: Folder to lock; created if missing.
        name: Name of the lock file, which exists within the block only.
        remedy: Advice if another run holds the lock.

    Yields:
        File descriptor of the lock; a process that inherits it shares the lock.

    Raises:
        InUseError: Another run holds the lock; the message names it.
        OSError: The folder is not writable.
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
        with contextlib.suppress(FileNotFoundError):  # deleted by the previous holder
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()


def _holder(text: str) -> dict[str, Any]:
    try:
        return dict(json.loads(text))
    except (ValueError, TypeError):
        return {}


def _has_ended(host: Any, pid: Any) -> bool:
    if host not in (_HOST, _machine()) or not isinstance(pid, int):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:  # of another user
        return False
    return False


def _remove_abandoned(folder: Path) -> None:
    for left in [*folder.rglob(".*"), *folder.parent.glob(f".{folder.name}.*")]:
        name = _TEMPORARY.fullmatch(left.name)
        if name is not None and _has_ended(name[1], int(name[2])):
            shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)


def contents(folder: Path) -> list[Path]:
    """Paths in a folder, except its lock and temporary files; empty if there is no folder."""
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    return [p for p in found if p.name != LOCK_FILE and not _TEMPORARY.fullmatch(p.name)]


def _mark() -> str:
    """Suffix of a temporary name: the process that owns it, and a number."""
    return f"{_machine()}-{os.getpid()}-{next(_numbers)}.tmp"


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Temporary path that replaces `path`, synced to disk, after the block.

    If the process is killed or the block raises, `path` is unchanged. No two blocks have the same
    temporary path.
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
    """Write JSON atomically; NaN raises an error."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def signed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Add a checksum to JSON values, as the last entry."""
    return {**values, CHECKSUM: digest(json.loads(json.dumps(values)))}


def verified(value: Any) -> Any:
    """Verify and remove the checksum of JSON values; values without one are returned unchanged.

    Raises:
        ValueError: The values do not match their checksum.
    """
    if not isinstance(value, dict) or CHECKSUM not in value:
        return value
    values = {name: one for name, one in value.items() if name != CHECKSUM}
    if value[CHECKSUM] != digest(values):
        raise ValueError("The JSON is corrupt: it does not match its checksum.")
    return values


def write_state(path: Path, values: Mapping[str, Any]) -> None:
    """Write JSON for a later run to read: atomically and with a checksum."""
    write_json(path, signed(values))


def append(path: Path, content: bytes) -> None:
    """Append to a file and sync it to disk, completely or not at all.

    Raises:
        OSError: The disk is full; the file is unchanged.
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
    """Rename a damaged file to `<name>.damaged-<time>` and print a notice."""
    aside = path.with_name(f"{path.name}.damaged-{dt.datetime.now():%Y%m%d-%H%M%S-%f}")
    path.replace(aside)
    print(f"{path} is damaged: kept as {aside.name} and recreated.", file=sys.stderr)


def read_json(path: Path) -> Any:
    """Read JSON and verify its checksum; None if missing. A damaged file is set aside."""
    try:
        return verified(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError):
        set_aside(path)
        return None


class ForeignFileError(DatasetError):
    """Raised when a file to be replaced was not written by this program, or was changed since."""


class WrittenFiles:
    """The files of a folder that this program wrote and may therefore replace or delete.

    The folder lists them in `.urbanln-<kind>.jsonl`, by name and SHA-256. Files that are not listed
    or were changed since belong to the user and are never replaced or deleted. Each line is
    appended before its file is moved into place, so a killed run leaves no unlisted file.

    Args:
        root: The folder; need not exist.
        kind: Kind of files; each kind has its own list.
    """

    def __init__(self, root: str | Path, kind: str):
        self.root = Path(root)
        self._list = self.root / f".urbanln-{kind}.jsonl"

    def names(self) -> list[str]:
        """All listed names, sorted; some of the files may be missing."""
        return sorted(self._read())

    def check(self, names: Iterable[str]) -> None:
        """Check that files may be replaced or deleted; missing files may.

        Args:
            names: Names relative to the folder.

        Raises:
            ForeignFileError: A file was not written by this program, or was changed since.
        """
        known = self._read()
        foreign = [name for name in names if self._is_foreign(name, known.get(name, set()))]
        if foreign:
            more = f" and {len(foreign) - NAMES_SHOWN} more" if len(foreign) > NAMES_SHOWN else ""
            raise ForeignFileError(
                f"{self.root} contains files that were not written by this command, or were "
                f"changed since: {', '.join(foreign[:NAMES_SHOWN])}{more}. They would be replaced "
                "or deleted: move them away, or give another folder."
            )

    def altered(self, names: Iterable[str]) -> list[str]:
        """Names of existing, listed files that were changed since."""
        known = self._read()
        return [one for one in names if one in known and self._is_foreign(one, known[one])]

    def set_damaged_aside(self, name: str) -> None:
        """Set aside a Parquet file that was changed since it was written; ignore other files."""
        path = self.root / name
        if self.altered([name]) and was_parquet(path):
            set_aside(path)

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """Like [`atomic_path`], and list the file.

        Raises:
            ForeignFileError: See [`check`].
        """
        self.check([name])
        with atomic_path(self.root / name) as temporary:
            yield temporary
            self._append({name: file_sha256(temporary)})

    @contextmanager
    def staging(self, *, whole: bool = False) -> Iterator[Path]:
        """Temporary folder whose files, except hidden ones, are moved here after the block.

        Args:
            whole: Also delete listed files that the block did not write again.

        Raises:
            ForeignFileError: See [`check`]; no file has been changed.
        """
        root = self.root.resolve()
        root.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(f".{_mark()}", f".{root.name}.", root.parent) as folder:
            staged = Path(folder)
            yield staged
            found = shown_files(staged)
            gone = set(self.names()) - set(found) if whole else set()
            self.check([*sorted(found), *sorted(gone)])
            self.delete(gone)
            self._append({name: file_sha256(path) for name, path in found.items()})
            for name, path in found.items():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.move(path, root / name)

    def delete(self, names: Iterable[str]) -> None:
        """Delete files, and folders that become empty.

        Raises:
            ForeignFileError: See [`check`]; no file has been deleted.
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
        """SHA-256 hashes of all listed files, by name; truncated lines are skipped."""
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
        if not fresh:  # listed by a run that was killed
            return
        lines = [json.dumps({"name": name, "sha256": hashes[name]}) for name in fresh]
        self.root.mkdir(parents=True, exist_ok=True)
        # starts a new line, also after a truncated one
        append(self._list, "".join(f"\n{line}" for line in lines).encode() + b"\n")


def was_parquet(path: Path) -> bool:
    """Whether a file begins or ends like a Parquet file, or is empty or all zeros.

    Such a file in place of a table is a damaged table; any other belongs to the user.
    """
    content = path.read_bytes()
    return content[:4] == b"PAR1" or content[-4:] == b"PAR1" or not content.strip(b"\0")


def shown_files(folder: Path) -> dict[str, Path]:
    """Files below a folder by relative name, except hidden ones, in order of their paths."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    named = {path.relative_to(folder).as_posix(): path for path in files}
    return {name: named[name] for name in named if not any(p[0] == "." for p in name.split("/"))}


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(*parts: Any) -> str:
    """First 16 hex digits of the SHA-256 of bytes, or of other values as JSON."""
    sha = hashlib.sha256()
    for part in parts:
        content = part if isinstance(part, bytes) else json.dumps(part, sort_keys=True).encode()
        sha.update(len(content).to_bytes(8, "little") + content)
    return sha.hexdigest()[:16]


def files_fingerprint(paths: Iterable[Path]) -> str:
    """Hash of name, size and last bytes of files; a Parquet footer changes with the content."""
    parts: list[str | int | bytes] = []
    for path in sorted(paths):
        size = path.stat().st_size
        with path.open("rb") as file:
            file.seek(max(0, size - END_BYTES))
            parts += [path.name, size, file.read()]
    return digest(*parts)


__all__ = [
    "CHECKSUM",
    "LOCK_FILE",
    "SHARE_REMEDY",
    "ForeignFileError",
    "WrittenFiles",
    "append",
    "atomic_path",
    "contents",
    "digest",
    "file_sha256",
    "files_fingerprint",
    "locked",
    "read_json",
    "set_aside",
    "shown_files",
    "signed",
    "verified",
    "was_parquet",
    "write_json",
    "write_state",
]
