"""Evaluation of refinement and consensus on a small synthetic city."""

from functools import partial

import numpy as np
import pytest

from examples.caption_truth import (
    Judged,
    bootstrap,
    candidates_of,
    choices,
    judged_images,
    refinement,
    report,
    synthetic_recipe,
)
from examples.simulated_judge import Judgement
from pipelines.captioning.run import run
from pipelines.captioning.simulated.truth import Truth


def _judged(
    model: str, before: str, after: str, chosen: bool = False, dropped: bool = False
) -> Judged:
    """Judged candidate with true objects A, B, C and D; lower-case letters are false objects."""
    return Judged(model, chosen, dropped, _judgement(before), _judgement(after))


def _judgement(letters: str) -> Judgement:
    named, there = frozenset(letters), frozenset("ABCD")
    return Judgement(named & there, named - there, there - named)


IMAGES = [
    [_judged("a", "ABx", "ABC", chosen=True), _judged("b", "Axy", "Ax")],
    [_judged("a", "Ay", "A"), _judged("b", "ABCD", "ABD", chosen=True)],
    [_judged("a", "xyz", "xyz", dropped=True), _judged("b", "ABCD", "ABCD", chosen=True)],
]


def test_refinement_by_hand():
    found = refinement(IMAGES)
    assert found["captions"] == 5
    assert found["rate"] == (pytest.approx(4 / 16), pytest.approx(1 / 13))
    assert found["recall"] == (pytest.approx(12 / 20), pytest.approx(12 / 20))
    assert found["cut"].value == pytest.approx(3 / 4)
    assert found["net_loss"].value == pytest.approx(0)
    assert found["gross_loss"].value == pytest.approx(1 / 12)  # C of one caption


def test_choices_by_hand():
    found = choices(IMAGES)
    f1 = {name: value for name, (value, _) in found.items()}
    abc, a, ax, abd = 6 / 7, 2 / 5, 2 / 6, 6 / 7
    assert f1["consensus"] == pytest.approx((abc + abd + 1) / 3)
    assert f1["random choice"] == pytest.approx(((abc + ax) / 2 + (a + abd) / 2 + 1) / 3)
    assert f1["oracle"] == f1["consensus"]
    assert f1["only b (best single model)"] == pytest.approx((ax + abd + 1) / 3)
    # compared on images with one of its captions
    assert f1["only a"] == pytest.approx((abc + a) / 2)
    assert found["only a"][1].value == pytest.approx((abd - a) / 2)


def test_bootstrap_equals_the_normal_interval():
    rows = np.random.default_rng(1).normal(2.0, 1.0, size=(400, 1))
    found = bootstrap(rows, lambda sums: sums[:, 0] / 400)
    half = 1.96 * rows.std() / 20
    assert found.value == pytest.approx(rows.mean())
    assert (found.low, found.high) == pytest.approx(
        (rows.mean() - half, rows.mean() + half), rel=0.01
    )


@pytest.fixture(scope="module")
def images(city_with_truth, truth: Truth, tmp_path_factory):
    """Judged candidates of six images, captioned with simulated models."""
    detector = {"miss_rate": 0.03, "false_alarm_rate": 0.2}
    folder = tmp_path_factory.mktemp("captions")
    recipe = synthetic_recipe(city_with_truth, folder, detector, max_images=3)
    assert run(recipe).finished
    return judged_images(candidates_of(recipe), partial(Truth.__getitem__, truth))


@pytest.mark.slow
def test_effect_of_refinement_and_consensus(images):
    counts = {view: len(groups) for view, groups in images.items()}
    assert counts == {"street_view": 3, "satellite": 3}
    groups = [image for of_view in images.values() for image in of_view]
    found = refinement(groups)
    assert found["captions"] > 60
    assert found["rate"][0] > 0.06
    assert found["cut"].value > 0.5
    assert found["recall"][1] > found["recall"][0]
    assert found["net_loss"].value < 0.05
    chosen = choices(groups)
    assert chosen["random choice"][1].value > 0
    assert chosen["random choice, not refined"][1].low > 0
    assert chosen["oracle"][0] >= chosen["consensus"][0]
    assert "*simulated*" in report(images)
