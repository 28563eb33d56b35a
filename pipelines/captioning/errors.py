"""Errors of captioning, what the errors of a disk mean, and names that cannot be imported."""

import errno
import pkgutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_DISK_ERRNOS = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EEXIST,
    errno.ENOTDIR,
    errno.EIO,
}
_DISK_CODES = {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_IOERR,
}


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
    """Raise errors of the disk as a [`StorageError`].

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
            f"Cannot work in {folder}: {error}. Free some space there, make it writable or name "
            "another folder, then rerun the command to resume: finished units are kept."
        ) from error


def is_storage_error(error: BaseException) -> bool:
    """Whether the disk is at fault, so that retrying is pointless until it is repaired."""
    if isinstance(error, sqlite3.Error):
        return _primary_code(error) in _DISK_CODES
    return isinstance(error, OSError) and error.errno in _DISK_ERRNOS


def is_locked(error: sqlite3.Error) -> bool:
    """Whether another process holds the database."""
    return _primary_code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _primary_code(error: sqlite3.Error) -> int:
    """SQLite's result code without the byte that only distinguishes variants."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def load_callable(name: str, field: str) -> Callable[..., Any]:
    """A function or class that a recipe names.

    Args:
        name: "package.module:callable".
        field: The recipe's field, for the error.

    Raises:
        CaptioningError: There is no such callable.
    """
    try:
        found = pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise CaptioningError(
            f"`{field}`: {name!r} cannot be imported as package.module:callable: {error}."
        ) from error
    if ":" not in name or not callable(found):
        raise CaptioningError(f"`{field}`: {name!r} is no callable, package.module:callable.")
    return found  # type: ignore[no-any-return]
