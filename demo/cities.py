"""Data of the cities on the page: regions, embeddings, neighbours, predictions and scores."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dataset_builders.schema import VIEWS
from pipelines.evaluation.embed.tables import (
    BOTH,
    EmbeddingTable,
    read_embeddings,
    read_metadata,
)
from pipelines.evaluation.errors import InputError
from pipelines.evaluation.probe.predictions import RESULTS_FILE
from pipelines.evaluation.probe.results import read_rows
from pipelines.evaluation.search.nearest import plain_keys, top_k, unit
from pipelines.prediction.inputs import Inputs, from_dataset
from pipelines.prediction.labels import Indicator
from pipelines.prediction.place import Protocol
from pipelines.prediction.predict import Predictions, predict, predictable
from pipelines.prediction.vectors import Vectors

from .pictures import Pictures, open_pictures
from .settings import DemoSettings

VIEW_TITLES = {BOTH: "both views", "satellite": "satellite", "street_view": "street views"}
COORDINATES = "coordinates"
PROTOCOLS: tuple[Protocol, ...] = ("block", "random")

Floats = NDArray[np.float32]
Found = TypeVar("Found")


class Neighbour(NamedTuple):
    """Search result: row number of the region and its cosine similarity."""

    row: int
    cosine: float


class Neighbours:
    """Exact nearest-neighbour search over the regions of a city.

    Args:
        X: Region vectors of one view, `(N, D)`; rows with NaN are left out.
    """

    def __init__(self, X: NDArray[np.floating]):
        self.rows = np.flatnonzero(np.isfinite(X).all(1))
        self.keys = plain_keys(unit(X[self.rows]))

    def search(self, vector: NDArray[np.floating], top: int, without: int = -1) -> list[Neighbour]:
        """Regions nearest to a vector `(D,)`, nearest first, excluding the row `without`."""
        if not len(self.keys):
            return []
        scores, numbers = top_k(unit(vector[None]), self.keys, top + 1)
        found = [
            Neighbour(int(self.rows[number]), float(score))
            for score, number in zip(scores[0], numbers[0], strict=True)
        ]
        return [one for one in found if one.row != without][:top]


def side_by_side(parts: Sequence[NDArray[np.floating]]) -> NDArray[np.floating]:
    """Concatenate unit vectors of views, `(N, sum of D)`: cosines are the mean over the views."""
    return np.concatenate([unit(part) for part in parts], axis=1)


class Report:
    """Result rows of a city; empty without a results folder.

    Args:
        results: Output folder of `evaluate.py probe`, or None.
        city: Name of the city.
    """

    def __init__(self, results: str | None, city: str):
        self.rows = [] if results is None else list(read_rows(Path(results) / city / RESULTS_FILE))

    def sentence(self, system: str, view: str, indicator: str, protocol: str) -> str:
        """Score of the ridge probe beside the best location-only control; empty if unknown."""
        own, controls = [], []
        for row in self.rows:
            if (row.indicator, row.protocol) == (indicator, protocol):
                if (row.system, row.view, row.probe) == (system, view, "ridge"):
                    own.append(row.r2)
                elif row.system == COORDINATES:
                    controls.append((row.probe, row.r2))
        r2 = pd.Series(own, dtype=float).dropna()
        if r2.empty:
            return ""
        sd = r2.std() if len(r2) > 1 else 0.0
        text = f"Probe score over {len(r2)} splits: R² {r2.mean():.2f} ± {sd:.2f}"
        best = pd.DataFrame(controls, columns=["probe", "r2"]).groupby("probe")["r2"].mean().max()
        if pd.notna(best):
            text += f" (coordinates only, without images: {best:.2f})"
        return f"{text}."


@dataclass
class ViewOfCity:
    """Region embeddings of one view, with predictions and nearest neighbours.

    Attributes:
        name: `satellite`, `street_view` or `both`.
        inputs: Regions and indicators.
        X: Features for prediction, `(N, D)`; NaN in the columns of a view that a region lacks.
        similar: Vectors for cosine similarity, `(N, D)`.
        counts: Number of images per region, `(N,)`.
    """

    name: str
    inputs: Inputs
    X: Floats
    similar: NDArray[np.floating]
    counts: NDArray[np.int64]

    @cached_property
    def predictions(self) -> Predictions | None:
        """Held-out predictions, fitted on first access; None if all indicators have too few labels.

        Districts are held out if there are enough of them, random regions otherwise.
        """
        rows = np.flatnonzero(np.isfinite(self.X).any(1))
        vectors = Vectors(rows, self.X[rows], self.counts[rows])
        for protocol in PROTOCOLS:
            usable = predictable(self.inputs, vectors, protocol)
            if usable.indicators:
                return predict(usable, vectors, protocol=protocol)
        return None

    @cached_property
    def neighbours(self) -> Neighbours:
        """Nearest-neighbour index, built on first access."""
        return Neighbours(self.similar)


class ShownCity:
    """A city of the dataset with region embeddings.

    Args:
        name: Name of the city.
        inputs: Regions and indicators.
        table: Embeddings of the regions.
        pictures: Mapping from view to [`Pictures`], for the views that have images.
        report: Scores of `evaluate.py probe`.

    Attributes:
        region_ids: Ids of all regions.
        rows: Mapping from region id to row number.
        views: Mapping from view to [`ViewOfCity`], ordered by number of regions with a vector; on
            ties, both views come before a single one.
    """

    def __init__(
        self,
        name: str,
        inputs: Inputs,
        table: EmbeddingTable,
        pictures: Mapping[str, Pictures],
        report: Report,
    ):
        self.name, self.inputs = name, inputs
        self.table, self.pictures, self.report = table, pictures, report
        self.region_ids: list[str] = inputs.regions["region_id"].tolist()
        self.rows = {region_id: row for row, region_id in enumerate(self.region_ids)}
        position = {region_id: row for row, region_id in enumerate(table.region_ids)}
        order = np.array([position.get(region_id, -1) for region_id in self.region_ids])
        single = {
            view: _in_order(table.vectors[view], order) for view in VIEWS if view in table.vectors
        }
        single = {view: X for view, X in single.items() if np.isfinite(X).any()}
        found: dict[str, tuple[Floats, NDArray[np.floating]]] = {
            view: (X, X) for view, X in single.items()
        }
        if len(single) == 2:
            parts = [single[view] for view in VIEWS]
            found[BOTH] = (np.concatenate(parts, axis=1), side_by_side(parts))
        if not found:
            raise InputError(
                f"The embedding table {table.label!r} of {name!r} has no vectors for the regions "
                "of the dataset. Run `evaluate.py embed` on this dataset."
            )
        ranked = sorted(
            found, key=lambda view: (-np.isfinite(found[view][0]).any(1).sum(), view != BOTH, view)
        )
        self.views = {
            view: ViewOfCity(view, inputs, *found[view], self._counts(view)) for view in ranked
        }

    @property
    def synthetic(self) -> bool:
        """Whether the city is simulated."""
        return self.inputs.synthetic

    @property
    def indicators(self) -> dict[str, Indicator]:
        """Indicators with their measured values, by name."""
        return {one.name: one for one in self.inputs.indicators}

    @cached_property
    def opening(self) -> str:
        """Region shown first, with images of all views and a high value of the first indicator."""
        value = np.nan_to_num(self.inputs.indicators[0].raw, nan=-np.inf)
        complete = np.array(
            [all(one.count(name) for one in self.pictures.values()) for name in self.region_ids]
        )
        known = np.isfinite(next(iter(self.views.values())).X).all(1)
        best = np.lexsort((value, known, complete))[-1]
        return self.region_ids[int(best)]

    def warm(self) -> None:
        """Precompute what the first click needs."""
        first = next(iter(self.views.values()))
        _ = first.predictions, first.neighbours

    def _counts(self, view: str) -> NDArray[np.int64]:
        shown = [one for name, one in self.pictures.items() if view in (name, BOTH)]
        return np.array([sum(one.count(name) for one in shown) for name in self.region_ids])


Cities = dict[str, ShownCity]


def find(known: Mapping[str, Found], name: str, what: str) -> Found:
    """Return an entry by name.

    Raises:
        InputError: There is no such entry.
    """
    if name not in known:
        raise InputError(f"There is no {what} {name!r}.")
    return known[name]


def open_cities(settings: DemoSettings, encoder: str, dim: int) -> Cities:
    """Load all cities that have embeddings of the model; the one shown first comes first.

    Args:
        settings: Dataset, embedding tables and first city.
        encoder: Name of the model. If a city has several tables, one by this model is preferred.
        dim: Embedding dimension of the model. Tables of another dimension and tables of randomly
            initialised models are skipped.

    Raises:
        InputError: No city has a table, or the requested city has none.
    """
    tables = [read_embeddings(path) for path in _tables(settings.embeddings)]
    tables.sort(key=lambda table: (table.metadata.get("encoder") != encoder, table.label))
    cities: Cities = {}
    for table in tables:
        name = str(table.metadata.get("city"))
        if name not in cities and _made_by(table, dim):
            inputs = from_dataset(settings.dataset_name, name, {}, "auto")
            pictures = open_pictures(settings.dataset_name, name)
            cities[name] = ShownCity(name, inputs, table, pictures, Report(settings.results, name))
    if not cities:
        have = ", ".join(sorted({table.label for table in tables})) or "none"
        raise InputError(
            f"No embedding table of dimension {dim}, as computed by {encoder}, in "
            f"{', '.join(settings.embeddings)} (--embeddings); found: {have}. Run `python "
            "evaluate.py embed` with this model, or give the model of the tables (--encoder)."
        )
    names = sorted(cities)
    first = settings.city or names[0]
    if first not in cities:
        raise InputError(
            f"There are no embeddings of {first!r} (--city); choose one of {', '.join(names)}."
        )
    return {name: cities[name] for name in sorted(names, key=lambda name: name != first)}


def _made_by(table: EmbeddingTable, dim: int) -> bool:
    return not table.metadata.get("random_init") and all(
        values.shape[1] == dim for values in table.vectors.values()
    )


def _tables(names: Sequence[str]) -> Iterator[Path]:
    """Embedding tables among files, in folders, and in their city folders."""
    for name in names:
        path = Path(name)
        if path.is_dir():
            yield from filter(
                _is_table, sorted([*path.glob("*.parquet"), *path.glob("*/*.parquet")])
            )
        elif path.exists():
            yield path
        else:
            raise InputError(f"There is no {path} (--embeddings).")


def _is_table(path: Path) -> bool:
    """Folders also hold tables of rejects and parts of interrupted runs."""
    try:
        schema = pq.read_schema(path)
    except (pa.ArrowInvalid, OSError):
        return False
    names = set(schema.names)
    return read_metadata(schema) is not None and {"region_id", "n_satellite"} <= names


def _in_order(values: Floats, order: NDArray[np.int64]) -> Floats:
    found = values[np.maximum(order, 0)].astype(np.float32)
    found[order < 0] = np.nan
    return found


__all__ = [
    "VIEW_TITLES",
    "Cities",
    "Neighbour",
    "Neighbours",
    "Report",
    "ShownCity",
    "ViewOfCity",
    "find",
    "open_cities",
    "side_by_side",
]
