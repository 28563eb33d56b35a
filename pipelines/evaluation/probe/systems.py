"""Who is compared: systems and controls, alone and beside one another, on regions all share."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dataset_builders.files import digest

from ..embed.poi import POI, gives_away, poi_columns, without
from ..embed.tables import BOTH, EmbeddingTable
from ..embed.trainings import check_trainings, training_of
from ..errors import InputError
from .city import City
from .controls import coordinate_basis, tree_coordinates
from .splits import Geography

NO_VIEW = "none"
VIEW_CHOICES = ("street_view", "satellite", BOTH)
COORDINATES, POI_COUNTS, GEOCLIP = "coordinates", "poi_counts", "geoclip"
ALWAYS_THERE = ("mean", COORDINATES, POI_COUNTS)
EXTRA_CONTROLS = (GEOCLIP,)  # only where asked for
CONTROL_NAMES = (*ALWAYS_THERE, *EXTRA_CONTROLS)
SEPARATOR = "+"  # between what stands beside a system and the system; no label contains it
JOINT_PROBE = "ridge"  # of vectors beside others


def joint_name(beside: str, system: str) -> str:
    """Name of a system whose vectors stand beside others."""
    return f"{beside}{SEPARATOR}{system}" if beside else system


def split_name(name: str) -> tuple[str, str]:
    """What a system stands beside, empty where it is alone, and the system itself."""
    beside, _, system = name.rpartition(SEPARATOR)
    return beside, system


def joint_hash(own: str, beside: str) -> str:
    """Hash of vectors beside others; the regions' own columns are in the table's hash instead."""
    return digest(own, beside) if beside else own


@dataclass(frozen=True)
class System:
    """A row of the table: an embedding table's view, a control, or one beside another.

    Attributes:
        name: label of the embedding table, or the control's name; see also [`joint_name`].
        view: of the table; `none` for controls that see no image.
        hash: of the vectors.
        probes: those that are tried on it.
        blocks: `(N, D_i)` features of the regions that are compared, put side by side.
        uses: what the system has seen.
        inputs: the columns of the table of regions that are among it.
        indicators: those that it is for; None: all.
        beside: name of the system whose features come last; empty where it is alone.
    """

    name: str
    view: str
    hash: str
    probes: tuple[str, ...]
    blocks: tuple[NDArray[np.float64], ...]
    uses: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    indicators: frozenset[str] | None = None
    beside: str = ""

    @property
    def beside_hash(self) -> str:
        """Of this system where others stand beside it; empty where the table's hash holds it."""
        return f"{self.hash}/{self.view}" if self.hash else ""

    @property
    def features(self) -> NDArray[np.float64]:
        """`(N, D)` features, put together when asked: many systems share large blocks."""
        return self.blocks[0] if len(self.blocks) == 1 else np.concatenate(self.blocks, axis=1)

    def next_to(self, other: "System") -> "System":
        """This system's features and those of another side by side.

        The probe standardises every column on the training regions and penalises all coefficients
        alike, whichever table they belong to, as it does for one table. A table that adds nothing
        can therefore lower the score a little: the difference to the other one alone is what it
        adds in practice, not in theory.
        """
        return replace(
            self,
            name=joint_name(other.name, self.name),
            hash=joint_hash(self.hash, other.beside_hash),
            probes=tuple(probe for probe in self.probes if probe == JOINT_PROBE),
            blocks=(*self.blocks, *other.blocks),
            uses=tuple(sorted({*self.uses, *other.uses})),
            inputs=tuple(sorted({*self.inputs, *other.inputs})),
            indicators=other.indicators,
            beside=other.name,
        )

    def leaks(self, indicator: str) -> list[str]:
        """Its inputs that give away an indicator that it is for."""
        if self.indicators is not None and indicator not in self.indicators:
            return []
        return [column for column in self.inputs if gives_away(column, indicator)]

    def scores(self, indicator: str) -> bool:
        """Whether it may be scored on an indicator: not on one that its inputs give away."""
        is_for = self.indicators is None or indicator in self.indicators
        return is_for and not self.leaks(indicator)


# ---- what was asked for -------------------------------------------------------------------------


def views_of(
    tables: Sequence[EmbeddingTable], wanted: Sequence[str] | None, controls: Sequence[str] = ()
) -> dict[str, list[str]]:
    """The views in which each system takes part, by its label.

    Args:
        tables: the systems.
        wanted: of `VIEW_CHOICES`; None for all.
        controls: extra controls that were asked for.

    Raises:
        InputError: no table, two of one label or of one training, a control's label, or a table
            without any of the views.
    """
    if not tables:
        raise InputError("No embedding table given. Make one with `python evaluate.py embed`.")
    _check_labels(tables, {*ALWAYS_THERE, *controls})
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


def _check_labels(tables: Sequence[EmbeddingTable], reserved: Collection[str]) -> None:
    labels = [table.label for table in tables]
    twice = [name for name, n in Counter(labels).items() if n > 1]
    if twice:
        raise InputError(f"Several tables are labelled {twice[0]!r}: give each its own --label.")
    clash = [label for label in labels if label in reserved]
    if clash:
        raise InputError(f"The label {clash[0]!r} is that of a control: choose another --label.")
    check_trainings({table.label: table.metadata for table in tables})
    trainings = (training_of(table.metadata) for table in tables)
    names = [*labels, *(training.group for training in trainings if training)]
    joint = [name for name in names if SEPARATOR in name]
    if joint:
        raise InputError(
            f"{joint[0]!r} must not contain {SEPARATOR!r}, which joins two names in the results: "
            "choose another --label, or group of --training."
        )


def check_beside(
    beside: Sequence[str],
    city: City,
    tables: Sequence[EmbeddingTable],
    controls: Collection[str],
    probes: Collection[str],
) -> None:
    """See that systems can be put beside what was asked for.

    Args:
        beside: labels of tables, or names of controls.
        city: whose regions.
        tables: the systems.
        controls: extra controls that were asked for.
        probes: those that were asked for.

    Raises:
        InputError: a name is unknown, given twice, that of the only table, or of one training of
            several; there are no counts of points of interest; or no ridge probe was asked for.
    """
    columns = poi_columns(city.regions)
    trainings = {table.label: training_of(table.metadata) for table in tables}
    sizes = Counter(training.group for training in trainings.values() if training)
    known = [*trainings, COORDINATES, *([POI_COUNTS] if columns else []), *controls]
    for name in beside:
        if name == POI_COUNTS and not columns:
            raise InputError(
                f"--beside {POI_COUNTS}: the regions of {city.name!r} have no column "
                "poi_<category>."
            )
        if name in EXTRA_CONTROLS and name not in known:
            raise InputError(f"--beside {name}: add `--controls {name}`.")
        if name not in known:
            raise InputError(
                f"--beside: no table is labelled {name!r}; there are {', '.join(known)}."
            )
        if [*trainings, *controls] == [name]:
            raise InputError(
                f"--beside {name}: a table adds nothing to itself; give another table."
            )
        training = trainings.get(name)
        if training and sizes[training.group] > 1:
            raise InputError(
                f"--beside {name}: it is one of {sizes[training.group]} trainings of "
                f"{training.group!r}; give only one of them in --embeddings."
            )
    if len(set(beside)) < len(beside):
        raise InputError(f"--beside takes each name once, got {' '.join(beside)}.")
    if beside and JOINT_PROBE not in probes:
        raise InputError(f"--beside is measured by the {JOINT_PROBE} probe: add it to --probes.")


# ---- on which regions ---------------------------------------------------------------------------


def common_regions(
    city: City,
    tables: Sequence[EmbeddingTable],
    views: Mapping[str, Sequence[str]],
    needed: Collection[str] = (),
) -> tuple[NDArray[np.int64], dict[str, int]]:
    """Rows of the regions of which every system has all its views; others counted by reason.

    Args:
        city: whose regions.
        tables: the systems.
        views: from [`views_of`].
        needed: controls that every region must have, of `poi_counts` (beside a system it takes
            complete rows) and `geoclip`.

    Raises:
        InputError: there is none.
    """
    region_ids = city.regions["region_id"].tolist()
    keep = np.ones(len(region_ids), dtype=bool)
    dropped: Counter[str] = Counter()

    def drop(which: NDArray[np.bool_], reason: str) -> None:
        if (keep & which).any():
            dropped[reason] += int((keep & which).sum())
        keep[which] = False

    for table in tables:
        position = {region_id: row for row, region_id in enumerate(table.region_ids)}
        rows = np.array([position.get(region_id, -1) for region_id in region_ids])
        drop(rows < 0, f"not in table {table.label}")
        rows = np.maximum(rows, 0)
        for view in views[table.label]:
            damaged = table.incomplete(view)[rows]
            drop(damaged, f"missing values in the {view} vector in table {table.label}")
            drop(~table.has(view)[rows], f"no {view} vector in table {table.label}")
    if POI_COUNTS in needed:
        counts = city.numbers(poi_columns(city.regions))
        drop(np.asarray(~np.isfinite(counts).all(1)), "no points of interest counted")
    if GEOCLIP in needed:
        lonlat = city.numbers(["lon", "lat"])
        drop(np.asarray(~np.isfinite(lonlat).all(1)), f"no coordinates, for {GEOCLIP}")
    if not keep.any():
        raise InputError(
            f"No region of {city.name!r} has a vector in every table: {dict(dropped)}. Check that "
            "the tables are of this city, or restrict the views with --views."
        )
    return np.flatnonzero(keep), dict(dropped)


# ---- the systems --------------------------------------------------------------------------------


def make_systems(
    city: City,
    tables: Sequence[EmbeddingTable],
    views: Mapping[str, Sequence[str]],
    kept: NDArray[np.int64],
    place: Geography,
    probes: Sequence[str],
    beside: Sequence[str] = (),
    controls: Sequence[str] = (),
) -> list[System]:
    """The controls, the systems, and each system beside the coordinates and beside others.

    `coordinates` is what places alone are worth to nearest neighbours, to trees and, as the smooth
    functions of [`coordinate_basis`], to the ridge probe. `coordinates+<label>` gives the ridge
    probe those same functions and the vector side by side: what it has over `coordinates` under
    ridge is what the vector knows beyond the place. `<other>+<label>` does so with another table
    or control, see [`System.next_to`]; a table of several views stands beside others in its last.

    Args:
        city: whose regions.
        tables: the systems.
        views: from [`views_of`].
        kept: rows of the city's regions that are compared.
        place: of all regions.
        probes: those asked for; controls that are a probe of their own are always there.
        beside: labels and names from [`check_beside`].
        controls: of `EXTRA_CONTROLS`.
    """
    ridge = tuple(probe for probe in probes if probe == JOINT_PROBE)
    mean = System("mean", NO_VIEW, "", ("mean",), (np.zeros((len(kept), 0)),))
    places = _coordinates(place.xy[kept], ridge) if place.complete(kept) else []
    counts = _poi_controls(city, kept)
    for_ridge = [_for_ridge(one, ridge) for one in counts] if POI_COUNTS in beside else []
    own = [_geoclip(city, kept, tuple(probes))] if GEOCLIP in controls else []
    own += _table_systems(city, tables, views, kept, tuple(probes))
    by_name = {system.name: system for system in own}  # the last view of each
    others = [*places[-1:], *for_ridge, *(by_name[name] for name in beside if name in by_name)]
    joint = [one.next_to(other) for other in others for one in own if one.name != other.name]
    alone = [mean, *places, *counts, *for_ridge, *own]
    return [*alone, *(system for system in joint if system.probes)]


def _coordinates(xy: NDArray[np.float64], ridge: tuple[str, ...]) -> list[System]:
    """The control of places, by each of its probes; that of vectors beside others comes last."""
    blocks = {("knn",): xy, ("gbm",): tree_coordinates(xy), ridge: coordinate_basis(xy)}
    return [
        System(COORDINATES, NO_VIEW, "", probes, (X,), (COORDINATES,))
        for probes, X in blocks.items()
    ]


def _table_systems(
    city: City,
    tables: Sequence[EmbeddingTable],
    views: Mapping[str, Sequence[str]],
    kept: NDArray[np.int64],
    probes: tuple[str, ...],
) -> list[System]:
    wanted = city.regions["region_id"].to_numpy()[kept]
    return [
        System(
            name=table.label,
            view=view,
            hash=table.hash,
            probes=probes,
            blocks=(vectors_of(table, view, wanted),),
            uses=tuple(table.uses),
            inputs=tuple(table.inputs),
        )
        for table in tables
        for view in views[table.label]
    ]


def vectors_of(table: EmbeddingTable, view: str, region_ids: Sequence[str]) -> NDArray[np.float64]:
    """`(N, D)` vectors of a table's view, of these regions in this order."""
    position = {region_id: row for row, region_id in enumerate(table.region_ids)}
    return table.matrix(view)[[position[region_id] for region_id in region_ids]]


def _geoclip(city: City, kept: NDArray[np.int64], probes: tuple[str, ...]) -> System:
    """The control of places by an encoder that was trained on photos of the whole world."""
    from pipelines.common.encoders.geoclip import encode_places

    vectors, fingerprint = encode_places(*city.numbers(["lon", "lat"])[kept].T)
    X = vectors.astype(np.float64)
    # of the vectors too: the hash of the table holds no places
    known = digest(fingerprint, vectors.tobytes())
    return System(GEOCLIP, NO_VIEW, known, probes, (X,), (COORDINATES, GEOCLIP))


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
            name=POI_COUNTS,
            view=NO_VIEW,
            hash="",
            probes=("gbm",),
            blocks=(city.numbers(inputs)[kept],),
            uses=(POI,),
            inputs=inputs,
            indicators=frozenset(names),
        )
        for inputs, names in indicators.items()
        if inputs
    ]


def _for_ridge(counts: System, probes: tuple[str, ...]) -> System:
    """Counts on a logarithmic scale: their raw values are too skewed for a linear probe."""
    return replace(counts, probes=probes, blocks=(np.log1p(counts.features),))


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
    "COORDINATES",
    "EXTRA_CONTROLS",
    "GEOCLIP",
    "JOINT_PROBE",
    "NO_VIEW",
    "VIEW_CHOICES",
    "System",
    "check_beside",
    "common_regions",
    "joint_hash",
    "joint_name",
    "left_out_inputs",
    "make_systems",
    "split_name",
    "vectors_of",
    "views_of",
]
