"""The results of a city as tables and figures read them: which rows compare, and who is who."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from .city_transfer import CITY, CITY_ENCODER
from .embedding_tables import BOTH
from .predictions import RESULTS_FILE, SUMMARY_FILE, embedding_hashes
from .results import ResultRow, read_rows
from .systems import CONTROL_NAMES, NO_VIEW, WITH_COORDINATES

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
    "gbm": "gradient boosting",
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
RANDOM_WEIGHTS = "random weights"  # what a table's metadata calls them
SIMPLE, DRAWN, BESIDE, TRAINED = range(len(CONTROL_NAMES), len(CONTROL_NAMES) + 4)

Key = tuple[str, str, str]  # system, view, probe


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

    def rank(self, system: str) -> int:
        """Controls first: nothing seen, places only, simple features, drawn weights."""
        if system in CONTROL_NAMES:
            return CONTROL_NAMES.index(system)
        if system.startswith(WITH_COORDINATES):
            return BESIDE
        metadata = self.summary["systems"].get(system, {})
        if metadata.get("encoder") == "colour_texture":
            return SIMPLE
        return DRAWN if is_untrained(metadata) else TRAINED

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
        return system if self.rank(system) == TRAINED else f"{system} (control)"


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


def by_split(rows: Iterable[ResultRow], metric: str) -> dict[tuple[Key, str], pd.Series]:
    """Key and indicator -> score by split seed; several probe seeds of a split are averaged."""
    collected: dict[tuple[Key, str], list[tuple[int, float]]] = {}
    for row in rows:
        name = ((row.system, row.view, row.probe), row.indicator)
        collected.setdefault(name, []).append((row.split_seed, getattr(row, metric)))
    return {
        name: pd.DataFrame(pairs, columns=["split_seed", "score"])
        .groupby("split_seed")["score"]
        .mean()
        for name, pairs in collected.items()
    }


def best_key(city: CityResults, rows: Sequence[ResultRow]) -> Key | None:
    """The best trained system by mean R2 over indicators; where there is none, the best drawn."""
    seen = [r for r in rows if r.view != NO_VIEW and not r.system.startswith(WITH_COORDINATES)]
    if not seen:
        return None
    top = max(city.rank(row.system) for row in seen)
    scores = by_split([row for row in seen if city.rank(row.system) == top], "r2")
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
    "VIEW_NAMES",
    "CityResults",
    "Key",
    "best_key",
    "by_split",
    "city_title",
    "is_frozen_clip",
    "is_untrained",
    "read_cities",
    "read_city",
    "read_transfers",
    "slug",
    "what",
]
