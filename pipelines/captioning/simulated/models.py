"""Simulated captioners, which describe the ground truth with known error rates.

They omit and invent facts as defined in `dataset_builders.synthetic.captioners`, and fail at
merging at the rates of `MergeErrors`.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

import numpy as np

from dataset_builders.synthetic.captioners import (
    CAPTIONERS,
    SATELLITE_FANCIES,
    STREET_FANCIES,
    Captioner,
    Fact,
    omission_chance,
    phrase,
    reword,
    write_caption,
)

from ..errors import CaptioningError
from ..records import Reply, Request
from .truth import ImageTruth, Sight, Truth, rng_of
from .words import WORD, padding_sentences, stem, stems, telling_stems

RULES_VERSION = "simulated-captioner-2"
TOKENS_PER_WORD = 1.3
IMAGE_TOKENS = 256
MAX_SIGHTS = 3  # objects in a short caption
REFUSAL = "I'm sorry, but I can't help with that request."
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
# boundary between the main noun of a sentence and its description
_PART = re.compile(r"\s+(?=(?:with|behind|of|in|filled|over)\b)")
_DETAIL_START = re.compile(r"^(?:this part shows|it shows|there (?:is|are))\s+", re.IGNORECASE)
_DETAIL_PARTS = re.compile(r",\s+(?:and\s+)?|\s+and\s+")


@dataclass(frozen=True)
class MergeErrors:
    """Error rates of a simulated model at merging; assumptions, not fitted to data.

    Attributes:
        refusal: Rate of refusals.
        truncation: Rate of truncated answers.
        disobedience: Rate of rejected objects that are kept.
        forgetting: Rate of sentences that are lost.
    """

    refusal: float = 0.01
    truncation: float = 0.01
    disobedience: float = 0.05
    forgetting: float = 0.01


class SimulatedCaptionModel:
    """A simulated captioning model; equal requests have equal answers.

    Args:
        name: Name in the recipe.
        captioner: Wording and error rates.
        truth: Ground truth of the dataset.
        merge_errors: Error rates at merging.
        local_hallucination: Hallucination rate of short captions, as a share of that of long ones.
            Real models hallucinate more in longer captions (e.g. arXiv 2510.20229); how much more
            is an assumption.
    """

    remote = False

    def __init__(
        self,
        name: str,
        captioner: Captioner,
        truth: Truth,
        merge_errors: MergeErrors,
        local_hallucination: float,
    ):
        self.name = name
        self.revision = (
            f"{RULES_VERSION}/{captioner.name}/omission={captioner.omission}"
            f"/hallucination={captioner.hallucination}/local={local_hallucination}/{merge_errors}"
        )
        if captioner.opening not in (known.opening for known in CAPTIONERS):
            self.revision += f"/opening={captioner.opening}"
        self._local_rate = local_hallucination * captioner.hallucination
        self._captioner, self._truth, self._errors = captioner, truth, merge_errors

    async def complete(self, request: Request) -> Reply:
        """Answer a request from the ground truth of its image.

        Raises:
            CaptioningError: The image has no ground truth.
        """
        truth = self._truth[request.image_id]
        parts = (request.image_id, request.task, request.box, request.prompt, request.sampling)
        rng = rng_of(self.revision, *parts)
        finish_reason = "stop"
        if request.task == "describe":
            text = write_caption(self._captioner, list(truth.facts), truth.view, rng).text
        elif request.task == "local":
            text = self._local(truth, request, rng)
        else:
            text, finish_reason = merge(self._captioner, request, self._errors, rng)
        words = text.split()
        limit = max(1, int(request.sampling.max_tokens / TOKENS_PER_WORD))
        if len(words) > limit:
            text, finish_reason = " ".join(words[:limit]), "length"
        return Reply(
            text,
            finish_reason,
            prompt_tokens=IMAGE_TOKENS + round(TOKENS_PER_WORD * len(request.prompt.split())),
            completion_tokens=round(TOKENS_PER_WORD * len(text.split())),
        )

    async def close(self) -> None:
        """Do nothing."""

    def _local(self, truth: ImageTruth, request: Request, rng: np.random.Generator) -> str:
        """One sentence on a crop; omission does not depend on the size of an object."""
        if request.box is None:
            raise CaptioningError("A request for a short caption needs a box.")
        sights = truth.sights(request.box)[: 2 * MAX_SIGHTS]
        chance = omission_chance(self._captioner, Fact("", "", 0.8))
        named = [_noun_phrase(one) for one in sights if rng.uniform() >= chance][:MAX_SIGHTS]
        named += self._made_up(truth, len(named), rng)
        *most, last = named or ["nothing that stands out"]
        listed = f"{', '.join(most)} and {last}" if most else last
        return reword(f"This part shows {listed}.", self._captioner)

    def _made_up(self, truth: ImageTruth, number: int, rng: np.random.Generator) -> list[str]:
        fancies = STREET_FANCIES if truth.view == "street_view" else SATELLITE_FANCIES
        possible = [fancy for fancy in fancies if fancy.key not in truth.things]
        if rng.uniform() >= number * self._local_rate / (1 - self._local_rate):
            return []
        return [phrase(possible[int(rng.integers(len(possible)))], truth.view)]


def _noun_phrase(sight: Sight) -> str:
    words = sight.words
    if words.endswith("s") or sight.thing in ("open water", "tree cover") or words[:2] == "a ":
        return words
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def merge(
    captioner: Captioner, request: Request, errors: MergeErrors, rng: np.random.Generator
) -> tuple[str, str]:
    """Rewritten caption and its finish reason, from the request without the ground truth."""
    accident = rng.uniform()
    if accident < errors.refusal:
        return REFUSAL, "stop"
    writer = _Writer(captioner, request.rejected, errors, rng)
    sentences = list(filter(None, map(writer.rewrite, _SENTENCE_END.split(request.caption))))
    # new objects before the closing sentence
    sentences[-1:-1] = writer.news(request.details, " ".join(sentences))
    text = " ".join(sentences) or REFUSAL
    if accident < errors.refusal + errors.truncation:
        words = text.split()
        return " ".join(words[: 2 * len(words) // 3]), "length"
    return text, "stop"


class _Writer:
    """Rewrites sentences in a captioner's wording, without rejected phrases."""

    def __init__(
        self,
        captioner: Captioner,
        rejected: Sequence[str],
        errors: MergeErrors,
        rng: np.random.Generator,
    ):
        self._captioner, self._errors, self._rng = captioner, errors, rng
        self._padding = frozenset(padding_sentences())
        # main noun and all words of each rejected phrase; one random draw per main noun
        phrases = [
            (stem(words[-1]) if (words := WORD.findall(text.lower())) else "", stems(text))
            for text in rejected
        ]
        heads = sorted({head for head, _ in phrases})
        kept = {head for head in heads if rng.uniform() < errors.disobedience}
        self._rejected = [(head, words) for head, words in phrases if words and head not in kept]

    def rewrite(self, sentence: str) -> str:
        """Reworded sentence, possibly shortened or empty."""
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
        """A sentence for each object of the details that is not in the text `said`."""
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
        """Cut a statement before the first part that contains a rejected phrase."""
        found = stems(core)
        gone = {head for head, words in self._rejected if words <= found}
        return " ".join(takewhile(lambda part: not stems(part) & gone, _PART.split(core)))
