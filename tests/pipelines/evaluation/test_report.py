import csv
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

from pipelines.evaluation.analysis.bootstrap import COORDINATES, Interval, Reference, compare
from pipelines.evaluation.cli import main
from pipelines.evaluation.embed.trainings import Training
from pipelines.evaluation.errors import InputError
from pipelines.evaluation.probe.predictions import (
    PREDICTIONS_FOLDER,
    VALIDATION_FOLDER,
    current_predictions,
)
from pipelines.evaluation.report import differences, plots
from pipelines.evaluation.report.differences import cached_differences
from pipelines.evaluation.report.frame import read_city
from pipelines.evaluation.report.limits import distance_table, limits
from pipelines.evaluation.report.paper import paper_tables
from pipelines.evaluation.report.table_formats import to_markdown
from pipelines.evaluation.report.tables import (
    difference_table,
    score_table,
    spread_table,
    statistics_table,
    systems_table,
)
from pipelines.evaluation.report.verdict_table import best_views, validation_errors, verdicts
from pipelines.evaluation.report.verdicts import ANSWERS, answer, score
from tests.pipelines.evaluation.toy import CITY, build_toy

FAST = ["--seeds", "2", "--mlp_max_epochs", "3", "--mlp_weight_decays", "0.01"]


def quick_run(folder, **toy):
    """Embed, probe and report with the command line itself."""
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


def tables_of(text):
    """Each Markdown table as its rows of cells."""
    tables, current = [], []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            current.append([cell.strip() for cell in line.strip("|").split("|")])
        elif current:
            tables.append([current[0], *current[2:]])
            current = []
    return tables


def test_tables_hold_controls_first_and_one_best_a_column(run):
    city = read_city(run / CITY)
    for metric in ("r2", "rmse", "mae", "spearman"):
        (table,) = tables_of(to_markdown(score_table(city, "random", metric)))
        header, *rows = table
        assert header == ["system", "view", "probe", "population", "green_share"]
        assert list(dict.fromkeys(row[0] for row in rows))[:3] == [
            "mean (control)",
            "coordinates only (control)",
            "colour_texture (control)",
        ]
        assert [row[0] for row in rows[-2:]] == ["*n test*", "*label SD (test)*"]
        for column in (3, 4):
            scores = [row[column] for row in rows[:-2]]
            assert sum("**" in cell for cell in scores) == 1
            means = [float(cell.replace("*", "").split(" ")[0]) for cell in scores if cell != "–"]
            best = min(means) if metric in ("rmse", "mae") else max(means)
            assert f"**{best:.3f}**" in " ".join(scores)


def test_figures_are_means_and_sd_over_splits(run):
    city = read_city(run / CITY)
    rows = [
        row
        for row in city.rows
        if (row.system, row.protocol, row.indicator) == ("mean", "random", "population")
    ]
    r2 = [row.r2 for row in rows]
    (table,) = tables_of(to_markdown(score_table(city, "random", "r2")))
    cell = next(row[3] for row in table if row[0] == "mean (control)")
    assert cell.replace("*", "") == f"{np.mean(r2):.3f} ± {np.std(r2, ddof=1):.3f}"


def test_the_report_says_synthetic_what_was_left_out_and_shows_pictures(run):
    text = (run / "report.md").read_text()
    assert text.splitlines()[0].endswith("(synthetic)")
    lines = text.splitlines()
    titles = [line for line in lines if line.startswith(("**", "!["))]  # tables and pictures
    assert len(titles) > 20
    assert [line for line in titles if "synthetic" not in line] == []
    assert "1, no street_view vector in table colour_texture" in text
    assert "nothing, random: 2 split(s) not scored: no region has a label" in text
    assert "street_view: unreadable 1" in text
    pictures = sorted(path.name for path in (run / "figures").iterdir())
    drawn = [
        f"{CITY}-{protocol}-{kind}.png"
        for protocol in ("block", "random")
        for kind in ("map", "scatter")
    ]
    assert pictures == sorted([*drawn, f"{CITY}-clusters.png"])
    for name in pictures:
        assert f"figures/{name}" in text
        pixels = matplotlib.image.imread(run / "figures" / name)
        assert pixels.shape[1] > 600
        assert pixels.std() > 0.05, "an empty picture"


def test_every_table_is_also_a_file_that_holds_unrounded_means(run):
    names = sorted(path.stem for path in (run / "tables").glob("*.tex"))
    assert names == sorted(path.stem for path in (run / "tables").glob("*.csv"))
    assert {f"{CITY}-random-r2", f"{CITY}-block-gain", "statistics", "verdicts"} <= {*names}
    with (run / "tables" / f"{CITY}-random-r2.csv").open() as file:
        rows = list(csv.DictReader(file))
    city = read_city(run / CITY)
    mine = [
        row.r2
        for row in city.rows
        if (row.protocol, row.system, row.view, row.probe, row.indicator)
        == ("random", "colour_texture", "both", "ridge", "population")
    ]
    (found,) = [
        row
        for row in rows
        if (row["system"], row["view"], row["probe"])
        == ("colour_texture (control)", "both", "ridge")
    ]
    assert float(found["population"]) == pytest.approx(np.mean(mine), abs=1e-12)
    assert float(found["population sd"]) == pytest.approx(np.std(mine, ddof=1), abs=1e-12)


def test_the_page_holds_what_the_markdown_holds(run):
    page = (run / "report.html").read_text()
    for path in (run / "figures").iterdir():
        assert f'src="figures/{path.name}"' in page
    assert "<script" not in page
    for cell in ("coordinates only (control)", "(synthetic)", "Do images predict better"):
        assert cell in page
    assert f'id="{CITY}-block-spearman"' in page


def test_differences_to_coordinates_are_those_of_the_bootstrap(run):
    city = read_city(run / CITY)
    found = cached_differences(city, [COORDINATES])[COORDINATES]
    table = difference_table(city, "block", "coordinates", found)
    one = next(
        d
        for d in found
        if (d.protocol, d.system, d.view, d.probe, d.indicator)
        == ("block", "colour_texture", "satellite", "ridge", "green_share")
    )
    (cell,) = [
        row[table.header.index("green_share")]
        for row in table.rows
        if [c.text for c in row[:3]] == ["colour_texture (control)", "satellite", "ridge"]
    ]
    interval = one.intervals["r2"]
    assert cell.text == (f"{interval.estimate:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]")
    assert cell.best == (interval.low > 0 or interval.high < 0)
    assert "[" in (run / "report.md").read_text()


def test_prediction_intervals_are_shown_with_the_share_of_test_regions_in_them(run):
    with (run / "tables" / f"{CITY}-block-coverage.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["quantile over"] for row in rows} == {"regions", "blocks"}
    (shown,) = (
        r for r in rows if r["system"].startswith("mean") and r["quantile over"] == "regions"
    )
    shares = []
    parts = (PREDICTIONS_FOLDER, VALIDATION_FOLDER)
    tested, validated = (current_predictions(run / CITY, part) for part in parts)
    wanted = {"system": "mean", "protocol": "block", "indicator": "population"}
    for seed in sorted(set(tested["split_seed"])):
        missed, residuals = (
            (own["truth"] - own["prediction"]).abs().to_numpy()
            for frame in (tested, validated)
            for own in [
                frame.loc[
                    (frame[[*wanted]] == pd.Series(wanted)).all(axis=1)
                    & (frame["split_seed"] == seed)
                ]
            ]
        )
        rank = int(np.ceil((len(residuals) + 1) * 0.9))
        width = np.sort(residuals)[min(rank, len(residuals)) - 1]
        shares.append(float((missed <= width).mean()))
    assert float(shown["population"]) == pytest.approx(np.mean(shares))
    assert "prediction intervals" in (run / "report.md").read_text()


def test_differences_are_computed_again_when_rows_change(run, tmp_path, monkeypatch):
    city = read_city(shutil.copytree(run / CITY, tmp_path / CITY))
    monkeypatch.setattr(differences, "compare_all", lambda folder, wanted: [[] for _ in wanted])
    assert cached_differences(city, [COORDINATES])[COORDINATES], "the same rows: read from the disk"
    results = city.folder / "results.jsonl"
    results.write_text(results.read_text() + "\n")
    assert cached_differences(city, [COORDINATES])[COORDINATES] == []


def test_a_model_without_controls_is_refused(run):
    city = read_city(run / CITY)
    for control in ("mean", "coordinates"):
        without = [row for row in city.rows if row.system != control]
        with pytest.raises(InputError, match=f"none of the control '{control}'"):
            score_table(replace(city, rows=without), "random", "r2")
    alone = [row for row in city.rows if row.system == "mean"]
    assert len(score_table(replace(city, rows=alone), "random", "r2").rows) == 3


def test_printed_scores_stand_below_those_of_their_city_and_protocol(run):
    city = read_city(run / CITY)
    summary = {**city.summary, "city": "beijing", "synthetic": False}
    beijing = replace(city, summary=summary)
    simulated = replace(city, summary={**summary, "synthetic": True})
    table = score_table(beijing, "random", "rmse", paper_tables())
    (row,) = [row for row in table.rows if row[0].text == "UrbanLN+SI (printed in the paper)"]
    assert [cell.text for cell in row] == [
        "UrbanLN+SI (printed in the paper)", "satellite", "", "0.714", "–"
    ]  # fmt: skip
    assert all(cell.soft for cell in row)
    assert any("not directly comparable" in note for note in table.notes)
    for other in (score_table(beijing, "block", "rmse", paper_tables()),
                  score_table(beijing, "random", "spearman", paper_tables()),
                  score_table(simulated, "random", "rmse", paper_tables()),
                  score_table(city, "random", "rmse", paper_tables())):  # fmt: skip
        assert not any("printed" in row[0].text for row in other.rows)
    rows = statistics_table([beijing, city], paper_tables()).rows
    assert [row[0].text for row in rows if row[0].soft] == ["Beijing (printed in the paper)"]


def test_a_report_of_another_city_has_no_number_of_the_paper(run):
    for name in ("report.md", "report.html"):
        text = (run / name).read_text()
        assert "paper" not in text.lower()
    assert not list((run / "tables").glob("paper-*"))


@pytest.fixture
def drawn_scatter(tmp_path, monkeypatch):
    """The figure of a scatter plot of eight indicators with long units, before it is saved."""
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
    monkeypatch.setattr(plots, "save", lambda figure, path: found.append(figure))
    plots.draw_scatter(tmp_path / "x.png", "A city", pd.concat(frames), scores, indicators)
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


def test_a_report_needs_no_torch():
    code = "import sys, pipelines.evaluation.report.report; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_axes_are_in_raw_units(drawn_scatter):
    for axes in drawn_scatter.axes[:7]:
        for axis in (axes.xaxis, axes.yaxis):
            labels = [label.get_text() for label in axis.get_ticklabels()]
            units = {"k": 1e3, "M": 1e6, "G": 1e9}
            raw = [float(one.rstrip("kMG")) * units.get(one[-1], 1) for one in labels]
            assert np.log1p(raw) == pytest.approx(axis.get_ticklocs(), rel=1e-3)
    assert not any("ln(" in axes.get_title("left") for axes in drawn_scatter.axes)


# ------------------------------------------------------------------------ verdicts


def test_a_verdict_is_that_of_the_paired_bootstrap_on_the_system_chosen_by_validation(run):
    city = read_city(run / CITY)
    errors = {name: validation_errors(city, name) for name in city.protocols}
    found = list(verdicts(city, errors))
    assert [(one.protocol, one.indicator) for one in found] == [
        (protocol, indicator)
        for protocol in ("block", "random")
        for indicator in ("population", "green_share")
    ]
    validated = current_predictions(run / CITY, VALIDATION_FOLDER)
    validated = validated[~validated["system"].isin(["mean", "coordinates", "poi_counts"])]
    validated = validated[~validated["system"].str.startswith("coordinates+")]
    validated["error"] = (validated["truth"] - validated["prediction"]) ** 2
    scores = {row[:3]: row[3:] for row in _r2_of(city, "random", "green_share")}
    for one in found:
        own = validated[
            (validated["protocol"] == one.protocol) & (validated["indicator"] == one.indicator)
        ]
        by_split = own.groupby(["system", "view", "probe", "split_seed"])["error"].mean()
        assert one.system == by_split.groupby(["system", "view", "probe"]).mean().idxmin()
        location = Reference("coordinates", "none", one.location_probe)
        (difference,) = [
            d.intervals["r2"]
            for d in compare(city.folder, location)
            if (d.protocol, d.indicator, d.system, d.view, d.probe)
            == (one.protocol, one.indicator, *one.system)
        ]
        if one.gain.r2 is not None:
            expected = (difference.estimate, difference.low, difference.high)
            assert (one.gain.r2, one.gain.low, one.gain.high) == pytest.approx(expected, abs=1e-4)
    one = found[-1]
    assert one.images.r2 == pytest.approx(np.mean(scores[one.system]), abs=1e-4)
    places = [np.mean(own) for key, own in scores.items() if key[0] == "coordinates"]
    assert len(places) == 3
    assert one.location.r2 == pytest.approx(max(places), abs=1e-4)


def _r2_of(city, protocol, indicator):
    """Each system, view and probe with its R2 of two splits."""
    found = {}
    for row in city.rows:
        if (row.protocol, row.indicator) == (protocol, indicator):
            found.setdefault((row.system, row.view, row.probe), []).append(row.r2)
    return [(*key, *scores) for key, scores in found.items()]


def test_verdicts_come_first_in_the_report(run):
    first, *_ = tables_of((run / "report.md").read_text())
    assert first[0][:3] == ["predicting", "indicator", "images better?"]
    assert {row[2].strip("*") for row in first[1:]} <= set(ANSWERS)
    assert [row[0] for row in first[1:]] == ["new districts"] * 2 + ["between labelled regions"] * 2


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


def test_the_first_table_of_a_protocol_has_a_row_a_system_and_every_control_of_location(run):
    city = read_city(run / CITY)
    chosen = best_views(validation_errors(city, "block"))
    table = score_table(city, "block", "r2", views=chosen)
    names = [tuple(cell.text for cell in row[:3]) for row in table.rows[:-2]]
    assert [name for name in names if name[0].startswith("coordinates only")] == [
        ("coordinates only (control)", "–", probe) for probe in ("trees", "k-NN", "ridge")
    ]
    assert len([name for name in names if name[0].startswith("colour_texture")]) == 1


def test_distances_to_training_are_those_of_the_splits(run):
    table = distance_table(read_city(run / CITY))
    random, block = ([cell.value for cell in row[1:]] for row in table.rows)
    assert random[1] == pytest.approx(750, abs=400)  # cells of 0.01 degrees: a neighbour
    assert random[3] > 90
    assert block[3] == 0, "the buffer keeps neighbours apart"
    assert block[0] > random[2]
    assert random[4] == 0, "some test region touches training"
    assert block[4] > 600, "a cell lies between, 711 m wide"


def test_neighbours_in_the_stored_split_are_told(run):
    city = read_city(run / CITY)
    assert not any("stored" in line for line in limits(city))
    summary = {**city.summary, "stored_neighbours": {"train": 14, "validation": 3}}
    (line,) = [line for line in limits(replace(city, summary=summary)) if "stored" in line]
    assert "14 train and 3 validation regions are left out" in line


def test_a_report_without_the_dataset_says_what_it_cannot_know(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "r")
    summary = json.loads((folder / CITY / "probe.json").read_text())
    (folder / CITY / "probe.json").write_text(json.dumps({**summary, "dataset_name": "gone/away"}))
    assert main(["report", "--output_dir", str(folder)]) == 0
    assert "How far test is from training is not known" in (folder / "report.md").read_text()


def test_real_data_is_not_called_synthetic_and_no_geometry_means_no_map(tmp_path):
    text = (quick_run(tmp_path, synthetic=False, geometry=False) / "report.md").read_text()
    assert "synthetic" not in text
    assert text.count("No map: the dataset gives no geometry") == 2
    assert not list(tmp_path.rglob("*-map.png"))


def test_a_torn_or_stale_row_is_left_out_and_said(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "r")
    results = folder / CITY / "results.jsonl"
    lines = results.read_text().splitlines(keepends=True)
    stale = lines[0].replace(read_city(run / CITY).summary["table_hash"], "0" * 16)
    results.write_text("".join([*lines[:-1], stale, lines[-1][:50]]))
    assert main(["report", "--output_dir", str(folder)]) == 0
    text = (folder / "report.md").read_text()
    assert "1 rows of results.jsonl were computed on other regions" in text
    assert "Not all rows have all splits" in text


def test_one_split_has_no_spread(run):
    city = read_city(run / CITY)
    single = replace(city, rows=[row for row in city.rows if row.split_seed == 0])
    assert "±" not in to_markdown(score_table(single, "block", "r2"))


def test_no_results_is_an_error(tmp_path, capsys):
    assert main(["report", "--output_dir", str(tmp_path)]) == 2
    assert "Run `python evaluate.py probe` first" in capsys.readouterr().err


# ------------------------------------------------------------------------ trainings


def trained_twice(city, shift=0.1):
    """The city with `colour_texture` told twice more, as two trainings of the system `net`."""
    rows, systems = list(city.rows), dict(city.summary["systems"])
    own = systems["colour_texture"]
    for seed in (0, 1):
        label = f"net-s{seed}"
        systems[label] = {**own, "encoder": "net", **Training("net", seed).metadata()}
        rows += [
            replace(row, system=label, r2=row.r2 + seed * shift)
            for row in city.rows
            if row.system == "colour_texture"
        ]
    return replace(city, summary={**city.summary, "systems": systems}, rows=rows)


def test_trainings_of_a_system_are_one_row(run):
    city = trained_twice(read_city(run / CITY))
    table = score_table(city, "block", "r2")
    mine = [row for row in table.rows if row[0].text == "net"]
    assert len({tuple(cell.text for cell in row[1:3]) for row in mine}) == len(mine)
    (row,) = [row for row in mine if [c.text for c in row[1:3]] == ["satellite", "ridge"]]
    scores = [
        one.r2
        for one in city.rows
        if one.system in ("net-s0", "net-s1")
        and (one.view, one.probe, one.protocol, one.indicator)
        == ("satellite", "ridge", "block", "population")
    ]
    assert len(scores) == 4, "two splits, two trainings"
    cell = row[table.header.index("population")]
    assert (cell.value, cell.spread) == pytest.approx((np.mean(scores), np.std(scores, ddof=1)))
    assert any("from 2 seeds" in note and note.endswith(": net.") for note in table.notes)


def test_the_two_spreads_are_told_apart(run):
    city = trained_twice(read_city(run / CITY), shift=0.3)
    table = spread_table(city, "block")
    assert {row[0].text for row in table.rows} == {"net"}
    (row,) = [row for row in table.rows if [c.text for c in row[1:3]] == ["satellite", "ridge"]]
    assert row[3].text == "2"
    splits, training = row[4].value, row[5].value
    assert training == pytest.approx(0.3 / np.sqrt(2)), "the seeds are 0.3 apart in every split"
    alone = [
        one.r2
        for one in city.rows
        if (one.system, one.view, one.probe, one.protocol, one.indicator)
        == ("net-s0", "satellite", "ridge", "block", "population")
    ]
    assert splits == pytest.approx(np.std(alone, ddof=1))
    assert spread_table(read_city(run / CITY), "block") is None


def test_systems_are_listed_with_their_seeds(run):
    city = trained_twice(read_city(run / CITY))
    table = systems_table(city)
    (row,) = [row for row in table.rows if row[0].text == "net"]
    assert row[table.header.index("training seeds")].text == "0, 1"
