from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from examples.cityrep.report import MEAN, summarise
from examples.cityrep.run import Settings, run
from examples.cityrep.scores import Store, block_sums, draw, metrics
from examples.cityrep.splits import SEEDS, block_ids, draw_split
from examples.cityrep.systems import CONTROLS, predict_neighbours
from examples.cityrep.tasks import read_task
from pipelines.evaluation.analysis.bootstrap import draw_cell, draw_counts, interval
from pipelines.evaluation.probe.predictions import PredictedSplit

FAST = CONTROLS[:2]
KNN, MEAN_LABEL = ("coordinates", "none", "knn"), ("mean", "none", "mean")


def test_one_command_leaves_a_page_and_its_rows(release, tmp_path, cityrep):
    out = tmp_path / "out"
    code, errors = cityrep(
        "--data",
        release,
        "--output_dir",
        out,
        "--systems",
        "mean",
        "coordinates",
        "pe",
        "--seeds",
        42,
        24,
    )
    assert code == 0
    assert "Not scored: south.nightlight: south has no task nightlight" in errors
    scores = pd.read_csv(out / "scores.csv")
    assert len(scores) == 3 * 5 * 3 * 2  # tasks, systems, protocols, seeds
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
    for text in (
        "Weak",
        "Strong",
        "coordinates (knn)",
        "pe (ridge)",
        "south has no task nightlight",
    ):
        assert text in page
    assert "<script" not in page


def test_a_rerun_computes_what_is_missing_and_gives_the_same(release, tmp_path, cityrep):
    out = tmp_path / "out"
    command = ("--data", release, "--output_dir", out, "--systems", "mean", "pe")
    assert cityrep(*command)[0] == 0
    rows, first = (out / "results.jsonl").read_bytes(), (out / "scores.csv").read_bytes()
    assert cityrep(*command)[0] == 0
    assert (out / "results.jsonl").read_bytes() == rows
    lines = rows.splitlines(keepends=True)
    (out / "results.jsonl").write_bytes(b"".join(lines[:-7]) + lines[-7][:40])  # killed
    assert cityrep(*command)[0] == 0
    assert (out / "scores.csv").read_bytes() == first
    assert len((out / "results.jsonl").read_bytes().splitlines()) == len(lines)


def test_other_labels_are_scored_anew(release, tmp_path):
    settings = Settings(protocols=("cityrep_random",), cities=["south"])
    before = run(release, tmp_path / "out", settings, FAST, progress=False).rows
    samples = read_task(release / "labels" / "south.pm25.2022")
    columns = {name: getattr(samples, name) for name in ("row", "col", "x", "y")}
    changed = pd.DataFrame({**columns, "label": np.square(samples.values)})
    changed.to_parquet(release / "labels" / "south.pm25.2022" / "samples.parquet")
    after = run(release, tmp_path / "out", settings, FAST, progress=False).rows
    assert len(after) == len(before)
    assert after[-1].r2 != before[-1].r2


def test_scores_and_intervals_from_block_sums_equal_those_from_predictions(release, tmp_path):
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
    assert (row.r2, row.rmse) == pytest.approx(tuple(map(float, metrics(sums)[:2])))
    cells = {name: [one for one in scored.rows if one.probe == name] for name in ("mean", "knn")}
    drawn = draw(cells, replicates=4000)
    found = interval(drawn["knn"].values - drawn["mean"].values)
    systems = draw_cell(splits, *draw_counts((s.blocks for s in splits), 4000, seed=0)).systems
    expected = interval(systems[KNN].less(systems[MEAN_LABEL], "r2"))
    assert found.estimate == pytest.approx(expected.estimate, abs=1e-6)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.05)
    line = summarise(scored.rows).set_index("system").loc["coordinates (knn)"]
    assert line["r2"] == pytest.approx(np.mean([one.r2 for one in cells["knn"]]))


def test_sums_of_blocks_add_up():
    rng = np.random.default_rng(0)
    truth, predicted, blocks = rng.normal(size=50), rng.normal(size=50), rng.integers(0, 100, 50)
    r2, rmse, mae = metrics(block_sums(truth, predicted, blocks).sum(0))
    error = np.square(truth - predicted)
    assert rmse == pytest.approx(np.sqrt(error.mean()))
    assert mae == pytest.approx(np.abs(truth - predicted).mean())
    assert r2 == pytest.approx(1 - error.sum() / np.square(truth - truth.mean()).sum())


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--cities", "paris"), "No task of the city paris"),
        (("--raster", "mine"), "--raster takes NAME=PATH, got 'mine'"),
        (("--raster", "mean=x.tif"), "the name 'mean' is taken"),
        (("--table", "x=nothing.parquet"), "There is no embedding table at nothing.parquet"),
        (("--systems",), "Nothing to score: give --systems"),
        (("--buffer_m", "-1"), "--buffer_m must not be negative"),
    ],
)
def test_what_a_user_can_correct_is_one_line(release, tmp_path, cityrep, more, message):
    code, errors = cityrep("--data", release, "--output_dir", tmp_path / "out", *more)
    assert code == 2
    assert message in errors
    assert errors.count("\n") == 1


def test_a_buffer_that_leaves_nothing_is_counted(release, tmp_path):
    settings = Settings(cities=["south"], buffer_m=90_000)
    scored = run(release, tmp_path / "out", settings, FAST, progress=False)
    assert {row.protocol for row in scored.rows} == {"cityrep_random", "cityrep_block"}
    reasons = [one.reason for one in scored.skipped]
    assert any(one.startswith("block, seed 42") and "leaves no cell" in one for one in reasons)


def test_rows_of_another_program_are_refused(tmp_path, release, cityrep):
    out: Path = tmp_path / "out"
    out.mkdir()
    (out / "results.jsonl").write_text('{"city": "north"}\n')
    code, errors = cityrep("--data", release, "--output_dir", out)
    assert code == 2
    assert "line 1 is no row of this program" in errors
    assert not Store(tmp_path / "none.jsonl").rows
