import json
import shutil
from dataclasses import replace

import geopandas as gpd
import matplotlib.image
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from dataset_builders.splits import local_xy
from pipelines.evaluation.analysis import verdicts
from pipelines.evaluation.analysis.bootstrap import Interval, Reference, compare, group_names
from pipelines.evaluation.analysis.reach import morans_i
from pipelines.evaluation.cli import main
from pipelines.evaluation.embed.trainings import Training
from pipelines.evaluation.errors import InputError
from pipelines.evaluation.probe.predictions import (
    BLOCK_COLUMN,
    REGIONS_FILE,
    VALIDATION_FOLDER,
    current_predictions,
)
from pipelines.evaluation.report import figures
from pipelines.evaluation.report.frame import read_city
from pipelines.evaluation.report.limits import distance_table, limits, systems_table
from pipelines.evaluation.report.tables import score_table, spread_table
from tests.pipelines.evaluation.toy import CITY, build_toy

KEY = ["system", "view", "probe"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Results folder after embed, probe and report by command line."""
    folder = tmp_path_factory.mktemp("run")
    dataset = str(build_toy(folder / "dataset", side=12, street_views=1))
    where = ["--dataset_name", dataset, "--city", CITY, "--output_dir"]
    assert main(["embed", "--encoder", "colour_texture", *where, str(folder / "embeddings")]) == 0
    table = str(folder / "embeddings" / CITY / "colour_texture.parquet")
    fast = ["--seeds", "2", "--mlp_max_epochs", "2"]
    fast += ["--mlp_weight_decays", "0.01", "--mlp_learning_rates", "0.01"]
    assert main(["probe", "--embeddings", table, *where, str(folder / "r"), *fast]) == 0
    assert main(["report", "--output_dir", str(folder / "r")]) == 0
    return folder / "r"


@pytest.fixture
def city(run):
    return read_city(run / CITY)


def rows_of(frame, **wanted):
    return frame[(frame[[*wanted]] == pd.Series(wanted)).all(axis=1)]


def predicted(run, part="predictions", **wanted):
    """Predictions of a system, by default on population in new districts."""
    wanted = {"protocol": "block", "indicator": "population", **wanted}
    return rows_of(current_predictions(run / CITY, part), **wanted)


def table_of(run, name):
    return pd.read_csv(run / "tables" / f"{CITY}-{name}.csv", keep_default_na=False)


# ------------------------------------------------------------------------ tables


@pytest.mark.parametrize("metric", ["r2", "rmse"])
def test_score_tables_have_controls_first_and_one_best_per_column(city, metric):
    table = score_table(city, "random", metric)
    assert [c.name for c in table.columns] == [*KEY, "population", "green_share"]
    assert list(dict.fromkeys(table.columns[0].text)) == [
        "mean (control)", "coordinates only (control)", "colour_texture (control)",
    ]  # fmt: skip
    assert [row[0] for row in table.footer] == ["n test", "label SD (test)"]
    for column in table.columns[3:]:
        known = [value for value in column.values if value is not None]
        (best,) = [v for v, bold in zip(column.values, column.bold, strict=True) if bold]
        assert best == (min(known) if metric == "rmse" else max(known))


def test_tables_are_written_unrounded(run, city):
    own = {"system": "colour_texture", "view": "both", "probe": "ridge"}
    where = {"protocol": "random", "indicator": "population", "beside": ""}
    mine = rows_of(city.frame, **own, **where)["r2"]
    shown = {**own, "system": "colour_texture (control)"}
    (found,) = rows_of(table_of(run, "random-r2"), **shown).to_dict("records")
    assert float(found["population"]) == pytest.approx(np.mean(mine), abs=1e-12)
    assert float(found["population sd"]) == pytest.approx(np.std(mine, ddof=1), abs=1e-12)
    text = (run / "report.md").read_text()
    assert f"{np.mean(mine):.3f} ± {np.std(mine, ddof=1):.3f}" in text.replace("**", "")


def test_results_without_controls_raise(city):
    for control in ("mean", "coordinates"):
        without = city.frame[city.frame["system"] != control]
        with pytest.raises(InputError, match=f"none of the control '{control}'"):
            score_table(replace(city, frame=without), "random", "r2")
    alone = replace(city, frame=rows_of(city.frame, system="mean"))
    assert score_table(alone, "random", "r2").columns[0].text == ["mean (control)"]


def test_coverage_is_that_of_stored_predictions(run):
    rows = table_of(run, "block-coverage")
    assert set(rows["quantile over"]) == {"regions", "blocks"}
    shown = rows[rows["system"].str.startswith("mean") & (rows["quantile over"] == "regions")]
    shares = []
    tested = predicted(run, system="mean")
    validated = predicted(run, VALIDATION_FOLDER, system="mean")
    for seed in set(tested["split_seed"]):
        own = (frame[frame["split_seed"] == seed] for frame in (tested, validated))
        missed, residuals = (np.abs(one["truth"] - one["prediction"]).to_numpy() for one in own)
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


def test_overall_table_averages_over_indicators(run, city):
    frame = table_of(run, "overall").set_index(["system", "probe"])
    own = rows_of(city.frame, protocol="random", system="coordinates")
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
    _, view, probe = frame.loc["population", "system"].split(", ")
    view = view.replace(" ", "_")
    own = {"system": "colour_texture", "view": view, "probe": probe.lower()}
    tested = predicted(run, **own)
    residual = (tested["prediction"] - tested["truth"]).groupby(tested["region_id"]).mean()
    regions = pd.read_parquet(city.folder / "regions.parquet").set_index("region_id")
    place = regions.loc[residual.index]
    xy = np.stack(local_xy(place["lon"], place["lat"]), axis=1)
    expected = morans_i(xy, residual.to_numpy())
    assert float(frame.loc["population", "Moran's I"]) == pytest.approx(expected.value)
    measured = city.metadata("colour_texture")["reach"][view]["population"]
    unlike = measured["unlike"] / measured["outside"]
    assert float(frame.loc["population", "outside training distribution"]) == pytest.approx(unlike)


def test_verdicts_use_the_system_with_the_lowest_validation_error(run, city):
    found = table_of(run, "verdicts")
    assert set(found["images better?"]) <= set(verdicts.ANSWERS)
    assert found["predicting"].tolist() == ["new districts"] * 2 + ["between labelled regions"] * 2
    assert found["indicator"].tolist() == ["population", "green_share"] * 2
    errors = verdicts.validation_errors(city.folder, "random", group_names(city.summary["systems"]))
    own = {"system": "colour_texture", "protocol": "random", "indicator": "green_share"}
    validated = predicted(run, VALIDATION_FOLDER, **own)
    squared = (validated["truth"] - validated["prediction"]) ** 2
    by_split = squared.groupby([validated[n] for n in [*KEY, "split_seed"]]).mean()
    best = by_split.groupby(KEY).mean().idxmin()
    assert verdicts.best_of_indicator(errors, "green_share") == best
    means = rows_of(city.frame, protocol="random", indicator="green_share", beside="")
    means = means.groupby(KEY)["r2"].mean()
    last = found.iloc[-1]
    assert float(last["images, R²"]) == pytest.approx(means[best], abs=1e-4)
    assert float(last["location alone, R²"]) == pytest.approx(means["coordinates"].max(), abs=1e-4)
    # the first table of a protocol has one row per system, and all location controls
    best = table_of(run, "random-r2-best")["system"].value_counts()
    assert best[["coordinates only (control)", "colour_texture (control)"]].tolist() == [3, 1]


def test_answers_and_controls():
    for gain, regions, districts, expected in (
        ((0.2, 0.1, 0.3), 100, 8, "yes"),
        ((0.2, 0.1, 0.3), 99, 8, "too few regions"),
        ((0.2, 0.1, 0.3), 100, 7, "too few regions"),
        ((0.1, -0.1, 0.3), 100, 8, "not significant"),
        ((-0.2, -0.3, -0.1), 100, 8, "no"),
        ((0.1, -2.1, 0.3), 100, 8, "not estimable"),
        ((0.1, float("nan"), 0.3), 100, 8, "not estimable"),
    ):
        assert verdicts.answer(verdicts.score(Interval(*gain)), regions, districts) == expected
    names = ("an_atlas", "none"), ("coordinates+an_atlas", "none"), ("urbanln", "both")
    assert [verdicts.is_control((*name, "ridge")) for name in names] == [True, False, False]


def test_trainings_of_a_system_are_one_row_with_two_spreads(city):
    frame, systems = [city.frame], dict(city.summary["systems"])
    rows = rows_of(city.frame, system="colour_texture")
    for seed in (0, 1):
        label = f"net-s{seed}"
        own = {**systems["colour_texture"], "encoder": "net", **Training("net", seed).metadata()}
        systems[label] = own
        frame.append(rows.assign(label=label, system="net", r2=rows["r2"] + 0.3 * seed))
    summary = {**city.summary, "systems": systems}
    trained = replace(city, summary=summary, frame=pd.concat(frame))
    assert systems_table(trained).frame().set_index("system").loc["net", "training seeds"] == "0, 1"
    table = score_table(trained, "block", "r2")
    which = {"system": "net", "view": "satellite", "probe": "ridge"}
    mine = rows_of(table.frame(), **which)
    cell = {**which, "protocol": "block", "indicator": "population", "beside": ""}
    scores = rows_of(trained.frame, **cell)["r2"]
    assert len(scores) == 4, "two splits, two trainings"
    expected = np.array([[np.mean(scores), np.std(scores, ddof=1)]])
    assert mine[["population", "population sd"]].to_numpy(float) == pytest.approx(expected)
    assert any("2 training seeds" in note and note.endswith(": net.") for note in table.notes)
    spread = spread_table(trained, "block").frame()
    assert set(spread["system"]) == {"net", "coordinates and net"}
    own = rows_of(spread, **which)
    assert own["seeds"].tolist() == [2]
    assert own["population training"].iloc[0] == pytest.approx(0.3 / np.sqrt(2))
    alone = rows_of(city.frame, **{**cell, "system": "colour_texture"})["r2"]
    assert own["population splits"].iloc[0] == pytest.approx(np.std(alone, ddof=1))
    assert spread_table(city, "block") is None
    single = replace(city, frame=city.frame[city.frame["split_seed"] == 0])
    assert "±" not in score_table(single, "block", "r2").markdown()


# ------------------------------------------------------------------------ the page


def test_report_marks_synthetic_data_and_shows_caveats_and_figures(run, city):
    text = (run / "report.md").read_text()
    assert text.splitlines()[0].endswith("(synthetic)")
    titles = [line for line in text.splitlines() if line.startswith(("**Sys", "**R²", "!["))]
    assert len(titles) > 8
    assert [line for line in titles if "synthetic" not in line] == []
    assert "1, no street_view vector in table colour_texture" in text
    assert "nothing, random: 2 split(s) not scored: no region has a label" in text
    assert "street_view: unreadable 1" in text
    assert not any("stored" in line for line in limits(city))
    summary = {**city.summary, "stored_neighbours": {"train": 14, "validation": 3}}
    (line,) = [line for line in limits(replace(city, summary=summary)) if "stored" in line]
    assert "14 train and 3 validation regions are left out" in line
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
        assert pixels.std() > 0.05, "an empty image"
    assert "<script" not in page
    assert f'id="{CITY}-block-spearman"' in page
    # the first tables are the added value under both protocols, then all systems
    heads = [line for line in text.splitlines() if line.startswith("| system")]
    assert ["added to location" in head for head in heads[:3]] == [True, True, False]
    assert "new districts gain over location alone" in heads[2]
    assert "No trained system is among the results" in text.split("|")[0]
    # the intervals are those of the bootstrap
    for one in compare(city.folder, Reference("coordinates", "none", "knn"))[::9]:
        if "coordinates+" not in one.system:
            shown = "{estimate:+.3f} \\[{low:+.3f}, {high:+.3f}\\]"
            assert shown.format(**vars(one.intervals["r2"])) in text


def test_real_data_of_a_location_encoder_without_dataset_and_geometry(run, tmp_path, capsys):
    folder = shutil.copytree(run, tmp_path / "r", ignore=shutil.ignore_patterns("tables"))
    summary = json.loads((folder / CITY / "probe.json").read_text())
    table_hash = summary["table_hash"]
    del summary["digest"]
    summary |= {"synthetic": False, "dataset_name": "gone/away"}
    summary["systems"]["colour_texture"]["uses"] = ["coordinates", "geoclip"]
    (folder / CITY / "probe.json").write_text(json.dumps(summary))
    regions = gpd.read_parquet(folder / CITY / "regions.parquet")
    regions.set_geometry([None] * len(regions)).to_parquet(folder / CITY / "regions.parquet")
    # one row of another dataset, and one that was not written completely
    results = folder / CITY / "results.jsonl"
    lines = results.read_text().splitlines(keepends=True)
    row = json.loads(lines[0].replace(table_hash, "0" * 16))
    del row["digest"]
    results.write_text("".join([*lines[:-1], json.dumps(row) + "\n", lines[-1][:50]]))
    assert main(["report", "--output_dir", str(folder)]) == 0
    text = (folder / "report.md").read_text()
    assert "synthetic" not in text
    assert text.count("No map: the dataset has no region geometries") == 2
    assert "Distances between test and training regions: unknown" in text
    assert "1 rows of results.jsonl were computed on other regions" in text
    assert "Not all rows have all splits" in text
    tables = {path.name for path in (folder / "tables").iterdir()}
    assert f"{CITY}-overall.csv" in tables
    assert not tables & {f"{CITY}-verdicts.csv", f"{CITY}-reach.csv"}
    assert main(["report", "--output_dir", str(tmp_path / "empty")]) == 2
    assert "Run `python evaluate.py probe` first" in capsys.readouterr().err


def test_regions_in_one_block_have_scores_without_intervals(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "r", ignore=shutil.ignore_patterns("tables"))
    regions = gpd.read_parquet(folder / CITY / REGIONS_FILE)
    regions.assign(**{BLOCK_COLUMN: 0}).to_parquet(folder / CITY / REGIONS_FILE)
    assert main(["report", "--output_dir", str(folder)]) == 0
    assert (folder / "report.md").read_text().count("test regions lie in one block") == 2
    assert json.loads((folder / CITY / "differences.json").read_text()) == []
    assert table_of(folder, "block-r2").equals(table_of(run, "block-r2"))


def test_scatter_panels_do_not_overlap_and_have_raw_units(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    unit = "$ per square kilometre, 100 % of the residents"
    indicators = {
        f"indicator_number_{number}": {"unit": unit, "transform": "ln1p"} for number in range(7)
    }
    indicators["last"] = {"unit": unit, "transform": "identity"}
    truth = {name: rng.normal(size=50) + 10 * (len(name) % 2) for name in indicators}
    frames = [
        pd.DataFrame({"indicator": name, "truth": y, "prediction": y + rng.normal(size=50)})
        for name, y in truth.items()
    ]
    scores = dict.fromkeys(indicators, pd.Series([0.5, 0.6]))
    found = []
    monkeypatch.setattr(figures, "save", lambda figure, path: found.append(figure))
    figures.draw_scatter(tmp_path / "x.png", "A city", pd.concat(frames), scores, indicators)
    (figure,) = found
    FigureCanvasAgg(figure)
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()
    boxes = [axes.get_tightbbox(renderer) for axes in figure.axes]
    width, height = figure.canvas.get_width_height()
    for i, one in enumerate(boxes):
        assert min(one.x0, one.y0) >= 0
        assert one.x1 <= width
        assert one.y1 <= height
        assert not any(one.overlaps(other) for other in boxes[i + 1 :])
    for axes in figure.axes[:7]:
        for axis in (axes.xaxis, axes.yaxis):
            labels = [label.get_text() for label in axis.get_ticklabels()]
            units = {"k": 1e3, "M": 1e6, "G": 1e9}
            raw = [float(one.rstrip("kMG")) * units.get(one[-1], 1) for one in labels]
            assert np.log1p(raw) == pytest.approx(axis.get_ticklocs(), rel=1e-3)
