"""The embedded city's captioners as captioning models: known rates of error, no weights.

They answer from the truth of the image that a request names, and err as `captioners.Captioner`
says: they leave facts out and make some up. Their names and revisions carry the word *synthetic*
or *simulated*.
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

from .errors import CaptioningError
from .records import Reply, Request
from .simulated_dice import rng_of
from .simulated_merge import MergeErrors, merge
from .simulated_truth import ImageTruth, Sight, Truth

RULES_VERSION = "simulated-captioner-2"
TOKENS_PER_WORD = 1.3
IMAGE_TOKENS = 256
MAX_SIGHTS = 3  # in a short caption
LOCAL_START = "This part shows"


class SimulatedCaptionModel:
    """A simulated multimodal model; the same request has the same answer.

    Args:
        name: in the recipe.
        captioner: whose words and rates of error it has.
        truth: of the dataset.
        merge_errors: how often it fails at merging.
        local_hallucination: rate of made-up things in a short caption, as a share of the rate in a
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
        """One sentence on a crop; in the middle of it a small thing is as plain as a large one."""
        if request.box is None:
            raise CaptioningError("A short caption is of a box, and the request has none.")
        sights = truth.sights(request.box)[: 2 * MAX_SIGHTS]
        chance = omission_chance(self._captioner, Fact("", "", 0.8))
        told = [_noun_phrase(s) for s in sights if rng.uniform() >= chance][:MAX_SIGHTS]
        told += self._made_up(truth, len(told), rng)
        told = told or ["nothing that stands out"]
        return reword(f"{LOCAL_START} {_listing(told)}.", self._captioner)

    def _made_up(self, truth: ImageTruth, number: int, rng: np.random.Generator) -> list[str]:
        fancies = STREET_FANCIES if truth.view == "street_view" else SATELLITE_FANCIES
        possible = [fancy for fancy in fancies if fancy.key not in truth.things]
        if rng.uniform() >= number * self._local_rate / (1 - self._local_rate):
            return []
        return [words_of(possible[int(rng.integers(len(possible)))], truth.view)]


def captioner_named(name: str) -> Captioner:
    """One of the embedded city's captioners.

    Raises:
        CaptioningError: there is none of that name.
    """
    for captioner in CAPTIONERS:
        if captioner.name == name:
            return captioner
    known = ", ".join(captioner.name for captioner in CAPTIONERS)
    raise CaptioningError(f"There is no simulated captioner {name!r}; there are {known}.")


def _noun_phrase(sight: Sight) -> str:
    if sight.words.endswith("s") or sight.thing in ("open water", "tree cover"):
        return sight.words
    if sight.words.startswith("a "):
        return sight.words
    return f"{'an' if sight.words[0] in 'aeiou' else 'a'} {sight.words}"


def _listing(parts: Sequence[str]) -> str:
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
