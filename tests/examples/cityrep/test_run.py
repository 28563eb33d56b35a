import numpy as np
import pandas as pd
import pytest

from examples.cityrep.page import MEAN, REFERENCE
from examples.cityrep.report import published_means, summarise, verdicts
from examples.cityrep.run import Settings, run
from examples.cityrep.scores import block_sums, draw, metrics
from examples.cityrep.splits import SEEDS, block_ids, draw_split
from examples.cityrep.systems import CONTROLS, predict_neighbours
from examples.cityrep.tasks import read_task
from pipelines.evaluation.analysis.bootstrap import draw_cell, draw_counts, interval
from pipelines.evaluation.probe.predictions import PredictedSplit

from .conftest import HEIGHT, ORIGINS, WIDTH, write_raster

FAST = CONTROLS[:2]
KNN, MEAN_LABEL = ("coordinates", "none", "knn"), ("mean", "none", "mean")


def test_command_writes_scores_and_page_and_resumes(release, tmp_path, cityrep):
    out = tmp_path / "out"
    systems = ("mean", "coordinates", "pe")
    command = ("--data", release, "--output_dir", out, "--seeds", 42, "--systems", *systems)
    code, errors = cityrep(*command)
    assert code == 0
    assert "Not scored: south.nightlight: south has no task nightlight" in errors
    scores = pd.read_csv(out / "scores.csv")
    assert len(scores) == 3 * 5 * 3  # tasks, systems with probes, protocols
    columns = ["city", "task", "protocol", "system", "probe", "seed", "n_test", "r2", "rmse", "mae"]
    assert list(scores)[:10] == columns
    knn = scores[(scores["probe"] == "knn") & (scores["protocol"] == "cityrep_random")]
    assert (knn["r2"] > 0.5).all()
    assert (knn["missing"] == 0).all()
    summary = pd.read_csv(out / "summary.csv")
    assert set(summary["city"]) == {"north", "south", MEAN}
    assert (summary["low"] <= summary["high"]).all()
    beaten = pd.read_csv(out / "beaten.csv")
    assert set(beaten["model"]) == {"Weak"}
    assert set(beaten["protocol"]) == {"cityrep_block", "cityrep_random"}
    page = (out / "page.html").read_text()
    for text in ("At a glance", "Weak", "coordinates (knn)", "pe (ridge)", "no task nightlight"):
        assert text in page
    assert "<script" not in page

    rows, first = (out / "results.jsonl").read_bytes(), (out / "scores.csv").read_bytes()
    lines = rows.splitlines(keepends=True)
    (out / "results.jsonl").write_bytes(b"".join(lines[:-7]) + lines[-7][:40])  # killed
    assert cityrep(*command)[0] == 0
    assert (out / "scores.csv").read_bytes() == first
    assert len((out / "results.jsonl").read_bytes().splitlines()) == len(lines)


def test_changed_labels_are_rescored(release, tmp_path):
    settings = Settings(protocols=("cityrep_random",), cities=["south"])
    before = run(release, tmp_path / "out", settings, FAST, progress=False).rows
    samples = read_task(release / "labels" / "south.pm25.2022")
    columns = {name: getattr(samples, name) for name in ("row", "col", "x", "y")}
    changed = pd.DataFrame({**columns, "label": np.square(samples.values)})
    changed.to_parquet(release / "labels" / "south.pm25.2022" / "samples.parquet")
    after = run(release, tmp_path / "out", settings, FAST, progress=False).rows
    assert len(after) == len(before)
    assert after[-1].r2 != before[-1].r2


def test_block_sums_give_the_scores_and_intervals_of_predictions(release, tmp_path):
    settings = Settings(protocols=("cityrep_block",), cities=["north"], tasks=["pm25"])
    scored = run(release, tmp_path / "out", settings, FAST, progress=False)
    task = read_task(release / "labels" / "north.pm25.2022")
    blocks, splits = block_ids(task), []
    for seed in SEEDS:
        split = draw_split(task, "cityrep_block", seed)
        truth = task.target[split.test].astype(float)
        mean = np.full(len(truth), task.target[split.train].mean())
        knn = predict_neighbours(task, [split])[0]
        predictions = {KNN: np.asarray(knn)[None], MEAN_LABEL: mean[None]}
        own = blocks[split.test]
        splits.append(PredictedSplit("cityrep_block", "pm25", seed, truth, own, predictions))
    row = next(one for one in scored.rows if one.probe == "knn" and one.seed == 42)
    first = splits[0]
    sums = block_sums(first.truth, first.predictions[KNN][0], first.blocks).sum(0)
    assert (row.r2, row.rmse, row.mae) == pytest.approx(tuple(map(float, metrics(sums))))
    error = np.square(first.truth - first.predictions[KNN][0])
    assert row.rmse == pytest.approx(np.sqrt(error.mean()))
    assert row.mae == pytest.approx(np.sqrt(error).mean())
    spread = np.square(first.truth - first.truth.mean()).sum()
    assert row.r2 == pytest.approx(1 - error.sum() / spread)
    cells = {name: [one for one in scored.rows if one.probe == name] for name in ("mean", "knn")}
    drawn = draw(cells, replicates=4000)
    found = interval(drawn["knn"].values - drawn["mean"].values)
    systems = draw_cell(splits, *draw_counts((s.blocks for s in splits), 4000, seed=0)).systems
    expected = interval(systems[KNN].less(systems[MEAN_LABEL], "r2"))
    assert found.estimate == pytest.approx(expected.estimate, abs=1e-6)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.05)
    line = summarise(scored.rows).set_index("system").loc["coordinates (knn)"]
    assert line["r2"] == pytest.approx(np.mean([one.r2 for one in cells["knn"]]))


@pytest.mark.parametrize(
    ("more", "messages"),
    [
        (("--raster", "mine"), ["--raster takes NAME=PATH, got 'mine'"]),
        (("--raster", "coordinates=x.tif"), ["the name 'coordinates' is taken"]),
        (("--raster", "a=x.tif", "--raster=b=y.tif"), ["Give --raster once"]),
        (("--table", "x=nothing.parquet"), ["--table x: no file at nothing.parquet"]),
        (("--head", "mlp", "--device", "tpu9"), ["--device tpu9 cannot be used here"]),
        (
            ("--cities", "paris", "--tasks", "joy", "--systems", "coordinate", "--protocols", "x"),
            ["city paris", "Unknown task joy", "Did you mean 'coordinates'?", "--protocols takes"],
        ),
        (
            ("--seeds", "-1", "--buffer_m", "-1", "--raster", "e=no.tif"),
            ["--seeds must be from 0", "--buffer_m must not", "--raster e: no file at no.tif"],
        ),
    ],
)
def test_user_errors_are_reported_together_on_one_line(release, tmp_path, cityrep, more, messages):
    code, errors = cityrep("--data", release, "--output_dir", tmp_path / "out", *more)
    assert code == 2
    assert all(message in errors for message in messages), errors
    assert errors.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_damaged_tasks_are_reported_before_scoring(release, tmp_path, cityrep):
    labels = release / "labels"
    (labels / "north.nightlight.2024" / "task.json").write_text("[]")
    (labels / "north.pm25.2022" / "labels.tif").unlink()
    (labels / "south.pm25.2022" / "labels.tif").write_bytes(b"II*\0not a raster")
    (release / "published" / "random_summary.csv").write_bytes(b"\xff")
    code, errors = cityrep("--data", release, "--output_dir", tmp_path / "out")
    assert code == 2
    assert errors.count("\n") == 1
    for text in ("not a JSON", "neither samples.parquet", "south.pm25.2022 cannot be", "random_"):
        assert text in errors


def test_missing_vectors_are_counted(release, tmp_path, cityrep):
    bands = np.random.default_rng(0).uniform(1, 2, (3, HEIGHT, WIDTH)).astype(np.float32)
    write_raster(tmp_path / "north.tif", bands[:, :, : WIDTH // 2], ORIGINS["north"])
    bands[1] = np.nan
    write_raster(tmp_path / "south.tif", bands, ORIGINS["south"])
    out = tmp_path / "out"
    command = ("--data", release, "--output_dir", out, "--tasks", "pm25", "--seeds", 42, 42)
    own = ("--raster", f"own={tmp_path}/{{city}}.tif")
    code, errors = cityrep(*command, "--systems", "coordinates", "coordinates", *own)
    assert code == 0
    assert "own: dimension 2 is missing everywhere in south" in errors
    scores = pd.read_csv(out / "scores.csv")
    assert not scores.duplicated(["city", "task", "protocol", "system", "probe", "seed"]).any()
    assert (scores.loc[scores["system"] == "own", "missing"] > 300).all()
    page = (out / "page.html").read_text()
    assert "Cells without a vector" in page
    assert "dimension 2 is missing" in page
    code, errors = cityrep(*command, "--systems", "none", "--cities", "south", *own)
    assert code == 2
    assert "Nothing was scored" in errors


def test_verdicts_compare_neighbours_with_the_best_model_of_images_or_maps():
    cell = {"protocol": "cityrep_block", "task": "pm25"}
    ours = {
        "a": (0.6, 0.5, 0.7),
        "b": (0.4, 0.2, 0.5),
        "c": (0.3, 0.2, 0.4),
        "d": (0.2, 0.1, 0.25),
    }
    summary = pd.DataFrame(
        [
            {**cell, "city": city, "system": REFERENCE, "r2": r2, "low": low, "high": high}
            for city, (r2, low, high) in ours.items()
        ]
    )
    published = pd.DataFrame(
        [
            {**cell, "city": city, "model": model, "r2": r2, "r2_sd": 0.1}
            for city in ours
            for model, r2 in (("PE", 0.9), ("TESSERA", 0.35), ("SatCLIP", 0.1))
        ]
    )
    found = verdicts(summary, published_means(summary, published)).set_index("city")
    expected = ["location_ahead", "location_first", "model_first", "model_ahead"]
    assert found.loc[list(ours), "verdict"].tolist() == expected
    assert found["model"].unique().tolist() == ["TESSERA"]
    assert found.loc[list(ours), "rank"].tolist() == [1, 1, 2, 2]
    assert found["of"].unique().tolist() == [3]


def test_buffer_without_training_cells_is_reported(release, tmp_path):
    settings = Settings(cities=["south"], buffer_m=90_000)
    scored = run(release, tmp_path / "out", settings, FAST, progress=False)
    assert {row.protocol for row in scored.rows} == {"cityrep_random", "cityrep_block"}
    reasons = [one.reason for one in scored.skipped]
    assert any(one.startswith("block, seed 42") and "leaves no cell" in one for one in reasons)


def test_rows_of_another_program_are_an_error(tmp_path, release, cityrep):
    (tmp_path / "results.jsonl").write_text('{"city": "north"}\n')
    code, errors = cityrep("--data", release, "--output_dir", tmp_path)
    assert code == 2
    assert "line 1 is not a valid result row" in errors
