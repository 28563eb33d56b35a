"""Errors of captioning, and what the errors of a disk mean."""

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_NO_ROOM = "No room to write in {folder}: {error}. Free some space there"
_NOT_WRITABLE = "{folder} cannot be written: {error}. Make it writable, or name another folder"
_NO_ACCESS = "Access refused while working in {folder}: {error}. Grant it"
_NO_FOLDER = "{folder} cannot hold files: {error}. Name another folder"
_BROKEN = "Reading or writing failed in {folder}: {error}. Check the disk"
_BY_ERRNO = {
    errno.ENOSPC: _NO_ROOM,
    errno.EDQUOT: _NO_ROOM,
    errno.EFBIG: _NO_ROOM,
    errno.EROFS: _NOT_WRITABLE,
    errno.EACCES: _NO_ACCESS,
    errno.EPERM: _NO_ACCESS,
    errno.EEXIST: _NO_FOLDER,
    errno.ENOTDIR: _NO_FOLDER,
    errno.EIO: _BROKEN,
}
_BY_SQLITE_CODE = {
    sqlite3.SQLITE_FULL: _NO_ROOM,
    sqlite3.SQLITE_READONLY: _NOT_WRITABLE,
    sqlite3.SQLITE_CANTOPEN: _NOT_WRITABLE,
    sqlite3.SQLITE_PERM: _NOT_WRITABLE,
    sqlite3.SQLITE_IOERR: _BROKEN,
}
_LOCKED = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


class CaptioningError(ValueError):
    """A recipe or an input that cannot be used; the message says what to change."""


class RequestFailedError(Exception):
    """A model gave no usable answer, after all retries.

    Attributes:
        reason: Short code, such as "timeout", "http_500", "invalid_json", "empty".
        attempts: Requests made.
    """

    def __init__(self, reason: str, detail: str = "", attempts: int = 1):
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail
        self.attempts = attempts


class ModelUnavailableError(Exception):
    """Raised when retrying is pointless: key refused, no such model, weights that do not load.

    The run stops; finished units are kept.
    """


class MissingDependencyError(ImportError):
    """A package or data file of an extra is missing; the message says how to install it."""


class StorageError(Exception):
    """The disk is full, read-only or broken; finished units are kept."""


USER_ERRORS = (CaptioningError, MissingDependencyError, ModelUnavailableError, StorageError)
"""Errors that the command line prints on one line."""


@contextmanager
def explain_storage(folder: str | Path) -> Iterator[None]:
    """Raise errors of the disk as a [`StorageError`] that names the cause and the remedy.

    Args:
        folder: Folder that the block writes to.

    Raises:
        StorageError: The disk is full, the folder cannot be written, or an I/O error.
    """
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        if not is_storage_error(error):
            raise
        raise StorageError(
            f"{_wording(error).format(folder=folder, error=error)}, then run the same command "
            "again: what is done is kept."
        ) from error


def is_storage_error(error: BaseException) -> bool:
    """Whether the disk is at fault, so that retrying is pointless until it is repaired."""
    return bool(_wording(error))


def is_locked(error: sqlite3.Error) -> bool:
    """Whether another process holds the database."""
    return _primary_code(error) in _LOCKED


def _wording(error: BaseException) -> str:
    if isinstance(error, sqlite3.Error):
        return _BY_SQLITE_CODE.get(_primary_code(error), "")
    return _BY_ERRNO.get(error.errno or 0, "") if isinstance(error, OSError) else ""


def _primary_code(error: sqlite3.Error) -> int:
    """SQLite's result code without the byte that only distinguishes variants."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


__all__ = [
    "USER_ERRORS",
    "CaptioningError",
    "MissingDependencyError",
    "ModelUnavailableError",
    "RequestFailedError",
    "StorageError",
    "explain_storage",
    "is_locked",
    "is_storage_error",
]
