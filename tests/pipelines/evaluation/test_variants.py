from dataclasses import replace

import matplotlib.image
import numpy as np
import pytest

from pipelines.evaluation.analysis.bootstrap import MEAN, Difference, Interval, Reference
from pipelines.evaluation.embed.trainings import Training
from pipelines.evaluation.probe.results import ResultRow
from pipelines.evaluation.report.documents import Picture, tables_of
from pipelines.evaluation.report.frame import CityResults
from pipelines.evaluation.report.paper import paper_tables
from pipelines.evaluation.report.variants import (
    ablation_table,
    direction,
    method_references,
    studies,
    sweep_table,
    variant_blocks,
)

BASE = {"captions": "refined", "distillation_weight": 0.5, "position_mode": "ipsi"}
SYSTEMS = {
    "net-full": ("", {}),
    "net-no-ipsi": ("77 positions", {"position_mode": "none"}),
    "net-mu-0": ("mu = 0", {"distillation_weight": 0}),
    "net-mu-0.3": ("mu = 0.3", {"distillation_weight": 0.3}),
    "net-no-msd": ("in-batch", {"distillation_weight": 0, "captions": "raw"}),
}
SHIFT = {
    "net-full": 0.0,
    "net-no-ipsi": -0.2,
    "net-mu-0": 0.01,
    "net-mu-0.3": 0.02,
    "net-no-msd": 0,
}
INDICATORS = ("population", "gdp")
SEEDS, SPLITS = (0, 1), (0, 1, 2)


def training(name, seed):
    differs, changes = SYSTEMS[name]
    base = "net-full" if changes else None
    return Training(name, seed, base, differs, {**BASE, **changes})


def r2(name, seed, split, indicator):
    """Seed 1 of `net-no-ipsi` is better than its own method, though the mean is worse."""
    value = 0.6 + 0.05 * split - 0.1 * (indicator == "gdp") + 0.02 * seed + SHIFT[name]
    return value + (0.25 * seed if name == "net-no-ipsi" else 0.0)


def row(name, seed, split, indicator):
    return ResultRow(
        f"{name}-s{seed}", "satellite", "town", "", indicator, "people", "ln1p", "block", "mlp",
        split, split, 60, 20, 20, r2(name, seed, split, indicator), 0.5, 0.4, 0.7, 1.0, {},
        "t", "e", "c", "r", ["satellite"], 0.1, True,
    )  # fmt: skip


def difference(name, indicator, low, high):
    names = INDICATORS if indicator == MEAN else (indicator,)
    own = np.mean([r2(name, s, k, i) for s in SEEDS for k in SPLITS for i in names])
    full = np.mean([r2("net-full", s, k, i) for s in SEEDS for k in SPLITS for i in names])
    estimate = float(own - full)
    interval = Interval(estimate, estimate + low, estimate + high)
    where = ("satellite", "mlp")
    return Difference(name, *where, "net-full", *where, "block", indicator, 3, 9, {"r2": interval})


@pytest.fixture
def study(tmp_path):
    systems = {
        f"{name}-s{seed}": {"encoder": "net", **training(name, seed).metadata()}
        for name in SYSTEMS
        for seed in SEEDS
    }
    indicators = {name: {"unit": "people", "transform": "ln1p"} for name in INDICATORS}
    summary = {"city": "town", "synthetic": True, "systems": systems, "indicators": indicators}
    rows = [
        row(name, seed, split, indicator)
        for name in SYSTEMS
        for seed in SEEDS
        for split in SPLITS
        for indicator in INDICATORS
    ]
    city = CityResults(tmp_path, summary, rows)
    compared = {
        Reference("net-full"): [
            difference(name, indicator, -0.05, 0.05)
            for name in SYSTEMS
            if name != "net-full"
            for indicator in (*INDICATORS, MEAN)
        ]
    }
    assert method_references(city) == [Reference("net-full")]
    (found,) = studies(city, "block", compared)
    return found


def test_steps_of_the_sweep_change_nothing_but_mu(study):
    assert study.swept == {0.0: "net-mu-0", 0.3: "net-mu-0.3", 0.5: "net-full"}
    assert study.ablated == ["net-mu-0", "net-no-ipsi", "net-no-msd"]
    assert study.short("net-no-ipsi") == "no-ipsi"


def test_an_ablation_is_told_with_its_interval_and_every_seed(study):
    table = ablation_table(study, "mlp")
    cells = {line[0].text: dict(zip(table.header, line, strict=True)) for line in table.rows}
    line = cells["no-ipsi"]
    full = np.mean([r2("net-full", s, k, i) for s in SEEDS for k in SPLITS for i in INDICATORS])
    # -0.2 and -0.2 + 0.25 by hand
    assert line["by training seed"].text == "-0.200, +0.050"
    assert line["R² of the method"].value == pytest.approx(full)
    assert line["R²"].value == pytest.approx(full - 0.075)
    assert line["difference, 95 % interval"].text == "-0.075 [-0.125, -0.025]"
    assert line["change, %"].value == pytest.approx(100 * -0.075 / full)
    assert (line["direction"].text, line["differs in"].text) == ("lower", "77 positions")
    assert cells["mu-0"]["direction"].text == "not told apart"
    assert "synthetic" in table.title.lower()
    assert not any("paper" in note for note in table.notes)


def test_directions_are_reported_as_found():
    assert direction(Interval(0.1, 0.02, 0.2)) == "higher"
    assert direction(Interval(-0.1, -0.2, -0.02)) == "lower"
    assert direction(Interval(-0.1, -0.2, 0.0)) == "not told apart"


def test_the_sweep_stands_above_the_papers_own_of_the_same_city(study):
    table = sweep_table(study, paper_tables())
    assert table.header[3:] == ("µ = 0", "µ = 0.3", "µ = 0.5"), "no number of the paper"
    assert not any(cell.soft for line in table.rows for cell in line)
    summary = {**study.city.summary, "city": "beijing", "synthetic": False}
    study = replace(study, city=replace(study.city, summary=summary))
    table = sweep_table(study, paper_tables())
    assert table.header[3:] == ("µ = 0", "µ = 0.3", "µ = 0.4", "µ = 0.5", "µ = 0.6")
    population, mean, *printed = table.rows
    own = [r2("net-mu-0.3", s, k, "population") for s in SEEDS for k in SPLITS]
    assert population[4].value == pytest.approx(np.mean(own))
    assert population[4].spread == pytest.approx(np.std(own, ddof=1))
    assert [cell.text for cell in population if cell.best] == [population[4].text]
    assert population[5].text == "–", "not trained here"
    assert mean[0].text == "mean of all indicators"
    assert mean[6].value == pytest.approx(population[6].value - 0.05)
    assert len(printed) == 2, "a view each"
    assert all(cell.soft for line in printed for cell in line)
    assert [cell.text for cell in printed[0]][3:] == ["–", "0.687", "0.697", "0.705", "0.692"]


def test_the_section_draws_what_it_tells(study, tmp_path):
    (tmp_path / "figures").mkdir()
    blocks = variant_blocks(study, tmp_path, "figures", paper_tables())
    pictures = [block for block in blocks if isinstance(block, Picture)]
    assert [p.path for p in pictures] == [
        "figures/town-block-ablation-satellite.png",
        "figures/town-block-mu.png",
    ]
    for picture in pictures:
        assert "(synthetic)" in picture.title
        pixels = matplotlib.image.imread(tmp_path / picture.path)
        assert pixels.shape[1] > 600
        assert len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0)) > 50
    names = {table.name for table in tables_of(blocks)}
    assert names == {"town-block-ablation-mlp", "town-block-mu", "town-block-variants"}
