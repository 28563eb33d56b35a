"""Result rows as a tidy DataFrame, and titles and order of the systems."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipelines.common.encoders import BUILT_IN

from ..analysis.bootstrap import Name, Reference
from ..embed.tables import BOTH
from ..embed.trainings import Training, members, training_of
from ..probe.predictions import (
    PREDICTIONS_FOLDER,
    RESULTS_FILE,
    SUMMARY_FILE,
    embedding_hashes,
    read_predictions,
    read_summary,
)
from ..probe.results import CITY, CITY_ENCODER, ResultRow, read_rows
from ..probe.systems import CONTROL_NAMES, COORDINATES, GEOCLIP, NO_VIEW, split_name

LOWER_IS_BETTER = ("rmse", "mae")
METRIC_TITLES = {
    "r2": "R²",
    "rmse": "RMSE",
    "mae": "MAE",
    "spearman": "Spearman's rank correlation",
}
PROTOCOL_TITLES = {
    "random": "Interpolation (`random`: regions split 6:2:2 at random)",
    "block": "New district (`block`: entire districts held out)",
    CITY_ENCODER: "New city for the encoder (`city-encoder`: probe trained in the target city)",
    CITY: "New city (`city`: encoder and probe trained in other cities)",
}
PROBE_NAMES = {"mlp": "MLP", "ridge": "ridge", "mean": "–", "knn": "k-NN", "gbm": "trees"}
VIEW_NAMES = {"street_view": "street view", "satellite": "satellite", BOTH: "both", NO_VIEW: "–"}
VIEW_ORDER = (NO_VIEW, "street_view", "satellite", BOTH)
CONTROL_TITLES = {
    "mean": "mean (control)",
    "coordinates": "coordinates only (control)",
    "poi_counts": "points of interest (control)",
}
# randomly initialised versions of these encoders are controls
FROZEN = ("clip", "clip-random", "clip-stretched", "remoteclip", "resnet18")
UNTRAINED_ENCODERS = tuple(name for name, one in BUILT_IN.items() if not one.trained)
RANDOM_WEIGHTS = "random weights"  # value in table metadata
KINDS = len(CONTROL_NAMES)
SIMPLE, DRAWN, BESIDE, TRAINED, METHOD, VARIANT = range(KINDS, KINDS + 6)

Key = tuple[str, str, str, str]  # the values of KEY
KEY = ["system", "beside", "view", "probe"]
CELL = [*KEY, "indicator"]


@dataclass(frozen=True)
class CityResults:
    """Results of one city.

    Attributes:
        folder: Results folder of the city.
        summary: Contents of probe.json.
        frame: Rows comparable with the latest run of `probe`, see [`read_city`].
        outdated: Number of rows of other regions, labels, settings or embeddings.
    """

    folder: Path
    summary: dict[str, Any]
    frame: pd.DataFrame
    outdated: int = 0

    @property
    def output(self) -> Path:
        """Folder of the report."""
        return self.folder.parent

    @property
    def name(self) -> str:
        """Name of the city in the dataset."""
        return str(self.summary["city"])

    @property
    def synthetic(self) -> bool:
        """Whether the city is simulated."""
        return bool(self.summary["synthetic"])

    @property
    def title(self) -> str:
        """Display name, marked if synthetic."""
        return city_title(self.name, self.synthetic)

    @property
    def indicators(self) -> list[str]:
        """Indicators with a result, in the dataset's order."""
        return self.ordered(self.frame["indicator"])

    @property
    def protocols(self) -> list[str]:
        """Protocols with a result, in the order of `PROTOCOL_TITLES`."""
        have = set(self.frame["protocol"])
        return [name for name in PROTOCOL_TITLES if name in have]

    def ordered(self, indicators: Any) -> list[str]:
        """Sort indicators in the dataset's order."""
        have = set(indicators)
        return [name for name in self.summary["indicators"] if name in have]

    def of(self, protocol: str) -> pd.DataFrame:
        """Rows of a protocol."""
        return self.frame[self.frame["protocol"] == protocol]

    @cached_property
    def members(self) -> dict[str, list[str]]:
        """System to labels of its trainings."""
        return members(self.summary["systems"])

    @cached_property
    def methods(self) -> list[str]:
        """Systems with variants that are not variants themselves."""
        trainings = [training_of(own) for own in self.summary["systems"].values()]
        named = {one.variant_of for one in trainings if one and one.variant_of}
        variants = {one.group for one in trainings if one and one.variant_of}
        return sorted((named - variants) & set(self.members))

    def metadata(self, system: str) -> dict[str, Any]:
        """Table metadata of a system's first training; empty for controls."""
        labels = self.members.get(system)
        return self.summary["systems"][labels[0]] if labels else {}

    def training(self, system: str) -> Training | None:
        """First training of a system."""
        return training_of(self.metadata(system))

    def rank(self, system: str, beside: str = "") -> int:
        """Sort rank: controls, combinations, trained systems, the method, its variants."""
        if system in CONTROL_NAMES:
            return CONTROL_NAMES.index(system)
        if beside:
            return BESIDE
        metadata, training = self.metadata(system), self.training(system)
        # systems without an embedding table are controls
        if system not in self.members or metadata.get("encoder") in UNTRAINED_ENCODERS:
            return SIMPLE
        if is_untrained(metadata):
            return DRAWN
        if system in self.methods:
            return METHOD
        return VARIANT if training and training.variant_of else TRAINED

    def is_place(self, system: str) -> bool:
        """Whether a system encodes locations only, without images."""
        uses = set(self.metadata(system).get("uses", ()))
        return COORDINATES in uses and uses <= {COORDINATES, GEOCLIP}

    def order(self, key: Key) -> tuple[Any, ...]:
        """Sort key for table rows."""
        system, beside, view, probe = key
        rank = self.rank(system, beside)
        return rank, beside, system, VIEW_ORDER.index(view), probe != "mlp", probe

    def system_title(self, system: str, beside: str = "") -> str:
        """Display name of a system."""
        if system in CONTROL_TITLES:
            return CONTROL_TITLES[system]
        if beside:
            return f"{beside} and {system}"
        return system if self.rank(system) >= TRAINED else f"{system} (control)"

    def references(self) -> list[Reference]:
        """References for differences: coordinates, and frozen CLIP or else an untrained encoder.

        Among untrained encoders, one with the architecture of the method is preferred.
        """
        names = sorted(self.members)
        frozen = [name for name in names if is_frozen_clip(self.metadata(name))]
        drawn = [name for name in names if is_untrained(self.metadata(name))]
        drawn.sort(key=lambda name: not self.metadata(name).get("random_init"))
        found = [Reference("coordinates", NO_VIEW, "knn"), *map(Reference, frozen or drawn[:1])]
        return [one for one in found if one.system in set(self.frame["system"])]


def is_untrained(metadata: Mapping[str, Any]) -> bool:
    """Whether a system is randomly initialised."""
    drawn = metadata.get("pretrained") == RANDOM_WEIGHTS and metadata.get("system") in FROZEN
    return bool(metadata.get("random_init")) or drawn


def is_frozen_clip(metadata: Mapping[str, Any]) -> bool:
    """Whether a system is a published CLIP model without further training."""
    named = metadata.get("system") in ("clip", "clip-stretched")
    plain = str(metadata.get("encoder", "")).endswith("(CLIPModel)")
    return (named or plain) and not is_untrained(metadata)


def city_title(name: str, synthetic: bool) -> str:
    """Display name of a city."""
    title = name.replace("_", " ").title()
    return f"{title} (synthetic)" if synthetic else title


def key_of(name: Name) -> Key:
    """Key of a system named as in [`bootstrap`]."""
    system, view, probe = name
    beside, own = split_name(system)
    return own, beside, view, probe


def what(city: CityResults, key: Key) -> str:
    """Display name of system, view and probe."""
    system, beside, view, probe = key
    return f"{city.system_title(system, beside)}, {VIEW_NAMES[view]}, {PROBE_NAMES[probe]}"


def slug(*parts: str) -> str:
    """Join parts to a file name."""
    return re.sub(r"[^a-z0-9.]+", "-", "-".join(parts).lower()).strip("-")


def read_city(folder: Path) -> CityResults:
    """Read the results of one city.

    Its frame has the fields of `ResultRow`, without those of transfers, with `system` being the
    group of trainings, and the columns `label`, name of the training, and `beside`, other input of
    a combination, empty without one.
    """
    summary = read_summary(folder)
    rows = [vars(row) for row in read_rows(folder / RESULTS_FILE) if not row.source_city]
    frame = pd.DataFrame(rows, columns=[one.name for one in fields(ResultRow)])
    label = frame["system"].astype(str)
    same_vectors = label.map(embedding_hashes(summary)) == frame["embedding_hash"]
    current = (frame["table_hash"] == summary["table_hash"]) & same_vectors
    beside, own = (label.map(lambda name, i=i: split_name(name)[i]) for i in (0, 1))
    groups = {label: system for system, ls in members(summary["systems"]).items() for label in ls}
    frame = frame.assign(label=label, system=own.map(groups).fillna(own), beside=beside)
    outdated = int((~current).sum())
    return CityResults(folder, summary, frame[current].reset_index(drop=True), outdated)


def read_cities(output: Path) -> list[CityResults]:
    """Read all cities with results in a folder."""
    folders = sorted(path.parent for path in output.glob(f"*/{SUMMARY_FILE}"))
    return [city for city in map(read_city, folders) if len(city.frame)]


def predictions_of(city: CityResults, protocol: str, key: Key, **more: Any) -> pd.DataFrame:
    """Test predictions of the first training of a system, see [`read_predictions`].

    Args:
        city: Results of the city.
        protocol: Split protocol.
        key: Key of a system that is not a combination.
        more: Values of other fields of the rows.
    """
    system, _, view, probe = key
    label = city.members[system][0]
    wanted = {
        "table_hash": city.summary["table_hash"],
        "embedding_hash": city.summary["systems"][label]["embedding_hash"],
        "protocol": protocol,
        "system": label,
        "view": view,
        "probe": probe,
    }
    return read_predictions(city.folder / PREDICTIONS_FOLDER, wanted | more)


def run_scores(frame: pd.DataFrame, metric: str) -> pd.Series:
    """Scores by `CELL`, `label` and `split_seed`, averaged over probe seeds."""
    return frame.groupby([*CELL, "label", "split_seed"])[metric].mean()


def spreads(scores: pd.Series) -> pd.DataFrame:
    """Standard deviations (n - 1) of [`run_scores`] by cell; NaN for a single value.

    Returns:
        `splits`, the SD over splits of the means over trainings; `training`, the SD over trainings
        of the means over splits; `trainings`, the number of trainings.
    """
    parts: dict[str, Any] = {
        name: scores.groupby([*CELL, level]).mean().groupby(CELL).std()
        for name, level in (("splits", "split_seed"), ("training", "label"))
    }
    parts["trainings"] = scores.reset_index().groupby(CELL)["label"].nunique()
    return pd.DataFrame(parts)


def best_key(city: CityResults, frame: pd.DataFrame) -> Key | None:
    """Key of the method, or else of the best trained system or control, by mean R2."""
    seen = frame[(frame["view"] != NO_VIEW) & (frame["beside"] == "")]
    means = run_scores(seen, "r2").groupby(CELL).mean().groupby(KEY).mean()
    ranks = {key: city.rank(key[0]) for key in means.index}
    best = max((rank for rank in ranks.values() if rank != VARIANT), default=None)
    own = means[[rank == best for rank in ranks.values()]].fillna(-np.inf).sort_index()
    key: Any = own.idxmax() if len(own) else None
    return key


__all__ = [
    "CELL",
    "KEY",
    "LOWER_IS_BETTER",
    "METRIC_TITLES",
    "PROBE_NAMES",
    "PROTOCOL_TITLES",
    "TRAINED",
    "VIEW_NAMES",
    "CityResults",
    "Key",
    "best_key",
    "city_title",
    "is_frozen_clip",
    "is_untrained",
    "key_of",
    "predictions_of",
    "read_cities",
    "read_city",
    "run_scores",
    "slug",
    "spreads",
    "what",
]
