import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.captioning.filters import remove_phrases
from pipelines.captioning.guards import names_any
from pipelines.captioning.pruning import attribute_mentions, cut, literal_mentions


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
def test_attributes_go_and_what_is_left_can_be_read(text, attributes, left):
    assert remove_phrases(text, [], attributes) == (text if left is None else left)


def test_an_attribute_that_a_clause_is_about_has_a_place_and_no_span():
    assert attribute_mentions("The sky is blue.", ["blue sky"]) == ([], [11])
    assert attribute_mentions("The blue sky.", ["blue sky"]) == ([(4, 8)], [])
    assert attribute_mentions("The blue sky.", ["grey sky"]) == ([], [])


def test_literal_mentions_stand_before_their_thing_and_are_joined_to_no_other():
    assert literal_mentions("Red cars, red car parks.", ["red car"]) == [(0, 3)]
    assert literal_mentions("A fence and red cars.", ["red car"]) == []
    assert literal_mentions("An old traffic light.", ["old traffic light"]) == [(3, 6)]
    assert literal_mentions("A scared cat.", ["red cat", "car", ""]) == []


WORDS = ("a", "an", "old", "red", "blue", "car", "cars", "factory", "tree", "is", "and", ",", "of")


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.sampled_from(WORDS), max_size=14).map(" ".join),
    st.sets(st.sampled_from(["red car", "old car", "blue tree", "old factory"]), max_size=3),
)
def test_removal_of_attributes_leaves_whole_words_and_nothing_rejected(text, attributes):
    left = remove_phrases(f"{text} .", [], attributes)
    assert not names_any(left, attributes)
    words = {word.lower() for word in left.replace(",", " ").replace(".", " ").split()}
    assert words <= {*text.split(), "a", "an"}


@given(st.text(alphabet="an old,.-(é ", max_size=30), st.data())
def test_cut_takes_out_what_it_is_told_and_no_other_word(text, data):
    assert cut(text, []) == text
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    left = cut(text, [(start, end)])
    assert set(left.lower()) <= set(text.lower()) | {" ", "n"}
    assert len(left) <= len(text) - (end - start) + 2
