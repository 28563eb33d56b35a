import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pipelines.evaluation.checker import Claim, check_publication, check_rows, check_task
from pipelines.evaluation.cli import main
from pipelines.evaluation.errors import InputError
from pipelines.evaluation.paper import PAPER_FILE, paper_tables, read_publication
from pipelines.evaluation.results import ResultRow
from pipelines.evaluation.urban_regression.metrics import regression_metrics

OURS = ("UrbanLN+SV", "UrbanLN+SI")
# the means of the proposed systems' implied SD lie outside the range of all others
OUTSIDE = {
    "beijing, population", "beijing, gdp", "shanghai, population", "shenzhen, population",
    "shenzhen, gdp", "shenzhen, carbon", "new_york, population",
}  # fmt: skip
# task -> implied SD: least and greatest of the others, mean of the proposed
IMPLIED = {
    "beijing, population": (1.108, 1.213, 1.268),
    "beijing, comments": (2.966, 3.161, 3.124),
    "shanghai, night_light": (0.683, 0.981, 0.687),
    "shenzhen, gdp": (1.927, 2.083, 1.923),
    "shenzhen, carbon": (0.832, 0.922, 0.948),
    "new_york, population": (2.074, 2.585, 1.743),
    "new_york, poi": (1.283, 1.443, 1.393),
}


@pytest.fixture(scope="module")
def check():
    return check_publication(paper_tables())


def make_row(system="a", r2=0.5, rmse=None, sd=2.0, seed=0, **more):
    fields = {
        "system": system, "view": "satellite", "city": "c", "source_city": "", "indicator": "gdp",
        "unit": "CNY", "transform": "ln1p", "protocol": "random", "probe": "mlp",
        "split_seed": seed, "probe_seed": seed, "n_train": 6, "n_validation": 2, "n_test": 2,
        "r2": r2, "rmse": sd * math.sqrt(1 - r2) if rmse is None else rmse, "mae": 1.0,
        "spearman": 0.5, "label_sd_test": sd, "hyperparameters": {}, "table_hash": "t",
        "embedding_hash": system, "config_hash": "", "code_revision": "", "uses": [],
        "seconds": 0.0, "synthetic": False,
    }  # fmt: skip
    return ResultRow(**{**fields, **more})


def test_checker_finds_the_tasks_whose_rows_share_no_test_set(check):
    spreads = {finding.task: finding for finding in check.spreads}
    assert len(spreads) == 17
    assert not any(finding.consistent for finding in spreads.values())
    assert {task for task, finding in spreads.items() if finding.outside} == OUTSIDE
    assert {task for task, f in spreads.items() if f.outside_beyond_rounding} == {
        "beijing, population", "beijing, gdp", "shanghai, population", "shenzhen, population",
        "new_york, population",
    }  # fmt: skip
    assert "UrbanLN+SV" in spreads["new_york, population"].misfits


def test_checker_implies_the_label_sd_of_every_row(check):
    for finding in check.spreads:
        if finding.task in IMPLIED:
            implied = {claim.system: claim.label_sd for claim in finding.claims}
            others = [value for system, value in implied.items() if system not in OURS]
            found = (min(others), max(others), np.mean([implied[system] for system in OURS]))
            assert found == pytest.approx(IMPLIED[finding.task], abs=1.1e-3)


def test_checker_agrees_with_the_shared_reading_of_the_paper(check, shared_data):
    path = shared_data.parent / "paper" / "paper_tables.json"
    if not path.is_file():
        pytest.skip("The shared reading of the paper's tables is not here.")
    known = json.loads(path.read_text())["checks"]
    outside = [
        task["UrbanLN_outside_baseline_range"] for task in known["implied_label_sd"].values()
    ]
    assert sum(outside) == sum(finding.outside for finding in check.spreads)
    assert [
        round(f["recomputed_vs_best_baseline"], 2) for f in known["improvement_mismatches"]
    ] == [round(finding.recomputed, 2) for finding in check.improvements]


def test_checker_finds_the_improvements_that_do_not_recompute(check):
    found = [(f.table, f.system, f.indicator, f.metric, f.printed) for f in check.improvements]
    assert found == [
        (6, "UrbanLN+SI", "gdp", "rmse", 3.7),
        (7, "UrbanLN+SV", "night_light", "rmse", 12.2),
        (7, "UrbanLN+SI", "night_light", "rmse", 11.0),
    ]
    assert [round(f.recomputed, 2) for f in check.improvements] == [0.08, 11.36, 10.14]
    assert check.improvements_checked == 116


def test_checker_finds_scores_printed_twice_and_a_mean_that_does_not_follow(check):
    repeats = {(f.city, f.system, f.indicator): f.values for f in check.repeats}
    assert repeats == {
        ("beijing", "UrbanLN+SI", "population"): (0.686, 0.6806),
        ("new_york", "Tile2Vec", "crime"): (0.135, 0.035),
    }
    assert [(f.metric, f.printed) for f in check.averages] == [("rmse", 7.84)]


def test_paper_tables_repeat_each_other_but_for_the_doubts():
    tables = {table.number: table for table in paper_tables().tables}
    for short, full in ((2, 6), (3, 8)):
        differing = [
            (system, indicator)
            for system, row in tables[short].scores.items()
            for indicator, cell in row.items()
            if cell is not None and cell["r2"] != tables[full].scores[system][indicator]["r2"]
        ]
        assert differing == ([("Tile2Vec", "crime")] if short == 3 else [])


@settings(max_examples=60, deadline=None)
@given(
    r2=st.lists(st.floats(-1, 0.95), min_size=2, max_size=8),
    sd=st.floats(0.3, 5),
    decimals=st.integers(2, 4),
    off=st.floats(1.2, 3),
)
def test_rounded_rows_of_one_test_set_fit_and_a_row_of_another_does_not(r2, sd, decimals, off):
    tolerance = 0.5 * 10.0**-decimals

    def claim(name, score, spread):
        rmse = round(spread * math.sqrt(1 - score), decimals)
        return Claim(name, round(score, decimals), rmse, tolerance * (1 + 1e-9))

    honest = [claim(f"s{i}", score, sd) for i, score in enumerate(r2)]
    finding = check_task("task", honest)
    assert finding.consistent
    assert all(c.span.low <= finding.label_sd <= c.span.high for c in honest)
    stranger = claim("stranger", 0.1, sd * off)
    # digits that are rounded so far that a row allows both numbers tell nothing
    assume(all(one.span.high < stranger.span.low for one in honest))
    assert check_task("task", [*honest, stranger]).misfits == ("stranger",)


def test_rows_as_computed_fit_and_a_scaled_row_is_named():
    rng = np.random.default_rng(0)
    truth = rng.normal(3, 1.7, 50)
    rows = []
    for system in ("a", "b", "c"):
        scores = regression_metrics(truth + rng.normal(0, 1, 50), truth)
        rows.append(make_row(system, scores["r2"], scores["rmse"], float(truth.std())))
    assert all(finding.consistent for finding in check_rows(rows))
    z_scored = replace(rows[1], rmse=rows[1].rmse / 1.7)
    (finding,) = check_rows([rows[0], z_scored, rows[2]])
    assert finding.misfits == ("b, satellite, mlp, probe seed 0",)
    assert finding.label_sd == pytest.approx(truth.std(), rel=1e-5)


def test_rows_of_other_splits_and_tables_are_other_tasks():
    rows = [make_row("a"), make_row("b", sd=3.0, seed=1), make_row("c", sd=4.0, table_hash="u")]
    assert len(check_rows(rows)) == 3
    assert all(finding.consistent for finding in check_rows(rows))


def test_check_command_tells_findings_by_its_exit_code(capsys, tmp_path):
    assert main(["check", "paper"]) == 1
    out = capsys.readouterr().out
    assert "17 of 17 tasks" in out
    assert "3.7 % printed, 0.08 % over the best other (1.213)" in out
    rows = [vars(make_row("a")), vars(make_row("b"))]
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["check", str(tmp_path)]) == 0
    assert "2 rows of 1 tasks checked, 0 do not fit" in capsys.readouterr().out


def test_check_command_takes_other_papers(capsys, tmp_path):
    scores = {"a": {"gdp": [0.5, 1.0]}, "b": {"gdp": [0.0, 1.41]}, "c": {"gdp": [0.2, 0.1]}}
    table = {"number": 1, "city": "x", "metrics": ["r2", "rmse"], "scores": scores}
    path = tmp_path / "theirs.json"
    path.write_text(json.dumps({"decimals": 2, "score_tables": [table]}))
    assert main(["check", "--results", str(path)]) == 1
    assert "these do not: c 0.112" in capsys.readouterr().out


def test_check_command_says_what_it_can_check(capsys, tmp_path):
    assert main(["check", str(tmp_path)]) == 2
    assert "no rows to check" in capsys.readouterr().err
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(InputError, match=r"layout is that of paper_tables\.json"):
        read_publication(tmp_path / "x.json")
    assert json.loads(PAPER_FILE.read_text())["doubts"]
