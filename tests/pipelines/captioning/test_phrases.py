import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipelines.captioning.phrases import (
    cut,
    literal_mentions,
    phrases_of,
    remove_phrases,
    score_phrases,
    texts_to_ask,
)
from pipelines.captioning.records import Phrase, SceneGraph
from pipelines.captioning.scene_graph import split_sentences
from pipelines.captioning.text import names_any


def things(*texts, sentence=0):
    return [Phrase(text, "object", "caption", sentence) for text in texts]


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
    texts = ["bus", "car", "tree", "a very long phrase"]
    scores = np.array([0.5, 0.009, 0.01, np.nan], np.float32)
    found = score_phrases(things(*texts), texts, scores)
    assert [one.score for one in found[:3]] == pytest.approx([0.5, 0.009, 0.01])
    assert [(one.kept, one.reason) for one in found] == [
        (True, ""),
        (False, "below_threshold"),
        (True, ""),
        (True, "too_long"),
    ]
    assert found[3].score is None


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
        ("Red cars wait at the kerb.", [], ["red car"], "Cars wait at the kerb."),
        ("A red car waits at the kerb.", ["car"], ["red car"], ""),
        ("Construction sites are on the left.", ["construction site"], [], ""),
        ("A fountain stands there, and cars pass.", ["fountain"], [], ""),
        ("The street is lined with trees.", ["tree"], [], ""),
        ("The street is long.", ["tree"], [], "The street is long."),
        ("A scarf and a scar.", ["car"], [], "A scarf and a scar."),
        ("A well-kept block.", [], ["kept block"], "A well-kept block."),
        ("Shops line it, while a tram (of 1 car) passes!", ["tram"], [], "Shops line it!"),
        ("A car.", [], [], "A car."),
        ("", ["car"], [], ""),
    ],
)
def test_remove_phrases_removes_clauses(text, things, attributes, left):
    assert remove_phrases(text, things, attributes) == left


WORDS = st.sampled_from(["tree", "trees", "street", "car", "scar", "red", "bus", ",", "and", "."])
PHRASES = st.lists(st.sampled_from(["tree", "car", "red car", "bus (", "c*r", "bus"]), max_size=3)


@given(st.lists(WORDS, max_size=25).map(" ".join), PHRASES, PHRASES)
@example("red . car", ["red car"], [])  # two sentences without a red car
def test_remove_phrases_leaves_whole_words_and_no_rejected_phrase(text, things, attributes):
    left = remove_phrases(text, things, attributes)
    assert not any(names_any(sentence, things) for sentence in split_sentences(left))
    assert set(left.replace(",", " ").replace(".", " ").lower().split()) <= set(text.split())


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
        (
            "The image depicts a large, open field with residential and commercial buildings.",
            ["large field", "residential building"],
            "The image depicts an open field with commercial buildings.",
        ),
        (
            "There are houses visible in the background, and a train parked.",
            ["visible house", "parked train"],
            "There are houses in the background, and a train.",
        ),
        ("The sky is blue, and the street is busy.", ["busy street"], "The sky is blue."),
        ("The sky is blue and the street is busy.", ["blue sky"], ""),
        (
            "There is an old tower and a tall, very old, grey church.",
            ["old tower", "old church"],
            "There is a tower and a tall, grey church.",
        ),
        (
            "It has one old factory and two old churches.",
            ["old factory"],
            "It has one factory and two old churches.",
        ),
        ("A well-kept block.", ["well-kept block"], "A block."),
        ("There is a fence, and a row of green trees.", ["green fence"], None),
        ("A tree-lined street.", ["lined street"], None),
        ("There are old and grey towers.", ["old tower", "grey tower"], "There are towers."),
    ],
)
def test_remove_phrases_removes_attributes_only(text, attributes, left):
    assert remove_phrases(text, [], attributes) == (text if left is None else left)


def test_literal_mentions_precede_their_noun_without_conjunction():
    assert literal_mentions("Red cars, red car parks.", ["red car"]) == [(0, 3)]
    assert literal_mentions("A fence and red cars.", ["red car"]) == []
    assert literal_mentions("An old traffic light.", ["old traffic light"]) == [(3, 6)]
    assert literal_mentions("A scared cat.", ["red cat", "car", ""]) == []


WITH_ARTICLES = "a an old red blue car cars factory tree is and , of"
GRAMMAR = WITH_ARTICLES.split()


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.sampled_from(GRAMMAR), max_size=14).map(" ".join),
    st.sets(st.sampled_from(["red car", "old car", "blue tree", "old factory"]), max_size=3),
)
def test_remove_phrases_leaves_whole_words_and_no_rejected_attribute(text, attributes):
    left = remove_phrases(f"{text} .", [], attributes)
    assert not names_any(left, attributes)
    words = {word.lower() for word in left.replace(",", " ").replace(".", " ").split()}
    assert words <= {*text.split(), "a", "an"}


@given(st.text(alphabet="an old,.-(é ", max_size=30), st.data())
def test_cut_removes_only_the_given_spans(text, data):
    assert cut(text, []) == text
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    left = cut(text, [(start, end)])
    assert set(left.lower()) <= set(text.lower()) | {" ", "n"}
    assert len(left) <= len(text) - (end - start) + 2
