"""A model's scores with what they are held against: controls, intervals, ablation.

Read from the files that `evaluate.py probe` and `evaluate.py report` leave:

<results>/<city>/results.jsonl, probe.json    rows, and which of them compare
<results>/<city>/differences.json              intervals of differences between systems
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dataset_builders.files import verified

from ..common.errors import InputError

ROWS, SUMMARY, DIFFERENCES = "results.jsonl", "probe.json", "differences.json"
PROBE = "ridge"  # the card shows one probe; the report has the others
# the probe of each control that stands in the card
CONTROLS = {"mean": "mean", "coordinates": "knn", "poi_counts": "gbm"}
NEEDED = ("mean", "coordinates")
ROUNDING = 1e-6
Cell = tuple[str, str, str, str]  # protocol, view, system, indicator


@dataclass(frozen=True)
class Score:
    """R2 of a system on an indicator.

    Attributes:
        mean: over the splits, and over the trainings of the system where there are several.
        sd: over the splits.
        seeds: number of splits.
        n_test: regions scored, on average.
    """

    mean: float
    sd: float
    seeds: int
    n_test: float

    def __str__(self) -> str:
        return f"{self.mean:.2f} ± {self.sd:.2f}"


@dataclass(frozen=True)
class Gain:
    """R2 of a system less that of a reference, with its 95 % interval.

    Attributes:
        reference: the system it is held against.
        estimate: mean over splits.
        low: lower end.
        high: upper end.
        blocks: of regions, drawn in the bootstrap.
    """

    reference: str
    estimate: float
    low: float
    high: float
    blocks: int

    def __str__(self) -> str:
        return f"{self.estimate:+.2f} [{self.low:+.2f}, {self.high:+.2f}]"


@dataclass(frozen=True)
class CityScores:
    """The scores of a city, of every system and control.

    Attributes:
        city: its name.
        synthetic: the data is simulated.
        model: the system that the card is of.
        scores: of the ridge probe, and of the controls' own.
        gains: by system, protocol, view and indicator.
        indicators: in their order.
        untrained: systems with drawn weights.
        trainings: number, by system.
        variants: of the model's ablation, each with what differs, in words.
    """

    city: str
    synthetic: bool
    model: str
    scores: dict[Cell, Score]
    gains: dict[tuple[str, str, str, str], list[Gain]]
    indicators: tuple[str, ...]
    untrained: frozenset[str] = frozenset()
    trainings: Mapping[str, int] = field(default_factory=dict)
    variants: Mapping[str, str] = field(default_factory=dict)

    @property
    def protocols(self) -> list[str]:
        """Those that were run, in their order."""
        return list(dict.fromkeys(protocol for protocol, _, _, _ in self.scores))

    @property
    def views(self) -> list[str]:
        """Those of the model, in their order."""
        return list(dict.fromkeys(v for _, v, s, _ in self.scores if s == self.model))

    def title(self, system: str) -> str:
        """What the card calls a system."""
        if system == self.model:
            count = self.trainings.get(system, 1)
            return f"**{system}** (this model{f', {count} trainings' if count > 1 else ''})"
        return f"{system} (control)" if system in CONTROLS or system in self.untrained else system

    def score(self, protocol: str, view: str, system: str, indicator: str) -> Score | None:
        """The score of a system; controls that see no images have one for all views."""
        own = "none" if system in CONTROLS else view
        return self.scores.get((protocol, own, system, indicator))

    def references(self, protocol: str, view: str) -> list[str]:
        """What the model was compared with."""
        cells = [(self.model, protocol, view, one) for one in self.indicators]
        known = [gain.reference for cell in cells for gain in self.gains.get(cell, [])]
        return list(dict.fromkeys(known))

    def gain(
        self, system: str, protocol: str, view: str, indicator: str, reference: str
    ) -> Gain | None:
        """A system against a reference; None where they were not compared."""
        gains = self.gains.get((system, protocol, view, indicator), [])
        return next((one for one in gains if one.reference == reference), None)

    def systems(self, protocol: str, view: str) -> list[str]:
        """Those with a score: controls, drawn weights, others, and the model last.

        Variants of an ablation have a table of their own.
        """
        found = [s for p, v, s, _ in self.scores if p == protocol and v in (view, "none")]
        names = [name for name in dict.fromkeys(found) if name not in self.variants]

        def rank(name: str) -> tuple[int, int]:
            ranks = (name not in CONTROLS, name not in self.untrained, name == self.model)
            return 4 * ranks[0] + 2 * ranks[2] + ranks[1], names.index(name)

        return sorted(names, key=rank)


def read_scores(results: Path, system: str | None = None) -> tuple[CityScores, ...]:
    """The scores of all cities below a folder.

    Args:
        results: the `--output_dir` of `evaluate.py probe` and `report`.
        system: of the model, as the report names it; needed where several were trained.

    Raises:
        InputError: no results, a system without its controls, intervals that are missing or of
            other rows, or no way to tell which system is the model.
    """
    files = sorted(results.glob(f"*/{ROWS}"))
    if not files:
        raise InputError(
            f"There are no results in {results} (CITY/{ROWS}). Give the --output_dir of "
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
        scores[cell] = Score(
            float(np.mean(means)), _sd(means), len(means), float(np.mean(tests[cell]))
        )
    have = {indicator for _, _, _, indicator in scores}
    found = CityScores(
        folder.name,
        bool(summary["synthetic"]),
        model,
        scores,
        _read_gains(folder / DIFFERENCES),
        tuple(name for name in summary["indicators"] if name in have),
        frozenset(group[label] for label, own in systems.items() if own.get("random_init")),
        Counter(group.values()),
        {
            group[label]: own["training"].get("differs", "")
            for label, own in systems.items()
            if own.get("training") and own["training"].get("variant_of") == model
        },
    )
    _check_controls(found, folder)
    _check_gains(found, folder)
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
            f"{folder} has {len(trained)} trained UrbanLN systems ({', '.join(trained)}): say by "
            "--system NAME which of them is this model."
        )
    return system or next(iter(trained))


def _rows(folder: Path, summary: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The rows of one probe a system that compare with one another."""
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


def _read_gains(path: Path) -> dict[tuple[str, str, str, str], list[Gain]]:
    """Each system against each reference; coordinates come as their nearest neighbours."""
    gains: dict[tuple[str, str, str, str], list[Gain]] = defaultdict(list)
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    for one in found:
        probes = (one["probe"], one["reference_probe"])
        if probes != (PROBE, CONTROLS.get(one["reference"], PROBE)):
            continue
        r2 = one["intervals"]["r2"]
        gains[one["system"], one["protocol"], one["view"], one["indicator"]].append(
            Gain(one["reference"], r2["estimate"], r2["low"], r2["high"], one["blocks"])
        )
    return gains


def _check_controls(found: CityScores, folder: Path) -> None:
    for protocol in found.protocols:
        systems = {s for p, _, s, _ in found.scores if p == protocol}
        absent = [name for name in NEEDED if name not in systems]
        if absent:
            raise InputError(
                f"{folder} has scores under {protocol!r} without the control {', '.join(absent)}: "
                "a model's score is not shown without them. Run `evaluate.py probe` again."
            )


def _check_gains(found: CityScores, folder: Path) -> None:
    """Every score of the model has an interval against coordinates, of these very rows."""
    for (protocol, view, system, indicator), score in found.scores.items():
        if system != found.model:
            continue
        gain = found.gain(system, protocol, view, indicator, "coordinates")
        control = found.scores[protocol, "none", "coordinates", indicator]
        stale = gain and abs(score.mean - control.mean - gain.estimate) > ROUNDING
        if gain is None or stale:
            raise InputError(
                f"{folder} has {'an outdated' if stale else 'no'} interval of {system!r} against "
                f"coordinates ({indicator}, {protocol}): a score is not shown without it. Run "
                "`evaluate.py report` on this folder first."
            )


def _sd(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


__all__ = ["CONTROLS", "CityScores", "Gain", "Score", "read_scores"]
