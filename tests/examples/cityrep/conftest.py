"""Small release with two cities."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import rasterio
from rasterio.transform import from_origin

HEIGHT, WIDTH, CELL = 24, 30, 0.01
ORIGINS = {"north": (10.0, 50.0), "south": (20.0, -5.0)}


def smooth_field(seed: int = 0) -> np.ndarray:
    """Field `(24, 30)` with a hill, a slope and noise; a corner is nodata and one cell NaN."""
    rng = np.random.default_rng(seed)
    row, col = np.mgrid[:HEIGHT, :WIDTH]
    hill = 5 * np.exp(-((row - 12) ** 2 + (col - 9) ** 2) / 60)
    field = (hill + 0.1 * col + 0.3 * rng.normal(size=row.shape)).astype(np.float32)
    field[:6, :7] = -9999
    field[20, 20] = np.nan
    return field


def write_raster(path: Path, bands: np.ndarray, origin, cell=CELL, **more) -> Path:
    """Write bands `(B, H, W)` as a GeoTIFF with upper left corner `origin`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    profile = {"driver": "GTiff", "dtype": bands.dtype, "count": len(bands), "crs": "EPSG:4326"}
    shape = {"height": bands.shape[1], "width": bands.shape[2]}
    transform = from_origin(*origin, cell, cell)
    with rasterio.open(path, "w", transform=transform, **(profile | shape | more)) as file:
        file.write(bands)
    return path


def write_task(data: Path, task_id: str, bands: np.ndarray, **meta) -> Path:
    folder = data / "labels" / task_id
    origin = ORIGINS[task_id.split(".")[0]]
    write_raster(folder / "labels.tif", bands, origin, nodata=-9999)
    valid = np.isfinite(bands[0]) & (bands[0] != -9999)
    known = {"task_id": task_id, "task_type": "regression", "n_samples": int(valid.sum())}
    (folder / "task.json").write_text(json.dumps({**known, "crs": "EPSG:4326", **meta}))
    return folder


@pytest.fixture
def release(tmp_path) -> Path:
    """Release with PM2.5 of two cities, two-band night lights of one, and published scores."""
    data = tmp_path / "release"
    write_task(data, "north.pm25.2022", smooth_field(0)[None])
    write_task(data, "south.pm25.2022", smooth_field(1)[None])
    write_task(data, "north.nightlight.2024", np.stack([smooth_field(2), smooth_field(3)]))
    rows = [
        {"model_label": model, "city": city, "task_id": f"{city}.pm25.2022", "task": "pm25"}
        | {"R2": r2, "R2_std": 0.01, "n_samples": 677}
        for city in ORIGINS
        for model, r2 in (("Weak", 0.0), ("Strong", 1.0))
    ]
    (data / "published").mkdir()
    for name in ("spatial_summary.csv", "random_summary.csv"):
        pd.DataFrame(rows).to_csv(data / "published" / name, index=False)
    return data


@pytest.fixture
def cityrep(capsys) -> Callable:
    """Function that runs the command line and returns exit code and standard error."""
    from examples.cityrep.__main__ import main

    def call(*arguments: object) -> tuple[int, str]:
        code = main([str(one) for one in arguments])
        return code, capsys.readouterr().err

    return call
