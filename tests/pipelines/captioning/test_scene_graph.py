import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipelines.captioning import scene_graph
from pipelines.captioning.records import SceneGraph
from pipelines.captioning.scene_graph import (
    MAX_INPUT_TOKENS,
    PREFIX,
    FactualParser,
    parse_graph_string,
    split_sentences,
)


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("A road. A car!", ["A road.", "A car!"]),
        ("It adds to its charm.A train runs.", ["It adds to its charm.", "A train runs."]),
        ("It is 3.5 km from St. Mary's, e.g. far.", ["It is 3.5 km from St. Mary's, e.g. far."]),
        ("Built by J. Smith in the U.S. in May.", ["Built by J. Smith in the U.S. in May."]),
        ("1. Cars\n- A bus.\n\n## Sky", ["Cars", "A bus.", "Sky"]),
        ('A sign says "Stop!" It is red.', ['A sign says "Stop!"', "It is red."]),
        ("Is it old? Yes (very.) Fine", ["Is it old?", "Yes (very.)", "Fine"]),
        ("", []),
    ],
)
def test_split_sentences_splits_at_sentence_ends(text, sentences):
    assert split_sentences(text) == sentences


@pytest.mark.parametrize(
    ("text", "objects"),
    [
        ("", ()),
        ("( tree , green )", ("tree",)),
        ("( a , is , 2 ) , ( c , d )", ("a",)),
        ("( a , is , b ) , ( c , on", ("a",)),
        ("( a , , b )", ()),
    ],
)
def test_parse_graph_string_skips_malformed_facts(text, objects):
    assert parse_graph_string(text).objects == objects


PARTS = st.sampled_from(["car", "is", "parked at", "tall tree", "on"])
FACTS = st.lists(st.tuples(PARTS, PARTS, PARTS), min_size=1, max_size=6)


@given(FACTS)
def test_parse_graph_string_reads_every_well_formed_fact(facts):
    graph = parse_graph_string(" , ".join("( " + " , ".join(fact) + " )" for fact in facts))
    read = {(head, "is", word) for head, word in graph.attributes} | set(graph.relations)
    assert read == set(facts)


# ---- FACTUAL ------------------------------------------------------------------------------------

NAMES = "a the car cars red tall tree street is on near building ( ) , ."
SENTENCES = ["a red car is on the street .", "tall tree near building .", "the cars ."]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Flan-T5's architecture with tiny random weights and a tiny vocabulary."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

    prefix = PREFIX.replace(":", " :").split()
    names = ["<pad>", "</s>", "<unk>", *prefix, *NAMES.split()]
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
    sizes = {"vocab_size": len(names), "d_model": 32, "d_kv": 8, "d_ff": 64}
    sizes |= {"num_layers": 2, "num_heads": 4}
    config = T5Config(
        **sizes,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        decoder_start_token_id=0,
    )
    torch.manual_seed(1)
    T5ForConditionalGeneration(config).save_pretrained(folder)
    return str(folder)


def test_factual_graphs_do_not_depend_on_the_batch(checkpoint, monkeypatch):
    monkeypatch.setattr(scene_graph, "MAX_OUTPUT_TOKENS", 20)
    small = FactualParser(checkpoint, device="cpu", batch_size=2)
    together = small.parse([*SENTENCES, SENTENCES[0]])
    assert together[0] == together[-1]
    assert small.parse([SENTENCES[0]]) == [together[0]]


WORDS = [("car", "tree", "red")[n * n % 7 % 3] for n in range(4 * MAX_INPUT_TOKENS - 1)]


RED_CAR = SceneGraph(("car", "street"), (("car", "red"),), (("car", "on", "street"),))
CUT = SceneGraph(("cars", "a"), (), (("cars", "on", "a"),))


@pytest.mark.parametrize(
    ("sentence", "written", "ended", "graph"),
    [
        (SENTENCES[0], "( car , is , red ) , ( car , on , street )", True, RED_CAR),
        # the last fact of a truncated output is incomplete
        (SENTENCES[2], "( cars , on , a ) , ( cars , on , a ) , ( cars , on , b", False, CUT),
        # split, since it is too long
        (" ".join(WORDS), "( tree )", True, SceneGraph(("tree",))),
    ],
)
def test_factual_output_becomes_a_graph(checkpoint, monkeypatch, sentence, written, ended, graph):
    asked = []

    def write(sentences, length):
        asked.extend(dict.fromkeys(sentences))
        return [(written, ended) for _ in sentences]

    parser = FactualParser(checkpoint, device="cpu", batch_size=4)
    monkeypatch.setattr(parser, "_generate", write)
    assert parser.parse([sentence] * 3) == [graph] * 3
    assert sorted(" ".join(asked).split()) == sorted(sentence.split())
    assert all(parser._num_tokens(piece) <= MAX_INPUT_TOKENS for piece in asked)
