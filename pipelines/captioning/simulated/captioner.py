"""Captioning models that answer from the truth of the synthetic city, with known error rates.

They leave facts out and make some up, as `dataset_builders.synthetic.captioners` says.
"""

from collections.abc import Sequence

import numpy as np

from dataset_builders.synthetic.captioners import (
    CAPTIONERS,
    SATELLITE_FANCIES,
    STREET_FANCIES,
    Captioner,
    Fact,
    omission_chance,
    reword,
    write_caption,
)
from dataset_builders.synthetic.captioners import phrase as words_of

from ..errors import CaptioningError
from ..records import Reply, Request
from .merge import MergeErrors, merge
from .truth import ImageTruth, Sight, Truth, rng_of

RULES_VERSION = "simulated-captioner-2"
TOKENS_PER_WORD = 1.3
IMAGE_TOKENS = 256
MAX_SIGHTS = 3  # in a short caption
LOCAL_START = "This part shows"


class SimulatedCaptionModel:
    """A simulated multimodal model; the same request has the same answer.

    Args:
        name: Name in the recipe.
        captioner: Whose words and error rates it has.
        truth: Truth of the dataset.
        merge_errors: How often it fails at merging.
        local_hallucination: Rate of made-up things in a short caption, as a share of the rate in a
            long one. Real models make up more the longer they talk (e.g. arXiv 2510.20229); how
            much more is an assumption.
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
        self._local_rate = local_hallucination * captioner.hallucination
        self._captioner, self._truth, self._errors = captioner, truth, merge_errors

    async def complete(self, request: Request) -> Reply:
        """Answer a request from the truth of its image.

        Raises:
            CaptioningError: nothing is known of the image.
        """
        truth = self._truth[request.image_id]
        rng = rng_of(
            self.revision,
            request.image_id,
            request.task,
            request.box,
            request.prompt,
            request.sampling,
        )
        finish_reason = "stop"
        if request.task == "describe":
            text = write_caption(self._captioner, list(truth.facts), truth.view, rng).text
        elif request.task == "local":
            text = self._local(truth, request, rng)
        else:
            text, finish_reason = merge(self._captioner, request, self._errors, rng)
        return _reply(text, finish_reason, request)

    async def close(self) -> None:
        """Nothing is held."""

    def _local(self, truth: ImageTruth, request: Request, rng: np.random.Generator) -> str:
        """One sentence on a crop; in its middle a small thing is as plain as a large one."""
        if request.box is None:
            raise CaptioningError("A short caption is of a box, and the request has none.")
        sights = truth.sights(request.box)[: 2 * MAX_SIGHTS]
        chance = omission_chance(self._captioner, Fact("", "", 0.8))
        told = [_noun_phrase(s) for s in sights if rng.uniform() >= chance][:MAX_SIGHTS]
        told += self._made_up(truth, len(told), rng)
        return reword(f"{LOCAL_START} {_listing(told)}.", self._captioner)

    def _made_up(self, truth: ImageTruth, number: int, rng: np.random.Generator) -> list[str]:
        fancies = STREET_FANCIES if truth.view == "street_view" else SATELLITE_FANCIES
        possible = [fancy for fancy in fancies if fancy.key not in truth.things]
        if rng.uniform() >= number * self._local_rate / (1 - self._local_rate):
            return []
        return [words_of(possible[int(rng.integers(len(possible)))], truth.view)]


def captioner_named(name: str) -> Captioner:
    """One of the synthetic city's captioners.

    Raises:
        CaptioningError: there is none of that name.
    """
    captioners = {captioner.name: captioner for captioner in CAPTIONERS}
    if name not in captioners:
        raise CaptioningError(
            f"There is no simulated captioner {name!r}; there are {', '.join(captioners)}."
        )
    return captioners[name]


def _noun_phrase(sight: Sight) -> str:
    words = sight.words
    if words.endswith("s") or sight.thing in ("open water", "tree cover") or words[:2] == "a ":
        return words
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _listing(parts: Sequence[str]) -> str:
    if not parts:
        return "nothing that stands out"
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _reply(text: str, finish_reason: str, request: Request) -> Reply:
    """The answer, cut where the request's tokens end."""
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


__all__ = ["SimulatedCaptionModel", "captioner_named"]
