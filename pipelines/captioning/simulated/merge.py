"""How a simulated model merges: the caption without what was rejected, with details and errors."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

import numpy as np

from dataset_builders.synthetic.captioners import Captioner

from ..records import Request
from .words import padding_sentences, stem, stems, telling_stems

REFUSAL = "I'm sorry, but I can't help with that request."
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_WORD = re.compile(r"[a-z]+(?:-[a-z]+)*")
# where a sentence's main noun ends and what is said of it begins
_PART = re.compile(r"\s+(?=(?:with|behind|of|in|filled|over)\b)")
_DETAIL_START = re.compile(r"^(?:this part shows|it shows|there (?:is|are))\s+", re.IGNORECASE)
_DETAIL_PARTS = re.compile(r",\s+(?:and\s+)?|\s+and\s+")


@dataclass(frozen=True)
class MergeErrors:
    """How often a simulated model fails at merging; assumptions, fitted to nothing.

    Attributes:
        refusal: Rate of refusals.
        truncation: Rate of answers that break off.
        disobedience: Rate at which a rejected thing is kept all the same.
        forgetting: Rate at which a true sentence is lost in rewriting.
    """

    refusal: float = 0.01
    truncation: float = 0.01
    disobedience: float = 0.05
    forgetting: float = 0.01


def merge(
    captioner: Captioner, request: Request, errors: MergeErrors, rng: np.random.Generator
) -> tuple[str, str]:
    """The rewritten caption and its finish reason.

    Looks at nothing but the request: the merging model knows the caption, the details and the
    rejected phrases.
    """
    accident = rng.uniform()
    if accident < errors.refusal:
        return REFUSAL, "stop"
    writer = _Writer(captioner, request.rejected, errors, rng)
    rewritten = map(writer.rewrite, _SENTENCE_END.split(request.caption))
    sentences = [sentence for sentence in rewritten if sentence]
    # new things before the closing sentence
    sentences[-1:-1] = writer.news(request.details, " ".join(sentences))
    text = " ".join(sentences) or REFUSAL
    if accident < errors.refusal + errors.truncation:
        words = text.split()
        return " ".join(words[: 2 * len(words) // 3]), "length"
    return text, "stop"


class _Writer:
    """Rewrites sentences in a captioner's words, without what was rejected."""

    def __init__(
        self,
        captioner: Captioner,
        rejected: Sequence[str],
        errors: MergeErrors,
        rng: np.random.Generator,
    ):
        self._captioner, self._errors, self._rng = captioner, errors, rng
        self._padding = frozenset(padding_sentences())
        # main noun and all words of each phrase that is to go; one die for each main noun
        phrases = [(_last_stem(phrase), stems(phrase)) for phrase in rejected]
        heads = sorted({head for head, _ in phrases})
        kept = {head for head in heads if rng.uniform() < errors.disobedience}
        self._rejected = [(head, words) for head, words in phrases if words and head not in kept]

    def rewrite(self, sentence: str) -> str:
        """The sentence in new words, cut short, or empty."""
        if stems(sentence) in self._padding:
            return sentence
        forgotten = self._rng.uniform() < self._errors.forgetting
        joint = self._joint()
        for start in sorted(self._captioner.joints, key=len, reverse=True):
            if sentence.startswith(start + " "):
                sentence = sentence[len(start) + 1 :]
                break
        core = self._allowed(sentence.strip().rstrip("."))
        return f"{joint} {core}." if core and not forgotten else ""

    def news(self, details: Sequence[str], said: str) -> Iterator[str]:
        """A sentence for each thing of the details that has not been said."""
        known = set(telling_stems(said))
        for detail in details:
            for part in _DETAIL_PARTS.split(_DETAIL_START.sub("", detail.strip().rstrip("."))):
                telling = telling_stems(part)
                allowed = self._allowed(part)
                if allowed and telling and not telling <= known:
                    yield f"{self._joint()} {allowed}."
                    known |= telling

    def _joint(self) -> str:
        return self._captioner.joints[int(self._rng.integers(len(self._captioner.joints)))]

    def _allowed(self, core: str) -> str:
        """A statement up to the part that names something rejected; empty if it is the first."""
        found = stems(core)
        gone = {head for head, words in self._rejected if words <= found}
        kept = takewhile(lambda part: not stems(part) & gone, _PART.split(core))
        return " ".join(kept)


def _last_stem(phrase: str) -> str:
    words = _WORD.findall(phrase.lower())
    return stem(words[-1]) if words else ""


__all__ = ["REFUSAL", "MergeErrors", "merge"]
