"""Differences to references, kept beside the rows that they were computed from."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dataset_builders.files import digest, write_json

from ..analysis.bootstrap import (
    COORDINATES,
    LEVEL,
    REPLICATES,
    Difference,
    Interval,
    Reference,
    compare_all,
)
from ..probe.predictions import RESULTS_FILE, SUMMARY_FILE
from .frame import CityResults, is_frozen_clip, is_untrained

CACHE_FOLDER, CACHE_VERSION = "differences", 2


def references(city: CityResults) -> list[Reference]:
    """What all are compared with: coordinates; frozen CLIP, or else weights as drawn.

    Of several drawn ones, the architecture of the method where the table has it.
    """
    frozen = [name for name in sorted(city.members) if is_frozen_clip(city.metadata(name))]
    drawn = [name for name in sorted(city.members) if is_untrained(city.metadata(name))]
    drawn.sort(key=lambda name: not city.metadata(name).get("random_init"))
    known = {city.system_of(row.system) for row in city.rows}
    found = [COORDINATES, *map(Reference, frozen or drawn[:1])]
    return [reference for reference in found if reference.system in known]


def cached_differences(
    city: CityResults, wanted: Sequence[Reference]
) -> dict[Reference, list[Difference]]:
    """What `statistics.compare_all` gives, not computed again for the same rows."""
    files = [(city.folder / name).read_bytes() for name in (RESULTS_FILE, SUMMARY_FILE)]
    keys = {one: digest(CACHE_VERSION, asdict(one), REPLICATES, LEVEL, *files) for one in wanted}
    found = {one: known for one in wanted if (known := _read(city, one, keys[one])) is not None}
    missing = [one for one in wanted if one not in found]
    for one, differences in zip(missing, compare_all(city.folder, missing), strict=True):
        found[one] = differences
        values = {"key": keys[one], "differences": [asdict(own) for own in differences]}
        write_json(_path(city, one), values)
    return found


def _read(city: CityResults, reference: Reference, key: str) -> list[Difference] | None:
    path = _path(city, reference)
    if not path.is_file():
        return None
    known = json.loads(path.read_text(encoding="utf-8"))
    return [_restore(own) for own in known["differences"]] if known["key"] == key else None


def _path(city: CityResults, reference: Reference) -> Path:
    name = "-".join(filter(None, (reference.system, reference.view, reference.probe)))
    return city.folder / CACHE_FOLDER / f"{name}.json"


def _restore(values: dict[str, Any]) -> Difference:
    intervals = {metric: Interval(**own) for metric, own in values["intervals"].items()}
    return Difference(**{**values, "intervals": intervals})


__all__ = ["cached_differences", "references"]
