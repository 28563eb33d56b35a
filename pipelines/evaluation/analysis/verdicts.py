"""Comparison of image systems with location alone, per indicator and protocol and overall.

The image system is chosen by validation error, so the choice does not inflate its test score. The
location control is the best one on the test regions, a choice in favour of location.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..probe.predictions import VALIDATION_FOLDER
from ..probe.systems import NO_VIEW, split_name
from .bootstrap import DrawnCell, Interval, Name, interval, read_splits

LOCATION = "coordinates"
FEWEST_REGIONS, FEWEST_DISTRICTS = 100, 8
NOT_ESTIMABLE_BELOW = -2.0
"""Lower end of an interval of R2 below which it is uninformative."""
ANSWERS = ("yes", "not significant", "no", "too few regions", "not estimable")

Errors = Mapping[tuple[Name, str], float]  # (name, indicator) -> mean squared error


@dataclass(frozen=True)
class Score:
    """R2 with its 95 % confidence interval over districts; None if not estimable."""

    r2: float | None
    low: float | None
    high: float | None

    @property
    def text(self) -> str:
        """Text for tables."""
        if self.r2 is None or self.low is None or self.high is None:
            return "not estimable"
        return f"{self.r2:.2f} [{self.low:.2f}, {self.high:.2f}]"


@dataclass(frozen=True)
class Verdict:
    """Comparison of images and location alone on one indicator under one protocol.

    Attributes:
        answer: One of [`ANSWERS`].
        system: Name, view and probe of the image system.
        images: R2 of the image system.
        location_probe: Probe of the best location control.
        location: R2 of that control.
        regions: Number of labelled regions.
        districts: Number of districts with test regions.
    """

    protocol: str
    indicator: str
    answer: str
    system: Name
    images: Score
    location_probe: str
    location: Score
    regions: int
    districts: int


@dataclass(frozen=True)
class Overall:
    """Mean score of a system over indicators under one protocol.

    Attributes:
        name: System, view and probe.
        indicators: Number of indicators of the system.
        r2: Mean R2.
        gain: Mean difference of R2 from the best location control over shared indicators; None for
            that control, and without one.
    """

    protocol: str
    name: Name
    indicators: int
    r2: Interval
    gain: Interval | None


def score(found: Interval) -> Score:
    """Rounded score; empty if the interval is not finite or extends below the limit."""
    values = (found.estimate, found.low, found.high)
    if not np.isfinite(values).all() or found.low < NOT_ESTIMABLE_BELOW:
        return Score(None, None, None)
    return Score(*(round(value, 4) for value in values))


def answer(gain: Score, regions: int, districts: int) -> str:
    """Verdict, one of [`ANSWERS`].

    Args:
        gain: Paired difference of R2, images minus location alone.
        regions: Number of labelled regions.
        districts: Number of districts with scored regions.
    """
    if regions < FEWEST_REGIONS or districts < FEWEST_DISTRICTS:
        return "too few regions"
    if gain.low is None or gain.high is None:
        return "not estimable"
    return "yes" if gain.low > 0 else "no" if gain.high < 0 else "not significant"


def validation_errors(
    folder: Path, protocol: str, group_of: Callable[[Name], Name]
) -> dict[tuple[Name, str], float]:
    """Validation MSE by system and indicator, averaged over splits, seeds and trainings.

    Args:
        folder: Results folder of one city.
        protocol: Protocol of the splits.
        group_of: Function from the name of a training to that of its system.
    """
    found: dict[tuple[Name, str], list[float]] = {}
    for split in read_splits(folder, protocol, VALIDATION_FOLDER):
        for name, predictions in split.predictions.items():
            error = float(np.square(predictions - split.truth).mean())
            found.setdefault((group_of(name), split.indicator), []).append(error)
    return {name: float(np.mean(errors)) for name, errors in found.items()}


def best_views(errors: Errors) -> list[Name]:
    """Best view and probe of each image system by validation error, best system first.

    Errors are averaged over indicators on a logarithmic scale, since their scales differ.
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
    """Whether a system has image embeddings as its only input."""
    return name[1] != NO_VIEW and not split_name(name[0])[0]


def is_control(name: Name) -> bool:
    """Whether a system has no image embeddings and is not a combination."""
    return name[1] == NO_VIEW and not split_name(name[0])[0]


def best_of_indicator(errors: Errors, indicator: str) -> Name | None:
    """Image system with the lowest validation error on an indicator."""
    own = [name for name, other in errors if other == indicator and sees_images(name)]
    return min(own, key=lambda name: errors[name, indicator], default=None)


def verdicts(
    cells: Iterable[DrawnCell], errors: Mapping[str, Errors], labelled: Mapping[str, int]
) -> Iterator[Verdict]:
    """Verdicts for all indicators with scores of an image system and a location control.

    Args:
        cells: Drawn scores, including the best image systems by validation error and the location
            controls.
        errors: Protocol to [`validation_errors`].
        labelled: Indicator to number of labelled regions.
    """
    for cell in cells:
        name = best_of_indicator(errors[cell.protocol], cell.indicator)
        places = [one for one in cell.systems if one[0] == LOCATION]
        if name not in cell.systems or not places:
            continue
        system, regions = cell.systems[name], labelled[cell.indicator]
        place = max(places, key=lambda one: cell.systems[one].mean("r2")[0])
        images, location, gain = (
            score(interval(values))
            for values in (
                system.mean("r2"),
                cell.systems[place].mean("r2"),
                system.less(cell.systems[place], "r2"),
            )
        )
        if images.r2 is None or location.r2 is None:
            gain = Score(None, None, None)
        said = answer(gain, regions, cell.blocks)
        yield Verdict(
            cell.protocol, cell.indicator, said, name, images, place[2], location, regions,
            cell.blocks,
        )  # fmt: skip


def overall(cells: Sequence[DrawnCell], names: Collection[Name]) -> list[Overall]:
    """Mean scores of systems over indicators, and gains over the best location control.

    Args:
        cells: Drawn scores of the systems and of the location controls.
        names: Systems with view and probe.
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
            gain = None if name == place else mean_difference(own, protocol, name, place)
            count = sum(name in cell.systems for cell in own)
            found.append(Overall(protocol, name, count, interval(values), gain))
    return found


def mean_difference(
    cells: Iterable[DrawnCell], protocol: str, first: Name, second: Name | None
) -> Interval | None:
    """Mean difference of R2 over the shared indicators of two systems; None without any."""
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
