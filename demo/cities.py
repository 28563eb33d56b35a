"""A city as the page shows it: regions, vectors, predictions, pictures; and all cities together."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dataset_builders.errors import DatasetError
from dataset_builders.schema import VIEWS
from pipelines.evaluation.cities import City, Target
from pipelines.evaluation.embedding_tables import (
    BOTH,
    EmbeddingTable,
    read_embeddings,
    read_metadata,
)
from pipelines.evaluation.errors import InputError
from pipelines.evaluation.sources import open_city

from .neighbours import Neighbours, side_by_side
from .pictures import Pictures
from .probes import Probes
from .reported import Report
from .settings import DemoSettings

VIEW_TITLES = {BOTH: "both views", "satellite": "satellite", "street_view": "street views"}

Floats = NDArray[np.float64]


@dataclass
class ViewOfCity:
    """The vectors of one view, with what rests on them.

    Attributes:
        name: `satellite`, `street_view` or `both`.
        X: `(N, D)` as the probe takes them, rows of nan where a region has none.
        similar: `(N, D)` as they are compared.
    """

    name: str
    city: City
    X: Floats
    similar: NDArray[np.floating]

    @cached_property
    def probes(self) -> Probes:
        """Fitted when first asked for."""
        return Probes(self.city, self.X)

    @cached_property
    def neighbours(self) -> Neighbours:
        """Likewise."""
        return Neighbours(self.similar)


class ShownCity:
    """A city of the dataset that has vectors.

    Args:
        city: regions and indicators.
        table: vectors of its regions.
        report: what was scored.

    Attributes:
        rows: region id -> its row among the regions.
        views: name -> [`ViewOfCity`]; that of the most regions first, both views before one.
        pictures: view -> [`Pictures`], of the views that have any.
    """

    def __init__(self, city: City, table: EmbeddingTable, report: Report):
        self.city, self.table, self.report = city, table, report
        self.region_ids: list[str] = city.regions["region_id"].tolist()
        self.rows = {region_id: row for row, region_id in enumerate(self.region_ids)}
        position = {region_id: row for row, region_id in enumerate(table.region_ids)}
        order = np.array([position.get(region_id, -1) for region_id in self.region_ids])
        single = {
            name: _in_order(table.vectors[name], order) for name in VIEWS if name in table.vectors
        }
        single = {name: X for name, X in single.items() if np.isfinite(X).any()}
        found: dict[str, tuple[Floats, NDArray[np.floating]]] = {
            name: (X, X) for name, X in single.items()
        }
        if len(single) == 2:
            parts = [single[name] for name in VIEWS]
            found[BOTH] = (np.concatenate(parts, axis=1), side_by_side(parts))
        if not found:
            raise InputError(
                f"The table {table.label!r} of {city.name!r} has no vector of a region of the "
                "dataset. Was it made from another dataset? Run `evaluate.py embed` on this one."
            )
        ranked = sorted(
            found, key=lambda name: (-np.isfinite(found[name][0]).all(1).sum(), name != BOTH, name)
        )
        self.views = {name: ViewOfCity(name, city, *found[name]) for name in ranked}
        self.pictures = dict(_open_pictures(city))

    @property
    def name(self) -> str:
        """Of the city."""
        return self.city.name

    @property
    def synthetic(self) -> bool:
        """Whether it is simulated."""
        return self.city.synthetic

    @property
    def targets(self) -> list[Target]:
        """The indicators."""
        return self.city.targets

    def warm(self) -> None:
        """Compute what the first click needs before anyone waits for it."""
        first = next(iter(self.views.values()))
        _ = first.probes, first.neighbours

    def target(self, name: str) -> tuple[int, Target]:
        """An indicator with its column.

        Raises:
            InputError: there is no such indicator.
        """
        for k, target in enumerate(self.targets):
            if target.name == name:
                return k, target
        raise InputError(f"{self.name} has no indicator {name!r}.")

    def view(self, name: str) -> ViewOfCity:
        """One of the views.

        Raises:
            InputError: there is no such view.
        """
        if name not in self.views:
            raise InputError(f"{self.name} has no vectors of {name!r}.")
        return self.views[name]

    def row(self, region_id: str) -> int:
        """The row of a region.

        Raises:
            InputError: there is no such region.
        """
        if region_id not in self.rows:
            raise InputError(f"{self.name} has no region {region_id!r}.")
        return self.rows[region_id]


Cities = dict[str, ShownCity]


def open_cities(settings: DemoSettings, encoder: str, dim: int) -> Cities:
    """All cities of the dataset that have a table of the model's vectors, the first to show first.

    Args:
        settings: dataset, tables, first city.
        encoder: name of the model; of two tables of a city, that of its name is taken.
        dim: length of the model's vectors. Tables of another length, and those of random weights,
            are passed over.

    Raises:
        InputError: no city has a table, or not the one that is to be shown.
    """
    tables = [read_embeddings(path) for path in _tables(settings.embeddings)]
    tables.sort(key=lambda table: (table.metadata.get("encoder") != encoder, table.label))
    cities: Cities = {}
    for table in tables:
        name = str(table.metadata.get("city"))
        if name not in cities and _made_by(table, dim):
            report = Report(settings.results, name)
            cities[name] = ShownCity(open_city(settings.dataset_name, name), table, report)
    if not cities:
        have = ", ".join(sorted({table.label for table in tables})) or "none at all"
        raise InputError(
            f"No table of {dim} numbers a region, as {encoder} makes them, in "
            f"{', '.join(settings.embeddings)} (--embeddings); found: {have}. Run "
            "`python evaluate.py embed` with this model, or give the model that made the tables."
        )
    names = sorted(cities)
    first = settings.city or names[0]
    if first not in cities:
        raise InputError(f"There are no vectors of {first!r} (--city); of {', '.join(names)}.")
    return {name: cities[name] for name in sorted(names, key=lambda name: name != first)}


def _made_by(table: EmbeddingTable, dim: int) -> bool:
    return not table.metadata.get("random_init") and all(
        values.shape[1] == dim for values in table.vectors.values()
    )


def _tables(names: Sequence[str]) -> Iterator[Path]:
    """The embedding tables among files, in folders, and in the folders of cities in them."""
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
    """Beside the tables lie rejects, and parts of a run that was stopped."""
    try:
        schema = pq.read_schema(path)
    except (pa.ArrowInvalid, OSError):
        return False
    names = set(schema.names)
    return read_metadata(schema) is not None and {"region_id", "n_satellite"} <= names


def _in_order(values: NDArray[np.float32], order: NDArray[np.int64]) -> Floats:
    found = values[np.maximum(order, 0)].astype(np.float64)
    found[order < 0] = np.nan
    return found


def _open_pictures(city: City) -> Iterator[tuple[str, Pictures]]:
    for view in ("satellite", "street_view"):
        try:
            yield view, Pictures(city.dataset_name, city.name, view)
        except DatasetError:  # the city is there, so what is missing is this table
            continue


def shown(value: float, target: Target) -> str:
    """A value of the scored scale as the raw value that it stands for, three digits."""
    return number(raw(value, target))


def raw(value: float, target: Target) -> float:
    """Back from the scored scale; a count is not below 0."""
    return max(float(np.expm1(value)), 0.0) if target.transform == "ln1p" else float(value)


def number(value: Any) -> str:
    """Three significant digits, thousands parted; a dash for what is missing."""
    value = float(value)
    if not np.isfinite(value):
        return "–"
    if value == 0 or abs(value) < 1e-9:
        return "0"
    digits = max(0, 2 - int(np.floor(np.log10(abs(value)))))
    rounded = float(f"{value:.3g}")
    return f"{rounded:,.{min(digits, 6)}f}"


__all__ = [
    "VIEW_TITLES",
    "Cities",
    "ShownCity",
    "ViewOfCity",
    "number",
    "open_cities",
    "raw",
    "shown",
]
