from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipelines.captioning.records import SceneGraph
from pipelines.captioning.scene_graph import (
    MAX_INPUT_TOKENS,
    PREFIX,
    FactualParser,
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
def test_split_sentences_splits_at_sentence_ends(text, sentences):
    assert split_sentences(text) == sentences


@given(st.text(alphabet="aAbc. !?\n-1)\"'", max_size=80))
def test_split_sentences_loses_no_word_and_keeps_the_order(text):
    spans = sentence_spans(text)
    assert all(start < end for start, end in spans)
    assert all(left[1] <= right[0] for left, right in pairwise(spans))
    letters = [c for start, end in spans for c in text[start:end] if c.isalpha()]
    assert letters == [c for c in text if c.isalpha()]


def test_parse_graph_string_distinguishes_attributes_numbers_and_relations():
    graph = parse_graph_string(
        "( cars , is , 2 ) , ( cars , is , parked ) , ( cars , along , road ) , "
        "( road , is , wide )"
    )
    assert graph == SceneGraph(
        objects=("cars", "road"),
        attributes=(("cars", "parked"), ("road", "wide")),
        relations=(("cars", "along", "road"),),
    )


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
def test_parse_graph_string_skips_malformed_facts(text, objects):
    assert parse_graph_string(text).objects == objects


@given(st.text(max_size=60) | GRAPH_PIECES)
def test_parse_graph_string_never_raises_and_is_consistent(text):
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


# ---- FACTUAL ------------------------------------------------------------------------------------

_VOCABULARY = "a the car cars red tall tree street is on near and parked building ( ) , ."
NAMES = _VOCABULARY.split()
SENTENCES = ["a red car is on the street .", "tall tree near building .", "the cars .", "a tree ."]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Flan-T5's architecture with tiny random weights and a tiny vocabulary."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

    prefix = PREFIX.replace(":", " :").split()
    names = ["<pad>", "</s>", "<unk>", *prefix, *NAMES]
    vocabulary = {word: number for number, word in enumerate(names)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    folder = tmp_path_factory.mktemp("factual")
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    config = T5Config(
        vocab_size=len(names),
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        decoder_start_token_id=0,
    )
    torch.manual_seed(1)
    T5ForConditionalGeneration(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def parser(checkpoint):
    return FactualParser(checkpoint, device="cpu")


def test_factual_graphs_do_not_depend_on_the_batch(checkpoint, parser):
    small = FactualParser(checkpoint, device="cpu", batch_size=4)
    together = small.parse([*SENTENCES, SENTENCES[0]])
    assert together[0] == together[-1]
    for sentence, graph in zip(SENTENCES[:2], together, strict=False):
        assert small.parse([sentence]) == [graph]


def test_factual_output_becomes_a_graph(parser, monkeypatch):
    asked = []

    def write(sentences, length):
        asked.extend(sentences)
        return [("( car , is , red ) , ( car , on , street )", True) for _ in sentences]

    monkeypatch.setattr(parser, "_generate", write)
    graph = SceneGraph(("car", "street"), (("car", "red"),), (("car", "on", "street"),))
    assert parser.parse([SENTENCES[0]] * 3) == [graph] * 3
    assert asked == [SENTENCES[0]] * 16  # once, in a full batch


def test_factual_drops_the_last_fact_of_a_truncated_output(parser, monkeypatch):
    written = "( cars , on , a ) , ( cars , on , a ) , ( cars , on , b"
    monkeypatch.setattr(parser, "_generate", lambda sentences, _: [(written, False)])
    assert parser.parse(["the cars ."]) == [SceneGraph(("cars", "a"), (), (("cars", "on", "a"),))]


def test_factual_splits_sentences_that_are_too_long(checkpoint, monkeypatch):
    parser = FactualParser(checkpoint, device="cpu", batch_size=1)
    asked = []

    def write(sentences, length):
        asked.extend(sentences)
        return [("( tree , is , tall )", True)]

    monkeypatch.setattr(parser, "_generate", write)
    words = [("car", "tree", "red")[n * n % 7 % 3] for n in range(4 * MAX_INPUT_TOKENS - 1)]
    (graph,) = parser.parse([" ".join(words)])
    assert graph == SceneGraph(("tree",), (("tree", "tall"),))
    assert all(parser._num_tokens(piece) <= MAX_INPUT_TOKENS for piece in asked)
    assert len(asked) >= 2
    assert sum(len(piece.split()) for piece in asked) <= len(words)
