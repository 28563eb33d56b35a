"""Scores of a model with controls and intervals, for the model card.

Reads the output of `evaluate.py probe` and `evaluate.py report`:

<results>/<city>/results.jsonl, probe.json    scores and their settings
<results>/<city>/differences.json             intervals of differences between systems
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dataset_builders.files import verified

from ..common.errors import InputError

ROWS, SUMMARY, DIFFERENCES = "results.jsonl", "probe.json", "differences.json"
PROBE = "ridge"  # probe shown on the card
# probe of each control shown on the card
CONTROLS = {"mean": "mean", "coordinates": "knn", "poi_counts": "gbm"}
NEEDED = ("mean", "coordinates")
ROUNDING = 1e-6
Cell = tuple[str, str, str, str]  # protocol, view, system, indicator


@dataclass(frozen=True)
class Score:
    """R2 of a system on an indicator.

    Attributes:
        mean: Mean over splits and training runs.
        sd: Standard deviation over splits.
        seeds: Number of splits.
        n_test: Mean number of test regions.
    """

    mean: float
    sd: float
    seeds: int
    n_test: float

    def __str__(self) -> str:
        return f"{self.mean:.2f} ± {self.sd:.2f}"


@dataclass(frozen=True)
class Gain:
    """Difference of R2 to a reference, mean over splits, with its 95 % interval."""

    estimate: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.estimate:+.2f} [{self.low:+.2f}, {self.high:+.2f}]"


@dataclass(frozen=True)
class CityScores:
    """Scores of all systems and controls in a city.

    Attributes:
        city: Name of the city.
        synthetic: Whether the data is simulated.
        model: System that the card describes.
        scores: Scores of the ridge probe, or of the controls' own probes.
        gains: Differences of the model by protocol, view and indicator, and by reference.
        indicators: Indicators in order.
        untrained: Systems with random initialisation.
        trainings: Number of training runs by system.
        variants: Ablations of the model, which the card omits.
    """

    city: str
    synthetic: bool
    model: str
    scores: dict[Cell, Score]
    gains: dict[tuple[str, str, str], dict[str, Gain]]
    indicators: tuple[str, ...]
    untrained: frozenset[str] = frozenset()
    trainings: Mapping[str, int] = field(default_factory=dict)
    variants: frozenset[str] = frozenset()

    @property
    def protocols(self) -> list[str]:
        """Evaluated protocols, in order."""
        return list(dict.fromkeys(protocol for protocol, _, _, _ in self.scores))

    @property
    def views(self) -> list[str]:
        """Views of the model, in order."""
        return list(dict.fromkeys(v for _, v, s, _ in self.scores if s == self.model))

    def title(self, system: str) -> str:
        """Name of a system on the card."""
        if system == self.model:
            count = self.trainings.get(system, 1)
            return f"**{system}** (this model{f', {count} training runs' if count > 1 else ''})"
        return f"{system} (control)" if system in CONTROLS or system in self.untrained else system

    def score(self, protocol: str, view: str, system: str, indicator: str) -> Score | None:
        """Score of a system; controls without images have the same score for all views."""
        own = "none" if system in CONTROLS else view
        return self.scores.get((protocol, own, system, indicator))

    def references(self, protocol: str, view: str) -> list[str]:
        """References that the model is compared with."""
        found = [self.gains.get((protocol, view, one), {}) for one in self.indicators]
        return list(dict.fromkeys(reference for gains in found for reference in gains))

    def gain(self, protocol: str, view: str, indicator: str, reference: str) -> Gain | None:
        """Difference between the model and a reference; None if they were not compared."""
        return self.gains.get((protocol, view, indicator), {}).get(reference)

    def systems(self, protocol: str, view: str) -> list[str]:
        """Scored systems except ablations: controls, random initialisation, others, the model."""
        found = [s for p, v, s, _ in self.scores if p == protocol and v in (view, "none")]
        names = [name for name in dict.fromkeys(found) if name not in self.variants]

        def rank(name: str) -> tuple[int, int]:
            ranks = (name not in CONTROLS, name not in self.untrained, name == self.model)
            return 4 * ranks[0] + 2 * ranks[2] + ranks[1], names.index(name)

        return sorted(names, key=rank)


def read_scores(results: Path, system: str | None = None) -> tuple[CityScores, ...]:
    """Read the scores of all cities in a folder.

    Args:
        results: Output folder of `evaluate.py probe` and `report`.
        system: Label of the model in the report, required if several models were trained.

    Raises:
        InputError: If there are no results, controls or intervals are missing or outdated, or the
            model is ambiguous.
    """
    files = sorted(results.glob(f"*/{ROWS}"))
    if not files:
        raise InputError(
            f"There are no results in {results} (CITY/{ROWS}). Pass the output folder of "
            "`evaluate.py probe`."
        )
    return tuple(_read_city(path.parent, system) for path in files)


def _read_city(folder: Path, system: str | None) -> CityScores:
    summary = verified(json.loads((folder / SUMMARY).read_text(encoding="utf-8")))
    systems: Mapping[str, Mapping[str, Any]] = summary["systems"]
    group = {
        label: (own.get("training") or {}).get("group", label) for label, own in systems.items()
    }
    model = _which(systems, group, system, folder)
    r2: dict[Cell, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    tests: dict[Cell, list[int]] = defaultdict(list)
    for row in _rows(folder, summary):
        name = group.get(row["system"], row["system"])
        cell = (row["protocol"], row["view"], name, row["indicator"])
        r2[cell][row["split_seed"]].append(row["r2"])
        tests[cell].append(row["n_test"])
    scores = {}
    for cell, by_split in r2.items():
        means = [float(np.mean(own)) for own in by_split.values()]
        sd = float(np.std(means, ddof=len(means) > 1))
        scores[cell] = Score(float(np.mean(means)), sd, len(means), float(np.mean(tests[cell])))
    have = {indicator for _, _, _, indicator in scores}
    found = CityScores(
        folder.name,
        bool(summary["synthetic"]),
        model,
        scores,
        _read_gains(folder / DIFFERENCES, model),
        tuple(name for name in summary["indicators"] if name in have),
        frozenset(group[label] for label, own in systems.items() if own.get("random_init")),
        Counter(group.values()),
        frozenset(
            group[label]
            for label, own in systems.items()
            if (own.get("training") or {}).get("variant_of") == model
        ),
    )
    _check(found, folder)
    return found


def _which(
    systems: Mapping[str, Mapping[str, Any]],
    group: Mapping[str, str],
    system: str | None,
    folder: Path,
) -> str:
    trained = {
        group[label]: None
        for label, own in systems.items()
        if not own.get("random_init")
        and "UrbanLN" in str(own.get("encoder"))
        and not (own.get("training") or {}).get("variant_of")
    }
    if system is not None and system not in group.values():
        known = ", ".join(dict.fromkeys(group.values()))
        raise InputError(f"{folder} has no system {system!r}; it has {known}.")
    if system is None and len(trained) != 1:
        raise InputError(
            f"{folder} has {len(trained)} trained UrbanLN systems ({', '.join(trained)}): select "
            "the model by --system NAME."
        )
    return system or next(iter(trained))


def _rows(folder: Path, summary: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield comparable rows of one probe per system."""
    vectors = {name: own["embedding_hash"] for name, own in summary["systems"].items()}
    for line in (folder / ROWS).read_text(encoding="utf-8").splitlines():
        row = verified(json.loads(line))
        name = row["system"]
        if row["r2"] is None or row["table_hash"] != summary["table_hash"]:
            continue
        if row.get("source_city") or row.get("beside"):
            continue
        if name in vectors and vectors[name] != row["embedding_hash"]:
            continue
        if row["probe"] == CONTROLS.get(name, PROBE):
            yield row


def _read_gains(path: Path, model: str) -> dict[tuple[str, str, str], dict[str, Gain]]:
    gains: dict[tuple[str, str, str], dict[str, Gain]] = defaultdict(dict)
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    for one in found:
        reference, r2 = one["reference"], one["intervals"]["r2"]
        probes = (one["probe"], one["reference_probe"])
        if one["system"] == model and probes == (PROBE, CONTROLS.get(reference, PROBE)):
            cell = (one["protocol"], one["view"], one["indicator"])
            gains[cell][reference] = Gain(r2["estimate"], r2["low"], r2["high"])
    return gains


def _check(found: CityScores, folder: Path) -> None:
    """Raise an error unless scores have controls, and those of the model a current interval."""
    for protocol in found.protocols:
        systems = {s for p, _, s, _ in found.scores if p == protocol}
        absent = [name for name in NEEDED if name not in systems]
        if absent:
            raise InputError(
                f"{folder} has scores under {protocol!r} without the control {', '.join(absent)}, "
                "which the model card requires. Rerun `evaluate.py probe`."
            )
    for (protocol, view, system, indicator), score in found.scores.items():
        if system != found.model:
            continue
        gain = found.gain(protocol, view, indicator, "coordinates")
        control = found.scores[protocol, "none", "coordinates", indicator]
        stale = gain and abs(score.mean - control.mean - gain.estimate) > ROUNDING
        if gain is None or stale:
            raise InputError(
                f"{folder} has {'an outdated' if stale else 'no'} interval of {system!r} against "
                f"coordinates ({indicator}, {protocol}), which the model card requires. Run "
                "`evaluate.py report` on this folder first."
            )


__all__ = ["CONTROLS", "CityScores", "Gain", "Score", "read_scores"]
