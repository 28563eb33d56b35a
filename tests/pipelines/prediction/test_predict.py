import json
import subprocess
import sys

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipelines.common.errors import InputError
from pipelines.prediction import predict_regions
from pipelines.prediction.cli import main
from pipelines.prediction.inputs import from_dataset
from pipelines.prediction.place import make_place
from pipelines.prediction.predict import predict
from pipelines.prediction.vectors import Vectors
from tests.pipelines.prediction.conftest import make_town
from tests.pipelines.prediction.test_cli import flags
from tests.pipelines.prediction.test_predict_new import grid

DIES = """
import os, signal, sys
import pipelines.evaluation.embed.images as embed
write = embed._write_part
def write_and_die(*arguments):
    write(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)
embed._write_part = write_and_die
from pipelines.prediction.cli import main
main(sys.argv[1:])
"""


def silent(text: str) -> None:
    pass


def run(town, **changed):
    arguments = {
        "images": town.photos,
        "regions": town.tracts,
        "region_id": "tract",
        "indicators": {"height": "m"},
        "encoder": "colour_texture",
        "log": silent,
    }
    return predict_regions(**{**arguments, **changed})


@pytest.fixture(scope="module")
def predictions(town, tmp_path_factory):
    folder = tmp_path_factory.mktemp("out")
    return run(town, output_dir=folder), folder


def test_result_has_estimates_intervals_and_status(town, predictions, tmp_path):
    table, folder = predictions
    assert list(table.columns) == [
        *("region_id", "n_images", "height", "height_predicted", "height_low", "height_high"),
        *("height_status", "geometry"),
    ]
    assert table.crs == "EPSG:4326"
    assert table["region_id"].tolist() == town.frame["tract"].tolist()
    hidden = town.frame["height"].isna().to_numpy()
    assert (table["height_status"][~hidden] == "held_out").all()
    assert set(table["height_status"][hidden]) <= {"unlabelled", "unlike_training"}
    np.testing.assert_array_equal(table["height"], town.frame["height"])
    assert (table["height_low"] <= table["height_predicted"]).all()
    assert (table["height_predicted"] <= table["height_high"]).all()
    assert (table["height_low"] >= 0).all()
    assert (table["n_images"] == 1).all()
    truth, found = town.values[hidden], table["height_predicted"][hidden]
    assert np.corrcoef(truth, found)[0, 1] > 0.9
    inside = (table["height_low"][hidden] <= truth) & (truth <= table["height_high"][hidden])
    assert inside.mean() > 0.8

    verdict = table.attrs["verdicts"][0]
    assert verdict["better_than_location"] == "yes"
    assert "better than location alone in new districts" in verdict["sentence"]
    assert verdict["images"]["r2"] > 0.8
    assert verdict["gain"]["low"] > 0
    assert 0.8 <= verdict["coverage"] <= 1
    written = json.loads((folder / "verdict.json").read_text())
    assert written["verdicts"][0]["sentence"] == verdict["sentence"]

    table.to_file(tmp_path / "predictions.gpkg")
    for stored in (
        gpd.read_parquet(folder / "predictions.parquet"),
        gpd.read_file(tmp_path / "predictions.gpkg"),
    ):
        np.testing.assert_array_equal(stored["height_high"], table["height_high"])
        assert stored["region_id"].tolist() == table["region_id"].tolist()


def test_resumes_after_sigkill(town, predictions, tmp_path, capsys):
    _, whole = predictions
    command = [sys.executable, "-c", DIES, *flags(town, tmp_path)]
    died = subprocess.run(command, capture_output=True, text=True)
    assert died.returncode == -9, died.stderr
    assert not (tmp_path / "predictions.parquet").exists()
    assert main(flags(town, tmp_path)) == 0
    said = capsys.readouterr().err
    assert "Going on from 1 parts" in said or "Resum" in said
    assert "better than location alone in new districts" in said
    pd.testing.assert_frame_equal(
        *(pd.DataFrame(gpd.read_parquet(one / "predictions.parquet")) for one in (tmp_path, whole))
    )
    verdicts = [json.loads((one / "verdict.json").read_text()) for one in (tmp_path, whole)]
    assert verdicts[0] == verdicts[1]
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        *("embeddings", "predictions.gpkg", "predictions.html", "predictions.parquet"),
        *("rejects.parquet", "verdict.json"),
    }


def test_labels_of_a_district_do_not_change_its_predictions():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(144, 6))
    y = X[:, 0] + 0.1 * rng.normal(size=144) + 20
    vectors = Vectors(np.arange(144), X, np.ones(144, int))
    inputs = grid(y)
    place = make_place(inputs.regions, inputs.indicators, "block", inputs.block_m)
    own = place.districts == place.districts[70]
    before, after = (
        predict(grid(labels), vectors).table["height_predicted"]
        for labels in (y, np.where(own, y + 30, y))
    )
    np.testing.assert_array_equal(before[own], after[own])
    assert not (before[~own] == after[~own]).all()


def test_counts_unusable_photos_and_marks_unlike_ones(tmp_path):
    own = make_town(tmp_path)
    listing = pd.read_csv(own.photos / "photos.csv")
    files = [own.photos / name for name in listing["file"]]
    listing.loc[0, "lon"] += 5.0
    listing.loc[5, "lat"] = np.nan
    files[1].write_bytes(b"no image")
    Image.new("1", (20_000, 10_000)).save(files[2])
    listing.to_csv(own.photos / "photos.csv", index=False)
    (own.photos / "extra.png").write_bytes(files[3].read_bytes())
    noise = np.random.default_rng(1).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(files[4])  # of a region without a label
    told = []
    table = run(own, output_dir=tmp_path / "out", log=told.append)
    assert (table["height_status"][:3] == "no_image").all()
    assert table["height_predicted"][:3].isna().all()
    assert (table["n_images"][:3] == 0).all()
    assert table["height_status"][4] == "unlike_training"
    assert (table["height_status"] == "unlike_training").mean() < 0.1
    assert "1 images are excluded: outside regions." in told
    assert "1 images are excluded: not listed." in told
    assert "1 images are excluded: no position." in told
    rejects = pd.read_parquet(tmp_path / "out" / "rejects.parquet")
    assert rejects.set_index("file")["reason"]["0005.png"] == "no_position"
    assert set(rejects["reason"]) == {
        *("outside_regions", "no_position", "not_listed", "unreadable", "too_large")
    }


def test_random_protocol_is_named_and_takes_frames_and_a_model_folder(town, tiny_model_dir):
    listing = pd.read_csv(town.photos / "photos.csv")
    listing["file"] = [str(town.photos / name) for name in listing["file"]]
    labels = pd.DataFrame(town.frame[["tract", "height"]]).sample(frac=1, random_state=0)
    told = []
    frames = {"images": listing, "labels": labels, "encoder": str(tiny_model_dir)}
    found = run(town, **frames, protocol="random", log=told.append)
    np.testing.assert_array_equal(found["height"], town.frame["height"])
    assert found["height_predicted"].notna().all()
    assert any("16 dimensions" in line for line in told)
    assert any("Protocol: random" in line for line in told)
    assert found.attrs["verdicts"][0]["protocol"] == "random"


def test_dataset_contains_regions_labels_and_units(small_city):
    inputs = from_dataset(str(small_city), None, {}, "auto")
    population = inputs.indicators[0]
    assert (population.name, population.unit) == ("population", "people")
    assert len(population.raw) == len(inputs.regions) == 9
    assert inputs.source.num_images == {"street_view": 9, "satellite": 9}
    with pytest.raises(InputError, match="which contains regions"):
        predict_regions(small_city, side_m=500, encoder="colour_texture")
    with pytest.raises(InputError, match="no indicator rent; it has population"):
        predict_regions(small_city, indicators=["rent"], encoder="colour_texture")
