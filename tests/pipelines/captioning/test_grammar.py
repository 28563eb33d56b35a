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
        ("Residential and commercial buildings.", "residential building, commercial building"),
        ("The sky is blue and clear.", "blue sky, clear sky"),
        ("A small, well-maintained park.", "small park, well-maintained park"),
        ("Two taller towers.", "tall tower"),
        ("A large number of cars.", ""),
        ("The parked cars are along the road.", "parked car"),
        ("The area is surrounded by trees.", ""),
    ],
)
def test_attributes_precede_the_noun_or_are_predicates(sentence, attributes):
    found = (f"{attribute} {thing}" for thing, attribute in graph(sentence).attributes)
    assert ", ".join(found) == attributes


@pytest.mark.parametrize(
    ("sentence", "relations"),
    [
        ("Cars and buses fill the road.", "car fill road, bus fill road"),
        ("The street is lined with trees.", "street line with tree"),
        ("A bus stands in front of a shop.", "bus stand in front of shop"),
        ("The image shows a street with trees.", "image show street, street with tree"),
        ("There are boats in the harbour.", "boat in harbour"),
        ("The city's layout.", "layout of city"),
    ],
)
def test_relations_are_verbs_and_prepositions(sentence, relations):
    assert ", ".join(map(" ".join, graph(sentence).relations)) == relations


MALFORMED = [
    "among forest  four houses with three swimming pools built on the coast .",
    "in front of of the of",
    "",
    "))) ,, the ..",
]


def test_graphs_of_real_captions_are_consistent_in_any_batch(shared_data):
    path = shared_data / "urbanclip_toolkit" / "captions" / "Beijing_captions.json"
    tiles = json.loads(path.read_text())[:40]
    captions = [*sorted({one["caption"] for tile in tiles for one in tile})[:30], *MALFORMED]
    graphs = SpacyParser(batch_size=7).parse(captions[::-1])[::-1]
    assert graphs == [graph_of(read_documents([sentence])[0]) for sentence in captions]
    assert sum(len(one.objects) for one in graphs) > 3 * len(captions)
    assert sum(bool(one.relations) for one in graphs) > 0.8 * len(captions)
    for one in graphs:
        named = set(one.objects)
        assert {head for head, _ in one.attributes} <= named
        assert {end for left, _, right in one.relations for end in (left, right)} <= named


def test_names_the_package_if_the_language_model_is_missing(monkeypatch):
    for name in MODELS:
        monkeypatch.setitem(sys.modules, name, None)
    grammar._language.cache_clear()
    try:
        with pytest.raises(MissingDependencyError, match=r"\[captioning\]"):
            SpacyParser()
    finally:
        grammar._language.cache_clear()
