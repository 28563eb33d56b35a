import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipelines.captioning.phrases import (
    phrases_of,
    remove_phrases,
    score_phrases,
    texts_to_ask,
)
from pipelines.captioning.records import Phrase, SceneGraph
from pipelines.captioning.scene_graph import split_sentences
from pipelines.captioning.text import names_any


def test_phrases_are_objects_attributes_and_relations_with_their_source():
    graph = SceneGraph(("car", "road"), (("car", "red"),), (("car", "on", "road"),))
    found = phrases_of(["A red car on the road."], [graph], ["A tree."], [[SceneGraph(("tree",))]])
    assert [(one.text, one.kind, one.source, one.sentence) for one in found] == [
        ("car", "object", "caption", 0),
        ("road", "object", "caption", 0),
        ("red car", "attribute", "caption", 0),
        ("car on road", "relation", "caption", 0),
        ("tree", "object", "local", 0),
    ]
    assert texts_to_ask(found) == ["car", "red car", "road", "tree"]
    relation = found[3]
    assert (relation.kept, relation.reason) == (True, "relation")


def test_score_phrases_keeps_scores_at_the_threshold_and_unscored_phrases():
    texts = ["car", "tree", "a very long phrase"]
    found = score_phrases(
        [Phrase(text, "object") for text in texts],
        texts,
        np.array([0.009, 0.01, np.nan], np.float32),
    )
    assert [(one.kept, one.reason) for one in found] == [
        (False, "below_threshold"),
        (True, ""),
        (True, "too_long"),
    ]
    assert [one.score for one in found] == [pytest.approx(0.009), pytest.approx(0.01), None]


def test_non_visual_phrases_are_kept_and_not_scored():
    graph = SceneGraph(
        ("scene", "night view", "car"), (("car", "several"), ("car", "red"), ("scene", "busy"))
    )
    phrases = phrases_of(["."], [graph])
    assert texts_to_ask(phrases) == ["car", "red car"]
    found = score_phrases(phrases, ["car", "red car"], np.zeros(2, np.float32))
    assert {one.text: (one.kept, one.reason) for one in found} == {
        "scene": (True, "not_visual"),
        "night view": (True, "not_visual"),
        "several car": (True, "not_visual"),
        "busy scene": (True, "not_visual"),
        "car": (False, "below_threshold"),
        "red car": (False, "below_threshold"),
    }


@pytest.mark.parametrize(
    ("text", "things", "attributes", "left"),
    [
        ("A car is parked. A fountain stands there.", ["fountain"], [], "A car is parked."),
        (
            "There are trees, a stone fountain, and a row of shops.",
            ["fountain"],
            ["stone fountain"],
            "There are trees, and a row of shops.",
        ),
        ("A red car waits at the kerb.", [], ["red car"], "A car waits at the kerb."),
        ("A red car waits at the kerb.", ["car"], ["red car"], ""),
        ("A fountain stands there, and cars pass.", ["fountain"], [], ""),
        ("A scarf and a scar.", ["car"], [], "A scarf and a scar."),
        ("A well-kept block.", [], ["kept block"], "A well-kept block."),
        ("Shops line it, while a tram (of 1 car) passes!", ["tram"], [], "Shops line it!"),
        ("", ["car"], [], ""),
    ],
)
def test_remove_phrases_removes_clauses(text, things, attributes, left):
    assert remove_phrases(text, things, attributes) == left


# ---- attributes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "attributes", "left"),
    [
        ("There is an old tower.", ["old tower"], "There is a tower."),
        ("There is a tall old tower.", ["tall tower"], "There is an old tower."),
        (
            "The image depicts a large, open field with residential and commercial buildings.",
            ["open field", "commercial building"],
            "The image depicts a large field with residential buildings.",
        ),
        ("The sky is blue, and the street is busy.", ["busy street"], "The sky is blue."),
        ("The sky is blue and the street is busy.", ["blue sky"], ""),
        (
            "There is an old tower and a tall, very old, grey church.",
            ["old tower", "old church"],
            "There is a tower and a tall, grey church.",
        ),
        ("There is a fence, and a row of green trees.", ["green fence"], None),
        ("A tree-lined street.", ["lined street"], None),
    ],
)
def test_remove_phrases_removes_attributes_only(text, attributes, left):
    assert remove_phrases(text, [], attributes) == (text if left is None else left)


WORDS = "an old red blue car cars scar factory tree is and , . of bus"
TEXTS = st.lists(st.sampled_from(["a", *WORDS.split()]), max_size=14).map(" ".join)
THINGS = st.lists(st.sampled_from(["tree", "car", "bus (", "c*r", "bus"]), max_size=2)
ATTRIBUTES = st.sets(st.sampled_from(["red car", "old car", "blue tree", "old factory"]))


@settings(max_examples=60)
@given(TEXTS, THINGS, ATTRIBUTES)
@example("red . car", ["red car"], [])  # two sentences without a red car
def test_remove_phrases_leaves_whole_words_and_no_rejected_phrase(text, things, attributes):
    left = remove_phrases(text, things, attributes)
    for sentence in split_sentences(left):
        assert not names_any(sentence, [*things, *attributes])
    words = set(left.replace(",", " ").replace(".", " ").lower().split())
    assert words <= {*text.split(), "a", "an"}
