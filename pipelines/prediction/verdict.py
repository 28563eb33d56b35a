"""Evaluation of predictions: scores compared with location only, coverage, and a sentence."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataset_builders.errors import SplitError
from dataset_builders.split_checks import correlation_range
from pipelines.evaluation.analysis.bootstrap import drawn_r2, interval
from pipelines.evaluation.analysis.reach import Reach
from pipelines.evaluation.analysis.verdicts import (
    FEWEST_DISTRICTS,
    FEWEST_REGIONS,
    Score,
    answer,
    score,
)
from pipelines.evaluation.errors import InputError

from .estimate import LEVEL, Estimate
from .place import Place

WIDE = 0.5
"""Interval width, relative to the range of labels, at which the sentence advises caution."""


@dataclass(frozen=True)
class Verdict:
    """Evaluation of an indicator's predictions.

    Attributes:
        indicator: Name of the indicator.
        unit: Unit of the indicator.
        transform: Scale that is scored, "ln1p" or "identity".
        protocol: "block" (complete districts held out) or "random".
        better_than_location: See [`pipelines.evaluation.analysis.verdicts.answer`].
        sentence: Conclusion in words.
        images: R2 of images.
        location: R2 of location only, the better of k-NN and trees.
        location_model: Which of the two is better.
        both: R2 of images and location.
        gain: Paired difference of the R2 of images and of location.
        coverage: Share of held-out labels within their 90 % interval.
        level: Nominal coverage.
        width_share: Median interval width divided by the central 90 % range of the labels.
        labelled: Number of scored regions.
        districts: Number of their districts.
        block_m: Side of a district in metres.
        notes: Caveats, one sentence each.
        reach: Spatial autocorrelation of the errors, regions unlike the labelled ones, and coverage
            of images.
    """

    indicator: str
    unit: str
    transform: str
    protocol: str
    better_than_location: str
    sentence: str
    images: Score
    location: Score
    location_model: str
    both: Score
    gain: Score
    coverage: float | None
    level: float
    width_share: float | None
    labelled: int
    districts: int
    block_m: float
    notes: tuple[str, ...]
    reach: Reach | None = None

    def as_dict(self) -> dict[str, Any]:
        """Dictionary for JSON."""
        return {**asdict(self), "reach": self.reach and self.reach.as_dict()}


def judge(estimate: Estimate, place: Place, reach: Reach | None = None) -> Verdict:
    """Evaluate the held-out predictions of an estimate."""
    y = estimate.indicator.y
    systems = np.stack([estimate.value, estimate.location, estimate.both])
    rows = np.flatnonzero((estimate.folds.number >= 0) & np.isfinite(systems).all(0))
    districts = len(np.unique(place.districts[rows]))
    images, location, both, gain = _scores(y[rows], systems[:, rows], place.districts[rows])
    better = answer(gain, len(rows), districts)
    coverage, share = _coverage_and_width(estimate, rows)
    notes = [*estimate.indicator.notes, *_notes(estimate, place, rows)]
    sentence = _sentence(estimate, place, better, images, location, share, len(rows), districts)
    return Verdict(
        estimate.indicator.name,
        estimate.indicator.unit,
        estimate.indicator.transform,
        place.protocol,
        better,
        sentence,
        images,
        location,
        estimate.location_model,
        both,
        gain,
        coverage,
        LEVEL,
        share,
        len(rows),
        districts,
        place.block_m,
        tuple(notes),
        reach,
    )


def raw_interval(estimate: Estimate) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lower and upper limits of the intervals in raw units, each `(N,)`."""
    to_raw = estimate.indicator.to_raw
    return (
        to_raw(estimate.value - estimate.half_width),
        to_raw(estimate.value + estimate.half_width),
    )


def _scores(
    y: NDArray[np.float64], systems: NDArray[np.float64], districts: NDArray[np.int64]
) -> tuple[Score, Score, Score, Score]:
    none = Score(None, None, None)
    if len(y) < 2 or np.ptp(y) == 0:
        return none, none, none, none
    try:
        drawn = drawn_r2(y, systems, districts)  # (3, 1 + draws)
    except InputError:  # one district
        return none, none, none, none
    images, location, both = (score(interval(one)) for one in drawn)
    known = images.r2 is not None and location.r2 is not None
    return images, location, both, score(interval(drawn[0] - drawn[1])) if known else none


def _coverage_and_width(
    estimate: Estimate, rows: NDArray[np.int64]
) -> tuple[float | None, float | None]:
    low, high = raw_interval(estimate)
    off = np.abs(estimate.value[rows] - estimate.indicator.y[rows])
    known = np.isfinite(estimate.half_width[rows])
    if not known.any():
        return None, None
    coverage = float((off <= estimate.half_width[rows])[known].mean())
    spread = float(np.subtract(*np.quantile(estimate.indicator.raw[rows], [0.95, 0.05])))
    width = float(np.median((high - low)[rows][known]))
    share = round(width / spread, 4) if spread > 0 and np.isfinite(width) else None
    return round(coverage, 4), share


def _sentence(
    estimate: Estimate,
    place: Place,
    better: str,
    images: Score,
    location: Score,
    share: float | None,
    labelled: int,
    districts: int,
) -> str:
    name = estimate.indicator.name
    where = "in new districts" if place.protocol == "block" else "between labelled regions"
    beside = f"R2 {images.text} against {location.text} for location alone"
    if better == "too few regions":
        return (
            f"{name}: too few regions to judge ({labelled} labelled in {districts} districts; "
            f"{FEWEST_REGIONS} in {FEWEST_DISTRICTS} are required)."
        )
    finding = {
        "yes": f"images predict better than location alone {where}",
        "no": f"location alone predicts better than images {where}",
        "not significant": f"images and location alone do not differ significantly {where}",
        "not estimable": f"the scores {where} are not estimable",
    }[better]
    width = ""
    if share is not None and share >= WIDE:
        much = "all of" if share >= 0.95 else "most of" if share >= 0.65 else "half"
        width = (
            f" A typical 90 % interval spans {much} the range of labels: do not rely on single "
            "regions."
        )
    elif share is not None:
        width = f" A typical 90 % interval spans {share:.0%} of the range of labels."
    return f"{name}: {finding} ({beside}).{width}"


def _notes(estimate: Estimate, place: Place, rows: NDArray[np.int64]) -> list[str]:
    notes = []
    missing = int((estimate.folds.number >= 0).sum()) - len(rows)
    if missing:
        notes.append(
            f"{missing} labelled regions have no held-out prediction: too few others remain "
            "outside their district and the regions that touch it."
        )
    if not estimate.guaranteed:
        notes.append("Too few districts for a 90 % interval: the largest observed error is used.")
    try:
        x, y = place.xy[rows].T
        reach = correlation_range(x, y, estimate.indicator.y[rows])
    except SplitError:
        reach = np.nan
    if place.protocol == "block" and reach > place.block_m * (1 + 1e-9):
        notes.append(
            f"Labels are correlated up to {reach / 1000:,.1f} km, more than the district side of "
            f"{place.block_m / 1000:,.1f} km: scores are optimistic. Use a larger --block_m."
        )
    return notes


__all__ = ["Verdict", "judge", "raw_interval"]
