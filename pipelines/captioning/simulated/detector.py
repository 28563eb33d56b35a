"""A simulated open-vocabulary detector with given error rates, instead of OWLv2.

It looks up whether the truth of the image supports a phrase, errs at the given rates, and draws a
score to match. Its errors are assumptions, not measurements of OWLv2.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from dataset_builders.synthetic.scene import HEIGHT, WIDTH, SceneObject

from ..errors import CaptioningError
from ..records import Detection, SourceImage
from .truth import ImageTruth, Truth, rng_of
from .words import (
    WORDING_VERSION,
    Statements,
    possible_statements,
    telling_stems,
    true_statements,
    vocabulary,
)

RULES_VERSION = "simulated-detector-1"
TILE_PX = 256
# beta distributions of scores: of what is found, of false alarms, and below the threshold
_ABOVE, _JUST_ABOVE, _BELOW = (2.0, 6.0), (1.0, 12.0), (1.0, 2.0)


class SimulatedDetector:
    """Says whether phrases are true of an image, with known error rates.

    An error belongs to a thing in an image, not to a wording: where it misses the trees, it misses
    "tree", "trees" and "leafy trees" alike, whoever wrote them. Words that name nothing the city
    could hold ("the overall composition") score above the threshold.

    Args:
        truth: Truth of the dataset.
        miss_rate: Share of true things that score below the threshold.
        false_alarm_rate: Share of absent things that score above it.
        threshold: Score at which the two rates hold, that of the filter.
        seed: Seed of the errors.

    Raises:
        CaptioningError: a rate outside [0, 1], or a threshold outside (0, 1).
    """

    def __init__(
        self,
        truth: Truth,
        miss_rate: float = 0.03,
        false_alarm_rate: float = 0.2,
        threshold: float = 0.01,
        seed: int = 0,
    ):
        for name, rate in (("miss_rate", miss_rate), ("false_alarm_rate", false_alarm_rate)):
            if not 0 <= rate <= 1:
                raise CaptioningError(f"`{name}` must lie between 0 and 1, got {rate}.")
        if not 0 < threshold < 1:
            raise CaptioningError(f"`threshold` must lie between 0 and 1, got {threshold}.")
        self._truth = truth
        self._miss_rate, self._false_alarm_rate = miss_rate, false_alarm_rate
        self._threshold, self._seed = threshold, seed
        self.revision = (
            f"{RULES_VERSION}/{WORDING_VERSION}/miss={miss_rate}/false_alarm={false_alarm_rate}"
            f"/threshold={threshold}/seed={seed}"
        )

    def detect(self, source: SourceImage, phrases: Sequence[str]) -> Detection:
        """Score phrases: a patch for the whole image, and one for each thing that has a box."""
        truth = self._truth[source.image_id]
        boxes = _patches(truth)
        scores = np.empty((len(boxes), len(phrases)), dtype=np.float32)
        places = {thing: number for number, thing in enumerate(boxes)}
        true = true_statements(truth)
        for column, phrase in enumerate(phrases):
            thing, is_true = _support(phrase, truth, true)
            rng = rng_of(self.revision, truth.image_id, phrase)
            scores[:, column] = self._threshold * rng.beta(*_BELOW, size=len(boxes)) / 2
            scores[places.get(thing, 0), column] = self._score(
                rng, self._is_found(truth.image_id, thing, is_true), is_true is not False
            )
        return Detection(scores, np.array(list(boxes.values()), dtype=np.float32))

    def _is_found(self, image_id: str, thing: str, is_true: bool | None) -> bool:
        if is_true is None:
            return True
        die = rng_of(self.revision, image_id, thing, str(is_true)).uniform()
        return bool(die >= self._miss_rate if is_true else die < self._false_alarm_rate)

    def _score(self, rng: np.random.Generator, is_found: bool, is_true: bool) -> float:
        if not is_found:
            return float(self._threshold * rng.beta(*_BELOW))
        # a little above, so that no rounding puts it on the other side
        low = 1.01 * self._threshold
        return float(low + (1 - low) * rng.beta(*(_ABOVE if is_true else _JUST_ABOVE)))


def _support(phrase: str, truth: ImageTruth, true: Statements) -> tuple[str, bool | None]:
    """What a phrase is about, and whether it is true; None if it names nothing known.

    It is true if all its words that can be true or false stand together in one of the statements
    that are `true` of the image: "leafy trees" is not true of bare trees.
    """
    words = telling_stems(phrase) & vocabulary(truth.view)
    if not words:
        return "", None
    for statements, is_true in ((true, True), (possible_statements(truth.view), False)):
        for statement, thing in statements:
            if words <= statement:
                return thing, is_true
    return " ".join(sorted(words)), False


def _patches(truth: ImageTruth) -> Mapping[str, NDArray[np.float32]]:
    """Box (xyxy) of the whole image, under the empty name, and of the largest of each object."""
    size = (WIDTH, HEIGHT) if truth.view == "street_view" else (TILE_PX, TILE_PX)
    largest: dict[str, SceneObject] = {}
    for item in truth.objects:
        if item.name not in largest or _area(item) > _area(largest[item.name]):
            largest[item.name] = item
    boxes = {"": (0, 0, *size), **{name: item.box for name, item in sorted(largest.items())}}
    return {name: np.array(box, dtype=np.float32) for name, box in boxes.items()}


def _area(item: SceneObject) -> int:
    left, top, right, bottom = item.box
    return (right - left) * (bottom - top)


__all__ = ["SimulatedDetector"]
