"""Systems under comparison: embeddings, controls and their combinations, on common regions."""

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
EXTRA_CONTROLS = (GEOCLIP,)  # optional
CONTROL_NAMES = (*ALWAYS_THERE, *EXTRA_CONTROLS)
SEPARATOR = "+"  # in names of combinations; not allowed in labels
JOINT_PROBE = "ridge"  # probe of combinations


def joint_name(beside: str, system: str) -> str:
    """Name of the combination of a system with another input."""
    return f"{beside}{SEPARATOR}{system}" if beside else system


def split_name(name: str) -> tuple[str, str]:
    """Split the name of a combination into the other input, empty without one, and the system."""
    beside, _, system = name.rpartition(SEPARATOR)
    return beside, system


def joint_hash(own: str, beside: str) -> str:
    """Hash of combined embeddings; `beside` is empty for region columns (in the table hash)."""
    return digest(own, beside) if beside else own


@dataclass(frozen=True)
class System:
    """One view of an embedding table, a control, or a combination of two of these.

    Attributes:
        name: Label of the embedding table or name of the control; see also [`joint_name`].
        view: View of the table; `none` for controls without images.
        hash: Hash of the embeddings.
        probes: Probes to fit.
        blocks: `(N, D_i)` feature blocks of the compared regions, to be concatenated.
        uses: Inputs of the system.
        inputs: Region columns among these inputs.
        indicators: Indicators to predict; None for all.
        beside: Name of the system combined with this one; empty without one.
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
        """Hash of this system in combinations; empty if the table hash covers it."""
        return f"{self.hash}/{self.view}" if self.hash else ""

    @property
    def features(self) -> NDArray[np.float64]:
        """`(N, D)` features, concatenated on access because systems share large blocks."""
        return self.blocks[0] if len(self.blocks) == 1 else np.concatenate(self.blocks, axis=1)

    def next_to(self, other: "System") -> "System":
        """Concatenate the features of this system with those of another.

        The probe standardises all columns and penalises all coefficients equally, so uninformative
        features can lower the score slightly.
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
        """Inputs of the system that leak an indicator it predicts."""
        if self.indicators is not None and indicator not in self.indicators:
            return []
        return [column for column in self.inputs if gives_away(column, indicator)]

    def scores(self, indicator: str) -> bool:
        """Whether the system predicts an indicator, and its inputs do not leak it."""
        is_for = self.indicators is None or indicator in self.indicators
        return is_for and not self.leaks(indicator)


# ---- validation of the settings -----------------------------------------------------------------


def views_of(
    tables: Sequence[EmbeddingTable], wanted: Sequence[str] | None, controls: Sequence[str] = ()
) -> dict[str, list[str]]:
    """Views of each system to evaluate, by label.

    Args:
        tables: Embedding tables of the systems.
        wanted: Requested views, of `VIEW_CHOICES`; None for all.
        controls: Additional controls.

    Raises:
        InputError: There is no table, a label or training is duplicated, a label is the name of a
            control, or a table has none of the views.
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
    """Validate the inputs that systems are to be combined with.

    Args:
        beside: Labels of tables or names of controls.
        city: City with its regions.
        tables: Embedding tables of the systems.
        controls: Additional controls.
        probes: Requested probes.

    Raises:
        InputError: A name is unknown, duplicated, that of the only table, or one of several
            trainings of a system; there are no POI counts; or the ridge probe was not requested.
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


# ---- common regions -----------------------------------------------------------------------------


def common_regions(
    city: City,
    tables: Sequence[EmbeddingTable],
    views: Mapping[str, Sequence[str]],
    needed: Collection[str] = (),
) -> tuple[NDArray[np.int64], dict[str, int]]:
    """Rows of the regions with embeddings of all systems and views; others counted by reason.

    Args:
        city: City with its regions.
        tables: Embedding tables of the systems.
        views: Views per label, from [`views_of`].
        needed: Controls that must be defined for every region, of `poi_counts` and `geoclip`.

    Raises:
        InputError: No region is left.
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


# ---- systems ------------------------------------------------------------------------------------


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
    """Create the controls, the systems, and combinations with coordinates and other inputs.

    The control `coordinates` has k-NN, trees and, with the features of [`coordinate_basis`], the
    ridge probe. `coordinates+<label>` is the ridge probe on these features and the embeddings: its
    gain over `coordinates` is the information in the embeddings beyond location.
    `<other>+<label>` combines the system with another table or control, see [`System.next_to`]; of
    a table with several views, the last one is used.

    Args:
        city: City with its regions.
        tables: Embedding tables of the systems.
        views: Views per label, from [`views_of`].
        kept: Rows of the city's regions that are compared.
        place: Geography of all regions.
        probes: Requested probes; controls with a probe of their own are always included.
        beside: Labels and names checked by [`check_beside`].
        controls: Additional controls, of `EXTRA_CONTROLS`.
    """
    ridge = tuple(probe for probe in probes if probe == JOINT_PROBE)
    mean = System("mean", NO_VIEW, "", ("mean",), (np.zeros((len(kept), 0)),))
    places = _coordinates(place.xy[kept], ridge) if place.complete(kept) else []
    counts = _poi_controls(city, kept)
    for_ridge = [  # raw counts are too skewed for a linear probe
        replace(one, probes=ridge, blocks=(np.log1p(one.features),))
        for one in counts
        if POI_COUNTS in beside
    ]
    own = [_geoclip(city, kept, tuple(probes))] if GEOCLIP in controls else []
    wanted = city.regions["region_id"].to_numpy()[kept]
    own += [
        System(
            name=table.label,
            view=view,
            hash=table.hash,
            probes=tuple(probes),
            blocks=(vectors_of(table, view, wanted),),
            uses=tuple(table.uses),
            inputs=tuple(table.inputs),
        )
        for table in tables
        for view in views[table.label]
    ]
    by_name = {system.name: system for system in own}  # the last view of each
    others = [*places[-1:], *for_ridge, *(by_name[name] for name in beside if name in by_name)]
    joint = [one.next_to(other) for other in others for one in own if one.name != other.name]
    alone = [mean, *places, *counts, *for_ridge, *own]
    return [*alone, *(system for system in joint if system.probes)]


def _coordinates(xy: NDArray[np.float64], ridge: tuple[str, ...]) -> list[System]:
    """Coordinate control with each of its probes; the one used in combinations comes last."""
    blocks = {("knn",): xy, ("gbm",): tree_coordinates(xy), ridge: coordinate_basis(xy)}
    return [
        System(COORDINATES, NO_VIEW, "", probes, (X,), (COORDINATES,))
        for probes, X in blocks.items()
    ]


def vectors_of(table: EmbeddingTable, view: str, region_ids: Sequence[str]) -> NDArray[np.float64]:
    """`(N, D)` embeddings of a view for the given regions, in their order."""
    position = {region_id: row for row, region_id in enumerate(table.region_ids)}
    return table.matrix(view)[[position[region_id] for region_id in region_ids]]


def _geoclip(city: City, kept: NDArray[np.int64], probes: tuple[str, ...]) -> System:
    """Location control by GeoCLIP, a location encoder trained on photos from around the world."""
    from pipelines.common.encoders.geoclip import encode_places

    vectors, fingerprint = encode_places(*city.numbers(["lon", "lat"])[kept].T)
    X = vectors.astype(np.float64)
    # include the embeddings, since the table hash does not cover coordinates
    known = digest(fingerprint, vectors.tobytes())
    return System(GEOCLIP, NO_VIEW, known, probes, (X,), (COORDINATES, GEOCLIP))


def _poi_controls(city: City, kept: NDArray[np.int64]) -> list[System]:
    """POI controls, one per set of columns that do not leak an indicator.

    An indicator leaked by all columns gets a control with all of them, which is not scored on it.
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


def left_out_inputs(city: City) -> dict[str, list[str]]:
    """Indicator to POI columns excluded from its control."""
    columns = poi_columns(city.regions)
    kept = {target.name: without(columns, target.name) for target in city.targets}
    lost = {name: [one for one in columns if one not in own] for name, own in kept.items() if own}
    return {name: own for name, own in lost.items() if own}


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
