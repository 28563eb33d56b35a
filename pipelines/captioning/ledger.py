"""Ledger of finished units and shards, the only state of a run.

A unit is one result of one stage: a long caption, a local caption, the boxes of an image. Its key
is a hash of everything that the result depends on: stored units are never recomputed, and a changed
prompt, model or image gives a new key. Failures are stored as units too.

Each shard has a ledger: SQLite in WAL mode with an exclusive lock, which needs no shared memory and
therefore works on network file systems. A lock on the shard's folder excludes other processes; the
operating system releases it when the process ends. Each unit is committed when it finishes, so a
kill loses only the units in flight.
"""

import asyncio
import hashlib
import json
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, astuple, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from dataset_builders.database import open_database, row_checksum
from dataset_builders.files import (
    CHECKSUM,
    SHARE_REMEDY,
    file_sha256,
    locked,
    read_json,
    set_aside,
    write_state,
)

from .errors import RequestFailedError
from .inputs import InputShard, list_shards
from .recipe import Recipe

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
DETAIL_LENGTH = 500
CODE_VERSION = 5
"""Increased when the same units would give different tables."""


@dataclass(frozen=True)
class Unit:
    """One result or failure of a stage.

    Attributes:
        key: Hash of everything that the result depends on.
        stage: "segment", "describe", "local", "parse", "filter", "merge" or "consensus".
        image_id: Image for which it was first computed.
        model: Name of the captioning model; empty if none was called.
        result: JSON value; None for a failure.
        reason: Reason of a failure, else empty.
        seconds: Wall-clock time; `finished_at` is Unix time.
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
        """Whether the unit is a failure."""
        return bool(self.reason)


COLUMNS = ", ".join(field.name for field in fields(Unit))
PLACES = ", ".join("?" for _ in fields(Unit))


def unit_key(stage: str, **parts: Any) -> str:
    """Hash of a stage and of everything that its result depends on.

    Args:
        stage: Name of the stage.
        parts: JSON values, dataclasses, settings of a recipe, and tuples of them.

    Returns:
        64 hexadecimal digits, equal in every process.
    """
    content = json.dumps(
        [stage, parts], sort_keys=True, ensure_ascii=True, default=_plain, allow_nan=False
    )
    return hashlib.sha256(content.encode()).hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump()
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"Unit keys accept JSON values and dataclasses, got {type(value).__name__}.")


class Ledger:
    """Units of a shard, locked until closed. Not thread-safe.

    Args:
        path: SQLite file; created if missing.

    Raises:
        InUseError: Another process holds the lock.
        OSError: The folder is not writable.
        sqlite3.OperationalError: The disk fails.
    """

    def __init__(self, path: Path):
        self._running: dict[str, asyncio.Future[Unit]] = {}
        with ExitStack() as stack:
            stack.enter_context(locked(path.parent, remedy=SHARE_REMEDY))
            self._database = open_database(path, SCHEMA, exclusive=True)
            stack.callback(self._database.close)
            self._stack = stack.pop_all()

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def get(self, key: str) -> Unit | None:
        """Return a stored unit, or None."""
        row = self._database.execute(
            f"SELECT {COLUMNS} FROM units WHERE key = ?", (key,)
        ).fetchone()
        return _unit(row) if row else None

    def put(self, unit: Unit) -> None:
        """Store a unit durably."""
        result = None if unit.result is None else json.dumps(unit.result, ensure_ascii=False)
        stored = replace(unit, result=result, detail=unit.detail[:DETAIL_LENGTH])
        values = astuple(stored)
        self._database.execute(
            f"INSERT OR REPLACE INTO units ({COLUMNS}, {CHECKSUM}) VALUES ({PLACES}, ?)",
            (*values, row_checksum(values)),
        )

    def units(self) -> Iterator[Unit]:
        """Yield all units, sorted by key."""
        yield from map(_unit, self._database.execute(f"SELECT {COLUMNS} FROM units ORDER BY key"))

    def forget_failures(self) -> int:
        """Delete failed units, which are then retried; returns their number."""
        return self._database.execute("DELETE FROM units WHERE reason != ''").rowcount

    async def once(
        self,
        key: str,
        stage: str,
        image_id: str,
        compute: Callable[[], Awaitable[Any]],
        model: str = "",
    ) -> Unit:
        """Return a stored unit, or compute and store it.

        Coroutines that concurrently request the same unit share one computation.

        Args:
            key: Key from [`unit_key`].
            stage: Stage, as in the key.
            image_id: Id of the image.
            compute: Coroutine function that returns the result, a JSON value.
            model: Name of the captioning model, if one is called.

        Returns:
            The unit; a `RequestFailedError` of `compute` gives a failed unit.
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
            future.exception()  # mark as retrieved, since no other coroutine may be waiting
            raise
        finally:
            del self._running[key]


async def _compute(blank: Unit, compute: Callable[[], Awaitable[Any]]) -> Unit:
    started = time.monotonic()
    try:
        # converted through JSON, since a resumed run reads the result from JSON
        result = json.loads(json.dumps(await compute(), default=_plain, allow_nan=False))
        unit = replace(blank, result=result)
    except RequestFailedError as error:
        unit = replace(blank, reason=error.reason, detail=error.detail, attempts=error.attempts)
    return replace(unit, seconds=time.monotonic() - started, finished_at=time.time())


def _unit(row: tuple[Any, ...]) -> Unit:
    unit = Unit(*row)
    return unit if unit.result is None else replace(unit, result=json.loads(unit.result))


# ---- shards -------------------------------------------------------------------------------------


class ShardFolder:
    """Files of a shard.

    Args:
        output_dir: Output folder of the run.
        shard: Input shard.

    Attributes:
        ledger: Units of all stages; locked by one process at a time.
        candidates: Table of candidates, written when the shard is finished.
        rejects: Table of rejects, written when the shard is finished.
    """

    def __init__(self, output_dir: str | Path, shard: InputShard):
        self.shard = shard
        path = Path(output_dir) / "shards" / shard.name
        self.ledger = path / "units.sqlite"
        self.candidates = path / "candidates.parquet"
        self.rejects = path / "rejects.parquet"
        self.marker = path / "done.json"
        self._tables = (self.candidates, self.rejects)

    def is_done(self, fingerprint: str, check_tables: bool = False) -> bool:
        """Whether the tables were written for this fingerprint; damaged ones are set aside."""
        if self.summary().get("fingerprint") != fingerprint:
            return False
        hashes = self.summary().get("sha256", {})
        tables = self._tables if check_tables else ()
        whole = [_is_whole(path, hashes.get(path.name)) for path in tables]
        return all(whole)

    def summary(self) -> dict[str, Any]:
        """Counts of a finished shard (`images`, `rejects`); empty for an unfinished one."""
        return dict(read_json(self.marker) or {})

    def finish(self, fingerprint: str, counts: Mapping[str, int]) -> None:
        """Mark the shard as finished."""
        hashes = {path.name: file_sha256(path) for path in self._tables}
        write_state(self.marker, {"fingerprint": fingerprint, **counts, "sha256": hashes})


def _is_whole(path: Path, sha256: str | None) -> bool:
    if not path.exists():
        return False
    if sha256 is None or file_sha256(path) == sha256:
        return True
    set_aside(path)
    return False


def finished_shards(recipe: Recipe) -> list[ShardFolder]:
    """Shards of a run whose tables exist."""
    folders = [ShardFolder(recipe.output_dir, shard) for shard in list_shards(recipe)]
    return [folder for folder in folders if folder.candidates.exists()]


def fingerprint(recipe: Recipe, revisions: Mapping[str, str], shard: InputShard) -> str:
    """Hash of everything that the tables of a shard depend on.

    Args:
        recipe: Recipe of the run.
        revisions: Revisions of all components, see `Kit.revisions`.
        shard: Input images.
    """
    return unit_key(
        "shard",
        code=CODE_VERSION,
        recipe=recipe.model_dump(exclude={"output_dir", "run", "models"}),
        revisions=dict(revisions),
        images=shard,
    )
