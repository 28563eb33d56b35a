"""CityRep's regression tasks and published scores, read from a release's folder.

A task is a folder `<city>.<task>.<year>` with `task.json` and either `labels.tif` or
`samples.parquet` (`row`, `col`, `x`, `y`, `label`). A sample is a finite cell of the first band
that is not nodata; samples are in row-major order, which the random split depends on.
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
from rasterio.errors import RasterioError
from rasterio.transform import Affine, xy

from dataset_builders.files import digest
from pipelines.common.errors import InputError

TASKS = ("population", "gdp", "nightlight", "pm25", "lst_day_mean", "road_density")
SUMMARIES = {"cityrep_block": "spatial_summary.csv", "cityrep_random": "random_summary.csv"}
COLUMNS = ("row", "col", "x", "y", "label")
ZSCORE_EPSILON = 1e-6  # of the release, added to the standard deviation
LAYOUT = "folders <city>.<task>.<year>, each with task.json and labels.tif or samples.parquet"
M_PER_DEGREE = 6_371_008.8 * np.pi / 180

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Grid:
    """The raster grid of a task."""

    transform: Affine
    width: int
    height: int
    crs: Any


@dataclass(frozen=True)
class Task:
    """One indicator of one city.

    Attributes:
        task_id: `<city>.<task>.<year>`.
        values: `(N,)` labels in their own unit.
        row: `(N,)` row of each cell in the grid.
        col: `(N,)` column.
        x: `(N,)` centres of the cells in the CRS of the grid.
        y: `(N,)`.
        grid: of the labels.
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
        """What is predicted: second part of the id."""
        return self.task_id.split(".")[1]

    def __len__(self) -> int:
        return len(self.values)

    @cached_property
    def target(self) -> NDArray[np.float32]:
        """`(N,)` z-scored over all cells of the task, before it is split, as in the release."""
        mean, deviation = float(self.values.mean()), float(self.values.std() + ZSCORE_EPSILON)
        return ((self.values - mean) / deviation).astype(np.float32)

    @cached_property
    def lonlat(self) -> Floats:
        """`(N, 2)` centres of the cells, EPSG:4326."""
        crs = pyproj.CRS.from_user_input(self.grid.crs)
        if crs.equals("EPSG:4326", ignore_axis_order=True):
            return np.column_stack([self.x, self.y])
        to_degrees = pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
        return np.column_stack(to_degrees.transform(self.x, self.y))

    @cached_property
    def metres(self) -> Floats:
        """`(N, 2)` metres east and north: degrees of longitude scaled by cos(latitude)."""
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
        """Of labels and places."""
        return digest(
            *(part.tobytes() for part in (self.values, self.row, self.col, self.x, self.y))
        )


@dataclass(frozen=True)
class Skipped:
    """A task that is not scored, and why."""

    task_id: str
    reason: str


def find_tasks(
    data: Path, cities: Sequence[str] | None, names: Sequence[str] | None
) -> tuple[list[Path], list[Skipped]]:
    """Folders of the tasks to score, and what is not scored.

    Args:
        data: Folder of the release, or its `labels` or `tasks`.
        cities: Cities to score; all by default.
        names: Tasks to score; all by default.

    Raises:
        InputError: There is no task, or a city or a task that is asked for is not there.
    """
    roots = [
        data / name for name in ("labels", "tasks", "data/tasks", ".") if (data / name).is_dir()
    ]
    folders = sorted(path.parent for path in roots[0].glob("*/task.json")) if roots else []
    found = {tuple(path.name.split(".")[:2]): path for path in folders if path.name.count(".") == 2}
    if not found:
        raise InputError(f"No CityRep task in {data}: expected {LAYOUT}.")
    here = sorted({city for city, _ in found})
    if missing := sorted(set(cities or ()) - set(here)):
        raise InputError(f"No task of the city {', '.join(missing)} in {data}; cities: {here}.")
    if unknown := sorted(set(names or ()) - set(TASKS)):
        raise InputError(f"Unknown task {', '.join(unknown)}; known: {', '.join(TASKS)}.")
    kept, skipped = [], []
    for (city, name), path in found.items():
        if (cities and city not in cities) or (names and name not in names):
            continue
        if name in TASKS:
            kept.append(path)
        else:
            skipped.append(Skipped(path.name, f"unknown task {name!r}; known: {', '.join(TASKS)}"))
    for city in cities or here:
        for name in names or TASKS:
            if (city, name) not in found:
                skipped.append(Skipped(f"{city}.{name}", f"{city} has no task {name}"))
    if not kept:
        raise InputError(f"Nothing to score: {'; '.join(one.reason for one in skipped)}.")
    return kept, skipped


def read_task(folder: Path) -> Task:
    """Read one task.

    Raises:
        InputError: A file is missing or damaged, the task is no regression, or the number of
            samples is not the one that `task.json` announces.
    """
    try:
        meta = json.loads((folder / "task.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{folder / 'task.json'} cannot be read: {error}") from error
    if (kind := meta.get("task_type")) != "regression":
        raise InputError(f"{folder.name} is a task of {kind}; only regression is measured here.")
    samples, raster = folder / "samples.parquet", folder / "labels.tif"
    if not samples.is_file() and not raster.is_file():
        raise InputError(f"{folder} has neither samples.parquet nor labels.tif.")
    try:
        read = _from_samples if samples.is_file() else _from_raster
        task = read(folder.name, samples if samples.is_file() else raster, meta)
    except (RasterioError, OSError, ValueError) as error:
        raise InputError(f"The labels of {folder.name} cannot be read: {error}") from error
    announced = meta.get("n_samples", len(task))
    if len(task) != announced:
        raise InputError(
            f"{folder.name} has {len(task)} samples, but its task.json announces {announced}: its "
            "splits would not be those of the benchmark. Fetch the task's labels again."
        )
    return task


def _from_raster(task_id: str, path: Path, meta: dict[str, Any]) -> Task:
    with rasterio.open(path) as file:
        band = file.read(1)
        grid = Grid(file.transform, file.width, file.height, file.crs or meta.get("crs"))
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
    # the grid that puts the centres of cells where the table has them
    (dx, left), (dy, top) = np.polyfit(col, x, 1), np.polyfit(row, y, 1)
    transform = Affine(dx, 0, left - dx / 2, 0, dy, top - dy / 2)
    grid = Grid(transform, int(col.max()) + 1, int(row.max()) + 1, meta.get("crs", "EPSG:4326"))
    values = table["label"].to_numpy(np.float32)
    if not np.isfinite(values).all():
        raise ValueError(f"{path.name} has {int((~np.isfinite(values)).sum())} empty labels")
    return Task(task_id, values, row, col, x, y, grid)


def read_published(folder: Path) -> pd.DataFrame:
    """Published scores: `protocol`, `task_id`, `city`, `task`, `model`, `r2`, `r2_sd`, `n`.

    `r2_sd` is over the five seeds. Empty where the folder has no summary.

    Raises:
        InputError: A summary lacks a column.
    """
    parts = []
    for protocol, name in SUMMARIES.items():
        if not (folder / name).is_file():
            continue
        table = pd.read_csv(folder / name)
        wanted = {"model_label": "model", "R2": "r2", "R2_std": "r2_sd", "n_samples": "n"}
        columns = ["task_id", "city", "task", *wanted]
        if missing := [column for column in columns if column not in table]:
            raise InputError(f"{folder / name} lacks the columns {', '.join(missing)}.")
        regression = table[table["task"].isin(TASKS)][columns].rename(columns=wanted)
        parts.append(regression.assign(protocol=protocol))
    names = ["protocol", "task_id", "city", "task", "model", "r2", "r2_sd", "n"]
    return pd.concat(parts, ignore_index=True)[names] if parts else pd.DataFrame(columns=names)


__all__ = ["TASKS", "Grid", "Skipped", "Task", "find_tasks", "read_published", "read_task"]
