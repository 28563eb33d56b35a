"""Comparison of captions with the ground truth of the synthetic city."""

import numpy as np
import pytest

from dataset_builders.synthetic.captioners import CAPTIONERS, reference_caption, write_caption
from examples.simulated_judge import Judgement, judge, named_things
from pipelines.captioning.simulated.truth import Truth, thing_of


@pytest.mark.parametrize("captioner", CAPTIONERS, ids=lambda one: one.name)
def test_judge_finds_hallucinated_and_omitted_objects(truth: Truth, captioner):
    rng = np.random.default_rng(0)
    made_up = left_out = 0
    for image_id in truth:
        one = truth[image_id]
        for _ in range(2):
            caption = write_caption(captioner, list(one.facts), one.view, rng)
            told = [fact for fact in one.facts if fact not in caption.omitted]
            found = judge(caption.text, one)
            assert found.false == {thing_of(fact) for fact in caption.hallucinated}
            assert found.true == {thing_of(fact) for fact in told}
            assert found.missed == one.things - found.true
            made_up += len(found.false)
            left_out += len(found.missed)
    assert made_up > 5
    assert left_out > 20


def test_judge_of_reference_captions(truth: Truth):
    for image_id in truth:
        one = truth[image_id]
        caption = reference_caption(one.facts, one.view)
        found = judge(caption.text, one)
        assert found.false == frozenset()
        # facts beyond 200 words are omitted
        assert found.missed == {thing_of(fact) for fact in caption.omitted}


def test_judge_of_other_wordings(truth: Truth):
    one = truth["harborview_001_001_sv0"]
    found = judge("Two trams pass an old market stall under open skies; no dogs.", one)
    assert found.false == {"tram", "market stall", "dog"}
    assert found.true == {"sky"}
    views = [truth[image_id] for image_id in truth if image_id.endswith("sv0")]
    park = next(one for one in views if "a park with lawns and trees" in one.things)
    assert judge("A park with trees is on the left.", park).false == frozenset()
    for captioner in CAPTIONERS:  # openings and closings state nothing
        for image_id in ("harborview_001_001_sv0", "harborview_001_001_sat"):
            found = judge(f"{captioner.opening} {captioner.closing}", truth[image_id])
            assert not found.true | found.false


def test_f1_by_hand():
    one = Judgement(frozenset("abc"), frozenset("x"), frozenset("de"))
    assert one.f1 == pytest.approx(2 * 0.75 * 0.6 / (0.75 + 0.6))
    assert Judgement(frozenset(), frozenset(), frozenset()).f1 == 0


def test_longest_name_counts():
    text = "A park with lawns and trees, and a tree."
    assert named_things(text, "street_view") == ["a park with lawns and trees", "tree"]
    assert named_things("Greenhouses beside housing.", "satellite") == ["greenhouses"]
    assert named_things("Scars and streetcars.", "street_view") == []
