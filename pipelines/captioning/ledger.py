"""What has been done, unit by unit: the only memory of a run.

A unit is one answer of one stage: a long caption, a local caption, the boxes of an image. Its key
is a hash of everything it depends on, so a unit that is there need never be done again, whatever
else has changed, and one whose prompt, model or image has changed is simply not there. Failures
are units too.

A shard has a ledger of its own, which one process at a time may hold: SQLite in WAL mode with an
exclusive lock, which needs no shared memory and so works on network file systems as well. Each
unit is committed as it is done: a kill loses only the units in flight.
"""

import asyncio
import hashlib
import json
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any

from .errors import RequestFailedError

SCHEMA = """
CREATE TABLE IF NOT EXISTS units (
    key TEXT PRIMARY KEY,
    stage TEXT NOT NULL,
    image_id TEXT NOT NULL,
    model TEXT NOT NULL,
    result TEXT,
    reason TEXT NOT NULL,
    detail TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    seconds REAL NOT NULL,
    finished_at REAL NOT NULL
) WITHOUT ROWID
"""
COLUMNS = "key, stage, image_id, model, result, reason, detail, attempts, seconds, finished_at"
DETAIL_LENGTH = 500
HELD_S = 5.0
"""How long a ledger that another process holds is waited for."""


@dataclass(frozen=True)
class Unit:
    """One answer, or one failure.

    Attributes:
        key: hash of what it depends on.
        stage: "segment", "describe", "local", "parse", "filter", "merge" or "consensus".
        image_id: of the image it was first done for.
        model: name of the model, empty where none is asked.
        result: JSON value; None if it failed.
        reason: why it failed; empty if it did not.
        detail: what was found.
        attempts: it took.
        seconds: it took.
        finished_at: seconds since 1970.
    """

    key: str
    stage: str
    image_id: str
    model: str = ""
    result: Any = None
    reason: str = ""
    detail: str = ""
    attempts: int = 1
    seconds: float = 0.0
    finished_at: float = 0.0

    @property
    def failed(self) -> bool:
        """There is no result."""
        return bool(self.reason)


def unit_key(stage: str, **parts: Any) -> str:
    """Hash of a stage and of all that its answer depends on.

    Args:
        stage: name of the stage.
        parts: JSON values, dataclasses, tuples of them.

    Returns:
        64 hexadecimal digits, the same in every process.
    """
    content = json.dumps(
        [stage, parts], sort_keys=True, ensure_ascii=True, default=_plain, allow_nan=False
    )
    return hashlib.sha256(content.encode()).hexdigest()


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"A unit's key takes JSON values and dataclasses, got {type(value).__name__}.")


class Ledger:
    """The units of a shard. To be used from one thread.

    Args:
        path: of the SQLite file; made if need be.

    Raises:
        sqlite3.OperationalError: another process holds it, or the disk fails; `errors` tells
            them apart.
    """

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self._running: dict[str, asyncio.Future[Unit]] = {}
        self._database = sqlite3.connect(path, isolation_level=None, timeout=HELD_S)
        self._database.execute("PRAGMA locking_mode = EXCLUSIVE")
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = NORMAL")
        self._database.execute(SCHEMA)

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the file free; safe to call twice."""
        self._database.close()

    def get(self, key: str) -> Unit | None:
        """The unit, if it has been done."""
        row = self._database.execute(
            f"SELECT {COLUMNS} FROM units WHERE key = ?", (key,)
        ).fetchone()
        return _unit(row) if row else None

    def put(self, unit: Unit) -> None:
        """Store a unit, durably."""
        result = None if unit.result is None else json.dumps(unit.result, ensure_ascii=False)
        self._database.execute(
            f"INSERT OR REPLACE INTO units ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                unit.key,
                unit.stage,
                unit.image_id,
                unit.model,
                result,
                unit.reason,
                unit.detail[:DETAIL_LENGTH],
                unit.attempts,
                unit.seconds,
                unit.finished_at,
            ),
        )

    def units(self, stage: str | None = None) -> Iterator[Unit]:
        """All units, by key."""
        query = f"SELECT {COLUMNS} FROM units"
        rows = (
            self._database.execute(f"{query} ORDER BY key")
            if stage is None
            else self._database.execute(f"{query} WHERE stage = ? ORDER BY key", (stage,))
        )
        yield from map(_unit, rows)

    def forget_failures(self) -> int:
        """Let what failed be done again; returns how many units that are."""
        return self._database.execute("DELETE FROM units WHERE reason != ''").rowcount

    async def once(
        self,
        key: str,
        stage: str,
        image_id: str,
        compute: Callable[[], Awaitable[Any]],
        model: str = "",
    ) -> Unit:
        """The unit, done now if it has not been.

        Two coroutines that want the same unit at the same time do it once.

        Args:
            key: from [`unit_key`].
            stage: as in the key.
            image_id: for which it is done.
            compute: gives the result, a JSON value.
            model: that is asked.

        Returns:
            The unit; a `RequestFailedError` of `compute` becomes a failed one.
        """
        if (found := self.get(key)) is not None:
            return found
        if key in self._running:
            return await asyncio.shield(self._running[key])
        future: asyncio.Future[Unit] = asyncio.get_running_loop().create_future()
        self._running[key] = future
        try:
            unit = await _compute(Unit(key, stage, image_id, model), compute)
            self.put(unit)
            future.set_result(unit)
            return unit
        except BaseException as error:
            future.set_exception(error)
            future.exception()  # seen here: nobody else need be waiting
            raise
        finally:
            del self._running[key]


async def _compute(blank: Unit, compute: Callable[[], Awaitable[Any]]) -> Unit:
    started = time.monotonic()
    result, reason, detail, attempts = None, "", "", 1
    try:
        # through JSON now, so that the first run sees what a resumed one will read
        result = json.loads(json.dumps(await compute(), default=_plain, allow_nan=False))
    except RequestFailedError as error:
        reason, detail, attempts = error.reason, error.detail, error.attempts
    return Unit(
        blank.key,
        blank.stage,
        blank.image_id,
        blank.model,
        result,
        reason,
        detail,
        attempts,
        time.monotonic() - started,
        time.time(),
    )


def _unit(row: tuple[Any, ...]) -> Unit:
    key, stage, image_id, model, result, *rest = row
    return Unit(key, stage, image_id, model, None if result is None else json.loads(result), *rest)


__all__ = ["Ledger", "Unit", "unit_key"]
