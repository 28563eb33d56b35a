"""Scene graphs by FACTUAL (https://arxiv.org/abs/2305.17497): a flan-T5 that writes graph strings.

The checkpoint is loaded with transformers itself; its authors' package does not run with
transformers 5.
"""

from collections import OrderedDict, defaultdict
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import torch

from .records import SceneGraph
from .scene_graph import SENTENCE_RULES, merge_graphs, parse_graph_string

CHECKPOINT = "lizhuang144/flan-t5-base-VG-factual-sg"
PREFIX = "Generate Scene Graph: "
MAX_INPUT_TOKENS, MAX_OUTPUT_TOKENS, BEAMS = 64, 128, 5
LENGTH_STEP = 8
MIN_WORDS_OF_A_HALF = 4
RULES_VERSION = "factual-2"


class FactualParser:
    """Reads sentences by the FACTUAL model. The weights are loaded when it is first asked.

    A sentence longer than the model was trained on is read in pieces, whose graphs are joined; so
    is one whose graph is longer than the model writes.

    A network's output moves in its last digits with the shape of the batch, which can turn a tie of
    beams. So a batch always has `batch_size` sentences, filled up with copies, and its length
    depends on the sentence alone (a multiple of 8 tokens): in a batch of fixed shape a sentence's
    graph does not depend on its company.

    Args:
        model: id on the Hub, or a folder.
        revision: of the weights.
        device: as torch names it; the first accelerator, or the CPU, by default.
        batch_size: sentences read at once; small where there is no accelerator.
        max_sentences: graphs that are kept, for sentences come again and again.

    Attributes:
        revision: of model and rules.
    """

    def __init__(
        self,
        model: str = CHECKPOINT,
        revision: str = "main",
        device: str | None = None,
        batch_size: int = 16,
        max_sentences: int = 100_000,
    ):
        self._name, self._revision = model, revision
        self._device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._batch_size, self._max_sentences = batch_size, max_sentences
        self._graphs: OrderedDict[str, SceneGraph] = OrderedDict()
        self.revision = f"{RULES_VERSION}/{model}@{revision}/beams-{BEAMS}/{SENTENCE_RULES}"

    @cached_property
    def _model(self) -> Any:
        from transformers import AutoModelForSeq2SeqLM

        model = AutoModelForSeq2SeqLM.from_pretrained(self._name, revision=self._revision)
        return model.to(self._device).eval()

    @cached_property
    def _tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self._name, revision=self._revision)

    def parse(self, sentences: Sequence[str]) -> list[SceneGraph]:
        """A graph for each sentence."""
        pieces = {sentence: self._pieces(sentence) for sentence in dict.fromkeys(sentences)}
        wanted = sorted({piece for several in pieces.values() for piece in several})
        self._read([piece for piece in wanted if piece not in self._graphs])
        found = [
            merge_graphs(self._graphs[piece] for piece in pieces[sentence])
            for sentence in sentences
        ]
        for piece in wanted:
            self._graphs.move_to_end(piece)
        while len(self._graphs) > self._max_sentences:
            self._graphs.popitem(last=False)
        return found

    def _pieces(self, sentence: str) -> list[str]:
        """The sentence, or, if it is too long, halves of it, each short enough."""
        if self._num_tokens(sentence) <= MAX_INPUT_TOKENS:
            return [sentence]
        return [piece for half in _halves(sentence) for piece in self._pieces(half)]

    def _num_tokens(self, sentence: str) -> int:
        return len(self._tokenizer(PREFIX + sentence)["input_ids"])

    def _read(self, sentences: list[str]) -> None:
        for length, batch in self._batches(sentences):
            filled = (batch * self._batch_size)[: self._batch_size]
            for sentence, (text, ended) in zip(batch, self._generate(filled, length), strict=False):
                graph = parse_graph_string(text) if ended else self._by_half(sentence, text)
                self._graphs[sentence] = graph

    def _by_half(self, sentence: str, text: str) -> SceneGraph:
        """The graph of a sentence of which the model did not come to an end."""
        halves = _halves(sentence)
        if min(len(half.split()) for half in halves) < MIN_WORDS_OF_A_HALF:
            # the model goes round in a loop; the last fact is half written
            return parse_graph_string(text[: text.rfind(")") + 1])
        self._read([half for half in halves if half not in self._graphs])
        return merge_graphs(self._graphs[half] for half in halves)

    def _batches(self, sentences: list[str]) -> Iterator[tuple[int, list[str]]]:
        """Batches of sentences, with the length in tokens to which they are padded."""
        by_length: dict[int, list[str]] = defaultdict(list)
        for sentence in sentences:
            steps = -(-self._num_tokens(sentence) // LENGTH_STEP)
            by_length[steps * LENGTH_STEP].append(sentence)
        for length, several in sorted(by_length.items()):
            for start in range(0, len(several), self._batch_size):
                yield length, several[start : start + self._batch_size]

    @torch.no_grad()
    def _generate(self, sentences: list[str], length: int) -> list[tuple[str, bool]]:
        """What the model writes of each sentence, and whether it came to an end."""
        inputs = self._tokenizer(
            [PREFIX + sentence for sentence in sentences],
            padding="max_length",
            max_length=length,
            return_tensors="pt",
        ).to(self._device)
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
    """Halves by words; a single word is halved by letters."""
    words = sentence.split()
    if len(words) < 2:
        middle = len(sentence) // 2
        return sentence[:middle], sentence[middle:]
    middle = len(words) // 2
    return " ".join(words[:middle]), " ".join(words[middle:])


def open_factual_parser(**options: Any) -> FactualParser:
    """The parser; options of [`FactualParser`]."""
    return FactualParser(**options)


__all__ = ["CHECKPOINT", "FactualParser", "open_factual_parser"]
