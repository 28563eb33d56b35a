"""Whether images predict better than location alone: the words, and when they apply."""

from dataclasses import dataclass

import numpy as np

from ..analysis.bootstrap import Interval

FEWEST_REGIONS, FEWEST_DISTRICTS = 100, 8
NOT_ESTIMABLE_BELOW = -2.0
"""Of an R2: an interval that reaches further down tells nothing."""
ANSWERS = ("yes", "not significant", "no", "too few regions", "not estimable")


@dataclass(frozen=True)
class Score:
    """R2 with its 95 % interval over districts; None where it is not estimable."""

    r2: float | None
    low: float | None
    high: float | None

    @property
    def text(self) -> str:
        """As it is printed."""
        if self.r2 is None or self.low is None or self.high is None:
            return "not estimable"
        return f"{self.r2:.2f} [{self.low:.2f}, {self.high:.2f}]"


def score(found: Interval) -> Score:
    """An interval as it is printed, or nothing where it reaches too far down."""
    values = (found.estimate, found.low, found.high)
    if not np.isfinite(values).all() or found.low < NOT_ESTIMABLE_BELOW:
        return Score(None, None, None)
    return Score(*(round(value, 4) for value in values))


def answer(gain: Score, regions: int, districts: int) -> str:
    """One of [`ANSWERS`].

    Args:
        gain: R2 of the images less R2 of location alone, paired.
        regions: Number of labelled regions.
        districts: Number of districts that hold scored regions.
    """
    if regions < FEWEST_REGIONS or districts < FEWEST_DISTRICTS:
        return "too few regions"
    if gain.low is None or gain.high is None:
        return "not estimable"
    return "yes" if gain.low > 0 else "no" if gain.high < 0 else "not significant"


__all__ = ["ANSWERS", "FEWEST_DISTRICTS", "FEWEST_REGIONS", "Score", "answer", "score"]
