"""Predictions per region in Parquet files, one file per batch of result rows."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as pads
from numpy.typing import NDArray

from dataset_builders.files import digest, read_json
from dataset_builders.parquet import is_whole, write_parquet

from ..errors import InputError
from .results import KEY, ResultRow
from .splits import Fit, Task
from .systems import CONTROL_NAMES, COORDINATES, joint_hash, joint_name

NO_RESULTS = "No results in {}. Run `python evaluate.py probe` first."
SUMMARY_FILE, RESULTS_FILE, REGIONS_FILE = "probe.json", "results.jsonl", "regions.parquet"
BLOCK_COLUMN = "block_id"  # in regions.parquet
PREDICTIONS_FOLDER = "predictions"  # for test regions
VALIDATION_FOLDER = "validation_predictions"
SYSTEM = ["system", "view", "probe"]
CODED = ("indicator", *SYSTEM, "region_id", "embedding_hash")  # read as dictionary columns
SORTED = ["indicator", "split_seed", *SYSTEM, "probe_seed", "region_id"]


def write_predictions(
    output: Path,
    region_ids: NDArray[np.object_],
    rows: Sequence[ResultRow],
    tasks: Sequence[Task],
    fits: Sequence[Fit],
) -> None:
    """Write the test and validation predictions of a batch of rows, one file each.

    Args:
        output: Results folder of the city.
        region_ids: `(N,)` ids of the regions indexed by the tasks.
        rows: Result rows, one per task.
        tasks: Tasks, see [`Task`].
        fits: Fits, one per task.
    """
    name = f"{digest([row.key for row in rows])}.parquet"
    pairs = list(zip(tasks, fits, strict=True))
    tested = [(task.test, fit.predictions) for task, fit in pairs]
    validated = [(task.validation, fit.validation_predictions) for task, fit in pairs]
    for folder, parts in ((PREDICTIONS_FOLDER, tested), (VALIDATION_FOLDER, validated)):
        _write(output / folder / name, region_ids, rows, tasks, parts)


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
    write_parquet(path, pa.table(columns))


def unpredicted(output: Path, rows: Iterable[ResultRow]) -> set[tuple[Any, ...]]:
    """Keys of rows with damaged or missing predictions; damaged files are set aside.

    Empty if the prediction folders were removed entirely.
    """
    folders = [output / PREDICTIONS_FOLDER, output / VALIDATION_FOLDER]
    if not all(folder.is_dir() for folder in folders):
        return set()
    tested, validated = map(_predicted_keys, folders)
    return {
        row.key
        for row in rows
        if row.key not in tested or (row.n_validation and row.key not in validated)
    }


def _predicted_keys(folder: Path) -> set[tuple[Any, ...]]:
    files = [path for path in folder.glob("*.parquet") if is_whole(path)]
    frames = [pd.read_parquet(path, columns=list(KEY)).drop_duplicates() for path in files]
    return {key for frame in frames for key in frame.itertuples(index=False, name=None)}


def _files(folder: Path) -> list[str]:
    return sorted(map(str, folder.glob("*.parquet")))  # excludes files set aside


def read_predictions(folder: Path, wanted: Mapping[str, Any]) -> pd.DataFrame:
    """Predictions of the rows whose fields have the given values.

    Args:
        folder: `PREDICTIONS_FOLDER` or `VALIDATION_FOLDER` of a city's results.
        wanted: Values of fields in `KEY`.

    Returns:
        Columns of `KEY`, region_id, truth and prediction, sorted by key and region.
    """
    found = pads.dataset(_files(folder), format="parquet")
    condition = pads.scalar(True)
    for name, value in wanted.items():
        condition &= pads.field(name) == value
    frame = found.to_table(filter=condition).to_pandas()
    # an interrupted run may have left predictions that were written again
    frame = frame.drop_duplicates([*KEY, "region_id"])
    return frame.sort_values([*KEY, "region_id"], ignore_index=True)


def current_predictions(folder: Path, part: str) -> pd.DataFrame:
    """Predictions comparable with the latest run of `probe`, with the block of each region.

    Args:
        folder: Results folder of one city.
        part: `PREDICTIONS_FOLDER` or `VALIDATION_FOLDER`.

    Returns:
        Table of [`read_predictions`] with the column `block_id`.

    Raises:
        InputError: The folder has no results.
    """
    summary = _summary(folder, part)
    frame = read_predictions(folder / part, {"table_hash": summary["table_hash"]})
    hashes = embedding_hashes(summary)
    frame = frame[frame["system"].map(hashes) == frame["embedding_hash"]]
    regions = pd.read_parquet(folder / REGIONS_FILE, columns=["region_id", BLOCK_COLUMN])
    return frame.merge(regions, on="region_id")


@dataclass(frozen=True)
class PredictedSplit:
    """Predictions of all systems for the test or validation regions of one split.

    Attributes:
        protocol: Protocol of the split.
        indicator: Predicted indicator.
        split_seed: Seed of the split.
        truth: `(n,)` true values.
        blocks: `(n,)` block number of each region, the same in all splits.
        predictions: Label, view and probe to `(probe seeds, n)` predictions.
    """

    protocol: str
    indicator: str
    split_seed: int
    truth: NDArray[np.float64]
    blocks: NDArray[np.int64]
    predictions: dict[tuple[str, str, str], NDArray[np.float64]]


def predicted_splits(
    folder: Path, protocol: str, part: str = PREDICTIONS_FOLDER
) -> list[PredictedSplit]:
    """Predictions comparable with the latest run of `probe`, per indicator and split.

    Text columns are read as dictionary columns, for tables with millions of predictions.

    Args:
        folder: Results folder of one city.
        protocol: Protocol of the splits.
        part: `PREDICTIONS_FOLDER` or `VALIDATION_FOLDER`.

    Raises:
        InputError: There are no results, or the systems of a split have different regions.
    """
    summary = _summary(folder, part)
    format_ = pads.ParquetFileFormat(dictionary_columns=set(CODED))
    table = pads.dataset(_files(folder / part), format=format_).to_table(
        columns=[*SORTED, "embedding_hash", "truth", "prediction"],
        filter=(pads.field("table_hash") == summary["table_hash"])
        & (pads.field("protocol") == protocol),
    )
    frame = table.unify_dictionaries().to_pandas()
    hashes = embedding_hashes(summary)
    known = frame["system"].map(hashes).astype(object) == frame["embedding_hash"].astype(object)
    frame = frame[known]
    # an interrupted run may have left predictions that were written again
    frame = frame.sort_values(SORTED, ignore_index=True).drop_duplicates(SORTED)
    regions = pd.read_parquet(folder / REGIONS_FILE, columns=["region_id", BLOCK_COLUMN])
    blocks = regions.set_index("region_id")[BLOCK_COLUMN]
    return [
        _predicted(protocol, str(indicator), int(split), group, blocks)
        for (indicator, split), group in frame.groupby(["indicator", "split_seed"], observed=True)
    ]


def _predicted(
    protocol: str, indicator: str, split_seed: int, frame: pd.DataFrame, blocks: pd.Series
) -> PredictedSplit:
    found = dict(list(frame.groupby(SYSTEM, observed=True)))
    own = {
        name: one["prediction"].to_numpy().reshape(one["probe_seed"].nunique(), -1)
        for name, one in found.items()
    }
    first = next(iter(found.values()))
    n = len(first) // first["probe_seed"].nunique()
    ids = first["region_id"].to_numpy()[:n]
    for name, one in found.items():
        if not np.array_equal(one["region_id"].to_numpy().reshape(-1, n)[-1], ids):
            raise InputError(
                f"{' '.join(map(str, name))} has predictions for other regions than the other "
                f"systems in split {split_seed} of {indicator}, {protocol}. Remove the predictions "
                "and rows of the city and run `python evaluate.py probe` again."
            )
    truth = first["truth"].to_numpy()[:n]
    return PredictedSplit(
        protocol, indicator, split_seed, truth, blocks.loc[ids].to_numpy(), cast(Any, own)
    )


def _summary(folder: Path, part: str) -> dict[str, Any]:
    found = read_summary(folder)
    if not (folder / part).is_dir():
        raise InputError(NO_RESULTS.format(folder))
    return found


def read_summary(folder: Path) -> dict[str, Any]:
    """Read the probe.json of a city's results; a damaged file is set aside.

    Raises:
        InputError: The file does not exist.
    """
    found: dict[str, Any] | None = read_json(folder / SUMMARY_FILE)
    if found is None:
        raise InputError(NO_RESULTS.format(folder))
    return found


def embedding_hashes(summary: Mapping[str, Any]) -> dict[str, str]:
    """System to embedding hash according to a probe.json; empty for most controls."""
    own = {name: system["embedding_hash"] for name, system in summary["systems"].items()}
    own |= summary["controls"]
    beside = {COORDINATES: ""} | {name: one["hash"] for name, one in summary["beside"].items()}
    joint = {
        joint_name(other, name): joint_hash(known, their)
        for other, their in beside.items()
        for name, known in own.items()
    }
    return dict.fromkeys(CONTROL_NAMES, "") | own | joint


__all__ = [
    "BLOCK_COLUMN",
    "PREDICTIONS_FOLDER",
    "REGIONS_FILE",
    "RESULTS_FILE",
    "SUMMARY_FILE",
    "VALIDATION_FOLDER",
    "PredictedSplit",
    "current_predictions",
    "embedding_hashes",
    "predicted_splits",
    "read_predictions",
    "unpredicted",
    "write_predictions",
]
