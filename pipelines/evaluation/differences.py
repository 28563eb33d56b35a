"""Differences to references, kept beside the rows that they were computed from."""

import json
from dataclasses import asdict
from typing import Any

from dataset_builders.files import digest, write_json

from .city_results import CityResults, is_frozen_clip, is_untrained
from .predictions import RESULTS_FILE, SUMMARY_FILE
from .statistics import COORDINATES, LEVEL, REPLICATES, Difference, Interval, Reference, compare

CACHE_FOLDER = "differences"


def references(city: CityResults) -> list[Reference]:
    """What all are compared with: coordinates; frozen CLIP, or else weights as drawn."""
    systems = city.summary["systems"]
    frozen = sorted(name for name, own in systems.items() if is_frozen_clip(own))
    drawn = sorted(name for name, own in systems.items() if is_untrained(own))
    known = {row.system for row in city.rows}
    found = [COORDINATES, *map(Reference, frozen or drawn[:1])]
    return [reference for reference in found if reference.system in known]


def cached_differences(city: CityResults, reference: Reference) -> list[Difference]:
    """What `statistics.compare` gives, not computed again for the same rows."""
    folder = city.folder
    files = [(folder / name).read_bytes() for name in (RESULTS_FILE, SUMMARY_FILE)]
    key = digest(asdict(reference), REPLICATES, LEVEL, *files)
    name = "-".join(filter(None, (reference.system, reference.view, reference.probe)))
    path = folder / CACHE_FOLDER / f"{name}.json"
    if path.is_file():
        known = json.loads(path.read_text(encoding="utf-8"))
        if known["key"] == key:
            return [_restore(values) for values in known["differences"]]
    found = compare(folder, reference)
    write_json(path, {"key": key, "differences": [asdict(one) for one in found]})
    return found


def _restore(values: dict[str, Any]) -> Difference:
    intervals = {metric: Interval(**own) for metric, own in values["intervals"].items()}
    return Difference(**{**values, "intervals": intervals})


__all__ = ["cached_differences", "references"]
