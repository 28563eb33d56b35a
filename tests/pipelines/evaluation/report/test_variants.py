import json
from dataclasses import replace

import matplotlib.image
import numpy as np
import pandas as pd
import pytest

from pipelines.evaluation.analysis.bootstrap import MEAN, Difference, Interval
from pipelines.evaluation.embed.trainings import Training
from pipelines.evaluation.probe.results import ResultRow
from pipelines.evaluation.report.frame import CityResults
from pipelines.evaluation.report.tables import differences_frame
from pipelines.evaluation.report.variants import (
    ablation_table,
    direction,
    studies,
    sweep_table,
    variants_section,
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
    frame = pd.DataFrame(map(vars, rows))
    groups = frame["system"].str.rpartition("-s")[0]
    frame = frame.assign(label=frame["system"], system=groups, beside="")
    added = frame.assign(beside="coordinates", label="coordinates+" + frame["label"], r2=9.0)
    frame = pd.concat([frame, added])  # vectors added to coordinates are another system
    city = CityResults(tmp_path, summary, frame)
    compared = [
        difference(name, indicator, -0.05, 0.05)
        for name in SYSTEMS
        if name != "net-full"
        for indicator in (*INDICATORS, MEAN)
    ]
    assert city.methods == ["net-full"]
    (found,) = studies(city, "block", differences_frame(compared))
    return found


def test_steps_of_the_sweep_change_nothing_but_mu(study):
    assert study.swept == {0.0: "net-mu-0", 0.3: "net-mu-0.3", 0.5: "net-full"}
    assert study.ablated == ["net-mu-0", "net-no-ipsi", "net-no-msd"]
    assert study.short("net-no-ipsi") == "no-ipsi"


def test_a_method_without_distillation_is_swept_too(study):
    systems = json.loads(json.dumps(study.city.summary["systems"]))
    for label, own in systems.items():
        mu = 0 if label.startswith("net-full") else 0.3
        own["training"]["settings"] = {**BASE, "distillation_weight": mu}
    city = replace(study.city, summary={**study.city.summary, "systems": systems})
    found = replace(study, city=city).swept
    assert found[0.0] == "net-full"
    assert set(found) == {0.0, 0.3}


def test_an_ablation_is_shown_with_its_interval_and_every_seed(study):
    table = ablation_table(study, "mlp")
    cells = table.frame().set_index("variant")
    line = cells.loc["no-ipsi"]
    full = np.mean([r2("net-full", s, k, i) for s in SEEDS for k in SPLITS for i in INDICATORS])
    # -0.2 and -0.2 + 0.25 by hand
    assert line["by training seed"] == "-0.200, +0.050"
    assert line["R² of the method"] == pytest.approx(full)
    assert line["R²"] == pytest.approx(full - 0.075)
    assert "-0.075 \\[-0.125, -0.025\\]" in table.markdown()
    assert line["change, %"] == pytest.approx(100 * -0.075 / full)
    assert (line["direction"], line["differs in"]) == ("lower", "77 positions")
    assert cells.loc["mu-0", "direction"] == "not significant"
    assert direction(0.02, 0.2) == "higher"
    assert "synthetic" in table.title


def test_the_sweep_is_the_mean_over_trainings_and_splits(study):
    frame = sweep_table(study).frame()
    assert frame["indicator"].tolist() == ["population", "mean of all indicators"]
    own = [r2("net-mu-0.3", s, k, "population") for s in SEEDS for k in SPLITS]
    assert frame["µ = 0.3"][0] == pytest.approx(np.mean(own))
    assert frame["µ = 0.3 sd"][0] == pytest.approx(np.std(own, ddof=1))
    assert frame["µ = 0.5"][1] == pytest.approx(frame["µ = 0.5"][0] - 0.05)
    (best,) = [c.name for c in sweep_table(study).columns[3:] if c.bold[0]]
    assert best == "µ = 0.3"


def test_the_section_draws_what_it_says(study, tmp_path):
    section = variants_section(study, tmp_path, "figures")
    figures = list(section.figures())
    assert [one.path for one in figures] == [
        "figures/town-block-ablation-satellite.png",
        "figures/town-block-mu.png",
    ]
    for one in figures:
        assert "(synthetic)" in one.title
        pixels = matplotlib.image.imread(tmp_path / one.path)
        assert pixels.shape[1] > 600
        assert len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0)) > 50
    names = [table.name for table in section.tables()]
    assert names == ["town-block-ablation-mlp", "town-block-mu", "town-block-variants"]
