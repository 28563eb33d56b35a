from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.captioning.errors import CaptioningError
from pipelines.captioning.records import SceneGraph, SceneGraphParser
from pipelines.captioning.scene_graph import (
    merge_graphs,
    open_parser,
    parse_graph_string,
    sentence_spans,
    split_sentences,
)

GRAPH_PIECES = st.lists(
    st.sampled_from(["(", ")", ",", " , ", ") ,", " is ", "car", "red", "2", "", " ", "é", "()"]),
    max_size=40,
).map("".join)


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("A road. A car!", ["A road.", "A car!"]),
        ("It adds to its charm.A train runs.", ["It adds to its charm.", "A train runs."]),
        ("the airport is large . next to it .", ["the airport is large .", "next to it ."]),
        ("It is 3.5 km from St. Mary's, e.g. far.", ["It is 3.5 km from St. Mary's, e.g. far."]),
        ("Built by J. Smith in the U.S. in May.", ["Built by J. Smith in the U.S. in May."]),
        ("1. Cars\n- A bus.\n\n## Sky", ["Cars", "A bus.", "Sky"]),
        ('A sign says "Stop!" It is red.', ['A sign says "Stop!"', "It is red."]),
        ("Is it old? Yes (very.) Fine", ["Is it old?", "Yes (very.)", "Fine"]),
        (" \n ", []),
        ("", []),
    ],
)
def test_split_sentences_cuts_where_a_sentence_ends(text, sentences):
    assert split_sentences(text) == sentences


@given(st.text(alphabet="aAbc. !?\n-1)\"'", max_size=80))
def test_split_sentences_loses_no_word_and_keeps_the_order(text):
    spans = sentence_spans(text)
    assert all(start < end for start, end in spans)
    assert all(left[1] <= right[0] for left, right in pairwise(spans))
    letters = [c for start, end in spans for c in text[start:end] if c.isalpha()]
    assert letters == [c for c in text if c.isalpha()]


def test_parse_graph_string_tells_attributes_numbers_and_relations_apart():
    graph = parse_graph_string(
        "( cars , is , 2 ) , ( cars , is , parked ) , ( cars , along , road ) , "
        "( road , is , wide )"
    )
    assert graph == SceneGraph(
        objects=("cars", "road"),
        attributes=(("cars", "parked"), ("road", "wide")),
        relations=(("cars", "along", "road"),),
    )


def test_parse_graph_string_keeps_the_order_and_drops_repetitions():
    graph = parse_graph_string("( b , on , a ) , ( b , on , a ) , ( a , is , x ) , ( a , is , x )")
    assert graph == SceneGraph(("b", "a"), (("a", "x"),), (("b", "on", "a"),))


@pytest.mark.parametrize(
    ("text", "objects"),
    [
        ("", ()),
        ("( tree )", ("tree",)),
        ("( tree , green )", ("tree",)),
        ("( a , is , b ) , ( c , d )", ("a",)),
        ("( a , is , b ) , ( c , on , d , e )", ("a",)),
        ("( a , is , b ) , ( c , on", ("a",)),
        ("( a , , b )", ()),
        ("),),(", ()),
    ],
)
def test_parse_graph_string_leaves_out_malformed_facts(text, objects):
    assert parse_graph_string(text).objects == objects


@given(st.text(max_size=60) | GRAPH_PIECES)
def test_parse_graph_string_never_raises_and_names_what_it_speaks_of(text):
    graph = parse_graph_string(text)
    named = set(graph.objects)
    assert "" not in named
    assert {head for head, _ in graph.attributes} <= named
    assert {end for subject, _, thing in graph.relations for end in (subject, thing)} <= named
    for things in (graph.objects, graph.attributes, graph.relations):
        assert len(set(things)) == len(things)


WORDS = st.text(alphabet="abcdefg ", min_size=1, max_size=8).map(str.strip).filter(bool)
FACTS = st.lists(st.tuples(WORDS, WORDS, WORDS), min_size=1, max_size=6)


@given(FACTS)
def test_parse_graph_string_reads_every_well_formed_fact(facts):
    graph = parse_graph_string(" , ".join("( " + " , ".join(fact) + " )" for fact in facts))
    read = {(head, "is", word) for head, word in graph.attributes} | set(graph.relations)
    assert read == set(facts)


def test_merge_graphs_is_what_all_sentences_say():
    one = SceneGraph(("car", "road"), (("car", "red"),), (("car", "on", "road"),))
    two = SceneGraph(("road", "tree"), (("car", "red"), ("tree", "tall")), ())
    assert merge_graphs([one, two]) == SceneGraph(
        ("car", "road", "tree"), (("car", "red"), ("tree", "tall")), (("car", "on", "road"),)
    )
    assert merge_graphs([]) == SceneGraph()


def test_open_parser_opens_the_rules_and_names_what_there_is():
    parser = open_parser("spacy")
    assert isinstance(parser, SceneGraphParser)
    assert parser.parse(["A red car."])[0].attributes == (("car", "red"),)
    with pytest.raises(CaptioningError, match=r"'punkt'.*'factual', 'spacy'"):
        open_parser("punkt")
