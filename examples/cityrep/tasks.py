"""Regression tasks and published scores of CityRep, read from a release folder.

A task is a folder `<city>.<task>.<year>` with `task.json` and either `labels.tif` or
`samples.parquet` (`row`, `col`, `x`, `y`, `label`). Samples are the finite cells of the first band
without nodata, in row-major order, which the random split depends on.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyproj
import rasterio
from numpy.typing import NDArray
from pyproj.exceptions import ProjError
from rasterio.errors import RasterioError
from rasterio.transform import Affine, xy

from dataset_builders.files import digest
from pipelines.common.errors import InputError

TASKS = ("population", "gdp", "nightlight", "pm25", "lst_day_mean", "road_density")
# inputs of the published models: `baselines/registry/models.json` of the release
SEES = {
    "PE": "location",
    "Space2Vec": "location, points of interest",
    "CaLLiPer": "location, points of interest",
    "SatCLIP": "location, satellite",
    "Place2Vec": "points of interest",
    "CityFM": "points of interest, map",
    "Urban2Vec": "points of interest, street view",
    "MuseCL": "points of interest, satellite, street view",
    "AETHER": "points of interest, satellite",
    "AlphaEarth": "satellite",
    "TESSERA": "satellite",
}
SUMMARIES = {"cityrep_block": "spatial_summary.csv", "cityrep_random": "random_summary.csv"}
COLUMNS = ("row", "col", "x", "y", "label")
ZSCORE_EPSILON = 1e-6  # added to the standard deviation, as in the release
LAYOUT = "folders <city>.<task>.<year>, each with task.json and labels.tif or samples.parquet"
SHOWN = 5  # maximum number of damaged tasks in a message
M_PER_DEGREE = 6_371_008.8 * np.pi / 180

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Grid:
    """Raster grid of a task."""

    transform: Affine
    width: int
    height: int
    crs: pyproj.CRS


@dataclass(frozen=True)
class Task:
    """One indicator of one city.

    Attributes:
        task_id: `<city>.<task>.<year>`.
        values: Labels in their original unit, `(N,)`.
        row: Grid rows of the cells, `(N,)`.
        col: Grid columns of the cells, `(N,)`.
        x: x of the cell centres in the CRS of the grid, `(N,)`.
        y: y of the cell centres in the CRS of the grid, `(N,)`.
        grid: Grid of the labels.
    """

    task_id: str
    values: NDArray[np.float32]
    row: Ints
    col: Ints
    x: Floats
    y: Floats
    grid: Grid

    @property
    def city(self) -> str:
        """First part of the id."""
        return self.task_id.split(".")[0]

    @property
    def name(self) -> str:
        """Predicted indicator: second part of the id."""
        return self.task_id.split(".")[1]

    def __len__(self) -> int:
        return len(self.values)

    @cached_property
    def target(self) -> NDArray[np.float32]:
        """Labels z-scored over all cells before splitting, as in the release, `(N,)`."""
        mean, deviation = float(self.values.mean()), float(self.values.std() + ZSCORE_EPSILON)
        return ((self.values - mean) / deviation).astype(np.float32)

    @cached_property
    def lonlat(self) -> Floats:
        """Longitude and latitude of the cell centres, EPSG:4326, `(N, 2)`."""
        crs = self.grid.crs
        if crs.equals("EPSG:4326", ignore_axis_order=True):
            return np.column_stack([self.x, self.y])
        to_degrees = pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
        return np.column_stack(to_degrees.transform(self.x, self.y))

    @cached_property
    def metres(self) -> Floats:
        """Cell centres in metres east and north, longitude scaled by cos(latitude), `(N, 2)`."""
        lon, lat = self.lonlat.T
        scale = np.cos(np.radians((lat.min() + lat.max()) / 2))
        return M_PER_DEGREE * np.column_stack([(lon - lon.min()) * scale, lat - lat.min()])

    @cached_property
    def cell_m(self) -> tuple[float, float]:
        """Height and width of a cell in metres."""
        x, y = self.metres.T
        rows, cols = np.ptp(self.row), np.ptp(self.col)
        return float(np.ptp(y) / max(rows, 1)), float(np.ptp(x) / max(cols, 1))

    @cached_property
    def fingerprint(self) -> str:
        """Hash of labels and locations."""
        return digest(
            *(part.tobytes() for part in (self.values, self.row, self.col, self.x, self.y))
        )


@dataclass(frozen=True)
class Skipped:
    """Task that is not scored, with the reason."""

    task_id: str
    reason: str


def find_tasks(
    data: Path, cities: Sequence[str] | None, names: Sequence[str] | None
) -> tuple[list[Path], list[Skipped]]:
    """Find the folders of the tasks to score, and the tasks to skip.

    Args:
        data: Folder of the release, or its `labels` or `tasks`.
        cities: Cities to score; all by default.
        names: Tasks to score; all by default.

    Raises:
        InputError: There is no task, or a requested city or task is missing.
    """
    if not data.is_dir():
        raise InputError(f"There is no folder {data}: --data must be the folder of the release.")
    here = _folders(data)
    if not here:
        raise InputError(f"No CityRep task in {data}: expected {LAYOUT}.")
    latest = {tuple(path.name.split(".")[:2]): path for path in here}  # the latest year
    known_cities, problems = sorted({city for city, _ in latest}), []
    if missing := sorted(set(cities or ()) - set(known_cities)):
        problems.append(
            f"No task of the city {', '.join(missing)} in {data}; cities: {', '.join(known_cities)}"
        )
    if unknown := sorted(set(names or ()) - set(TASKS)):
        problems.append(f"Unknown task {', '.join(unknown)}; known: {', '.join(TASKS)}")
    if problems:
        raise InputError(". ".join(problems) + ".")
    kept, skipped = [], []
    for path in here:
        city, name, _ = path.name.split(".")
        if (cities and city not in cities) or (names and name not in names):
            continue
        if name not in TASKS:
            reason = f"not one of the supported regression tasks: {', '.join(TASKS)}"
            skipped.append(Skipped(path.name, reason))
        elif (later := latest[city, name]) != path:
            skipped.append(Skipped(path.name, f"{later.name} is scored instead"))
        else:
            kept.append(path)
    for city in dict.fromkeys(cities or known_cities):
        for name in dict.fromkeys(names or TASKS):
            if (city, name) not in latest:
                skipped.append(Skipped(f"{city}.{name}", f"{city} has no task {name}"))
    if not kept:
        raise InputError(f"Nothing to score: {'; '.join(one.reason for one in skipped)}.")
    return kept, skipped


def _folders(data: Path) -> list[Path]:
    """Sorted task folders `<city>.<task>.<year>` of the first subfolder that has any."""
    for name in ("labels", "tasks", "data/tasks", "."):
        found = [path for path in (data / name).glob("*.*.*") if path.is_dir()]
        if found := sorted(path for path in found if path.name.count(".") == 2):
            return found
    return []


def damaged_tasks(folders: Sequence[Path]) -> list[str]:
    """Errors of the tasks that cannot be read: the first five and the number of others."""
    problems = []
    for folder in folders:
        try:
            read_task(folder)
        except InputError as error:
            problems.append(str(error))
    if more := problems[SHOWN:]:
        problems[SHOWN:] = [f"{len(more)} more tasks cannot be read."]
    return problems


def read_task(folder: Path) -> Task:
    """Read one task.

    Raises:
        InputError: A file is missing or damaged, the task is not a regression, or the number of
            samples differs from `task.json`.
    """
    try:
        meta = json.loads((folder / "task.json").read_text(encoding="utf-8"))
        if not isinstance(meta, dict):
            raise ValueError("it is not a JSON object")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{folder / 'task.json'} cannot be read: {reason}.") from error
    if (kind := meta.get("task_type")) != "regression":
        raise InputError(f"{folder.name} is a {kind} task; only regression is supported.")
    samples, raster = folder / "samples.parquet", folder / "labels.tif"
    if not samples.is_file() and not raster.is_file():
        raise InputError(
            f"{folder} has neither samples.parquet nor labels.tif. Download them, or select other "
            "tasks with --cities and --tasks."
        )
    try:
        read = _from_samples if samples.is_file() else _from_raster
        task = read(folder.name, samples if samples.is_file() else raster, meta)
    except (RasterioError, ProjError, OSError, ValueError) as error:
        raise InputError(f"The labels of {folder.name} cannot be read: {error}.") from error
    announced = meta.get("n_samples", len(task))
    if len(task) != announced:
        raise InputError(
            f"{folder.name} has {len(task)} samples, but its task.json states {announced}, so its "
            "splits would differ from those of the benchmark. Download its labels again."
        )
    if not len(task) or np.ptp(task.values) == 0:
        raise InputError(f"{folder.name} cannot be predicted: no labels, or all are equal.")
    return task


def _from_raster(task_id: str, path: Path, meta: dict[str, Any]) -> Task:
    with rasterio.open(path) as file:
        band = file.read(1)
        known = file.crs or meta.get("crs")
        if known is None:
            raise ValueError("no CRS; add it to labels.tif or task.json")
        crs = pyproj.CRS.from_user_input(known)
        grid = Grid(file.transform, file.width, file.height, crs)
        nodata = file.nodata
    valid = np.isfinite(band)
    if nodata is not None and np.isfinite(nodata):
        valid &= band != nodata
    row, col = np.nonzero(valid)
    x, y = xy(grid.transform, row, col)
    return Task(task_id, band[valid].astype(np.float32), row, col, np.array(x), np.array(y), grid)


def _from_samples(task_id: str, path: Path, meta: dict[str, Any]) -> Task:
    table = pd.read_parquet(path)
    if missing := [name for name in COLUMNS if name not in table]:
        raise ValueError(f"{path.name} lacks the columns {', '.join(missing)}")
    row, col = (table[name].to_numpy(np.int64) for name in ("row", "col"))
    x, y = (table[name].to_numpy(np.float64) for name in ("x", "y"))
    if not np.isfinite([x, y]).all() or len(set(row)) < 2 or len(set(col)) < 2:
        raise ValueError(f"the cells of {path.name} do not form a grid: check row, col, x and y")
    # fit the grid to the cell centres
    (dx, left), (dy, top) = np.polyfit(col, x, 1), np.polyfit(row, y, 1)
    transform = Affine(dx, 0, left - dx / 2, 0, dy, top - dy / 2)
    crs = pyproj.CRS.from_user_input(meta.get("crs", "EPSG:4326"))
    grid = Grid(transform, int(col.max()) + 1, int(row.max()) + 1, crs)
    values = table["label"].to_numpy(np.float32)
    if not np.isfinite(values).all():
        raise ValueError(f"{path.name} has {int((~np.isfinite(values)).sum())} missing labels")
    return Task(task_id, values, row, col, x, y, grid)


def read_published(folder: Path) -> pd.DataFrame:
    """Read published scores: `protocol`, `task_id`, `city`, `task`, `model`, `r2`, `r2_sd`, `n`.

    `r2_sd` is the SD over the five seeds. The table is empty if the folder has no summary.

    Raises:
        InputError: A summary cannot be read, or lacks a column.
    """
    parts = []
    for protocol, name in SUMMARIES.items():
        if not (folder / name).is_file():
            continue
        wanted = {"model_label": "model", "R2": "r2", "R2_std": "r2_sd", "n_samples": "n"}
        try:
            table = pd.read_csv(folder / name)
            numbers = {one: pd.to_numeric(table[one]) for one in ("R2", "R2_std") if one in table}
            table = table.assign(**numbers)
        except (ValueError, OSError) as error:
            raise InputError(f"{folder / name} cannot be read: {error}.") from error
        columns = ["task_id", "city", "task", *wanted]
        if missing := [column for column in columns if column not in table]:
            raise InputError(f"{folder / name} lacks the columns {', '.join(missing)}.")
        regression = table[table["task"].isin(TASKS)][columns].rename(columns=wanted)
        parts.append(regression.assign(protocol=protocol))
    names = ["protocol", "task_id", "city", "task", "model", "r2", "r2_sd", "n"]
    return pd.concat(parts, ignore_index=True)[names] if parts else pd.DataFrame(columns=names)


__all__ = [
    "SEES",
    "TASKS",
    "Grid",
    "Skipped",
    "Task",
    "damaged_tasks",
    "find_tasks",
    "read_published",
    "read_task",
]
