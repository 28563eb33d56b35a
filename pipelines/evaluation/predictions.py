"""Predictions of single regions, one Parquet file a batch of rows; what intervals rest on."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dataset_builders.files import atomic_path, digest

from .errors import InputError
from .probing import Fit, Task
from .results import KEY, ResultRow
from .systems import CONTROL_NAMES, WITH_COORDINATES

SUMMARY_FILE, RESULTS_FILE, REGIONS_FILE = "probe.json", "results.jsonl", "regions.parquet"
BLOCK_COLUMN = "block_id"  # of regions.parquet
PREDICTIONS_FOLDER = "predictions"  # of test regions
VALIDATION_FOLDER = "validation_predictions"


def write_predictions(
    output: Path,
    region_ids: NDArray[np.object_],
    rows: Sequence[ResultRow],
    tasks: Sequence[Task],
    fits: Sequence[Fit],
) -> None:
    """Write what the rows rest on: a file of test and one of validation predictions.

    Args:
        output: folder of the city's results.
        region_ids: `(N,)` of the regions that the tasks index.
        rows: one a task.
        tasks: see [`Task`].
        fits: one a task.
    """
    name = digest([row.key for row in rows])
    tested = [(task.test, fit.predictions) for task, fit in zip(tasks, fits, strict=True)]
    _write(output / PREDICTIONS_FOLDER / f"{name}.parquet", region_ids, rows, tasks, tested)
    validated = [
        (task.validation, fit.validation_predictions) for task, fit in zip(tasks, fits, strict=True)
    ]
    _write(output / VALIDATION_FOLDER / f"{name}.parquet", region_ids, rows, tasks, validated)


def _write(
    path: Path,
    region_ids: NDArray[np.object_],
    rows: Sequence[ResultRow],
    tasks: Sequence[Task],
    parts: Sequence[tuple[NDArray[np.int64], NDArray[np.float64]]],
) -> None:
    lengths = [len(index) for index, _ in parts]
    columns: dict[str, Any] = {
        name: pa.array(np.repeat([getattr(row, name) for row in rows], lengths).tolist())
        for name in KEY
    }
    columns["region_id"] = np.concatenate([region_ids[index] for index, _ in parts])
    columns["truth"] = np.concatenate(
        [task.y[index] for task, (index, _) in zip(tasks, parts, strict=True)]
    )
    columns["prediction"] = np.concatenate([values for _, values in parts])
    with atomic_path(path) as temporary:
        pq.write_table(pa.table(columns), temporary)


def read_predictions(folder: Path, wanted: Mapping[str, Any]) -> pd.DataFrame:
    """Predictions of the rows whose fields have these values, each region once a row.

    Args:
        folder: `PREDICTIONS_FOLDER` or `VALIDATION_FOLDER` of a city's results.
        wanted: of the fields of `KEY`.

    Returns:
        The fields of `KEY`, region_id, truth and prediction, in a fixed order.
    """
    found = pads.dataset(folder, format="parquet")
    condition = pads.scalar(True)
    for name, value in wanted.items():
        condition &= pads.field(name) == value
    frame = found.to_table(filter=condition).to_pandas()
    # a killed run may have left predictions that the next one wrote again
    frame = frame.drop_duplicates([*KEY, "region_id"])
    return frame.sort_values([*KEY, "region_id"], ignore_index=True)


def current_predictions(folder: Path, part: str) -> pd.DataFrame:
    """Predictions that compare with the latest run of `probe`, with the block of each region.

    Args:
        folder: of one city's results.
        part: `PREDICTIONS_FOLDER` or `VALIDATION_FOLDER`.

    Returns:
        As [`read_predictions`], with `block_id`.

    Raises:
        InputError: there are none.
    """
    if not (folder / SUMMARY_FILE).is_file() or not (folder / part).is_dir():
        raise InputError(f"No results in {folder}. Run `python evaluate.py probe` first.")
    summary = json.loads((folder / SUMMARY_FILE).read_text(encoding="utf-8"))
    frame = read_predictions(folder / part, {"table_hash": summary["table_hash"]})
    hashes = embedding_hashes(summary)
    frame = frame[frame["system"].map(hashes) == frame["embedding_hash"]]
    regions = pd.read_parquet(folder / REGIONS_FILE, columns=["region_id", BLOCK_COLUMN])
    return frame.merge(regions, on="region_id")


def embedding_hashes(summary: Mapping[str, Any]) -> dict[str, str]:
    """System -> hash of the vectors that a probe.json speaks of; controls have none."""
    hashes = {name: system["embedding_hash"] for name, system in summary["systems"].items()}
    hashes |= {WITH_COORDINATES + name: known for name, known in hashes.items()}
    return hashes | dict.fromkeys(CONTROL_NAMES, "")


__all__ = [
    "BLOCK_COLUMN",
    "PREDICTIONS_FOLDER",
    "REGIONS_FILE",
    "RESULTS_FILE",
    "SUMMARY_FILE",
    "VALIDATION_FOLDER",
    "current_predictions",
    "embedding_hashes",
    "read_predictions",
    "write_predictions",
]
