"""Result rows in one JSON Lines file: atomic appends, resumable by key."""

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
CITY, CITY_ENCODER = "city", "city-encoder"  # protocols of a transfer
JOINT = "+"  # between the names of source cities
TRANSFER_FILE, EFFICIENCY_FILE = "transfer.csv", "efficiency.json"
FORMAT_VERSION = 3  # of what a row means; a new one starts a new table
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
    """One probe of one system on one indicator under one split.

    Attributes:
        system: label of the embedding table; `<beside>+<label>`, its vectors beside others; or a
            control: `mean`, `coordinates`, `poi_counts`, `geoclip`.
        view: `street_view`, `satellite`, `both`; `none` for controls that see no image.
        city: whose regions are scored.
        source_city: what was learnt elsewhere, and where; several are joined by "+". Empty where
            nothing is transferred.
        indicator: what is predicted.
        unit: of the indicator's raw values.
        transform: `ln1p` or `identity`; all errors are on the transformed scale.
        protocol: `random` (interpolation), `block` (new district), `city` (encoder and probe of
            another city) or `city-encoder` (encoder of another city).
        probe: `mlp`, `ridge`; `mean`, `knn` and `gbm` (gradient boosting) for the controls.
        split_seed: 0 is the split stored in the dataset.
        probe_seed: of initial weights and batch order.
        n_train: labelled regions trained on.
        n_validation: labelled regions that chose hyper-parameters.
        n_test: labelled regions scored.
        r2: coefficient of determination; nan is written as null.
        rmse: root mean squared error.
        mae: mean absolute error.
        spearman: rank correlation.
        label_sd_test: standard deviation of the test labels, for RMSE is read against it.
        hyperparameters: chosen on validation.
        table_hash: of regions, labels, splits and probe settings: rows that share it compare.
        embedding_hash: of the system's vectors.
        config_hash: of the probe's grid and training.
        code_revision: of this code: a commit, or the package's version.
        uses: what the system has seen: views, "captions", "coordinates", "poi"...
        seconds: of computation, this row's share of its batch.
        synthetic: the data is simulated.
        beside: what the vectors stand beside: `coordinates` (functions of the place), the label of
            another table, or a control; empty where they are alone.
        format_version: of what a row means.
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
        """What tells this row from every other."""
        return row_key(vars(self))


def row_key(values: Mapping[str, Any]) -> tuple[Any, ...]:
    """The key of a row of these fields; the scores need not be there."""
    return tuple(values[name] for name in KEY)


class ResultStore:
    """The rows of a results.jsonl; one process writes at a time.

    A line torn by a kill is cut off when the file is opened for writing, and a file with a damaged
    line is set aside and its other lines kept, so that such cells are computed again.

    Args:
        path: the file; need not exist.
    """

    def __init__(self, path: Path):
        self.path = path
        self.path.parent.mkdir(parents=True, exist_ok=True)
        _keep_whole_lines(self.path)
        self.keys = {row.key for row in read_rows(self.path)}

    def append(self, rows: Iterable[ResultRow]) -> None:
        """Add rows, all or none, and see them on the disk before returning.

        Raises:
            ValueError: a row whose key is there already.
            OSError: the disk is full.
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
        """Drop rows, so that their cells are computed again."""
        if not keys:
            return
        rows = [row for row in read_rows(self.path) if row.key not in keys]
        with atomic_path(self.path) as temporary:
            temporary.write_text("".join(map(_to_line, rows)), encoding="utf-8")
        self.keys = {row.key for row in rows}


def read_rows(path: Path) -> Iterator[ResultRow]:
    """The rows of a file; none where it is missing. A torn last line is left out.

    Raises:
        InputError: rows of another version of this code, or a line that is no result row, other
            than a torn last one.
    """
    if not path.exists():
        return
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith("\n"):
                return
            values = _values(line)
            _check_version(path, values)
            if not values:
                raise InputError(
                    f"{path}, line {number} is not a result row. Run `python evaluate.py probe` "
                    "again: it sets the damaged file aside and recomputes the missing rows."
                )
            restored: dict[str, Any] = {k: math.nan if v is None else v for k, v in values.items()}
            yield ResultRow(**restored)


def _values(line: str | bytes) -> dict[str, Any]:
    """The fields of a line, without its checksum; none if it is damaged."""
    try:
        values = verified(json.loads(line))
        is_row = values.get("format_version") != FORMAT_VERSION or set(values) == NAMES
    except (ValueError, AttributeError):
        return {}
    return values if is_row else {}


def _check_version(path: Path, values: dict[str, Any]) -> None:
    # the first version did not say so
    found = values.get("format_version", 1) if values else FORMAT_VERSION
    if found != FORMAT_VERSION:
        raise InputError(
            f"{path} holds rows of format {found}, which are not comparable with the format "
            f"{FORMAT_VERSION} of this version. Give another --output_dir, or remove the file."
        )


NAMES = {field.name for field in fields(ResultRow)}


@lru_cache
def code_revision() -> str:
    """The commit of the code, with "+changed" where files differ from it, or its version.

    No path: the rows are to be published.
    """
    folder = Path(__file__).resolve().parent

    def git(*command: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(folder), *command], capture_output=True, text=True, timeout=600
        )
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        if git("ls-files", Path(__file__).name):  # else some other repository lies around it
            changed = git("status", "--porcelain", "--untracked-files=no", ".")
            return git("rev-parse", "--short=12", "HEAD") + ("+changed" if changed else "")
    except (OSError, subprocess.TimeoutExpired):
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
