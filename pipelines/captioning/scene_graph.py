"""Sentence splitting, and scene graph parsing with FACTUAL.

FACTUAL (https://arxiv.org/abs/2305.17497) is a Flan-T5 that generates graph strings. It is loaded
with transformers, since the authors' package does not support transformers 5. The rule-based parser
is in `grammar`.
"""

import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import chain, pairwise
from typing import Any, TypeVar

from .batches import batches, filled
from .records import SceneGraph

SENTENCE_RULES = "sentences-1"
"""Version of `split_sentences`; part of the parsers' revisions."""

_LIST_MARKER = re.compile(r"\s*(?:#+\s+|[-*•]\s+|\(?\d{1,2}[.)]\s+)?")
# a mark that may end a sentence, with closing quotes and brackets
_END_MARK = re.compile(r"[.!?]+[\"'”’)\]*]*")
_LAST_WORD = re.compile(r"[A-Za-z.]+$")
_GLUED_WORD = re.compile(r"[a-z]{3,}$")
_ABBREVIATION = re.compile(
    r"approx|ave?|bldg|blvd|ca|cf|dept|dr|e\.?g|fig|ft|hwy|i\.?e|inc|jr|ltd|mr|mrs|ms|mt|nr|prof|rd"
    r"|sr|st|u\.k|u\.s|vs|[A-Z]",
)
_Item = TypeVar("_Item")
_FACT_END = re.compile(r"\)\s*,")


def split_sentences(text: str) -> list[str]:
    """Split a caption into sentences.

    A sentence ends at the end of a line, or at `.`, `!` or `?` before white space, except after an
    abbreviation or initial. Models forget the space after a full stop, so `charm.A train` is split
    too. Markers of lists and headings are removed.

    Returns:
        Stripped, non-empty parts of the text.
    """
    found = []
    for line in text.splitlines(keepends=True):
        marker = _LIST_MARKER.match(line)
        line = line[marker.end() :] if marker else line
        ends = [mark.end() for mark in _END_MARK.finditer(line) if _is_end(line, mark)]
        found += [line[start:end] for start, end in pairwise([0, *ends, len(line)])]
    return [piece.strip() for piece in found if piece.strip()]


def _is_end(line: str, mark: re.Match[str]) -> bool:
    if mark.end() == len(line):
        return True
    before, after = line[: mark.start()], line[mark.end()]
    if not after.isspace():  # a forgotten space: "its charm.A train track"
        return mark[0] == "." and after.isupper() and bool(_GLUED_WORD.search(before))
    if mark[0] != ".":
        return True
    word = _LAST_WORD.search(before[-20:])
    if word is None:
        return True
    # initials are capitals; other abbreviations may be in either case
    return not any(_ABBREVIATION.fullmatch(form) for form in (word[0], word[0].lower()))


def parse_graph_string(text: str) -> SceneGraph:
    """Parse an output of FACTUAL, such as `( car , is , red ) , ( car , on , road )`.

    Facts are separated by `) ,` and have three parts separated by commas. `X is red` is an
    attribute; of `X is 2`, a number, only the object is kept; anything else is a relation. A fact
    with another number of parts is skipped, unless it is the only one: then its first part is an
    object, as in the reference (FactualSceneGraph, github.com/zhuang-li/FactualSceneGraph).

    Args:
        text: Any string; malformed facts are skipped.

    Returns:
        Distinct objects, attributes and relations in order of occurrence.
    """
    facts = [_parts(fact) for fact in _FACT_END.split(text)]
    objects: list[str] = []
    attributes: list[tuple[str, str]] = []
    relations: list[tuple[str, str, str]] = []
    if len(facts) == 1 and len(facts[0]) != 3:
        objects.append(facts[0][0])
    for fact in facts:
        if len(fact) != 3 or not all(fact):
            continue
        subject, predicate, value = fact
        objects.append(subject)
        if predicate != "is":
            objects.append(value)
            relations.append((subject, predicate, value))
        elif not value.isdigit():
            attributes.append((subject, value))
    return SceneGraph(_unique(filter(None, objects)), _unique(attributes), _unique(relations))


def merge_graphs(graphs: Iterable[SceneGraph]) -> SceneGraph:
    """Distinct objects, attributes and relations of several graphs, in order."""
    graphs = list(graphs)
    return SceneGraph(
        _unique(chain.from_iterable(graph.objects for graph in graphs)),
        _unique(chain.from_iterable(graph.attributes for graph in graphs)),
        _unique(chain.from_iterable(graph.relations for graph in graphs)),
    )


def _parts(fact: str) -> list[str]:
    return [part.strip() for part in fact.strip().strip("()").split(",")]


def _unique(items: Iterable[_Item]) -> tuple[_Item, ...]:
    return tuple(dict.fromkeys(items))


# ---- FACTUAL ------------------------------------------------------------------------------------

CHECKPOINT = "lizhuang144/flan-t5-base-VG-factual-sg"
PREFIX = "Generate Scene Graph: "
MAX_INPUT_TOKENS, MAX_OUTPUT_TOKENS, BEAMS = 64, 128, 5
LENGTH_STEP = 8


class FactualParser:
    """Scene graph parser by FACTUAL, loaded on first use.

    Sentences longer than those the model was trained on are split, and the graphs of the pieces
    are merged. Batches have fixed shapes (`batches`), since rounding can decide between beams with
    equal scores.

    Args:
        model: Hub id or folder.
        revision: Revision of the weights.
        device: Torch device; the first GPU, or the CPU, by default.
        batch_size: Number of sentences per batch.
    """

    def __init__(
        self,
        model: str = CHECKPOINT,
        revision: str = "main",
        device: str | None = None,
        batch_size: int = 16,
    ):
        self._name, self._revision, self._device = model, revision, device
        self._batch_size = batch_size
        self.revision = f"factual-3/{model}@{revision}/beams-{BEAMS}/{SENTENCE_RULES}"

    @cached_property
    def _model(self) -> Any:
        import torch
        from transformers import AutoModelForSeq2SeqLM

        device = self._device or ("cuda" if torch.cuda.is_available() else "cpu")
        model = AutoModelForSeq2SeqLM.from_pretrained(self._name, revision=self._revision)
        return model.to(device).eval()

    @cached_property
    def _tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self._name, revision=self._revision)

    def parse(self, sentences: Sequence[str]) -> list[SceneGraph]:
        """Scene graph of each sentence."""
        pieces = {sentence: self._pieces(sentence) for sentence in dict.fromkeys(sentences)}
        graphs = self._read(sorted({piece for several in pieces.values() for piece in several}))
        return [merge_graphs(graphs[piece] for piece in pieces[one]) for one in sentences]

    def _pieces(self, sentence: str) -> list[str]:
        """Halve a sentence until all pieces are short enough."""
        if self._num_tokens(sentence) <= MAX_INPUT_TOKENS:
            return [sentence]
        return [piece for half in _halves(sentence) for piece in self._pieces(half)]

    def _num_tokens(self, sentence: str) -> int:
        return len(self._tokenizer(PREFIX + sentence)["input_ids"])

    def _read(self, sentences: list[str]) -> dict[str, SceneGraph]:
        graphs, lengths = {}, [self._num_tokens(sentence) for sentence in sentences]
        for numbers, length in batches(lengths, LENGTH_STEP, lambda _: self._batch_size):
            batch = [sentences[number] for number in numbers]
            written = self._generate(filled(batch, self._batch_size), length)
            for sentence, (text, ended) in zip(batch, written, strict=False):
                # a truncated output repeats itself, and its last fact is incomplete
                graphs[sentence] = parse_graph_string(
                    text if ended else text[: text.rfind(")") + 1]
                )
        return graphs

    def _generate(self, sentences: list[str], length: int) -> list[tuple[str, bool]]:
        """Graph string of each sentence, and whether it is complete."""
        import torch

        inputs = self._tokenizer(
            [PREFIX + sentence for sentence in sentences],
            padding="max_length",
            max_length=length,
            return_tensors="pt",
        ).to(self._model.device)
        with torch.no_grad():
            output = self._model.generate(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                num_beams=BEAMS,
                do_sample=False,
                max_new_tokens=MAX_OUTPUT_TOKENS,
            )
        ended = (output[:, 1:] == self._model.config.eos_token_id).any(dim=1).tolist()
        texts = self._tokenizer.batch_decode(output, skip_special_tokens=True)
        return list(zip(texts, ended, strict=True))


def _halves(sentence: str) -> tuple[str, str]:
    words = sentence.split()
    if len(words) < 2:
        middle = len(sentence) // 2
        return sentence[:middle], sentence[middle:]
    middle = len(words) // 2
    return " ".join(words[:middle]), " ".join(words[middle:])
