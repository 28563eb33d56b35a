import pytest
import torch

from pipelines.captioning.factual_parser import MAX_INPUT_TOKENS, PREFIX, FactualParser
from pipelines.captioning.records import SceneGraph, SceneGraphParser
from pipelines.captioning.scene_graph import open_parser

_VOCABULARY = "a the car cars red tall tree street is on near and parked building ( ) , ."
WORDS = _VOCABULARY.split()
SENTENCES = ["a red car is on the street .", "tall tree near building .", "the cars .", "a tree ."]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Flan-T5's real architecture with tiny random weights and a tiny vocabulary."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

    prefix = PREFIX.replace(":", " :").split()
    names = ["<pad>", "</s>", "<unk>", *prefix, *WORDS]
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
    return open_parser("factual", model=checkpoint, device="cpu")


def test_the_real_architecture_reads_and_its_graphs_do_not_depend_on_the_batch(checkpoint, parser):
    assert isinstance(parser, SceneGraphParser)
    together = parser.parse([*SENTENCES, SENTENCES[0]])
    assert together[0] == together[-1]
    for sentence, graph in zip(SENTENCES, together, strict=False):
        alone = FactualParser(checkpoint, device="cpu")
        assert alone.parse([sentence]) == [graph]


def test_what_the_model_writes_becomes_a_graph(parser, monkeypatch):
    asked = []

    def write(sentences, length):
        asked.extend(sentences)
        return [("( car , is , red ) , ( car , on , street )", True) for _ in sentences]

    monkeypatch.setattr(parser, "_generate", write)
    graph = SceneGraph(("car", "street"), (("car", "red"),), (("car", "on", "street"),))
    assert parser.parse([SENTENCES[0]] * 3) == [graph] * 3
    assert parser.parse([SENTENCES[0], SENTENCES[1]]) == [graph] * 2
    assert asked == [SENTENCES[0]] * 16 + [SENTENCES[1]] * 16  # each once, in a full batch


def test_a_sentence_that_is_too_long_is_read_in_pieces_and_not_cut(checkpoint, monkeypatch):
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


def test_a_graph_that_is_too_long_to_be_written_is_read_by_halves(checkpoint, monkeypatch):
    parser = FactualParser(checkpoint, device="cpu", batch_size=1)
    sentence = "a red car is on the street near a tall tree ."
    halves = ["a red car is on the", "street near a tall tree ."]
    written = {
        sentence: ("( car , is , red ) , ( car , on , str", False),
        halves[0]: ("( car , is , red )", True),
        halves[1]: ("( tree , is , tall )", True),
        "the cars .": ("( cars , on , a ) , ( cars , on , a ) , ( cars , on , b", False),
    }
    monkeypatch.setattr(parser, "_generate", lambda sentences, _: [written[sentences[0]]])
    assert parser.parse([sentence, "the cars ."]) == [
        SceneGraph(("car", "tree"), (("car", "red"), ("tree", "tall")), ()),
        SceneGraph(("cars", "a"), (), (("cars", "on", "a"),)),
    ]


def test_a_batch_has_one_shape_whoever_is_in_it(parser, monkeypatch):
    shapes = set()
    generate = parser._model.generate

    def watch(**inputs):
        shapes.add(tuple(inputs["input_ids"].shape))
        return generate(**inputs)

    monkeypatch.setattr(parser._model, "generate", watch)
    parser.parse(SENTENCES[:1])
    parser.parse(SENTENCES)
    assert {rows for rows, _ in shapes} == {16}
    assert all(length % 8 == 0 for _, length in shapes)


def test_graphs_that_are_forgotten_are_read_anew(checkpoint):
    small = FactualParser(checkpoint, device="cpu", max_sentences=2)
    first = small.parse(SENTENCES)
    assert len(small._graphs) == 2
    assert small.parse(SENTENCES) == first
