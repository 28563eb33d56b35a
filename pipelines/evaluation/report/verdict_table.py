"""One verdict per indicator and protocol: does the best image system beat location alone?

The image system is chosen by its validation error, so that the choice of one among many does not
inflate its test score. The location control is the best one on the test regions, which can only
favour location.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..analysis.bootstrap import DrawnCell, drawn_cells, interval
from ..probe.predictions import REGIONS_FILE, VALIDATION_FOLDER, predicted_splits
from ..probe.systems import NO_VIEW, WITH_COORDINATES
from .frame import PROBE_NAMES, CityResults, Key, what
from .table_formats import Cell, Table, number
from .verdicts import FEWEST_DISTRICTS, FEWEST_REGIONS, Score, answer, score

LOCATION = "coordinates"
QUESTIONS = {"block": "new districts", "random": "between labelled regions"}
Errors = Mapping[tuple[Key, str], float]


@dataclass(frozen=True)
class Verdict:
    """Images against location alone, on one indicator under one protocol.

    Attributes:
        protocol: "block" or "random".
        indicator: what is predicted.
        answer: one of `verdicts.ANSWERS`.
        system: the image system, with view and probe.
        images: its R2.
        location_probe: probe of the best location control.
        location: its R2.
        gain: R2 of the images less R2 of location, paired.
        regions: labelled regions.
        districts: districts that hold test regions.
    """

    protocol: str
    indicator: str
    answer: str
    system: Key
    images: Score
    location_probe: str
    location: Score
    gain: Score
    regions: int
    districts: int


def validation_errors(city: CityResults, protocol: str) -> dict[tuple[Key, str], float]:
    """Key and indicator -> mean squared error on validation regions, mean over runs."""
    found: dict[tuple[Key, str], list[float]] = {}
    for split in predicted_splits(city.folder, protocol, VALIDATION_FOLDER):
        for (label, view, probe), predictions in split.predictions.items():
            key = (city.system_of(label), view, probe)
            error = float(np.square(predictions - split.truth).mean())
            found.setdefault((key, split.indicator), []).append(error)
    return {name: float(np.mean(errors)) for name, errors in found.items()}


def best_views(errors: Errors) -> set[Key]:
    """Of each system that sees images, the view and probe of the lowest validation error.

    Errors of several indicators are averaged by their logarithms, for they differ in scale.
    """
    logs: dict[Key, list[float]] = {}
    for (key, _), error in errors.items():
        if _sees_images(key):
            logs.setdefault(key, []).append(float(np.log(max(error, 1e-300))))
    best: dict[str, Key] = {}
    for key in sorted(logs, key=lambda key: (-len(logs[key]), np.mean(logs[key]))):
        best.setdefault(key[0], key)
    return set(best.values())


def _sees_images(key: Key) -> bool:
    return key[1] != NO_VIEW and not key[0].startswith(WITH_COORDINATES)


def verdicts(city: CityResults, errors: Mapping[str, Errors]) -> Iterator[Verdict]:
    """Every indicator that images and a location control are scored on.

    Args:
        city: whose results.
        errors: protocol -> what [`validation_errors`] gives.
    """
    labels = pd.read_parquet(city.folder / REGIONS_FILE)
    chosen = {
        (protocol, indicator): min(
            (key for key, name in own if name == indicator and _sees_images(key)),
            key=lambda key: own[key, indicator],
            default=None,
        )
        for protocol, own in errors.items()
        for indicator in city.indicators
    }

    def wanted(protocol: str, indicator: str, key: Key) -> bool:
        return key[0] == LOCATION or key == chosen.get((protocol, indicator))

    for cell in drawn_cells(city.folder, wanted=wanted):
        key = chosen.get((cell.protocol, cell.indicator))
        if key in cell.systems and any(one[0] == LOCATION for one in cell.systems):
            yield _verdict(cell, key, int(labels[cell.indicator].notna().sum()))


def _verdict(cell: DrawnCell, key: Key, regions: int) -> Verdict:
    drawn = {one: scores.mean("r2") for one, scores in cell.systems.items()}
    place = max((one for one in drawn if one[0] == LOCATION), key=lambda one: drawn[one][0])
    gain = score(interval(cell.systems[key].less(cell.systems[place], "r2")))
    images, location = score(interval(drawn[key])), score(interval(drawn[place]))
    if images.r2 is None or location.r2 is None:
        gain = Score(None, None, None)
    return Verdict(
        cell.protocol,
        cell.indicator,
        answer(gain, regions, cell.blocks),
        key,
        images,
        place[2],
        location,
        gain,
        regions,
        cell.blocks,
    )


def verdict_table(
    cities: Sequence[CityResults], errors: Mapping[str, Mapping[str, Errors]]
) -> Table | None:
    """A row per city, protocol and indicator; None where no image system has a control beside it.

    Args:
        cities: whose results.
        errors: city -> protocol -> what [`validation_errors`] gives.
    """
    body: list[tuple[Cell, ...]] = []
    several = len(cities) > 1
    for city in cities:
        found = sorted(
            verdicts(city, errors[city.name]),
            key=lambda one: (one.protocol != "block", city.indicators.index(one.indicator)),
        )
        body += [(*([Cell(city.title)] * several), *_cells(one, city)) for one in found]
    if not body:
        return None
    names = ", ".join(city.title for city in cities)
    header = (
        *(["city"] * several),
        "predicting",
        "indicator",
        "images better?",
        "images, R²",
        "location alone, R²",
        "best image system",
        "location by",
        "regions",
        "districts",
    )
    return Table(
        name="verdicts",
        title=f"Do images predict better than location alone? {names}",
        header=header,
        rows=tuple(body),
        notes=(
            "yes or no: the 95 % interval of the difference excludes 0, by a paired bootstrap over "
            "districts. Too few regions: fewer than "
            f"{FEWEST_REGIONS} labelled regions or {FEWEST_DISTRICTS} districts.",
            "The image system has the lowest validation error of all systems, views and probes, "
            "untrained controls included. Location alone is the best control on coordinates, "
            "chosen on the test regions, in favour of location. [Brackets]: 95 % interval.",
        ),
    )


def _cells(one: Verdict, city: CityResults) -> tuple[Cell, ...]:
    system, view, probe = one.system
    return (
        Cell(QUESTIONS[one.protocol]),
        Cell(one.indicator),
        Cell(one.answer, best=one.answer == "yes"),
        Cell(one.images.text, one.images.r2),
        Cell(one.location.text, one.location.r2),
        Cell(what((city.system_title(system), view, probe))),
        Cell(PROBE_NAMES[one.location_probe]),
        number(one.regions, form=",.0f"),
        number(one.districts, form=".0f"),
    )


__all__ = ["Verdict", "best_views", "validation_errors", "verdict_table", "verdicts"]
