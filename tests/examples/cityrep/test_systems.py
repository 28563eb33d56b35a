import json
from dataclasses import replace

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsRegressor

from examples.cityrep.embeddings import RasterVectors, TableVectors
from examples.cityrep.splits import draw_split
from examples.cityrep.systems import NoVectorsError, PositionalEncoding, aligned, predict_neighbours
from examples.cityrep.tasks import read_task
from pipelines.common.errors import InputError
from pipelines.evaluation.embed.tables import write_embeddings
from pipelines.evaluation.probe.city import open_city
from tests.pipelines.evaluation.toy import CITY, build_toy

from .conftest import CELL, HEIGHT, ORIGINS, WIDTH, write_raster


@pytest.fixture
def task(release):
    return read_task(release / "labels" / "north.pm25.2022")


def vectors_of(system, task, tmp_path):
    with aligned(system, task, tmp_path) as (X, missing):
        return np.array(X), missing


def test_neighbours_equal_scikit_learn(task):
    jitter = np.random.default_rng(0).uniform(-CELL / 9, CELL / 9, len(task))  # no ties
    task = replace(task, x=task.x + jitter, y=task.y + jitter[::-1])
    split = draw_split(task, "cityrep_block", 42)
    model = KNeighborsRegressor(20, weights="distance")
    model.fit(task.metres[split.train], task.target[split.train])
    expected = model.predict(task.metres[split.test])
    assert predict_neighbours(task, [split])[0] == pytest.approx(expected, abs=1e-5)


def test_positional_encoding_is_sphere_c(task, tmp_path):
    X, missing = vectors_of(PositionalEncoding(), task, tmp_path)
    assert X.shape == (len(task), 192)
    assert missing == 0
    lon, lat = np.radians(task.lonlat[5] / 0.001)
    raw = [np.sin(lat), np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon)]
    assert X[5, :3] * 8 == pytest.approx(raw, abs=1e-5)  # 64 unit vectors on the sphere
    assert np.linalg.norm(X, axis=1) == pytest.approx(1, abs=1e-6)
    assert [path.name for path in tmp_path.iterdir()] == ["release"]


def bands(height=HEIGHT, width=WIDTH, count=3):
    return np.random.default_rng(0).uniform(1, 2, (count, height, width)).astype(np.float32)


def test_raster_on_the_grid_of_the_labels_is_read_unchanged(task, tmp_path):
    values = bands()
    write_raster(tmp_path / "e" / "north.tif", values, ORIGINS["north"])
    X, missing = vectors_of(RasterVectors("e", f"{tmp_path}/e/{{city}}.tif"), task, tmp_path)
    expected = values[:, task.row, task.col].T
    assert pytest.approx(expected / np.linalg.norm(expected, axis=1)[:, None], abs=1e-6) == X
    assert missing == 0


def test_finer_raster_is_averaged_by_area(task, tmp_path, monkeypatch):
    monkeypatch.setattr("examples.cityrep.embeddings.NUMBERS_AT_ONCE", 3 * WIDTH * 5)
    fine = bands(HEIGHT * 4, WIDTH * 4)
    path = write_raster(tmp_path / "world.tif", fine, ORIGINS["north"], CELL / 4)
    X, _ = vectors_of(RasterVectors("e", str(path)), task, tmp_path)
    mean = fine.reshape(3, HEIGHT, 4, WIDTH, 4).mean((2, 4))[:, task.row, task.col].T
    assert pytest.approx(mean / np.linalg.norm(mean, axis=1)[:, None], abs=1e-5) == X


def test_missing_vectors_are_zeros_and_counted(task, tmp_path):
    path = write_raster(tmp_path / "half.tif", bands(width=WIDTH // 2), ORIGINS["north"])
    X, missing = vectors_of(RasterVectors("e", str(path)), task, tmp_path)
    east = task.col >= WIDTH // 2
    assert missing == east.sum()
    assert not X[east].any()
    assert X[~east].any(1).all()
    holes = bands()
    holes[1, 12:14] = np.nan
    path = write_raster(tmp_path / "holes.tif", holes, ORIGINS["north"])
    assert vectors_of(RasterVectors("e", str(path)), task, tmp_path)[1] == 2 * WIDTH


def test_unusable_rasters_are_errors(task, tmp_path):
    pattern = f"{tmp_path}/{{city}}.tif"
    with pytest.raises(InputError, match="--raster e: no file at"):
        RasterVectors("e", pattern)
    write_raster(tmp_path / "north.tif", bands(count=3), ORIGINS["north"])
    write_raster(tmp_path / "south.tif", bands(count=2), ORIGINS["south"])
    with pytest.raises(InputError, match=r"north.tif has 3, south.tif has 2"):
        RasterVectors("e", pattern)
    with pytest.raises(NoVectorsError, match=r"no vector for any cell of north.pm25"):
        vectors_of(RasterVectors("e", str(tmp_path / "south.tif")), task, tmp_path)
    write_raster(tmp_path / "nowhere.tif", bands(), (0, 0), crs=None)
    with pytest.raises(InputError, match="has no CRS"):
        RasterVectors("e", str(tmp_path / "nowhere.tif"))


def test_table_gives_each_cell_the_vector_of_its_region(task, tmp_path):
    toy = build_toy(tmp_path / "toy")
    regions = open_city(str(toy), CITY).regions
    ids = regions["region_id"].tolist()
    vectors = np.random.default_rng(0).normal(size=(len(ids), 4)).astype(np.float32)
    metadata = {"label": "x", "dataset": str(toy), "city": CITY}
    counts = {"satellite": np.ones(len(ids), dtype=np.int64)}
    path = tmp_path / "x.parquet"
    write_embeddings(path, ids, counts, {"satellite": vectors}, metadata)
    system = TableVectors("x", path)
    with pytest.raises(NoVectorsError, match="is a table of toytown, not of north"):
        list(system.chunks(task))
    west, south, east, north = regions.total_bounds
    cell = (north - south) / HEIGHT
    folder = write_city(tmp_path, CITY, (west - 20 * cell, north), cell)
    own = read_task(folder)
    X, missing = vectors_of(system, own, tmp_path)
    centre = np.column_stack([regions["lon"], regions["lat"]])[9]
    nearest = int(np.square(own.lonlat - centre).sum(1).argmin())
    assert X[nearest] == pytest.approx(vectors[9] / np.linalg.norm(vectors[9]), abs=1e-6)
    outside = own.lonlat[:, 0] < west - (east - west) / 3
    assert missing >= outside.sum() > 0
    assert not X[outside].any()
    assert missing < len(own)


def write_city(tmp_path, city, origin, cell):
    folder = tmp_path / "labels" / f"{city}.pm25.2022"
    write_raster(folder / "labels.tif", bands(count=1), origin, cell)
    (folder / "task.json").write_text(json.dumps({"task_type": "regression"}))
    return folder
