"""Who is compared: the systems and the controls, in the views they have, on regions all share."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..embed.poi import POI, gives_away, poi_columns, without
from ..embed.tables import BOTH, EmbeddingTable
from ..embed.trainings import check_trainings
from ..errors import InputError
from .city import City
from .controls import coordinate_basis, tree_coordinates
from .splits import Geography

NO_VIEW = "none"
VIEW_CHOICES = ("street_view", "satellite", BOTH)
CONTROL_NAMES = ("mean", "coordinates", "poi_counts")
WITH_COORDINATES = "coordinates+"  # before a label: the vector beside the coordinates
GAIN_PROBES = ("ridge",)


@dataclass(frozen=True)
class System:
    """A row of the table: an embedding table's view, or a control.

    Attributes:
        name: label of the embedding table, or the control's name.
        view: of the table; `none` for controls that see no image.
        hash: of the vectors.
        probes: those that are tried on it.
        X: `(N, D)` features of the regions that are compared.
        uses: what the system has seen.
        inputs: the columns of the table of regions that are among it.
        indicators: those that it is for; None: all.
    """

    name: str
    view: str
    hash: str
    probes: tuple[str, ...]
    X: NDArray[np.float64]
    uses: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    indicators: frozenset[str] | None = None

    def leaks(self, indicator: str) -> list[str]:
        """Its inputs that give away an indicator that it is for."""
        if self.indicators is not None and indicator not in self.indicators:
            return []
        return [column for column in self.inputs if gives_away(column, indicator)]

    def scores(self, indicator: str) -> bool:
        """Whether it may be scored on an indicator: not on one that its inputs give away."""
        is_for = self.indicators is None or indicator in self.indicators
        return is_for and not self.leaks(indicator)


def views_of(
    tables: Sequence[EmbeddingTable], wanted: Sequence[str] | None
) -> dict[str, list[str]]:
    """The views in which each system takes part, by its label.

    Args:
        tables: the systems.
        wanted: of `VIEW_CHOICES`; None for all.

    Raises:
        InputError: no table, two of one label or of one training, a control's label, or a table
            without any of the views.
    """
    if not tables:
        raise InputError("No embedding table given. Make one with `python evaluate.py embed`.")
    labels = [table.label for table in tables]
    twice = [name for name, n in Counter(labels).items() if n > 1]
    if twice:
        raise InputError(f"Several tables are labelled {twice[0]!r}: give each its own --label.")
    clash = [x for x in labels if x in CONTROL_NAMES or x.startswith(WITH_COORDINATES)]
    if clash:
        raise InputError(f"The label {clash[0]!r} is that of a control: choose another --label.")
    check_trainings({table.label: table.metadata for table in tables})
    unknown = sorted(set(wanted or ()) - set(VIEW_CHOICES))
    if unknown:
        raise InputError(f"Unknown view {unknown[0]!r}; known are {', '.join(VIEW_CHOICES)}.")
    views = {
        table.label: [v for v in VIEW_CHOICES if v in table.views and (not wanted or v in wanted)]
        for table in tables
    }
    without = [label for label, own in views.items() if not own]
    if without:
        asked = f" of view {' or '.join(map(repr, wanted))}" if wanted else ""
        raise InputError(f"No vectors{asked} in: {', '.join(without)}.")
    return views


def common_regions(
    city: City, tables: Sequence[EmbeddingTable], views: Mapping[str, Sequence[str]]
) -> tuple[NDArray[np.int64], dict[str, int]]:
    """Rows of the regions of which every system has all its views; others counted by reason.

    Raises:
        InputError: there is none.
    """
    region_ids = city.regions["region_id"].tolist()
    keep = np.ones(len(region_ids), dtype=bool)
    dropped: Counter[str] = Counter()
    for table in tables:
        position = {region_id: row for row, region_id in enumerate(table.region_ids)}
        rows = np.array([position.get(region_id, -1) for region_id in region_ids])
        absent = keep & (rows < 0)
        keep &= ~absent
        _count(dropped, f"not in table {table.label}", absent)
        for view in views[table.label]:
            without = keep & ~table.has(view)[np.maximum(rows, 0)]
            keep &= ~without
            _count(dropped, f"no {view} vector in table {table.label}", without)
    if not keep.any():
        raise InputError(
            f"No region of {city.name!r} has a vector in every table: {dict(dropped)}. Are the "
            "tables of this city? --views restricts what is asked for."
        )
    return np.flatnonzero(keep), dict(dropped)


def _count(counter: Counter[str], reason: str, which: NDArray[np.bool_]) -> None:
    if which.any():
        counter[reason] += int(which.sum())


def make_systems(
    city: City,
    tables: Sequence[EmbeddingTable],
    views: Mapping[str, Sequence[str]],
    kept: NDArray[np.int64],
    place: Geography,
    probes: Sequence[str],
) -> list[System]:
    """The controls, the systems, and each system beside the coordinates.

    `coordinates` is what places alone are worth to nearest neighbours, to trees and, as the smooth
    functions of [`coordinate_basis`], to the ridge probe. `coordinates+<label>` gives the ridge
    probe those same functions and the vector side by side, all standardised: what it has over
    `coordinates` under ridge is what the vector knows beyond the place.

    Args:
        city: whose regions.
        tables: the systems.
        views: from [`views_of`].
        kept: rows of the city's regions that are compared.
        place: of all regions.
        probes: those asked for; controls that are a probe of their own are always there.
    """
    nothing = np.zeros((len(kept), 0))
    systems = [System("mean", NO_VIEW, "", ("mean",), nothing)]
    placed = place.complete(kept)
    gain = tuple(probe for probe in GAIN_PROBES if probe in probes) if placed else ()
    basis = nothing
    if placed:
        xy, seen = place.xy[kept], ("coordinates",)
        basis = coordinate_basis(xy)
        systems += [
            System("coordinates", NO_VIEW, "", ("knn",), xy, seen),
            System("coordinates", NO_VIEW, "", ("gbm",), tree_coordinates(xy), seen),
            System("coordinates", NO_VIEW, "", gain, basis, seen),
        ]
    systems += _poi_controls(city, kept)
    wanted = city.regions["region_id"].to_numpy()[kept]
    for table in tables:
        for view in views[table.label]:
            X = vectors_of(table, view, wanted)
            uses, inputs = tuple(table.uses), tuple(table.inputs)
            systems.append(System(table.label, view, table.hash, tuple(probes), X, uses, inputs))
            if gain:
                beside = np.concatenate([X, basis], axis=1)
                name, also = WITH_COORDINATES + table.label, sorted({*uses, "coordinates"})
                systems.append(System(name, view, table.hash, gain, beside, tuple(also), inputs))
    return systems


def vectors_of(table: EmbeddingTable, view: str, region_ids: Sequence[str]) -> NDArray[np.float64]:
    """`(N, D)` vectors of a table's view, of these regions in this order."""
    position = {region_id: row for row, region_id in enumerate(table.region_ids)}
    return table.matrix(view)[[position[region_id] for region_id in region_ids]]


def _poi_controls(city: City, kept: NDArray[np.int64]) -> list[System]:
    """The control by points of interest, once for each set of columns that indicators leave it.

    An indicator that all columns give away leaves none: for it the control keeps them all, and
    does not score it.
    """
    columns = tuple(poi_columns(city.regions))
    indicators: dict[tuple[str, ...], list[str]] = {}
    for target in city.targets:
        inputs = without(columns, target.name) or columns
        indicators.setdefault(inputs, []).append(target.name)
    return [
        System(
            name="poi_counts",
            view=NO_VIEW,
            hash="",
            probes=("gbm",),
            X=city.numbers(inputs)[kept],
            uses=(POI,),
            inputs=inputs,
            indicators=frozenset(names),
        )
        for inputs, names in indicators.items()
        if inputs
    ]


def left_out_inputs(city: City) -> dict[str, list[str]]:
    """Indicator -> the counts of points of interest that the control predicts it without."""
    columns = poi_columns(city.regions)
    found = {}
    for target in city.targets:
        own = without(columns, target.name)
        if own and len(own) < len(columns):
            found[target.name] = [column for column in columns if column not in own]
    return found


__all__ = [
    "CONTROL_NAMES",
    "GAIN_PROBES",
    "NO_VIEW",
    "VIEW_CHOICES",
    "WITH_COORDINATES",
    "System",
    "common_regions",
    "left_out_inputs",
    "make_systems",
    "vectors_of",
    "views_of",
]
