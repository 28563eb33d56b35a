"""The results of a city as tables and figures read them: which rows compare, and who is who."""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd

from pipelines.common.encoders import BUILT_IN

from ..embed.tables import BOTH
from ..embed.trainings import Training, members, training_of
from ..probe.predictions import RESULTS_FILE, SUMMARY_FILE, embedding_hashes
from ..probe.results import CITY, CITY_ENCODER, ResultRow, read_rows
from ..probe.systems import CONTROL_NAMES, NO_VIEW, WITH_COORDINATES

METRICS = ("r2", "rmse", "mae", "spearman")
METRIC_TITLES = {
    "r2": "R²",
    "rmse": "RMSE",
    "mae": "MAE",
    "spearman": "Spearman's rank correlation",
}
LOWER_IS_BETTER = ("rmse", "mae")
PROTOCOL_TITLES = {
    "random": "Interpolation (`random`: 6:2:2 of the regions at random)",
    "block": "New district (`block`: whole districts held out)",
    CITY_ENCODER: "New city for the encoder (`city-encoder`: the probe learns in the city itself)",
    CITY: "New city (`city`: encoder and probe know other cities alone)",
}
PROBE_NAMES = {
    "mlp": "MLP",
    "ridge": "ridge",
    "mean": "–",
    "knn": "k-NN",
    "gbm": "trees",
}
VIEW_NAMES = {"street_view": "street view", "satellite": "satellite", BOTH: "both", NO_VIEW: "–"}
VIEW_ORDER = (NO_VIEW, "street_view", "satellite", BOTH)
CONTROL_TITLES = {
    "mean": "mean (control)",
    "coordinates": "coordinates only (control)",
    "poi_counts": "points of interest (control)",
}
# systems whose weights are never trained here: drawn weights make them controls
FROZEN = ("clip", "clip-random", "clip-stretched", "remoteclip", "resnet18")
UNTRAINED_ENCODERS = tuple(name for name, one in BUILT_IN.items() if not one.trained)
RANDOM_WEIGHTS = "random weights"  # what a table's metadata calls them
KINDS = len(CONTROL_NAMES)
SIMPLE, DRAWN, BESIDE, TRAINED, METHOD, VARIANT = range(KINDS, KINDS + 6)

Key = tuple[str, str, str]  # system, view, probe
RUN = ["training", "split_seed"]  # the levels of a series of scores


@dataclass(frozen=True)
class CityResults:
    """What the report of one city draws on.

    Attributes:
        folder: the city's results.
        summary: its probe.json.
        rows: the rows that compare with one another.
        outdated: rows left out, for they belong to other regions, labels, settings or vectors.
    """

    folder: Path
    summary: dict[str, Any]
    rows: list[ResultRow]
    outdated: int = 0

    @property
    def name(self) -> str:
        """Of the city, as its dataset spells it."""
        return str(self.summary["city"])

    @property
    def synthetic(self) -> bool:
        """Whether it is simulated."""
        return bool(self.summary["synthetic"])

    @property
    def title(self) -> str:
        """The city's name, marked where it is simulated."""
        return city_title(self.name, self.synthetic)

    @property
    def indicators(self) -> list[str]:
        """Those with a result, in the dataset's order."""
        have = {row.indicator for row in self.rows}
        return [name for name in self.summary["indicators"] if name in have]

    @property
    def protocols(self) -> list[str]:
        """Those with a result, in the order of `PROTOCOL_TITLES`."""
        have = {row.protocol for row in self.rows}
        return [name for name in PROTOCOL_TITLES if name in have]

    def of(self, protocol: str) -> list[ResultRow]:
        """The rows of a protocol."""
        return [row for row in self.rows if row.protocol == protocol]

    @cached_property
    def members(self) -> dict[str, list[str]]:
        """System -> labels of the tables of its trainings."""
        return members(self.summary["systems"])

    @cached_property
    def methods(self) -> list[str]:
        """The systems that others are variants of."""
        trainings = (training_of(own) for own in self.summary["systems"].values())
        named = {one.variant_of for one in trainings if one and one.variant_of}
        return sorted(named & set(self.members))

    @cached_property
    def _groups(self) -> dict[str, str]:
        return {label: system for system, own in self.members.items() for label in own}

    def system_of(self, label: str) -> str:
        """The system that a row's label is a training of; a control is its own."""
        beside = WITH_COORDINATES if label.startswith(WITH_COORDINATES) else ""
        own = label.removeprefix(WITH_COORDINATES)
        return beside + self._groups.get(own, own)

    def metadata(self, system: str) -> dict[str, Any]:
        """Of the table of a system's first training; empty for controls."""
        labels = self.members.get(system)
        return self.summary["systems"][labels[0]] if labels else {}

    def training(self, system: str) -> Training | None:
        """A system's first training."""
        return training_of(self.metadata(system))

    def rank(self, system: str) -> int:
        """Controls first: nothing seen, places only, drawn weights; variants last."""
        if system in CONTROL_NAMES:
            return CONTROL_NAMES.index(system)
        if system.startswith(WITH_COORDINATES):
            return BESIDE
        metadata, training = self.metadata(system), self.training(system)
        if metadata.get("encoder") in UNTRAINED_ENCODERS:
            return SIMPLE
        if is_untrained(metadata):
            return DRAWN
        if system in self.methods:
            return METHOD
        return VARIANT if training and training.variant_of else TRAINED

    def order(self, key: Key) -> tuple[Any, ...]:
        """To sort the rows of a table by."""
        system, view, probe = key
        return self.rank(system), system, VIEW_ORDER.index(view), probe != "mlp", probe

    def system_title(self, system: str) -> str:
        """As it stands in a table."""
        if system in CONTROL_TITLES:
            return CONTROL_TITLES[system]
        if system.startswith(WITH_COORDINATES):
            return f"coordinates and {system.removeprefix(WITH_COORDINATES)}"
        return system if self.rank(system) >= TRAINED else f"{system} (control)"


def is_untrained(metadata: Mapping[str, Any]) -> bool:
    """Whether a system's weights were drawn and never trained."""
    drawn = metadata.get("pretrained") == RANDOM_WEIGHTS and metadata.get("system") in FROZEN
    return bool(metadata.get("random_init")) or drawn


def is_frozen_clip(metadata: Mapping[str, Any]) -> bool:
    """Whether a system is a published CLIP, as it is."""
    named = metadata.get("system") in ("clip", "clip-stretched")
    plain = str(metadata.get("encoder", "")).endswith("(CLIPModel)")
    return (named or plain) and not is_untrained(metadata)


def city_title(name: str, synthetic: bool) -> str:
    """A city's name for people."""
    title = name.replace("_", " ").title()
    return f"{title} (synthetic)" if synthetic else title


def what(key: Key) -> str:
    """System, view and probe in words."""
    system, view, probe = key
    return f"{system}, {VIEW_NAMES[view]}, {PROBE_NAMES[probe]}"


def slug(*parts: str) -> str:
    """For names of files."""
    return re.sub(r"[^a-z0-9.]+", "-", "-".join(parts).lower()).strip("-")


def read_city(folder: Path) -> CityResults:
    """The results of one city that compare with the latest run of `probe`."""
    summary = json.loads((folder / SUMMARY_FILE).read_text(encoding="utf-8"))
    hashes = embedding_hashes(summary)
    rows, outdated = [], 0
    for row in read_rows(folder / RESULTS_FILE):
        if row.source_city:  # a transfer's: of another table
            continue
        current = row.table_hash == summary["table_hash"]
        if current and hashes.get(row.system) == row.embedding_hash:
            rows.append(row)
        else:
            outdated += 1
    return CityResults(folder, summary, rows, outdated)


def read_cities(output: Path) -> list[CityResults]:
    """All cities of a folder that have results."""
    folders = sorted(path.parent for path in output.glob(f"*/{SUMMARY_FILE}"))
    return [city for city in map(read_city, folders) if city.rows]


def read_transfers(output: Path) -> list[ResultRow]:
    """The rows from city to city below a folder; of a pair's tables, the one written last."""
    rows = [
        row
        for path in sorted(output.glob(f"**/{RESULTS_FILE}"))
        for row in read_rows(path)
        if row.source_city
    ]
    # one system's vectors may be older than another's, its table never
    last = {(row.protocol, row.source_city, row.city, row.system): row for row in rows}
    return [
        row
        for row in rows
        if (kept := last[row.protocol, row.source_city, row.city, row.system])
        and (row.table_hash, row.embedding_hash) == (kept.table_hash, kept.embedding_hash)
    ]


def by_run(
    city: CityResults, rows: Iterable[ResultRow], metric: str
) -> dict[tuple[Key, str], pd.Series]:
    """Key and indicator -> score by training and split seed; probe seeds of both are averaged.

    The key's system is the group; `training` is the label of each of its tables.
    """
    collected: dict[tuple[Key, str], dict[tuple[str, int], list[float]]] = {}
    for row in rows:
        name = ((city.system_of(row.system), row.view, row.probe), row.indicator)
        runs = collected.setdefault(name, {})
        runs.setdefault((row.system, row.split_seed), []).append(getattr(row, metric))
    return {name: _means(runs) for name, runs in collected.items()}


def _means(runs: dict[tuple[str, int], list[float]]) -> pd.Series:
    """Of the known scores of each run; by hand, for a report has thousands of cells."""
    names = sorted(runs)
    known = ([score for score in runs[name] if not math.isnan(score)] for name in names)
    means = [fmean(scores) if scores else math.nan for scores in known]
    return pd.Series(means, index=pd.MultiIndex.from_tuples(names, names=RUN), name="score")


def spreads(scores: pd.Series) -> tuple[float, float, float]:
    """Standard deviations (n - 1) of the scores of [`by_run`]; nan where there is one value alone.

    Returns:
        Over all splits and trainings; over splits, of the means over trainings; over trainings, of
        the means over splits.
    """
    table = scores.unstack("split_seed")  # training x split
    of_splits, of_trainings = table.mean(axis=0), table.mean(axis=1)
    return float(scores.std()), float(of_splits.std()), float(of_trainings.std())


def best_key(city: CityResults, rows: Sequence[ResultRow]) -> Key | None:
    """The method whose variants are compared, else the best trained system, else the best control.

    In the view and by the probe of the highest mean R2 over indicators.
    """
    scores = by_run(city, (row for row in rows if row.view != NO_VIEW), "r2")
    ranks = {name: city.rank(name[0][0]) for name in scores}
    ranks = {name: rank for name, rank in ranks.items() if rank not in (BESIDE, VARIANT)}
    if not ranks:
        return None
    scores = {name: scores[name] for name, rank in ranks.items() if rank == max(ranks.values())}
    means: dict[Key, list[float]] = {}
    for (key, _), series in scores.items():
        means.setdefault(key, []).append(float(series.mean()))
    finite = {key: sum(own) / len(own) for key, own in means.items() if own}
    return max(sorted(finite), key=lambda key: finite[key] if finite[key] == finite[key] else -1e9)


__all__ = [
    "LOWER_IS_BETTER",
    "METRICS",
    "METRIC_TITLES",
    "PROBE_NAMES",
    "PROTOCOL_TITLES",
    "TRAINED",
    "VIEW_NAMES",
    "CityResults",
    "Key",
    "best_key",
    "by_run",
    "city_title",
    "is_frozen_clip",
    "is_untrained",
    "read_cities",
    "read_city",
    "read_transfers",
    "slug",
    "spreads",
    "what",
]
