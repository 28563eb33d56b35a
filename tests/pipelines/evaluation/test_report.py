import shutil
from dataclasses import replace

import matplotlib.image
import numpy as np
import pytest

from pipelines.evaluation.cli import main
from pipelines.evaluation.report import read_city, score_table
from tests.pipelines.evaluation.toy import CITY, build_toy

FAST = ["--seeds", "2", "--mlp_max_epochs", "3", "--mlp_weight_decays", "0.01"]


def quick_run(folder, **toy):
    """Embed, probe and report with the command line itself."""
    dataset = str(build_toy(folder / "dataset", side=12, street_views=1, **toy))
    where = ["--dataset_name", dataset, "--city", CITY, "--output_dir"]
    assert main(["embed", "--encoder", "colour_texture", *where, str(folder / "e")]) == 0
    table = str(folder / "e" / CITY / "colour_texture.parquet")
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
        (table,) = tables_of(score_table(city, "random", metric))
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
    (table,) = tables_of(score_table(city, "random", "r2"))
    cell = next(row[3] for row in table if row[0] == "mean (control)")
    assert cell.replace("*", "") == f"{np.mean(r2):.3f} ± {np.std(r2, ddof=1):.3f}"


def test_the_report_says_synthetic_what_was_left_out_and_shows_pictures(run):
    text = (run / "report.md").read_text()
    assert text.splitlines()[0].endswith("(synthetic)")
    titles = [line for line in text.splitlines() if line.startswith(("## ", "**R²", "!["))]
    assert titles
    assert all("synthetic" in line for line in titles)
    assert "1, no street_view vector in table colour_texture" in text
    assert "nothing, random: 2 split(s) not scored: no region has a label" in text
    assert "street_view: unreadable 1" in text
    pictures = sorted(path.name for path in (run / "figures").iterdir())
    assert pictures == [
        f"{CITY}-{protocol}-{kind}.png"
        for protocol in ("block", "random")
        for kind in ("map", "scatter")
    ]
    for name in pictures:
        assert f"figures/{name}" in text
        pixels = matplotlib.image.imread(run / "figures" / name)
        assert pixels.shape[1] > 600
        assert pixels.std() > 0.05, "an empty picture"


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
    assert "±" not in score_table(single, "block", "r2")


def test_no_results_is_an_error(tmp_path, capsys):
    assert main(["report", "--output_dir", str(tmp_path)]) == 2
    assert "Run `python evaluate.py probe` first" in capsys.readouterr().err
