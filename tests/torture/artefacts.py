"""What a command leaves, so that two runs of it can be compared."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

CLOCKS = {"seconds", "fetched_at", "images_per_second", "since", "digest", "code_revision"}
"""Keys and columns that hold what a clock or a commit said, or a checksum of such values."""
STATE = re.compile(
    r"(^|/)(cache/|plan/plan\.json$|\.urbanln[^/]*$|[^/]*\.(lock|sqlite|sqlite-wal|sqlite-shm)$)|\.lock$"
    r"|damaged-|\.tmp$|(^|/)checkpoint-\d+/"
)
"""What a run keeps for itself: locks, downloads, what is left to fetch, states to resume from, and
what it has set aside."""
MOMENTS = re.compile(
    r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d(:\d\d(\.\d+)?)?|\b\d+([.,]\d+)? ?(s|seconds|ms|minutes)\b"
    r"|127\.0\.0\.1:\d+"
)


def files(folder: Path) -> list[Path]:
    """All files of a run, sorted, its state included; locks are not."""
    found = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return sorted(path for path in found if not path.name.endswith((".lock", "-shm", "-wal")))


def artefacts(folder: Path) -> dict[str, str]:
    """A fingerprint of each artefact, by name; clocks left out."""
    named = {path.relative_to(folder).as_posix(): path for path in files(folder)}
    return {name: _fingerprint(path) for name, path in named.items() if not STATE.search(name)}


def differences(found: dict[str, str], expected: dict[str, str]) -> tuple[list[str], list[str]]:
    """Names that are missing, and names that differ or are too many."""
    missing = sorted(expected.keys() - found.keys())
    return missing, sorted(name for name in found if found[name] != expected.get(name))


def _fingerprint(path: Path) -> str:
    try:
        said = READERS.get(path.suffix, _text)(path)
    except Exception as error:  # what cannot be read differs from everything
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
    """Of rows with a key, the last counts: those that were computed again are equal."""
    rows = [_plain(line) for line in path.read_text().splitlines()]
    return sorted({repr(row) for row in rows}) if path.name == "results.jsonl" else rows


def _plain(value: Any) -> Any:
    """A value without what clocks said; JSON in texts is read."""
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
