import json

import matplotlib.image
import numpy as np
import pandas as pd
import pytest

from pipelines.evaluation.analysis.bootstrap import MEAN, Interval
from pipelines.evaluation.analysis.claims import VariantDifference
from pipelines.evaluation.embed.trainings import Training
from pipelines.evaluation.report.frame import METHOD, VARIANT, CityResults
from pipelines.evaluation.report.rendering import Figure, Table
from pipelines.evaluation.report.variants import (
    claims_table,
    variants_frame,
    variants_section,
    verdict,
)

MU = "weight mu"
TRAININGS = {  # variant -> mean R2, reference, claim, expected, curve
    "net-full": (0.6, None, "", "lower", {MU: 0.5}),
    "net-mu-0": (0.5, "net-full", "pseudo-targets help", "lower", {MU: 0}),
    "net-both": (0.5, "net-full", "keys of both are better", "higher", {}),
    "net-noise": (0.4, "net-full", "", "lower", {}),
    "net-noise-in-batch": (0.1, "net-noise", "robust to noise", "lower", {"made up": 0.3}),
}
INDICATORS, SEEDS = ("population", "gdp"), (0, 1)
WHERE = {"view": "satellite", "probe": "ridge", "protocol": "block"}


def training(name, seed=0):
    _, against, claim, expected, curve = TRAININGS[name]
    return Training(name, seed, against, f"it is {name}", {}, claim, expected, curve)


@pytest.fixture
def study(tmp_path):
    """City with results of all trainings, and the differences of the variants."""
    pairs = [(name, seed) for seed in SEEDS for name in TRAININGS]
    systems = {f"{name}-s{seed}": training(name, seed).metadata() for name, seed in pairs}
    summary = {"city": "town", "synthetic": True, "systems": systems}
    summary["indicators"] = dict.fromkeys(INDICATORS)
    rows = [
        {"system": name, "label": f"{name}-s{seed}", "beside": "", "split_seed": 0, **WHERE}
        | {"indicator": i, "r2": TRAININGS[name][0] + 0.02 * seed - 0.1 * (i == "gdp")}
        for name, seed in pairs
        for i in INDICATORS
    ]
    frame = pd.DataFrame(rows)
    added = frame.assign(beside="coordinates", label="coordinates+" + frame["label"], r2=9.0)
    city = CityResults(tmp_path / "results" / "town", summary, pd.concat([frame, added]))
    compared = []
    for name, (r2, against, *_) in TRAININGS.items():
        if against:
            mean = r2 - TRAININGS[against][0]
            found = Interval(mean, mean - 0.05, mean + 0.05)
            seeds = mean - 0.01, mean + 0.01
            for one in (*INDICATORS, MEAN):
                where = {**WHERE, "indicator": one, "seeds": seeds, "difference": found}
                compared.append(VariantDifference(system=name, reference=against, **where))
    return city, variants_frame(city, compared)


def write_metrics(folder, published):
    """Three validations; the first is before training, and the second is published."""
    folder.mkdir(parents=True)
    lines = [{"step": 5, "loss": 1.0}]
    for step, recall in ((0, 0.9), (5, published), (10, 0.05)):
        names = ("image_to_text_recall_at_5", "text_to_image_recall_at_5", "mean_recall")
        lines.append({"step": step, **dict.fromkeys(names, recall)})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text)
    (folder / "training_summary.json").write_text('{"best_step": 5}')


def test_claims_have_differences_verdicts_and_recall(study, tmp_path):
    for label, recall in (("net-mu-0-s0", 0.5), ("net-mu-0-s1", 0.7), ("net-both-s0", 0.4)):
        write_metrics(tmp_path / "models" / label, recall)
    city, found = study
    assert city.methods == ["net-full"]
    assert city.rank("net-full") == METHOD
    assert city.rank("net-noise") == city.rank("net-noise-in-batch") == VARIANT
    table = claims_table(city, "block", found, "ridge")
    assert "synthetic" in table.title
    cells = table.frame().set_index("variant")
    verdicts = ["holds", "does not hold", "lower", "holds"]  # the third has no claim
    assert dict(cells["verdict"]) == dict(
        zip(("mu-0", "both", "noise", "noise-in-batch"), verdicts, strict=True)
    )
    line = cells.loc["noise-in-batch"]
    assert line[["reference", "claim"]].tolist() == ["noise", "robust to noise"]
    # mean over seeds and indicators, by hand
    assert line["R² of reference"] == pytest.approx(0.4 + 0.01 - 0.05)
    assert line["R²"] == pytest.approx(0.1 + 0.01 - 0.05)
    ends = [line[f"difference, 95 % interval {end}"] for end in ("low", "high")]
    assert ends == pytest.approx([-0.35, -0.25])
    assert line["per training seed"] == "-0.310, -0.290"
    assert "-0.300 \\[-0.350, -0.250\\]" in table.markdown()
    assert cells.loc["mu-0", "recall@5 image to text"] == pytest.approx(0.6)
    # missing for one training, and for both
    assert cells.loc[["both", "noise"], "recall@5 text to image"].tolist() == [None, None]


def test_verdict_needs_a_significant_difference():
    lower, higher = training("net-mu-0"), training("net-both")
    assert verdict(-0.1, 0.1, lower) == verdict(-0.1, 0.1, higher) == "not significant"
    assert verdict(np.nan, np.nan, lower) == "not significant"
    assert verdict(0.1, 0.2, lower) == verdict(-0.2, -0.1, higher) == "does not hold"
    assert verdict(0.1, 0.2, higher) == verdict(-0.2, -0.1, lower) == "holds"
    assert verdict(0.1, 0.2, training("net-noise")) == "higher"


def test_variants_section_draws_its_figures(study, tmp_path):
    city, found = study
    section = variants_section(city, "block", found)
    figures = {one.path: one.title for one in section.all(Figure)}
    names = ("claims", "curve-weight-mu", "curve-made-up")
    assert list(figures) == [f"figures/town-block-{name}.png" for name in names]
    for path, title in figures.items():
        assert "(synthetic)" in title
        pixels = matplotlib.image.imread(tmp_path / "results" / path)
        assert pixels.shape[1] > 600
        assert len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0)) > 50
    tables = list(section.all(Table))
    assert [table.name for table in tables] == ["town-block-claims-ridge", "town-block-variants"]
    assert tables[1].frame()["differs in"].tolist()[0] == "it is net-mu-0"
