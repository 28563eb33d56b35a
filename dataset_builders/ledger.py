"""Ledger of downloads, and their contents by SHA-256.

Contents are verified when they are read. Missing or altered ones are set aside, and their items
are requested again.
"""

import hashlib
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from .database import open_database, row_checksum
from .errors import DatasetError
from .files import CHECKSUM, atomic_path

Status = Literal["ok", "missing", "blank", "placeholder", "quota", "denied", "invalid", "failed"]
FINAL: frozenset[Status] = frozenset({"ok", "missing", "blank", "placeholder", "invalid"})
"""States that another request would not change; the next run requests "failed" items again."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS fetched (
    key TEXT PRIMARY KEY,
    status TEXT NOT NULL,
    code INTEGER,
    sha256 TEXT,
    size INTEGER NOT NULL,
    detail TEXT NOT NULL,
    fetched_at REAL NOT NULL
) WITHOUT ROWID
"""


@dataclass(frozen=True)
class Fetched:
    """State of an item."""

    key: str  # key of the item
    status: Status  # see [`Status`]
    code: int | None = None  # HTTP status of the last response; None if there was none
    sha256: str | None = None  # hash of the stored content; None unless "ok"
    size: int = 0  # size of the content, in bytes
    detail: str = ""  # why the state is not "ok", or a remark
    fetched_at: float = 0.0  # unix time in seconds


COLUMNS = ", ".join(field.name for field in fields(Fetched))


class DamagedStoreError(DatasetError):
    """Raised when stored contents are missing or altered; the next fetch requests them again."""

    def __init__(self, folder: Path, count: int):
        super().__init__(
            f"{count:,} downloads stored in {folder} were missing or altered, and have been set "
            "aside. Run the same command again to download them again."
        )


class Store:
    """Ledger of downloads, and their contents by SHA-256.

    Args:
        folder: Folder of both; created if missing.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        # SQLite serialises statements, whichever thread they come from
        self._database = open_database(self.folder / "ledger.sqlite", SCHEMA)
        self._writing = [threading.Lock() for _ in range(256)]

    def close(self) -> None:
        """Close the ledger."""
        self._database.close()

    def get(self, key: str) -> Fetched | None:
        """State of an item; None if unknown."""
        query = f"SELECT {COLUMNS} FROM fetched WHERE key = ?"
        row = self._database.execute(query, (key,)).fetchone()
        return Fetched(*row) if row else None

    def settled(self, key: str) -> Fetched | None:
        """State of an item that need not be requested; None if it must be."""
        known = self.get(key)
        return known if known is not None and self._is_settled(known) else None

    def unsettled(self, keys: Sequence[str]) -> list[str]:
        """Keys that must be requested, in the given order."""
        return [key for key in keys if self.settled(key) is None]

    def put(self, fetched: Fetched, content: bytes | None = None) -> None:
        """Record the state of an item; its content first, so that the ledger never precedes it."""
        if content is not None and fetched.sha256 is not None:
            path = self.path(fetched.sha256)
            with self._writing[int(path.name[:2], 16)]:  # two items may share a content
                if not self._has(fetched.sha256, len(content)):
                    with atomic_path(path) as temporary:
                        temporary.write_bytes(content)
        values = astuple(fetched)
        self._database.execute(
            f"INSERT OR REPLACE INTO fetched ({COLUMNS}, {CHECKSUM}) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (*values, row_checksum(values)),
        )

    def path(self, sha256: str) -> Path:
        """Path of a content."""
        return self.folder / "content" / sha256[:2] / sha256

    def content(self, sha256: str) -> bytes:
        """Read a content and verify its hash.

        Raises:
            DamagedStoreError: The content is missing or altered; all damaged contents are then
                set aside.
        """
        content = self._intact(sha256)
        if content is None:
            raise DamagedStoreError(self.folder, self.set_aside_damaged())
        return content

    def read(self, key: str) -> bytes | None:
        """Content of an item; None unless it is "ok".

        Raises:
            DamagedStoreError: See [`content`].
        """
        known = self.get(key)
        if known is None or known.status != "ok" or known.sha256 is None:
            return None
        return self.content(known.sha256)

    def set_aside_damaged(self) -> int:
        """Move damaged contents to `damaged/` and mark their items failed; returns their count."""
        rows = self._database.execute("SELECT DISTINCT sha256 FROM fetched WHERE status = 'ok'")
        damaged = [sha256 for (sha256,) in rows.fetchall() if self._intact(sha256) is None]
        count = 0
        for sha256 in damaged:
            if (path := self.path(sha256)).exists():
                (self.folder / "damaged").mkdir(exist_ok=True)
                path.replace(self.folder / "damaged" / sha256)
            count += self._change(
                "status = 'ok' AND sha256 = ?",
                (sha256,),
                status="failed",
                sha256=None,
                detail="the stored content was missing or altered",
            )
        return count

    def counts(self, prefix: str = "") -> dict[str, int]:
        """Number of items per state."""
        rows = self._database.execute(
            "SELECT status, count(*) FROM fetched WHERE substr(key, 1, ?) = ? "
            "GROUP BY status ORDER BY status",
            (len(prefix), prefix),
        )
        return dict(rows.fetchall())

    def failures(self, prefix: str = "") -> Iterator[Fetched]:
        """Items that are neither "ok" nor "missing", sorted by key."""
        rows = self._database.execute(
            f"SELECT {COLUMNS} FROM fetched WHERE substr(key, 1, ?) = ? "
            "AND status NOT IN ('ok', 'missing') ORDER BY key",
            (len(prefix), prefix),
        )
        return (Fetched(*row) for row in rows)

    def forget(self, keys: Iterable[str]) -> None:
        """Delete items, for the next run to request them again."""
        self._database.executemany("DELETE FROM fetched WHERE key = ?", [(key,) for key in keys])

    def forget_failures(self, prefix: str = "") -> int:
        """Delete items that are neither "ok" nor "missing"; returns their number."""
        return self._database.execute(
            "DELETE FROM fetched WHERE substr(key, 1, ?) = ? AND status NOT IN ('ok', 'missing')",
            (len(prefix), prefix),
        ).rowcount

    def mark(self, keys: Iterable[str], status: Status, detail: str) -> None:
        """Set the state of items."""
        for key in keys:
            self._change("key = ?", (key,), status=status, detail=detail)

    def mark_placeholders(self, prefix: str, more_than: int) -> int:
        """Mark contents shared by many items as placeholder images ("no image here").

        Images of one colour that passed their check (open sea) may be identical, and are kept.

        Args:
            prefix: Key prefix of a provider.
            more_than: Number of items that may share a content.

        Returns:
            Number of marked items.
        """
        return self._change(
            "status = 'ok' AND detail = '' AND substr(key, 1, ?) = ? AND sha256 IN (SELECT sha256 "
            "FROM fetched WHERE status = 'ok' AND substr(key, 1, ?) = ? GROUP BY sha256 "
            "HAVING count(*) > ?)",
            (len(prefix), prefix, len(prefix), prefix, more_than),
            status="placeholder",
            detail="identical to many other images",
        )

    def _change(self, where: str, values: Sequence[Any], **changes: Any) -> int:
        query = f"SELECT {COLUMNS} FROM fetched WHERE {where}"
        rows = self._database.execute(query, values).fetchall()
        for row in rows:
            self.put(replace(Fetched(*row), **changes))
        return len(rows)

    def _is_settled(self, known: Fetched) -> bool:
        """Whether the state is final and the content, if any, complete."""
        is_there = known.sha256 is None or self._has(known.sha256, known.size)
        return known.status in FINAL and is_there

    def _has(self, sha256: str, size: int) -> bool:
        path = self.path(sha256)
        return path.is_file() and path.stat().st_size == size

    def _intact(self, sha256: str) -> bytes | None:
        try:
            content = self.path(sha256).read_bytes()
        except FileNotFoundError:
            return None
        return content if hashlib.sha256(content).hexdigest() == sha256 else None


__all__ = ["FINAL", "DamagedStoreError", "Fetched", "Status", "Store"]
