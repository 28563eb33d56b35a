"""Which things a caption of the embedded synthetic city states, and which of them are there.

An exact judge: captions are written from facts by templates, so the words for each thing are known.
It is used to judge and by no model, and it shares nothing with the parsers of the pipeline.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from .simulated_truth import ImageTruth
from .simulated_wording import named_things, padding_sentences, stems, wordings

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_SAME_SENTENCE = 0.8  # share of words, above which a sentence is one of an opening or a closing


@dataclass(frozen=True)
class Judgement:
    """A caption against the truth, by things.

    Attributes:
        true: things it names that are there.
        false: things it names that are not there.
        missed: things that are there and that it does not name.
    """

    true: frozenset[str]
    false: frozenset[str]
    missed: frozenset[str]

    @property
    def hallucination_rate(self) -> float:
        """Share of what is not there among what is named; 0 if nothing is."""
        return len(self.false) / max(1, len(self.true) + len(self.false))

    @property
    def recall(self) -> float:
        """Share of what is there that is named."""
        return len(self.true) / max(1, len(self.true) + len(self.missed))

    @property
    def f1(self) -> float:
        """Harmonic mean of the share of truth in what is named, and of the recall."""
        right = 2 * len(self.true)
        return right / max(1, right + len(self.false) + len(self.missed))


def judge(text: str, truth: ImageTruth) -> Judgement:
    """Judge a caption, whoever wrote it.

    Openings and closings of the captioners state nothing. A thing that is part of another (the
    trees of a park) is not false where the other is there, and is not asked for.
    """
    things = truth.things
    stated = frozenset(
        thing
        for sentence in _SENTENCE_END.split(text)
        if not _is_padding(stems(sentence))
        for thing in named_things(sentence, truth.view)
    )
    return Judgement(stated & things, stated - things - _parts(truth), things - stated)


def _parts(truth: ImageTruth) -> frozenset[str]:
    """Things that come with those that are there: what a true fact names beside itself."""
    told = [words for fact in truth.facts for words in wordings(fact, truth.view)]
    # cut at each word that leads to a part: "factory sheds | behind fences"
    pieces = [piece for words in told for piece in re.split(r" (?:with|behind|and|of|in) ", words)]
    return frozenset(thing for piece in pieces for thing in named_things(piece, truth.view))


@cache
def _padding() -> tuple[frozenset[str], ...]:
    return tuple(words for words in padding_sentences() if len(words) > 2)


def _is_padding(words: Iterable[str]) -> bool:
    found = frozenset(words)
    return any(len(found & one) >= _SAME_SENTENCE * len(found) for one in _padding())


__all__ = ["Judgement", "judge"]
