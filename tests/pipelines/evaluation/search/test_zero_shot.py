import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy.stats import spearmanr

from pipelines.evaluation.cli import main
from pipelines.evaluation.embed.tables import read_embeddings
from pipelines.evaluation.errors import InputError
from pipelines.evaluation.probe.city import open_city
from pipelines.evaluation.search import zero_shot
from pipelines.evaluation.search.zero_shot import (
    DEFAULT_PROMPTS,
    agreements,
    read_prompts,
    score_view,
    spearman,
)

TEMPLATES = {"street_view": ["a photo of {}."], "satellite": ["{} from above.", "{}."]}
CONTENT = {
    "templates": TEMPLATES,
    "attributes": {
        "height": {"classes": {"high": ["towers"], "low": ["huts", "sheds"]},
                   "indicators": {"population": "high"}},
    },
}  # fmt: skip


def write(path, content=CONTENT):
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


@pytest.fixture
def prompts(tmp_path):
    return read_prompts(write(tmp_path / "p.yaml"))


def test_default_prompts():
    prompts = read_prompts(DEFAULT_PROMPTS)
    assert "wealth.wealthy" in [name for one in prompts.attributes for name in one.columns]
    assert prompts.sentences("satellite", ["a park"])[0] == "a satellite photo of a park."


def test_invalid_prompts_raise(tmp_path):
    one_class = {"a": {"classes": {"b": ["c"]}}}
    for change, message in (
        ("{", "No prompts in"),
        ({**CONTENT, "more": 1}, "There is no field 'more'"),
        ({**CONTENT, "templates": {"satellite": ["{}"]}}, "`templates` needs street_view"),
        ({**CONTENT, "templates": {**TEMPLATES, "satellite": ["{} {}"]}}, "with one {}"),
        ({**CONTENT, "attributes": one_class}, "two or more lists"),
    ):
        with pytest.raises(InputError, match=message):
            read_prompts(write(tmp_path / "p.yaml", change))


def test_scores_are_the_softmax_over_classes_of_the_mean_prompt(prompts):
    def encode(sentences):  # orthogonal vectors of phrases, independent of the template
        axes = [[word in one for word in ("towers", "huts", "sheds")] for one in sentences]
        return 2 * np.array(axes, np.float32)

    vectors = np.array([[3, 0, 0], [0, 1, 1], [np.nan] * 3])
    scores = score_view(vectors, "satellite", prompts, encode, 4.0)
    # cosines are 1 and 0 for the first region, 0 and 1 for the second
    high = np.exp(4) / (np.exp(4) + 1)
    np.testing.assert_allclose(scores[:2], [[high, 1 - high], [1 - high, high]], rtol=1e-6)
    assert np.isnan(scores[2]).all()
    x, y = np.random.default_rng(0).integers(0, 6, (2, 200)).astype(float)
    assert spearman(x, y) == pytest.approx(spearmanr(x, y).statistic)


def test_agreement_with_indicators(toy_dataset, prompts, monkeypatch):
    town = open_city(str(toy_dataset), "toytown")
    ids = town.regions["region_id"].tolist()

    def scored(city, high):
        scores = np.stack([high, 1 - high], axis=1).astype(np.float32)
        # in a different order than the city's
        return agreements({"satellite": scores[::-1]}, ids[::-1], prompts, city)

    population = next(one for one in town.targets if one.name == "population").y
    ranked = pd.Series(population).rank(pct=True).fillna(0.5).to_numpy()
    (found,) = scored(town, ranked)
    assert found["spearman"] == pytest.approx(1)
    assert found["n"] == 63  # a label is missing
    assert found["p_value"] == pytest.approx(1 / 1001)
    assert -0.4 < found["null_low"] < -0.15 < 0.15 < found["null_high"] < 0.4
    assert (found["low"], found["high"]) == pytest.approx((1, 1))
    assert scored(town, np.full(64, 0.5)) == []
    monkeypatch.setattr(zero_shot, "PERMUTATIONS", 100)
    (found,) = scored(replace(town, block_m=1e6), ranked)
    assert (found["low"], found["high"], found["blocks"]) == (None, None, 1)
    monkeypatch.setattr(zero_shot, "REPLICATES", 2)
    inside = 0
    for seed in range(10):
        (found,) = scored(town, np.random.default_rng(seed).random(64))
        inside += found["null_low"] <= found["spearman"] <= found["null_high"]
    assert inside >= 8


def test_command_writes_an_embedding_table(
    toy_dataset, tiny_model_dir, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(zero_shot, "REPLICATES", 20)
    where = ["--dataset_name", str(toy_dataset), "--city", "toytown", "--device", "cpu"]
    asked = ["--prompts", str(write(tmp_path / "p.yaml")), "--label", "tiny"]
    model = ["--model_name_or_path", str(tiny_model_dir), "--output_dir", str(tmp_path)]
    assert main(["zero_shot", *where, *asked, *model]) == 0
    shown = capsys.readouterr().out
    assert "Synthetic data" in shown
    assert "biases of the model's training data" in shown
    folder = tmp_path / "toytown"
    table = read_embeddings(folder / "zero-shot-tiny.parquet")
    assert table.metadata["columns"] == ["height.high", "height.low"]
    np.testing.assert_allclose(table.vectors["satellite"].sum(1), 1, rtol=1e-5)
    assert not table.has("street_view")[0]
    frame = pd.read_csv(folder / "zero-shot-tiny.csv")
    assert list(frame)[:2] == ["region_id", "street_view.height.high"]
    found = json.loads((folder / "zero-shot-tiny.json").read_text())
    assert [(one["view"], one["n"]) for one in found["agreement"]] == [
        ("street_view", 62),
        ("satellite", 63),
    ]
