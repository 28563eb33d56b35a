"""Result rows, stored for resuming, and block bootstrap intervals.

A row holds the number of test cells of each block and their sums of y, y squared, squared and
absolute errors. These suffice for the scores of any resample of blocks, so that no predictions of
340,000 cells need to be stored.
"""

import json
import os
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dataset_builders.files import append
from pipelines.common.errors import InputError
from pipelines.evaluation.analysis.bootstrap import REPLICATES, draw_blocks

from .tasks import Floats, Ints

BLOCKS = 100
COLUMNS = ("city", "task", "protocol", "system", "probe", "seed")


@dataclass(frozen=True)
class Row:
    """Result of one system on one task and split.

    Attributes:
        city: Name of the city.
        task: Name of the indicator.
        protocol: Split protocol, of `splits.PROTOCOLS`.
        system: Name of the system.
        probe: `ridge` or `mlp` for embeddings; the method of a control.
        seed: Seed of the split.
        n_test: Number of test cells.
        r2: Coefficient of determination.
        rmse: Root mean squared error of the z-scored target.
        mae: Mean absolute error of the z-scored target.
        n_train: Number of training cells.
        n_validation: Number of validation cells.
        missing: Number of cells of the task without a vector, which get zeros.
        fingerprint: Hash of labels, embeddings and settings.
        sums: `[block, n, sum y, sum y^2, sum error^2, sum |error|]` per block with test cells.
    """

    city: str
    task: str
    protocol: str
    system: str
    probe: str
    seed: int
    n_test: int
    r2: float
    rmse: float
    mae: float
    n_train: int
    n_validation: int
    missing: int
    fingerprint: str
    sums: list[list[float]]

    @property
    def key(self) -> tuple[str, ...]:
        """Unique key of the row."""
        return (*(str(getattr(self, name)) for name in COLUMNS), self.fingerprint)


def block_sums(truth: Floats, predicted: Floats, blocks: Ints) -> NDArray[np.float64]:
    """Sums of a [`Row`] per block, `(100, 5)`."""
    error = predicted - truth
    parts = (np.ones_like(truth), truth, np.square(truth), np.square(error), np.abs(error))
    return np.stack([np.bincount(blocks, part, minlength=BLOCKS) for part in parts], axis=1)


def metrics(sums: Floats) -> tuple[Floats, Floats, Floats]:
    """R2, RMSE and MAE from sums `(..., 5)`; NaN without test cells."""
    n, total, square, error, absolute = np.moveaxis(sums, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = square - np.square(total) / n
        r2 = 1 - error / np.where(spread > 1e-9 * square, spread, np.nan)
        return r2, np.sqrt(error / n), absolute / n


class Store:
    """Rows in a JSON Lines file, by key.

    A truncated last line of an interrupted run is removed.

    Args:
        path: Path of the file, which need not exist.

    Raises:
        InputError: A line is not a valid row.
    """

    def __init__(self, path: Path):
        self.path, self.rows = path, dict[tuple[str, ...], Row]()
        path.parent.mkdir(parents=True, exist_ok=True)
        content = path.read_bytes() if path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            os.truncate(path, len(whole))
        names = {field.name for field in fields(Row)}
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                values = json.loads(line)
                if set(values) != names:
                    raise ValueError("unexpected fields")
            except (ValueError, TypeError) as error:
                raise InputError(
                    f"{path}, line {number} is not a valid result row ({error}). Remove the line "
                    "or choose another --output_dir."
                ) from error
            row = Row(**values)
            self.rows[row.key] = row

    def append(self, rows: Iterable[Row]) -> None:
        """Add rows atomically and flush them to disk."""
        rows = list(rows)
        append(self.path, "".join(json.dumps(asdict(row)) + "\n" for row in rows).encode())
        self.rows |= {row.key: row for row in rows}


def frame(rows: Sequence[Row]) -> pd.DataFrame:
    """Rows as a table, without their sums."""
    names = [field.name for field in fields(Row) if field.name not in ("sums", "fingerprint")]
    table = pd.DataFrame([{name: getattr(row, name) for name in names} for row in rows])
    return table.sort_values(list(COLUMNS), ignore_index=True) if len(table) else table


@dataclass(frozen=True)
class Drawn:
    """Bootstrap replicates of a system's R2 on a task, averaged over the splits.

    Attributes:
        values: R2 in the sample, followed by the replicates, `(1 + replicates,)`.
        rows: Rows of the splits.
    """

    values: Floats
    rows: Sequence[Row]


def draw(cells: Mapping[str, Sequence[Row]], replicates: int = REPLICATES) -> dict[str, Drawn]:
    """Bootstrap R2 of all systems of one task and protocol over the same resamples of blocks.

    A block counts in all splits that test it. Splits without test cells in a resample are left out
    of its mean.

    Args:
        cells: Rows of the splits by system. Only seeds that all systems have are used.
        replicates: Number of bootstrap replicates.
    """
    seeds = set.intersection(*({row.seed for row in rows} for rows in cells.values()))
    kept = {name: [row for row in rows if row.seed in seeds] for name, rows in cells.items()}
    sums = {name: np.stack([_dense(row) for row in rows]) for name, rows in kept.items()}
    any_rows = next(iter(kept.values()))
    used = np.flatnonzero(next(iter(sums.values()))[:, :, 0].sum(0))
    chance = zlib.crc32(f"{any_rows[0].city} {any_rows[0].task}".encode())
    counts = np.concatenate([np.ones((1, len(used))), draw_blocks(len(used), replicates, chance)])
    drawn = {}
    for name, own in sums.items():
        r2, *_ = metrics(np.einsum("sbk,rb->rsk", own[:, used], counts))
        drawn[name] = Drawn(np.nanmean(r2, axis=1), kept[name])
    return drawn


def _dense(row: Row) -> Floats:
    dense = np.zeros((BLOCKS, 5))
    for block, *values in row.sums:
        dense[int(block)] = values
    return dense


__all__ = ["Drawn", "Row", "Store", "block_sums", "draw", "frame", "metrics"]
