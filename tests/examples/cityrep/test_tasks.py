import json

import numpy as np
import pandas as pd
import pytest

from examples.cityrep.tasks import find_tasks, read_published, read_task
from pipelines.common.errors import InputError

from .conftest import HEIGHT, ORIGINS, WIDTH, smooth_field, write_raster, write_task


def test_samples_are_finite_cells_in_row_major_order(release):
    task = read_task(release / "labels" / "north.nightlight.2024")
    assert len(task) == HEIGHT * WIDTH - 42 - 1
    assert (np.diff(task.row * WIDTH + task.col) > 0).all()
    assert np.array_equal(task.values, smooth_field(2)[task.row, task.col])
    assert task.lonlat[0] == pytest.approx([10.0 + 7.5 * 0.01, 50.0 - 0.005])
    assert abs(task.target.mean()) < 1e-5
    assert task.target.std() == pytest.approx(1, abs=1e-5)
    assert task.cell_m == pytest.approx((1112, 716.5), rel=1e-3)


def test_samples_parquet_equals_the_raster(release):
    folder = release / "labels" / "south.pm25.2022"
    raster = read_task(folder)
    columns = {name: getattr(raster, name) for name in ("row", "col", "x", "y")}
    samples = pd.DataFrame({"sample_id": np.arange(len(raster)), **columns, "label": raster.values})
    samples.to_parquet(folder / "samples.parquet")
    (folder / "labels.tif").unlink()
    table = read_task(folder)
    assert np.array_equal(table.values, raster.values)
    assert np.array_equal(table.col, raster.col)
    assert table.grid.transform.almost_equals(raster.grid.transform, precision=1e-9)
    samples.drop(columns="label").to_parquet(folder / "samples.parquet")
    with pytest.raises(InputError, match="lacks the columns label"):
        read_task(folder)


def test_missing_cities_and_tasks_are_named(release):
    folders, skipped = find_tasks(release, ["north", "south"], ["pm25", "nightlight"])
    names = ["north.nightlight.2024", "north.pm25.2022", "south.pm25.2022"]
    assert [path.name for path in folders] == names
    assert [(one.task_id, one.reason) for one in skipped] == [
        ("south.nightlight", "south has no task nightlight")
    ]
    with pytest.raises(InputError, match="Nothing to score: south has no task gdp"):
        find_tasks(release, ["south"], ["gdp"])
    with pytest.raises(InputError, match=r"No CityRep task in .*expected folders <city>"):
        find_tasks(release / "published", None, None)
    # other kinds and earlier years
    write_task(release, "north.happiness.2024", smooth_field()[None])
    write_task(release, "north.pm25.2020", smooth_field()[None])
    folders, skipped = find_tasks(release, ["north"], None)
    assert [path.name for path in folders] == ["north.nightlight.2024", "north.pm25.2022"]
    reasons = {one.task_id: one.reason for one in skipped}
    assert "not one of the supported regression tasks" in reasons["north.happiness.2024"]
    assert reasons["north.pm25.2020"] == "north.pm25.2022 is scored instead"


def test_unusable_labels_are_errors(release):
    folder = release / "labels" / "north.pm25.2022"
    for change, message in (
        ({"task_type": "classification"}, "is a classification task; only regression"),
        ({"n_samples": 5}, "has 677 samples, but its task.json states 5"),
    ):
        with pytest.raises(InputError, match=message):
            read_task(write_task(release, "north.gdp.2024", smooth_field()[None], **change))
    (folder / "task.json").write_text(json.dumps({"task_type": "regression"}))
    flat = np.full((1, HEIGHT, WIDTH), 1, np.float32)
    write_raster(folder / "labels.tif", flat, ORIGINS["north"], nodata=-9999)
    with pytest.raises(InputError, match="no labels, or all are equal"):
        read_task(folder)
    write_raster(folder / "labels.tif", smooth_field()[None], ORIGINS["north"], crs=None)
    with pytest.raises(InputError, match="no CRS; add it to"):
        read_task(folder)
    summary = release / "published" / "random_summary.csv"
    pd.read_csv(summary).drop(columns="R2").to_csv(summary, index=False)
    with pytest.raises(InputError, match="lacks the columns R2"):
        read_published(release / "published")
