"""Do images predict better than location alone? One answer per indicator and protocol, and overall.

The image system is chosen by its validation error, so that choosing one among many does not inflate
its test score. The location control is the best one on the test regions, in favour of location.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..probe.predictions import VALIDATION_FOLDER, predicted_splits
from ..probe.systems import NO_VIEW, split_name
from .bootstrap import DrawnCell, Interval, Name, interval

LOCATION = "coordinates"
FEWEST_REGIONS, FEWEST_DISTRICTS = 100, 8
NOT_ESTIMABLE_BELOW = -2.0
"""R2 below which the lower end of an interval carries no information."""
ANSWERS = ("yes", "not significant", "no", "too few regions", "not estimable")

Errors = Mapping[tuple[Name, str], float]  # name and indicator -> mean squared error


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


@dataclass(frozen=True)
class Verdict:
    """Images against location alone, on one indicator under one protocol.

    Attributes:
        protocol: "block" or "random".
        indicator: What is predicted.
        answer: One of [`ANSWERS`].
        system: The image system, with view and probe.
        images: Its R2.
        location_probe: Probe of the best location control.
        location: Its R2.
        gain: R2 of the images less R2 of location, paired.
        regions: Number of labelled regions.
        districts: Number of districts that hold test regions.
    """

    protocol: str
    indicator: str
    answer: str
    system: Name
    images: Score
    location_probe: str
    location: Score
    gain: Score
    regions: int
    districts: int


@dataclass(frozen=True)
class Overall:
    """A system under one protocol, mean over indicators.

    Attributes:
        protocol: "block" or "random".
        name: System, view and probe.
        indicators: Number of indicators the system is scored on.
        r2: Mean R2 over them.
        gain: Mean R2 less that of the best location control, over the indicators of both; None for
            that control itself, and where there is none.
    """

    protocol: str
    name: Name
    indicators: int
    r2: Interval
    gain: Interval | None


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


def validation_errors(
    folder: Path, protocol: str, group_of: Callable[[Name], Name]
) -> dict[tuple[Name, str], float]:
    """Name and indicator -> mean squared error on validation regions, mean over runs.

    Args:
        folder: Of one city's results.
        protocol: Of the splits.
        group_of: Name of a training -> name of its system.
    """
    found: dict[tuple[Name, str], list[float]] = {}
    for split in predicted_splits(folder, protocol, VALIDATION_FOLDER):
        for name, predictions in split.predictions.items():
            error = float(np.square(predictions - split.truth).mean())
            found.setdefault((group_of(name), split.indicator), []).append(error)
    return {name: float(np.mean(errors)) for name, errors in found.items()}


def best_views(errors: Errors) -> list[Name]:
    """The view and probe of the lowest validation error of each system that sees images.

    Errors of several indicators are averaged by their logarithms, since their scales differ. The
    system of the lowest error comes first.
    """
    logs: dict[Name, list[float]] = {}
    for (name, _), error in errors.items():
        if sees_images(name):
            logs.setdefault(name, []).append(float(np.log(max(error, 1e-300))))
    best: dict[str, Name] = {}
    for name in sorted(logs, key=lambda name: (-len(logs[name]), np.mean(logs[name]))):
        best.setdefault(name[0], name)
    return list(best.values())


def sees_images(name: Name) -> bool:
    """Whether a system gets image vectors, and they alone."""
    return name[1] != NO_VIEW and not split_name(name[0])[0]


def is_control(name: Name) -> bool:
    """Whether a system is beside no other and sees no image."""
    return name[1] == NO_VIEW and not split_name(name[0])[0]


def best_of_indicator(errors: Errors, indicator: str) -> Name | None:
    """The image system with the lowest validation error on an indicator."""
    own = [name for name, other in errors if other == indicator and sees_images(name)]
    return min(own, key=lambda name: errors[name, indicator], default=None)


def verdicts(
    cells: Iterable[DrawnCell], errors: Mapping[str, Errors], labelled: Mapping[str, int]
) -> Iterator[Verdict]:
    """Every indicator that both images and a location control are scored on.

    Args:
        cells: Drawn scores, with the image systems of the lowest validation error and the location
            controls among them.
        errors: Protocol -> what [`validation_errors`] gives.
        labelled: Indicator -> number of labelled regions.
    """
    for cell in cells:
        name = best_of_indicator(errors[cell.protocol], cell.indicator)
        if name in cell.systems and any(one[0] == LOCATION for one in cell.systems):
            yield _verdict(cell, name, labelled[cell.indicator])


def _verdict(cell: DrawnCell, name: Name, regions: int) -> Verdict:
    drawn = {one: scores.mean("r2") for one, scores in cell.systems.items()}
    place = max((one for one in drawn if one[0] == LOCATION), key=lambda one: drawn[one][0])
    gain = score(interval(cell.systems[name].less(cell.systems[place], "r2")))
    images, location = score(interval(drawn[name])), score(interval(drawn[place]))
    if images.r2 is None or location.r2 is None:
        gain = Score(None, None, None)
    return Verdict(
        cell.protocol,
        cell.indicator,
        answer(gain, regions, cell.blocks),
        name,
        images,
        place[2],
        location,
        gain,
        regions,
        cell.blocks,
    )


def overall(cells: Sequence[DrawnCell], names: Collection[Name]) -> list[Overall]:
    """Some systems, mean over indicators, beside the best location control.

    Args:
        cells: Drawn scores of those systems and of the location controls.
        names: The systems, with view and probe.
    """
    found = []
    for protocol in dict.fromkeys(cell.protocol for cell in cells):
        own = [cell for cell in cells if cell.protocol == protocol]
        drawn = {
            name: _mean(scores)
            for name in names
            if (scores := [c.systems[name].mean("r2") for c in own if name in c.systems])
        }
        places = [name for name in drawn if name[0] == LOCATION]
        place = max(places, key=lambda name: drawn[name][0], default=None)
        for name, values in drawn.items():
            gain = (
                mean_difference(own, protocol, name, place) if place not in (None, name) else None
            )
            count = sum(name in cell.systems for cell in own)
            found.append(Overall(protocol, name, count, interval(values), gain))
    return found


def mean_difference(
    cells: Iterable[DrawnCell], protocol: str, first: Name, second: Name | None
) -> Interval | None:
    """Mean R2 of one system less that of another, over the indicators of both; None without any."""
    drawn = [
        cell.systems[first].less(cell.systems[second], "r2")
        for cell in cells
        if cell.protocol == protocol and second and {first, second} <= set(cell.systems)
    ]
    return interval(_mean(drawn)) if drawn else None


def _mean(drawn: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    return np.asarray(np.mean(np.stack(drawn), axis=0))


__all__ = [
    "ANSWERS",
    "FEWEST_DISTRICTS",
    "FEWEST_REGIONS",
    "Overall",
    "Score",
    "Verdict",
    "answer",
    "best_of_indicator",
    "best_views",
    "is_control",
    "mean_difference",
    "overall",
    "score",
    "sees_images",
    "validation_errors",
    "verdicts",
]
