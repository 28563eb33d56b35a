"""How a simulated model merges: the caption without what was rejected, with details and errors."""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

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
    """The rewritten caption and why it ends.

    Looks at nothing but the request: what the merging model knows is the caption, the details and
    the rejected phrases.
    """
    accident = rng.uniform()
    if accident < errors.refusal:
        return REFUSAL, "stop"
    rejected = _obeyed(request.rejected, errors.disobedience, rng)
    sentences = [
        rewritten
        for sentence in _SENTENCE_END.split(request.caption)
        for rewritten in _rewrite(captioner, sentence, rejected, errors.forgetting, rng)
    ]
    # new things before the closing sentence
    sentences[-1:-1] = _news(captioner, request.details, " ".join(sentences), rejected, rng)
    text = " ".join(sentences) or REFUSAL
    if accident < errors.refusal + errors.truncation:
        words = text.split()
        return " ".join(words[: 2 * len(words) // 3]), "length"
    return text, "stop"


def _obeyed(
    rejected: Sequence[str], disobedience: float, rng: np.random.Generator
) -> list[tuple[str, frozenset[str]]]:
    """Main noun and all words of each phrase that is to go; one die for each main noun."""
    phrases = [(_last_stem(phrase), stems(phrase)) for phrase in rejected]
    heads = sorted({head for head, _ in phrases})
    kept = {head for head in heads if rng.uniform() < disobedience}
    return [(head, words) for head, words in phrases if words and head not in kept]


def _rewrite(
    captioner: Captioner,
    sentence: str,
    rejected: Collection[tuple[str, frozenset[str]]],
    forgetting: float,
    rng: np.random.Generator,
) -> Iterator[str]:
    """The sentence in new words, cut short, or not at all."""
    if stems(sentence) in _padding():
        yield sentence
        return
    forgotten = rng.uniform() < forgetting
    joint = captioner.joints[int(rng.integers(len(captioner.joints)))]
    core = _without(_core(captioner, sentence), rejected)
    if core and not forgotten:
        yield f"{joint} {core}."


def _core(captioner: Captioner, sentence: str) -> str:
    """What a sentence tells, without its turn of phrase."""
    for joint in sorted(captioner.joints, key=len, reverse=True):
        if sentence.startswith(joint + " "):
            sentence = sentence[len(joint) + 1 :]
            break
    return sentence.strip().rstrip(".")


def _without(core: str, rejected: Collection[tuple[str, frozenset[str]]]) -> str:
    """A statement without the part that names something rejected; empty if it is the main one."""
    found = stems(core)
    gone = {head for head, words in rejected if words <= found}
    parts = _PART.split(core)
    kept: list[str] = []
    for part in parts:
        if stems(part) & gone:
            break
        kept.append(part)
    return " ".join(kept)


def _news(
    captioner: Captioner,
    details: Sequence[str],
    said: str,
    rejected: Collection[tuple[str, frozenset[str]]],
    rng: np.random.Generator,
) -> Iterator[str]:
    """A sentence for each thing of the details that has not been said."""
    known = set(telling_stems(said))
    for detail in details:
        for part in _DETAIL_PARTS.split(_DETAIL_START.sub("", detail.strip().rstrip("."))):
            telling = telling_stems(part)
            part = _without(part, rejected)
            if part and telling and not telling <= known:
                joint = captioner.joints[int(rng.integers(len(captioner.joints)))]
                yield f"{joint} {part}."
                known |= telling


def _last_stem(phrase: str) -> str:
    words = _WORD.findall(phrase.lower())
    return stem(words[-1]) if words else ""


def _padding() -> frozenset[frozenset[str]]:
    return frozenset(padding_sentences())


__all__ = ["MergeErrors", "merge"]
