"""Comparison of the outputs of two runs of a command."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

CLOCKS = {"seconds", "fetched_at", "images_per_second", "since", "digest", "code_revision"}
"""Keys and columns with times, commits, or checksums of such values."""
STATE = re.compile(
    r"(^|/)(cache/|plan/plan\.json$|\.urbanln[^/]*$|[^/]*\.(lock|sqlite|sqlite-wal|sqlite-shm)$)|\.lock$"
    r"|damaged-|\.tmp$|(^|/)checkpoint-\d+/"
)
"""Internal files of a run: locks, downloads, queues, checkpoints and damaged files set aside."""
MOMENTS = re.compile(
    r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d(:\d\d(\.\d+)?)?|\b\d+([.,]\d+)? ?(s|seconds|ms|minutes)\b"
    r"|127\.0\.0\.1:\d+|\bcontents [0-9a-f]{16}"
)
"""Times, durations and ports in texts, and a card's checksums of tables with such values."""


def files(folder: Path) -> list[Path]:
    """Sorted files of a run, including internal files except locks."""
    found = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return sorted(path for path in found if not path.name.endswith((".lock", "-shm", "-wal")))


def artefacts(folder: Path) -> dict[str, str]:
    """Fingerprint of each output file by name, ignoring times."""
    named = {path.relative_to(folder).as_posix(): path for path in files(folder)}
    return {name: _fingerprint(path) for name, path in named.items() if not STATE.search(name)}


def differences(found: dict[str, str], expected: dict[str, str]) -> tuple[list[str], list[str]]:
    """Names of missing files, and names of different or additional files."""
    missing = sorted(expected.keys() - found.keys())
    return missing, sorted(name for name in found if found[name] != expected.get(name))


def _fingerprint(path: Path) -> str:
    try:
        said = READERS.get(path.suffix, _text)(path)
    except Exception as error:  # unreadable files differ from all others
        said = repr(error)
    return hashlib.sha256(repr(said).encode()).hexdigest()[:16]


def _parquet(path: Path) -> Any:
    table = pq.read_table(path)
    metadata = {k.decode(): v.decode() for k, v in (table.schema.metadata or {}).items()}
    return table.schema.names, _plain(dict(sorted(metadata.items()))), _plain(table.to_pylist())


def _geopackage(path: Path) -> Any:
    import pyogrio

    return pyogrio.read_dataframe(path, layer=path.stem).to_wkt().to_dict("records")


def _text(path: Path) -> Any:
    content = path.read_bytes()
    try:
        return _plain(content.decode())
    except UnicodeDecodeError:
        return content


def _lines(path: Path) -> Any:
    """Lines of a file; duplicates in results.jsonl are rows that were recomputed."""
    rows = [_plain(line) for line in path.read_text().splitlines()]
    return sorted({repr(row) for row in rows}) if path.name == "results.jsonl" else rows


def _plain(value: Any) -> Any:
    """Value without times; JSON strings are parsed."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items() if key not in CLOCKS}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if not isinstance(value, str):
        return value
    if value[:1] in ("{", "["):
        try:
            return _plain(json.loads(value))
        except ValueError:
            pass
    return MOMENTS.sub("*", value)


READERS = {".parquet": _parquet, ".gpkg": _geopackage, ".jsonl": _lines}


__all__ = ["artefacts", "differences", "files"]
