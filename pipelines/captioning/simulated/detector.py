"""Simulated open-vocabulary detector with given error rates.

It checks phrases against the ground truth of the image, makes errors at the given rates and samples
matching scores. The rates are assumptions, not measurements of OWLv2.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..errors import CaptioningError
from ..records import SourceImage
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
# beta distributions of the scores of detections, false alarms and non-detections
_ABOVE, _JUST_ABOVE, _BELOW = (2.0, 6.0), (1.0, 12.0), (1.0, 2.0)


class SimulatedDetector:
    """Phrase detector with known error rates.

    Errors are per object of an image, not per wording: if it misses the trees, it misses "tree",
    "trees" and "leafy trees" alike. Phrases that name no object of the city ("the overall
    composition") score above the threshold.

    Args:
        truth: Ground truth of the dataset.
        miss_rate: Share of present objects that score below the threshold.
        false_alarm_rate: Share of absent objects that score above the threshold.
        threshold: Threshold of the phrase filter.
        seed: Seed of the errors.

    Raises:
        CaptioningError: A rate outside [0, 1], or a threshold outside (0, 1).
    """

    def __init__(
        self,
        truth: Truth,
        miss_rate: float = 0.03,
        false_alarm_rate: float = 0.2,
        threshold: float = 0.01,
        seed: int = 0,
    ):
        rates = (miss_rate, false_alarm_rate)
        if not all(0 <= rate <= 1 for rate in rates) or not 0 < threshold < 1:
            raise CaptioningError(
                "`miss_rate`, `false_alarm_rate` and `threshold` of the simulated detector must "
                f"lie between 0 and 1, got {miss_rate}, {false_alarm_rate} and {threshold}."
            )
        self._truth = truth
        self._miss_rate, self._false_alarm_rate = rates
        self._threshold = threshold
        self.revision = (
            f"{RULES_VERSION}/{WORDING_VERSION}/miss={miss_rate}/false_alarm={false_alarm_rate}"
            f"/threshold={threshold}/seed={seed}"
        )

    def detect(self, source: SourceImage, phrases: Sequence[str]) -> NDArray[np.float32]:
        """Score of each phrase, `(phrases,)`."""
        truth = self._truth[source.image_id]
        true = true_statements(truth)
        # patches: the whole image, and one per kind of object
        patches = ["", *sorted({item.name for item in truth.objects})]
        found = np.empty(len(phrases), dtype=np.float32)
        for number, phrase in enumerate(phrases):
            thing, is_true = _support(phrase, truth, true)
            rng = rng_of(self.revision, truth.image_id, phrase)
            scores = self._threshold * rng.beta(*_BELOW, size=len(patches)) / 2
            scores[patches.index(thing) if thing in patches else 0] = self._score(
                rng, self._is_found(truth.image_id, thing, is_true), is_true is not False
            )
            found[number] = scores.max()
        return found

    def _is_found(self, image_id: str, thing: str, is_true: bool | None) -> bool:
        if is_true is None:
            return True
        die = rng_of(self.revision, image_id, thing, str(is_true)).uniform()
        return bool(die >= self._miss_rate if is_true else die < self._false_alarm_rate)

    def _score(self, rng: np.random.Generator, is_found: bool, is_true: bool) -> float:
        if not is_found:
            return float(self._threshold * rng.beta(*_BELOW))
        # slightly above, to be safe from rounding
        low = 1.01 * self._threshold
        return float(low + (1 - low) * rng.beta(*(_ABOVE if is_true else _JUST_ABOVE)))


def _support(phrase: str, truth: ImageTruth, true: Statements) -> tuple[str, bool | None]:
    """Object of a phrase, and whether the phrase is true; None if it names no known object.

    A phrase is true if one of the `true` statements contains all of its content words: "leafy
    trees" is not true of bare trees.
    """
    words = telling_stems(phrase) & vocabulary(truth.view)
    if not words:
        return "", None
    for statements, is_true in ((true, True), (possible_statements(truth.view), False)):
        for statement, thing in statements:
            if words <= statement:
                return thing, is_true
    return " ".join(sorted(words)), False
