import json

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy.stats import spearmanr

from pipelines.evaluation.cli import main
from pipelines.evaluation.embed.tables import read_embeddings
from pipelines.evaluation.errors import InputError
from pipelines.evaluation.probe.city import City, Target, open_city
from pipelines.evaluation.search.prompts import DEFAULT_PROMPTS, Attribute, Prompts, read_prompts
from pipelines.evaluation.search.zero_shot import agreements, score_view, spearman

TEMPLATES = {"street_view": ["a photo of {}."], "satellite": ["{} from above.", "{}."]}
CONTENT = {
    "templates": TEMPLATES,
    "attributes": {
        "height": {"classes": {"high": ["towers"], "low": ["huts", "sheds"]},
                   "indicators": {"population": "high"}},
    },
}  # fmt: skip


def write(path, content):
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def test_the_prompts_that_ship_are_read():
    prompts = read_prompts()
    assert DEFAULT_PROMPTS.name == "prompts.yaml"
    assert "wealth.wealthy" in [name for one in prompts.attributes for name in one.columns]
    assert prompts.sentences("satellite", ["a park"])[0] == "a satellite photo of a park."


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("{", "No prompts in"),
        ({**CONTENT, "more": 1}, "`templates` and `attributes` only"),
        ({**CONTENT, "templates": {"satellite": ["{}"]}}, "`templates` needs street_view"),
        ({**CONTENT, "templates": {**TEMPLATES, "satellite": ["{} {}"]}}, "with one {}"),
        ({**CONTENT, "attributes": {"a": ["x"]}}, "`a` needs `classes`"),
        ({**CONTENT, "attributes": {"a": {"classes": {"b": ["c"]}}}}, "two or more lists"),
        ({**CONTENT, "attributes": {"a": {"classes": {"b": ["c"], "d": ["e"]},
          "indicators": {"gdp": "rich"}}}}, "names \\['rich'\\], not in"),
    ],
)  # fmt: skip
def test_prompts_that_cannot_be_read_are_told(tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        read_prompts(write(tmp_path / "p.yaml", change))


AXES = {"towers": 0, "huts": 1, "sheds": 2}


def encode(sentences):
    """Orthogonal vectors of phrases, independent of the template."""
    vectors = np.zeros((len(sentences), 3), np.float32)
    for row, sentence in enumerate(sentences):
        vectors[row, next(axis for word, axis in AXES.items() if word in sentence)] = 2
    return vectors


def prompts_of(content) -> Prompts:
    attributes = [
        Attribute(name, one["classes"], one.get("indicators", {}))
        for name, one in content["attributes"].items()
    ]
    return Prompts(content["templates"], attributes)


def test_scores_are_the_softmax_over_classes_of_the_mean_prompt():
    vectors = np.array([[3, 0, 0], [0, 1, 1], [np.nan] * 3])
    scores = score_view(vectors, "satellite", prompts_of(CONTENT), encode, 4.0)
    # cosines are 1 and 0 for the first region, 0 and 1 for the second
    high = np.exp(4) / (np.exp(4) + 1)
    np.testing.assert_allclose(scores[:2], [[high, 1 - high], [1 - high, high]], rtol=1e-6)
    assert np.isnan(scores[2]).all()


def test_rank_correlation_is_scipys_with_ties():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 6, (2, 200)).astype(float)
    assert spearman(x, y) == pytest.approx(spearmanr(x, y).statistic)


@pytest.fixture
def town(toy_dataset) -> City:
    return open_city(str(toy_dataset), "toytown")


def scored(town: City, high: np.ndarray) -> list:
    scores = np.stack([high, 1 - high], axis=1).astype(np.float32)
    ids = town.regions["region_id"].tolist()
    # in a different order than the city's
    return agreements({"satellite": scores[::-1]}, ids[::-1], prompts_of(CONTENT), town)


def test_a_score_that_is_the_indicator_agrees_beyond_any_shuffle(town):
    population = next(one for one in town.targets if one.name == "population").y
    ranked = pd.Series(population).rank(pct=True).to_numpy()
    (found,) = scored(town, np.where(np.isnan(ranked), 0.5, ranked))
    assert found.spearman == pytest.approx(1)
    assert found.n == 63  # a label is missing
    assert found.p_value == pytest.approx(1 / 1001)
    assert -0.4 < found.null_low < -0.15 < 0.15 < found.null_high < 0.4
    assert (found.low, found.high) == pytest.approx((1, 1))


def test_a_score_of_chance_lies_within_the_shuffles(town):
    inside = 0
    for seed in range(10):
        (found,) = scored(town, np.random.default_rng(seed).random(64))
        inside += found.null_low <= found.spearman <= found.null_high
    assert inside >= 8


def test_a_constant_score_agrees_with_nothing(town):
    assert scored(town, np.full(64, 0.5)) == []


def test_blocks_are_wanted_for_an_interval():
    import geopandas as gpd

    regions = gpd.GeoDataFrame(
        {"region_id": list("abcdef"), "lon": np.linspace(10, 10.001, 6), "lat": 50.0},
        geometry=gpd.points_from_xy(np.linspace(10, 10.001, 6), [50.0] * 6),
        crs="EPSG:4326",
    )
    target = Target("population", "people", "ln1p", np.arange(6.0))
    city = City("here", "d", True, regions, [target], block_m=1e5)
    (found,) = scored(city, np.arange(6) / 6)
    assert (found.low, found.high, found.blocks) == (None, None, 1)


def test_the_command_writes_a_table_that_is_probed(toy_dataset, tiny_model_dir, tmp_path, capsys):
    where = ["--dataset_name", str(toy_dataset), "--city", "toytown", "--device", "cpu"]
    asked = ["--prompts", str(write(tmp_path / "p.yaml", CONTENT)), "--label", "tiny"]
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
    assert list(frame) == ["region_id", "street_view.height.high", "street_view.height.low",
                           "satellite.height.high", "satellite.height.low"]  # fmt: skip
    found = json.loads((folder / "zero-shot-tiny.json").read_text())
    assert [(one["view"], one["n"]) for one in found["agreement"]] == [
        ("street_view", 62),
        ("satellite", 63),
    ]
    results = ["--probes", "ridge", "--protocols", "random", "--seeds", "1"]
    command = ["probe", "--embeddings", str(folder / "zero-shot-tiny.parquet"), *where, *results]
    assert main([*command, "--output_dir", str(tmp_path / "results")]) == 0
