"""Result rows in a JSON Lines file with atomic appends, resumable by key."""

import json
import math
import subprocess
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from dataset_builders.files import append, atomic_path, set_aside, signed, verified

from ..errors import InputError

PACKAGE = "urbanln"
QUIET: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 600}
CITY, CITY_ENCODER = "city", "city-encoder"  # transfer protocols
JOINT = "+"  # separator of source cities
TRANSFER_FILE, EFFICIENCY_FILE = "transfer.csv", "efficiency.json"
FORMAT_VERSION = 3  # version of the row format; rows of other versions are not comparable
KEY = (
    "table_hash",
    "embedding_hash",
    "system",
    "view",
    "city",
    "source_city",
    "indicator",
    "protocol",
    "probe",
    "split_seed",
    "probe_seed",
)


@dataclass(frozen=True)
class ResultRow:
    """Scores of one probe of one system on one indicator under one split.

    Attributes:
        system: Label of the embedding table; `<beside>+<label>` for a combination of inputs; or a
            control: `mean`, `coordinates`, `poi_counts`, `geoclip`.
        view: `street_view`, `satellite` or `both`; `none` for controls without images.
        city: City of the test regions.
        source_city: Source cities of a transfer, joined by "+"; empty without transfer.
        indicator: Predicted indicator.
        unit: Unit of the indicator's raw values.
        transform: `ln1p` or `identity`; all errors are on the transformed scale.
        protocol: `random` (interpolation), `block` (new district), `city` (encoder and probe of
            another city) or `city-encoder` (encoder of another city).
        probe: `mlp` or `ridge`; `mean`, `knn` or `gbm` (gradient boosting) for controls.
        split_seed: Split seed; 0 is the split stored in the dataset.
        probe_seed: Seed of initial weights and batch order.
        n_train: Number of labelled training regions.
        n_validation: Number of labelled validation regions.
        n_test: Number of labelled test regions.
        r2: Coefficient of determination; NaN is written as null.
        rmse: Root mean squared error.
        mae: Mean absolute error.
        spearman: Spearman's rank correlation.
        label_sd_test: Standard deviation of the test labels, for comparison with RMSE.
        hyperparameters: Hyper-parameters chosen on the validation set.
        table_hash: Hash of regions, labels, splits and probe settings, shared by comparable rows.
        embedding_hash: Hash of the system's embeddings.
        config_hash: Hash of the probe's grid and training settings.
        code_revision: Commit of this code, or the package version.
        uses: Inputs of the system: views, "captions", "coordinates", "poi"...
        seconds: Computing time, averaged over the rows of the batch.
        synthetic: Whether the data is simulated.
        beside: Input combined with the embeddings: `coordinates` (functions of location), the label
            of another table, or a control; empty for embeddings alone.
        format_version: Version of the row format.
    """

    system: str
    view: str
    city: str
    source_city: str
    indicator: str
    unit: str
    transform: str
    protocol: str
    probe: str
    split_seed: int
    probe_seed: int
    n_train: int
    n_validation: int
    n_test: int
    r2: float
    rmse: float
    mae: float
    spearman: float
    label_sd_test: float
    hyperparameters: dict[str, float]
    table_hash: str
    embedding_hash: str
    config_hash: str
    code_revision: str
    uses: list[str]
    seconds: float
    synthetic: bool
    beside: str = ""
    format_version: int = FORMAT_VERSION

    @property
    def key(self) -> tuple[Any, ...]:
        """Unique key of the row."""
        return row_key(vars(self))


def row_key(values: Mapping[str, Any]) -> tuple[Any, ...]:
    """Key of the row with these fields; scores are not needed."""
    return tuple(values[name] for name in KEY)


class ResultStore:
    """Rows of a results.jsonl, for a single writer.

    On opening, an incomplete last line is removed; a file with other damaged lines is set aside and
    its valid lines are kept. Missing rows are then recomputed.

    Args:
        path: Path of the file, which need not exist.
    """

    def __init__(self, path: Path):
        self.path = path
        self.path.parent.mkdir(parents=True, exist_ok=True)
        _keep_whole_lines(self.path)
        self.keys = {row.key for row in read_rows(self.path)}

    def append(self, rows: Iterable[ResultRow]) -> None:
        """Append rows atomically and flush them to disk.

        Raises:
            ValueError: A row with the same key exists.
            OSError: The disk is full.
        """
        rows = list(rows)
        keys = [row.key for row in rows]
        known = self.keys & set(keys)
        if known or len(set(keys)) < len(keys):
            raise ValueError(f"Rows already in {self.path}: {sorted(known)[:3]}.")
        payload = "".join(_to_line(row) for row in rows).encode()
        append(self.path, payload)
        self.keys.update(keys)

    def drop(self, keys: Collection[tuple[Any, ...]]) -> None:
        """Remove rows, so that they are recomputed."""
        if not keys:
            return
        rows = [row for row in read_rows(self.path) if row.key not in keys]
        with atomic_path(self.path) as temporary:
            temporary.write_text("".join(map(_to_line, rows)), encoding="utf-8")
        self.keys = {row.key for row in rows}


def read_rows(path: Path) -> Iterator[ResultRow]:
    """Read the rows of a file, without an incomplete last line; none if it does not exist.

    Raises:
        InputError: The file has rows of another format version, or an invalid line.
    """
    if not path.exists():
        return
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith("\n"):
                return
            values = _values(line)
            # rows of version 1 lack the field
            found = values.get("format_version", 1) if values else FORMAT_VERSION
            if found != FORMAT_VERSION:
                raise InputError(
                    f"{path} holds rows of format {found}, which are not comparable with the "
                    f"format {FORMAT_VERSION} of this version. Give another --output_dir, or "
                    "remove the file."
                )
            if not values:
                raise InputError(
                    f"{path}, line {number} is not a result row. Run `python evaluate.py probe` "
                    "again: it sets the damaged file aside and recomputes the missing rows."
                )
            restored: dict[str, Any] = {k: math.nan if v is None else v for k, v in values.items()}
            yield ResultRow(**restored)


def _values(line: str | bytes) -> dict[str, Any]:
    """Fields of a line without its checksum; empty if the line is damaged."""
    try:
        values = verified(json.loads(line))
        is_row = values.get("format_version") != FORMAT_VERSION or set(values) == NAMES
    except (ValueError, AttributeError):
        return {}
    return values if is_row else {}


NAMES = {field.name for field in fields(ResultRow)}


@lru_cache
def code_revision() -> str:
    """Commit of the code, with "+changed" for uncommitted changes, or the package version."""
    path = Path(__file__).resolve()
    git = ["git", "-C", str(path.parent)]
    describe = ["describe", "--always", "--exclude=*", "--abbrev=12", "--dirty=+changed"]
    try:
        # otherwise installed inside another repository
        subprocess.run([*git, "ls-files", "--error-unmatch", path.name], check=True, **QUIET)
        return subprocess.run([*git, *describe], check=True, **QUIET).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        pass
    try:
        return version(PACKAGE)
    except PackageNotFoundError:
        return "unknown"


def _to_line(row: ResultRow) -> str:
    values = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in asdict(row).items()
    }
    return json.dumps(signed(values), allow_nan=False) + "\n"


def _keep_whole_lines(path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    whole = [line for line in lines if line.endswith(b"\n") and _values(line)]
    if whole == lines:
        return
    if whole != lines[:-1]:
        set_aside(path)
    with atomic_path(path) as temporary:
        temporary.write_bytes(b"".join(whole))


__all__ = [
    "CITY",
    "CITY_ENCODER",
    "EFFICIENCY_FILE",
    "FORMAT_VERSION",
    "JOINT",
    "KEY",
    "TRANSFER_FILE",
    "ResultRow",
    "ResultStore",
    "code_revision",
    "read_rows",
    "row_key",
]
