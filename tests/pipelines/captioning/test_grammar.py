import json
import sys

import pytest

from pipelines.captioning import grammar
from pipelines.captioning.errors import MissingDependencyError
from pipelines.captioning.grammar import MODELS, SpacyParser, graph_of, read_documents


def graph(sentence):
    (found,) = SpacyParser().parse([sentence])
    return found


@pytest.mark.parametrize(
    ("sentence", "objects"),
    [
        ("Two parking lots and a traffic light.", ("parking lot", "traffic light")),
        ("The street is lined with a variety of buildings.", ("street", "building")),
        ("The image is a bird's eye view of a city.", ("image", "eye view", "city")),
        ("A bus stands in front of a shop.", ("bus", "shop")),
        ("Some are closer to the river and others further away.", ("river",)),
        ("It is there.", ()),
    ],
)
def test_objects_are_heads_with_their_compounds_in_the_singular(sentence, objects):
    assert graph(sentence).objects == objects


@pytest.mark.parametrize(
    ("sentence", "attributes"),
    [
        (
            "Residential and commercial buildings.",
            {("building", "residential"), ("building", "commercial")},
        ),
        ("The sky is blue and clear.", {("sky", "blue"), ("sky", "clear")}),
        ("A small, well-maintained park.", {("park", "small"), ("park", "well-maintained")}),
        ("Two taller towers.", {("tower", "tall")}),
        ("A large number of cars.", set()),
        ("The parked cars are along the road.", {("car", "parked")}),
        ("The area is surrounded by trees.", set()),
    ],
)
def test_attributes_precede_the_noun_or_are_predicates(sentence, attributes):
    assert set(graph(sentence).attributes) == attributes


@pytest.mark.parametrize(
    ("sentence", "relations"),
    [
        (
            "Cars and buses fill the road.",
            {("car", "fill", "road"), ("bus", "fill", "road")},
        ),
        (
            "The street is lined with trees and buildings.",
            {("street", "line with", "tree"), ("street", "line with", "building")},
        ),
        ("A bus stands in front of a shop.", {("bus", "stand in front of", "shop")}),
        ("The image shows a street with trees.", None),
        ("The area is surrounded by trees.", {("area", "surround by", "tree")}),
        ("There are boats in the harbour.", {("boat", "in", "harbour")}),
        ("The city's layout.", {("layout", "of", "city")}),
    ],
)
def test_relations_are_verbs_and_prepositions(sentence, relations):
    found = set(graph(sentence).relations)
    if relations is None:
        relations = {("image", "show", "street"), ("street", "with", "tree")}
    assert found == relations


@pytest.fixture(scope="module")
def captions(shared_data):
    path = shared_data / "urbanclip_toolkit" / "captions" / "Beijing_captions.json"
    tiles = json.loads(path.read_text())
    return sorted({one["caption"] for tile in tiles[:80] for one in tile})[:120]


def test_graphs_of_real_captions_do_not_depend_on_the_batch_or_the_order(captions):
    expected = [graph_of(read_documents([sentence])[0]) for sentence in captions]
    assert SpacyParser().parse(captions) == expected
    assert SpacyParser(batch_size=7).parse(captions[::-1]) == expected[::-1]


def test_graphs_of_real_captions_have_objects_and_consistent_relations(captions):
    graphs = SpacyParser().parse(captions)
    assert sum(len(one.objects) for one in graphs) > 3 * len(captions)
    assert sum(bool(one.relations) for one in graphs) > 0.85 * len(captions)
    for one in graphs:
        named = set(one.objects)
        assert {head for head, _ in one.attributes} <= named
        assert {end for left, _, right in one.relations for end in (left, right)} <= named


def test_a_missing_language_model_raises_with_install_instructions(monkeypatch):
    for name in MODELS:
        monkeypatch.setitem(sys.modules, name, None)
    grammar._language.cache_clear()
    try:
        with pytest.raises(MissingDependencyError, match=r"\[captioning\]"):
            SpacyParser()
    finally:
        grammar._language.cache_clear()


@pytest.mark.parametrize(
    "sentence",
    [
        "among forest  four houses with three swimming pools built on the coast .",
        "near a road .",
        "in front of of the of",
        "of",
        "",
        "))) ,, the ..",
    ],
)
def test_malformed_sentences_are_parsed(sentence):
    found = graph(sentence)
    assert {end for left, _, right in found.relations for end in (left, right)} <= set(
        found.objects
    )
