"""Comparison of captions with the ground truth of the synthetic city."""

import numpy as np
import pytest

from dataset_builders.synthetic.captioners import CAPTIONERS, reference_caption, write_caption
from examples.simulated_judge import Judgement, judge, named_things
from pipelines.captioning.simulated.truth import Truth, thing_of
from pipelines.captioning.simulated.words import stem


@pytest.mark.parametrize("captioner", CAPTIONERS, ids=lambda one: one.name)
def test_judge_finds_what_the_captioner_says_it_made_up_and_left_out(truth: Truth, captioner):
    rng = np.random.default_rng(0)
    made_up = left_out = 0
    for image_id in truth:
        one = truth[image_id]
        for _ in range(5):
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


def test_judge_finds_all_and_nothing_else_in_the_reference(truth: Truth):
    for image_id in truth:
        one = truth[image_id]
        caption = reference_caption(one.facts, one.view)
        found = judge(caption.text, one)
        assert found.false == frozenset()
        # facts beyond 200 words are omitted
        assert found.missed == {thing_of(fact) for fact in caption.omitted}


def test_judge_reads_other_words_than_templates(truth: Truth):
    one = truth["harborview_001_001_sv0"]
    found = judge("Two trams pass an old market stall under open skies; no dogs.", one)
    assert found.false == {"tram", "market stall", "dog"}
    assert found.true == {"sky"}


def test_judge_does_not_call_the_parts_of_a_true_thing_false(truth: Truth):
    views = [truth[image_id] for image_id in truth if image_id.endswith("sv0")]
    parks = [one for one in views if "a park with lawns and trees" in one.things]
    assert parks
    assert judge("A park with trees is on the left.", parks[0]).false == frozenset()


def test_judge_takes_openings_for_nothing(truth: Truth):
    for captioner in CAPTIONERS:
        for image_id in ("harborview_001_001_sv0", "harborview_001_001_sat"):
            found = judge(f"{captioner.opening} {captioner.closing}", truth[image_id])
            assert not found.true | found.false


def test_judgement_is_worked_out_by_hand():
    one = Judgement(frozenset("abc"), frozenset("x"), frozenset("de"))
    assert one.f1 == pytest.approx(2 * 0.75 * 0.6 / (0.75 + 0.6))
    nothing = Judgement(frozenset(), frozenset(), frozenset())
    assert nothing.f1 == 0


def test_names_within_longer_names_do_not_count():
    assert named_things("A park with lawns and trees, and a tree.", "street_view") == [
        "a park with lawns and trees",
        "tree",
    ]
    assert named_things("Greenhouses beside housing.", "satellite") == ["greenhouses"]
    assert named_things("Scars and streetcars.", "street_view") == []


def test_stem_takes_plurals_off():
    plurals = "houses homes buses storeys benches lorrys skies grass bus"
    singulars = "house home bus storey bench lorry sky grass bus"
    assert [stem(word) for word in plurals.split()] == singulars.split()
