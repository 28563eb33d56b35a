import json
import shutil
import subprocess
import sys
from dataclasses import replace

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from dataset_builders.splits import local_xy
from pipelines.evaluation.analysis.bootstrap import Interval, Reference, compare, group_names
from pipelines.evaluation.analysis.reach import morans_i
from pipelines.evaluation.analysis.verdicts import (
    ANSWERS,
    answer,
    best_of_indicator,
    best_views,
    is_control,
    score,
    validation_errors,
)
from pipelines.evaluation.cli import main
from pipelines.evaluation.embed.trainings import Training
from pipelines.evaluation.errors import InputError
from pipelines.evaluation.probe.predictions import (
    PREDICTIONS_FOLDER,
    VALIDATION_FOLDER,
    current_predictions,
)
from pipelines.evaluation.report import figures
from pipelines.evaluation.report.frame import key_of, read_city, read_results
from pipelines.evaluation.report.limits import distance_table, limits, systems_table
from pipelines.evaluation.report.tables import score_table, spread_table
from tests.pipelines.evaluation.toy import CITY, build_toy

FAST = ["--seeds", "2", "--mlp_max_epochs", "3", "--mlp_weight_decays", "0.01"]
METRICS = ("r2", "rmse", "mae", "spearman")


def quick_run(folder, **toy):
    """Run embed, probe and report by command line."""
    dataset = str(build_toy(folder / "dataset", side=12, street_views=1, **toy))
    where = ["--dataset_name", dataset, "--city", CITY, "--output_dir"]
    assert main(["embed", "--encoder", "colour_texture", *where, str(folder / "embeddings")]) == 0
    table = str(folder / "embeddings" / CITY / "colour_texture.parquet")
    assert main(["probe", "--embeddings", table, *where, str(folder / "r"), *FAST]) == 0
    assert main(["report", "--output_dir", str(folder / "r")]) == 0
    return folder / "r"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return quick_run(tmp_path_factory.mktemp("run"))


@pytest.fixture
def city(run):
    return read_city(run / CITY)


def rows_of(city, **wanted):
    frame = city.frame
    return frame[(frame[[*wanted]] == pd.Series(wanted)).all(axis=1)]


def table_of(run, name):
    return pd.read_csv(run / "tables" / f"{CITY}-{name}.csv", keep_default_na=False)


# ------------------------------------------------------------------------ the frame and its tables


def test_results_are_one_frame(run, city):
    frame = read_results(run)
    assert len(frame) == len((run / CITY / "results.jsonl").read_text().splitlines())
    assert frame["current"].all()
    assert set(METRICS) < set(frame)
    beside = frame[frame["beside"] == "coordinates"]
    assert set(beside["system"]) == {"colour_texture"}
    assert (beside["label"] == "coordinates+colour_texture").all()


@pytest.mark.parametrize("metric", METRICS)
def test_tables_have_controls_first_and_one_best_per_column(city, metric):
    table = score_table(city, "random", metric)
    assert [c.name for c in table.columns] == [
        "system",
        "view",
        "probe",
        "population",
        "green_share",
    ]
    assert list(dict.fromkeys(table.columns[0].text)) == [
        "mean (control)", "coordinates only (control)", "colour_texture (control)",
    ]  # fmt: skip
    assert [row[0] for row in table.footer] == ["n test", "label SD (test)"]
    for column in table.columns[3:]:
        known = [value for value in column.values if value is not None]
        (best,) = [v for v, bold in zip(column.values, column.bold, strict=True) if bold]
        assert best == (min(known) if metric in ("rmse", "mae") else max(known))


def test_tables_are_written_unrounded(run, city):
    mine = rows_of(city, protocol="random", system="colour_texture", view="both", probe="ridge",
                   indicator="population", beside="")["r2"]  # fmt: skip
    frame = table_of(run, "random-r2")
    (found,) = frame[
        (frame[["system", "view", "probe"]] == ["colour_texture (control)", "both", "ridge"]).all(1)
    ].to_dict("records")
    assert float(found["population"]) == pytest.approx(np.mean(mine), abs=1e-12)
    assert float(found["population sd"]) == pytest.approx(np.std(mine, ddof=1), abs=1e-12)
    text = (run / "report.md").read_text()
    assert f"{np.mean(mine):.3f} ± {np.std(mine, ddof=1):.3f}" in text.replace("**", "")


def test_results_without_controls_raise(city):
    for control in ("mean", "coordinates"):
        without = city.frame[city.frame["system"] != control]
        with pytest.raises(InputError, match=f"none of the control '{control}'"):
            score_table(replace(city, frame=without), "random", "r2")
    alone = replace(city, frame=rows_of(city, system="mean"))
    assert score_table(alone, "random", "r2").columns[0].text == ["mean (control)"]


def test_report_shows_bootstrap_differences(run, city):
    wanted = ("block", "colour_texture", "satellite", "ridge", "green_share")
    reference = Reference("coordinates", "none", "knn")
    one = next(
        d for d in compare(city.folder, reference)
        if (d.protocol, d.system, d.view, d.probe, d.indicator) == wanted
    )  # fmt: skip
    known = json.loads((city.folder / "differences.json").read_text())
    stored = next(
        d for d in known
        if (d["protocol"], d["system"], d["view"], d["probe"], d["indicator"],
            d["reference_probe"]) == (*wanted, "knn")
    )  # fmt: skip
    found = one.intervals["r2"]
    assert stored["intervals"]["r2"] == {
        "estimate": found.estimate, "low": found.low, "high": found.high
    }  # fmt: skip
    text = (run / "report.md").read_text()
    assert f"{found.estimate:+.3f} \\[{found.low:+.3f}, {found.high:+.3f}\\]" in text


def test_report_shows_coverage_of_prediction_intervals(run):
    rows = table_of(run, "block-coverage")
    assert set(rows["quantile over"]) == {"regions", "blocks"}
    shown = rows[rows["system"].str.startswith("mean") & (rows["quantile over"] == "regions")]
    shares = []
    parts = (PREDICTIONS_FOLDER, VALIDATION_FOLDER)
    tested, validated = (
        frame[
            (frame[["system", "protocol", "indicator"]] == ["mean", "block", "population"]).all(1)
        ]
        for frame in (current_predictions(run / CITY, part) for part in parts)
    )
    for seed in set(tested["split_seed"]):
        missed, residuals = (
            np.abs(own["truth"] - own["prediction"]).to_numpy()
            for own in (frame[frame["split_seed"] == seed] for frame in (tested, validated))
        )
        rank = int(np.ceil((len(residuals) + 1) * 0.9))
        width = np.sort(residuals)[min(rank, len(residuals)) - 1]
        shares.append(float((missed <= width).mean()))
    assert float(shown["population"].iloc[0]) == pytest.approx(np.mean(shares))


def test_distances_between_test_and_training_regions(city):
    random, block = distance_table(city).frame().iloc[:, 1:].to_numpy(float)
    assert random[1] == pytest.approx(750, abs=400)  # cells of 0.01 degrees: a neighbour
    assert random[3] > 90
    assert block[3] == 0, "the buffer keeps neighbours apart"
    assert block[0] > random[2]
    assert random[4] == 0, "some test region touches training"
    assert block[4] > 600, "a cell lies between, 711 m wide"


def test_limits_name_neighbours_in_the_stored_split(city):
    assert not any("stored" in line for line in limits(city))
    summary = {**city.summary, "stored_neighbours": {"train": 14, "validation": 3}}
    (line,) = [line for line in limits(replace(city, summary=summary)) if "stored" in line]
    assert "14 train and 3 validation regions are left out" in line


# ------------------------------------------------------------------------ the page


def test_report_marks_synthetic_data_and_shows_caveats_and_figures(run):
    text = (run / "report.md").read_text()
    assert text.splitlines()[0].endswith("(synthetic)")
    titles = [line for line in text.splitlines() if line.startswith(("**Sys", "**R²", "!["))]
    assert len(titles) > 8
    assert [line for line in titles if "synthetic" not in line] == []
    assert "1, no street_view vector in table colour_texture" in text
    assert "nothing, random: 2 split(s) not scored: no region has a label" in text
    assert "street_view: unreadable 1" in text
    assert "paper" not in text.lower()
    drawn = {f"{CITY}-{p}-{k}.png" for p in ("block", "random") for k in ("map", "scatter")}
    drawn |= {f"{CITY}-clusters.png", f"{CITY}-overall.png"}
    drawn |= {f"{CITY}-reach-population.png", f"{CITY}-reach-green-share.png"}
    assert {path.name for path in (run / "figures").iterdir()} == drawn
    page = (run / "report.html").read_text()
    for name in drawn:
        assert f"figures/{name}" in text
        assert f'src="figures/{name}"' in page
        pixels = matplotlib.image.imread(run / "figures" / name)
        assert pixels.shape[1] > 600
        assert pixels.std() > 0.05, "an empty picture"
    assert "<script" not in page
    assert f'id="{CITY}-block-spearman"' in page


def test_report_begins_with_added_value_and_controls(run):
    text = (run / "report.md").read_text()
    heads = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("| system")
    ]
    added = ["system", "view", "mean alone", "mean added to location"]
    assert [head[:4] for head in heads[:2]] == [added, added]  # of either protocol
    assert heads[2] == [
        "system", "view", "probe", "new districts R²", "new districts gain over location alone",
        "between labelled regions R²", "between labelled regions gain over location alone",
    ]  # fmt: skip
    assert "No trained system is among the results" in text.split("|")[0]


def test_overall_table_averages_over_indicators(run, city):
    frame = table_of(run, "overall").set_index(["system", "probe"])
    own = rows_of(city, protocol="random", system="coordinates")
    means = own.groupby(["probe", "indicator"])["r2"].mean().groupby("probe").mean()
    for probe, shown in (("knn", "k-NN"), ("gbm", "trees"), ("ridge", "ridge")):
        found = frame.loc[("coordinates only (control)", shown)]
        value = found["between labelled regions R²"]
        assert value == "" or float(value) == pytest.approx(means[probe], abs=1e-4)
        gain = found["between labelled regions gain over location alone"]
        assert gain == ("" if means[probe] == means.max() else gain)
        assert gain == "" or float(gain) == pytest.approx(means[probe] - means.max())


def test_reach_table_uses_residuals_of_the_block_protocol(run, city):
    frame = table_of(run, "reach").set_index("indicator")
    assert set(frame.index) == {"population", "green_share"}
    assert set(frame["system"]) <= {
        f"colour_texture (control), {view}, {probe}"
        for view in ("street view", "satellite", "both") for probe in ("ridge", "MLP")
    }  # fmt: skip
    _, view, probe = frame.loc["population", "system"].split(", ")
    tested = current_predictions(run / CITY, PREDICTIONS_FOLDER)
    names = ["colour_texture", view.replace(" ", "_"), probe.lower(), "block", "population"]
    fields = ["system", "view", "probe", "protocol", "indicator"]
    tested = tested[(tested[fields] == names).all(1)]
    residual = (tested["prediction"] - tested["truth"]).groupby(tested["region_id"]).mean()
    regions = city.folder / "regions.parquet"
    place = pd.read_parquet(regions).set_index("region_id").loc[residual.index]
    xy = np.stack(local_xy(place["lon"], place["lat"]), axis=1)
    expected = morans_i(xy, residual.to_numpy())
    assert float(frame.loc["population", "Moran's I"]) == pytest.approx(expected.value)
    measured = city.metadata("colour_texture")["reach"][names[1]]["population"]
    unlike = measured["unlike"] / measured["outside"]
    assert float(frame.loc["population", "outside training distribution"]) == pytest.approx(unlike)
    assert (
        f"of {measured['outside']} regions of held-out districts" in (run / "report.md").read_text()
    )


def test_location_encoders_have_no_verdict(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "r")
    summary = json.loads((folder / CITY / "probe.json").read_text())
    summary["systems"]["colour_texture"]["uses"] = ["coordinates", "geoclip"]
    del summary["digest"]
    (folder / CITY / "probe.json").write_text(json.dumps(summary))
    shutil.rmtree(folder / "tables")
    assert main(["report", "--output_dir", str(folder)]) == 0
    tables = {path.name for path in (folder / "tables").iterdir()}
    assert f"{CITY}-overall.csv" in tables
    assert not tables & {f"{CITY}-verdicts.csv", f"{CITY}-reach.csv"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (("coordinates", "none", "knn"), True),
        (("an_atlas", "none", "ridge"), True),
        (("coordinates+an_atlas", "none", "ridge"), False),
        (("urbanln", "both", "ridge"), False),
    ],
)
def test_controls_are_recognised_by_their_view(name, expected):
    assert is_control(name) is expected


def test_report_without_the_dataset_names_what_is_unknown(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "r")
    summary = json.loads((folder / CITY / "probe.json").read_text())
    del summary["systems"]["colour_texture"]["reach"], summary["digest"]  # as of earlier runs
    (folder / CITY / "probe.json").write_text(json.dumps({**summary, "dataset_name": "gone/away"}))
    results = folder / CITY / "results.jsonl"
    lines = results.read_text().splitlines(keepends=True)
    row = json.loads(lines[0].replace(summary["table_hash"], "0" * 16))
    del row["digest"]
    stale = json.dumps(row) + "\n"
    results.write_text("".join([*lines[:-1], stale, lines[-1][:50]]))
    assert main(["report", "--output_dir", str(folder)]) == 0
    text = (folder / "report.md").read_text()
    assert "Distances between test and training regions: unknown" in text
    assert "1 rows of results.jsonl were computed on other regions" in text
    assert "Not all rows have all splits" in text
    assert "training distribution" not in text


def test_real_data_is_not_marked_synthetic_and_has_no_map_without_geometry(tmp_path):
    text = (quick_run(tmp_path, synthetic=False, geometry=False) / "report.md").read_text()
    assert "synthetic" not in text
    assert text.count("No map: the dataset has no region geometries") == 2
    assert not list(tmp_path.rglob("*-map.png"))


def test_no_results_is_an_error(tmp_path, capsys):
    assert main(["report", "--output_dir", str(tmp_path)]) == 2
    assert "Run `python evaluate.py probe` first" in capsys.readouterr().err


def test_report_does_not_import_torch():
    code = "import sys, pipelines.evaluation.report.report; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# ------------------------------------------------------------------------ figures


@pytest.fixture
def drawn_scatter(tmp_path, monkeypatch):
    """Scatter plot of eight indicators with long units, before saving."""
    rng = np.random.default_rng(0)
    frames, indicators, scores = [], {}, {}
    for number in range(8):
        name = f"indicator_number_{number}"
        truth = rng.normal(size=50) + 10 * (number % 2)
        rows = {"indicator": name, "truth": truth, "prediction": truth + rng.normal(size=50)}
        frames.append(pd.DataFrame(rows))
        unit = "$ per square kilometre, 100 % of the residents"
        transform = "identity" if number == 7 else "ln1p"
        indicators[name] = {"unit": unit, "transform": transform}
        scores[name] = pd.Series([0.5, 0.6])
    found = []
    monkeypatch.setattr(figures, "save", lambda figure, path: found.append(figure))
    figures.draw_scatter(tmp_path / "x.png", "A city", pd.concat(frames), scores, indicators)
    (figure,) = found
    FigureCanvasAgg(figure)
    figure.draw_without_rendering()
    return figure


def test_panels_do_not_overlap(drawn_scatter):
    renderer = drawn_scatter.canvas.get_renderer()
    boxes = [axes.get_tightbbox(renderer) for axes in drawn_scatter.axes]
    width, height = drawn_scatter.canvas.get_width_height()
    for i, one in enumerate(boxes):
        assert min(one.x0, one.y0) >= 0
        assert one.x1 <= width
        assert one.y1 <= height
        for other in boxes[i + 1 :]:
            assert not one.overlaps(other)


def test_axes_are_in_raw_units(drawn_scatter):
    for axes in drawn_scatter.axes[:7]:
        for axis in (axes.xaxis, axes.yaxis):
            labels = [label.get_text() for label in axis.get_ticklabels()]
            units = {"k": 1e3, "M": 1e6, "G": 1e9}
            raw = [float(one.rstrip("kMG")) * units.get(one[-1], 1) for one in labels]
            assert np.log1p(raw) == pytest.approx(axis.get_ticklocs(), rel=1e-3)


# ------------------------------------------------------------------------ verdicts


def test_verdicts_use_the_system_with_the_lowest_validation_error(run, city):
    found = table_of(run, "verdicts")
    assert set(found["images better?"]) <= set(ANSWERS)
    assert found["predicting"].tolist() == ["new districts"] * 2 + ["between labelled regions"] * 2
    assert found["indicator"].tolist() == ["population", "green_share"] * 2
    group_of = group_names(city.summary["systems"])
    errors = validation_errors(city.folder, "random", group_of)
    validated = current_predictions(run / CITY, VALIDATION_FOLDER)
    validated = validated[
        (validated["system"] == "colour_texture")
        & (validated["protocol"] == "random")
        & (validated["indicator"] == "green_share")
    ]
    squared = (validated["truth"] - validated["prediction"]) ** 2
    names = ["system", "view", "probe"]
    by_split = squared.groupby([validated[n] for n in [*names, "split_seed"]]).mean()
    best = by_split.groupby(names).mean().idxmin()
    assert best_of_indicator(errors, "green_share") == best
    means = rows_of(city, protocol="random", indicator="green_share", beside="")
    means = means.groupby(names)["r2"].mean()
    last = found.iloc[-1]
    assert float(last["images, R²"]) == pytest.approx(means[best], abs=1e-4)
    assert float(last["location alone, R²"]) == pytest.approx(means["coordinates"].max(), abs=1e-4)


@pytest.mark.parametrize(
    ("gain", "regions", "districts", "expected"),
    [
        ((0.2, 0.1, 0.3), 100, 8, "yes"),
        ((0.2, 0.1, 0.3), 99, 8, "too few regions"),
        ((0.2, 0.1, 0.3), 100, 7, "too few regions"),
        ((0.1, -0.1, 0.3), 100, 8, "not significant"),
        ((-0.2, -0.3, -0.1), 100, 8, "no"),
        ((0.1, -2.1, 0.3), 100, 8, "not estimable"),
        ((0.1, float("nan"), 0.3), 100, 8, "not estimable"),
    ],
)
def test_answers(gain, regions, districts, expected):
    assert answer(score(Interval(*gain)), regions, districts) == expected


def test_best_view_table_has_a_row_per_system_and_all_location_controls(city):
    errors = validation_errors(city.folder, "block", group_names(city.summary["systems"]))
    table = score_table(city, "block", "r2", views=set(map(key_of, best_views(errors))))
    systems, _, probes = (column.text for column in table.columns[:3])
    assert list(zip(systems, probes, strict=True))[1:4] == [
        ("coordinates only (control)", probe) for probe in ("trees", "k-NN", "ridge")
    ]
    assert systems.count("colour_texture (control)") == 1


# ------------------------------------------------------------------------ trainings


@pytest.fixture
def trained(city):
    """City with `colour_texture` duplicated as two trainings of the system `net`."""
    frame, systems = [city.frame], dict(city.summary["systems"])
    own = systems["colour_texture"]
    rows = rows_of(city, system="colour_texture")
    for seed in (0, 1):
        label = f"net-s{seed}"
        systems[label] = {**own, "encoder": "net", **Training("net", seed).metadata()}
        frame.append(rows.assign(label=label, system="net", r2=rows["r2"] + 0.3 * seed))
    return replace(city, summary={**city.summary, "systems": systems}, frame=pd.concat(frame))


def test_trainings_of_a_system_are_one_row_with_two_spreads(city, trained):
    table = score_table(trained, "block", "r2")
    frame = table.frame()
    mine = frame[(frame[["system", "view", "probe"]] == ["net", "satellite", "ridge"]).all(axis=1)]
    where = {"protocol": "block", "view": "satellite", "probe": "ridge", "indicator": "population"}
    scores = rows_of(trained, system="net", beside="", **where)["r2"]
    assert len(scores) == 4, "two splits, two trainings"
    assert mine[["population", "population sd"]].to_numpy(float) == pytest.approx(
        np.array([[np.mean(scores), np.std(scores, ddof=1)]])
    )
    assert any("2 training seeds" in note and note.endswith(": net.") for note in table.notes)
    spread = spread_table(trained, "block").frame()
    assert set(spread["system"]) == {"net", "coordinates and net"}
    own = spread[(spread[["system", "view", "probe"]] == ["net", "satellite", "ridge"]).all(axis=1)]
    assert own["seeds"].tolist() == [2]
    assert own["population training"].iloc[0] == pytest.approx(0.3 / np.sqrt(2))
    alone = rows_of(city, system="colour_texture", beside="", **where)["r2"]
    assert own["population splits"].iloc[0] == pytest.approx(np.std(alone, ddof=1))
    assert spread_table(city, "block") is None
    single = replace(city, frame=city.frame[city.frame["split_seed"] == 0])
    assert "±" not in score_table(single, "block", "r2").markdown()


def test_systems_are_listed_with_their_seeds(trained):
    frame = systems_table(trained).frame().set_index("system")
    assert frame.loc["net", "training seeds"] == "0, 1"
