from dataclasses import replace

import numpy as np
import pytest

from pipelines.prediction.cross_fit import Folds
from pipelines.prediction.estimate import Estimate
from pipelines.prediction.labels import Indicator, as_indicators
from pipelines.prediction.place import Place
from pipelines.prediction.verdict import judge


def make(n=400, images=0.3, location=1.0, districts=20, half_width=0.5, seed=0, **changed):
    """Estimate with errors of these standard deviations; labels have 1."""
    rng = np.random.default_rng(seed)
    y = rng.normal(10, 1, n)
    numbers = np.arange(n) % districts
    folds = Folds(numbers % 5, lambda rows, others: np.zeros(len(rows), bool))
    estimate = Estimate(
        Indicator("rent", "EUR", "identity", y),
        folds,
        y + rng.normal(0, images, n),
        np.full(n, half_width),
        y + rng.normal(0, location, n),
        y + rng.normal(0, images, n),
        "trees",
        True,
        0,
        half_width,
    )
    xy = rng.uniform(0, 1e4, (n, 2))
    return replace(estimate, **changed), Place(xy, numbers, numbers, folds.near, "block", 2000.0)


@pytest.mark.parametrize(
    ("images", "location", "answer", "words"),
    [
        (0.3, 1.0, "yes", "images predict better than location alone in new districts"),
        (1.0, 0.3, "no", "location alone predicts better than images"),
        (0.7, 0.7, "not significant", "do not differ significantly"),
    ],
)
def test_answer_follows_the_interval_of_the_difference(images, location, answer, words):
    verdict = judge(*make(images=images, location=location))
    assert verdict.better_than_location == answer
    assert words in verdict.sentence
    assert (verdict.gain.low > 0, verdict.gain.high < 0) == (answer == "yes", answer == "no")


@pytest.mark.parametrize("few", [{"n": 99}, {"districts": 7}])
def test_does_not_judge_too_few_regions_or_districts(few):
    verdict = judge(*make(**few))
    assert verdict.better_than_location == "too few regions"
    assert "too few regions to judge" in verdict.sentence


def test_states_width_of_intervals_and_scores_that_are_not_estimable():
    verdict = judge(*make(location=15.0, districts=8, n=104))
    assert verdict.location.text == verdict.better_than_location == "not estimable"
    assert "spans 13% of the range of labels" in judge(*make(half_width=0.2)).sentence
    assert "spans half the range of labels: do not" in judge(*make(half_width=0.9)).sentence


def test_r2_and_coverage_are_those_of_the_pooled_predictions():
    estimate, place = make()
    y, verdict = estimate.indicator.y, judge(estimate, place)
    expected = 1 - np.square(estimate.value - y).sum() / np.square(y - y.mean()).sum()
    assert verdict.images.r2 == pytest.approx(expected, abs=1e-4)
    inside = np.abs(estimate.value - y) <= 0.5
    assert verdict.coverage == pytest.approx(inside.mean(), abs=1e-4)


def test_models_logarithms_of_skewed_amounts_only():
    rng = np.random.default_rng(0)
    raw = {
        "people": np.exp(rng.normal(5, 1.5, 300)),
        "height": rng.normal(20, 4, 300),
        "change": rng.normal(0, 1, 300),
        "log_rent": np.exp(rng.normal(5, 1.5, 300)),
        "population": rng.uniform(2, 11.3, 300),
    }
    found = {one.name: one for one in as_indicators(raw, dict.fromkeys(raw, "x"))}
    assert [found[name].transform for name in raw] == ["ln1p", *["identity"] * 4]
    assert not found["change"].is_amount
    assert "appears to be a logarithm (by its name)" in found["log_rent"].notes[0]
    assert "its largest value is 11.3" in found["population"].notes[0]
    assert not found["people"].notes
    np.testing.assert_allclose(found["people"].to_raw(found["people"].y), raw["people"])
    assert found["height"].to_raw(np.array([-3.0, 4.0])).tolist() == [0.0, 4.0]
