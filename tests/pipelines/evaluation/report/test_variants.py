import json

import matplotlib.image
import numpy as np
import pandas as pd
import pytest

from pipelines.evaluation.analysis.bootstrap import MEAN, Interval
from pipelines.evaluation.analysis.claims import VariantDifference
from pipelines.evaluation.embed.trainings import Training
from pipelines.evaluation.probe.results import ResultRow
from pipelines.evaluation.report.frame import METHOD, VARIANT, CityResults
from pipelines.evaluation.report.rendering import Figure, Table
from pipelines.evaluation.report.variants import claims_table, studies, variants_section, verdict

MU = "weight mu"
TRAININGS = {  # variant -> reference, claim, expected, curve
    "net-full": (None, "", "lower", {MU: 0.5}),
    "net-mu-0": ("net-full", "pseudo-targets help", "lower", {MU: 0}),
    "net-both": ("net-full", "keys of both are better", "higher", {}),
    "net-noise": ("net-full", "", "lower", {}),
    "net-noise-in-batch": ("net-noise", "robust to noise", "lower", {"made up": 0.3}),
}
SCORES = dict(zip(TRAININGS, (0.6, 0.5, 0.5, 0.4, 0.1), strict=True))
INDICATORS, SEEDS = ("population", "gdp"), (0, 1)


def training(name, seed):
    against, claim, expected, curve = TRAININGS[name]
    return Training(name, seed, against, f"it is {name}", {}, claim, expected, curve)


def r2(name, seed, indicator):
    return SCORES[name] + 0.02 * seed - 0.1 * (indicator == "gdp")


def row(name, seed, indicator):
    return ResultRow(
        f"{name}-s{seed}", "satellite", "town", "", indicator, "people", "ln1p", "block", "ridge",
        0, 0, 60, 20, 20, r2(name, seed, indicator), 0.5, 0.4, 0.7, 1.0, {},
        "t", "e", "c", "r", ["satellite"], 0.1, True,
    )  # fmt: skip


def difference(name, indicator, width=0.05):
    against = TRAININGS[name][0]
    mean = SCORES[name] - SCORES[against]
    found = Interval(mean, mean - width, mean + width)
    where = ("satellite", "ridge", "block")
    return VariantDifference(name, against, *where, indicator, (mean - 0.01, mean + 0.01), found)


@pytest.fixture
def study(tmp_path):
    systems = {
        f"{name}-s{seed}": {"encoder": "net", **training(name, seed).metadata()}
        for seed in SEEDS
        for name in TRAININGS
    }
    indicators = {name: {"unit": "people", "transform": "ln1p"} for name in INDICATORS}
    summary = {"city": "town", "synthetic": True, "systems": systems, "indicators": indicators}
    rows = [row(name, s, i) for name in TRAININGS for s in SEEDS for i in INDICATORS]
    frame = pd.DataFrame(map(vars, rows))
    groups = frame["system"].str.rpartition("-s")[0]
    frame = frame.assign(label=frame["system"], system=groups, beside="")
    added = frame.assign(beside="coordinates", label="coordinates+" + frame["label"], r2=9.0)
    city = CityResults(tmp_path / "results" / "town", summary, pd.concat([frame, added]))
    variants = [name for name in TRAININGS if name != "net-full"]
    compared = [difference(name, one) for name in variants for one in (*INDICATORS, MEAN)]
    (found,) = studies(city, compared).values()
    return found


def write_metrics(folder, published, label):
    """Three validations; the first is before training, and the second is published."""
    (folder / label).mkdir(parents=True)
    lines = [{"step": 5, "loss": 1.0}]
    for step, recall in ((0, 0.9), (5, published), (10, 0.05)):
        names = ("image_to_text_recall_at_5", "text_to_image_recall_at_5", "mean_recall")
        lines.append({"step": step, **dict.fromkeys(names, recall)})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / label / "metrics.jsonl").write_text(text)
    (folder / label / "training_summary.json").write_text('{"best_step": 5}')


def test_variant_of_a_variant_is_not_a_method(study):
    assert study.city.methods == ["net-full"]
    assert study.city.rank("net-full") == METHOD
    assert study.city.rank("net-noise") == study.city.rank("net-noise-in-batch") == VARIANT


def test_claims_have_differences_verdicts_and_recall(study, tmp_path):
    for seed, recall in enumerate((0.5, 0.7)):
        write_metrics(tmp_path / "models", recall, f"net-mu-0-s{seed}")
    write_metrics(tmp_path / "models", 0.4, "net-both-s0")
    table = claims_table(study, "ridge")
    assert "synthetic" in table.title
    cells = table.frame().set_index("variant")
    verdicts = dict(cells["verdict"])
    assert verdicts == {
        "mu-0": "holds",
        "both": "does not hold",
        "noise": "lower",  # no claim
        "noise-in-batch": "holds",
    }
    line = cells.loc["noise-in-batch"]
    assert line["reference"] == "noise"
    assert line["claim"] == "robust to noise"
    # mean over seeds and indicators, by hand
    assert line["R² of reference"] == pytest.approx(0.4 + 0.01 - 0.05)
    assert line["R²"] == pytest.approx(0.1 + 0.01 - 0.05)
    assert [line[f"difference, 95 % interval {end}"] for end in ("low", "high")] == [
        pytest.approx(-0.35),
        pytest.approx(-0.25),
    ]
    assert line["per training seed"] == "-0.310, -0.290"
    assert "-0.300 \\[-0.350, -0.250\\]" in table.markdown()
    assert cells.loc["mu-0", "recall@5 image to text"] == pytest.approx(0.6)
    assert line["recall@5 text to image"] is None
    assert cells.loc["both", "recall@5 text to image"] is None, "missing for one training"


def test_verdict_needs_a_significant_difference():
    lower, higher = training("net-mu-0", 0), training("net-both", 0)
    assert verdict(-0.1, 0.1, lower) == verdict(-0.1, 0.1, higher) == "not significant"
    assert verdict(np.nan, np.nan, lower) == "not significant"
    assert verdict(0.1, 0.2, lower) == verdict(-0.2, -0.1, higher) == "does not hold"
    assert verdict(0.1, 0.2, higher) == verdict(-0.2, -0.1, lower) == "holds"
    assert verdict(0.1, 0.2, training("net-noise", 0)) == "higher"


def test_variants_section_draws_its_figures(study, tmp_path):
    section = variants_section(study)
    figures = list(section.all(Figure))
    assert [one.path for one in figures] == [
        "figures/town-block-claims.png",
        "figures/town-block-curve-weight-mu.png",
        "figures/town-block-curve-made-up.png",
    ]
    for one in figures:
        assert "(synthetic)" in one.title
        pixels = matplotlib.image.imread(tmp_path / "results" / one.path)
        assert pixels.shape[1] > 600
        assert len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0)) > 50
    tables = list(section.all(Table))
    assert [table.name for table in tables] == ["town-block-claims-ridge", "town-block-variants"]
    assert tables[1].frame()["differs in"].tolist()[0] == "it is net-mu-0"
