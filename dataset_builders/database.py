"""SQLite databases with a checksum per row."""

import contextlib
import sqlite3
import sys
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .files import CHECKSUM, set_aside


def open_database(path: Path, schema: str, *, exclusive: bool = False) -> sqlite3.Connection:
    """Open an SQLite database in WAL mode, each statement being a transaction.

    Each table has a column `digest` with the [`row_checksum`] of the others. Rows that do not match
    it are deleted, and a database that SQLite cannot read is set aside. The connection may be used
    from several threads.

    Args:
        path: Database file; created if missing.
        schema: `CREATE TABLE IF NOT EXISTS` statement; the table has a text primary key.
        exclusive: Lock the database for this connection, which then needs no shared memory.
    """
    with contextlib.closing(sqlite3.connect(":memory:")) as empty:
        empty.execute(schema)
        shape = _tables(empty)
    while True:
        database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            if exclusive:
                database.execute("PRAGMA locking_mode = EXCLUSIVE")
            (found,) = database.execute("PRAGMA quick_check(1)").fetchone()
            if found == "ok":
                database.execute("PRAGMA journal_mode = WAL")
                database.execute("PRAGMA synchronous = NORMAL")
                database.execute(schema)
                if _tables(database) == shape and _delete_damaged(database, path):
                    return database
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                database.close()
                raise
        database.close()
        set_aside(path)
        for end in ("-wal", "-shm"):
            path.with_name(path.name + end).unlink(missing_ok=True)


def _tables(database: sqlite3.Connection) -> dict[str, list[tuple[Any, ...]]]:
    """Rows of `PRAGMA table_info` for each table, without the checksum column."""
    names = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    described = {name: database.execute(f'PRAGMA table_info("{name}")') for (name,) in names}
    return {name: [one for one in of if one[1] != CHECKSUM] for name, of in described.items()}


def row_checksum(values: Iterable[Any]) -> int:
    """Checksum of the values of a row, with integers as floats."""
    return zlib.crc32(ascii([float(v) if isinstance(v, int) else v for v in values]).encode())


def _delete_damaged(database: sqlite3.Connection, path: Path) -> bool:
    """Delete rows that do not match their checksum; returns whether none is left.

    Rows older than the checksums pass. Checksums are computed outside SQL: a Python
    function called from SQL would wait for the GIL while SQLite holds its lock, which can deadlock.
    """
    for table, columns in _tables(database).items():
        names = [name for _, name, *_ in columns]
        keys = [number for number, *_, key in columns if key]
        if len(database.execute(f"PRAGMA table_info({table})").fetchall()) == len(names):
            database.execute(f"ALTER TABLE {table} ADD COLUMN {CHECKSUM} INTEGER")
        query = f"SELECT {', '.join(names)}, {CHECKSUM} FROM {table} WHERE {CHECKSUM} NOT NULL"
        # damaged text may not be UTF-8
        database.text_factory = lambda content: content.decode("utf-8", "surrogateescape")
        if found := _damaged(database, query):
            print(f"{path}: damaged rows deleted, to be recomputed: {len(found)}.", file=sys.stderr)
            own = " AND ".join(f"{names[number]} = CAST(? AS TEXT)" for number in keys)
            for row in found:
                values = [str(row[n]).encode("utf-8", "surrogateescape") for n in keys]
                database.execute(f"DELETE FROM {table} WHERE {own}", values)
            if _damaged(database, query):
                return False
        database.text_factory = str
    return True


def _damaged(database: sqlite3.Connection, query: str) -> list[list[Any]]:
    return [row for *row, known in database.execute(query) if known != row_checksum(row)]


__all__ = ["open_database", "row_checksum"]
