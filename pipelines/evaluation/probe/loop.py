"""The probe loop: every system on every indicator under every split, as rows that are appended.

The one loop of all protocols. What differs between them - whose regions, which splits, which
systems - is a [`Comparison`], made by [`run`] within a city and by [`transfer`] from city to city.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from dataset_builders.errors import SplitError
from dataset_builders.files import digest

from ..errors import InputError
from ..urban_regression.metrics import regression_metrics
from .city import Target
from .controls import (
    LEAVES,
    MAX_TREES,
    NEIGHBOURS,
    SHRINKAGE,
    fit_boosting,
    fit_coordinates,
    fit_mean,
)
from .models import MLPSettings, RidgeSettings, fit_mlp, fit_ridge
from .predictions import write_predictions
from .results import ResultRow, ResultStore, code_revision, row_key
from .splits import FRACTIONS, Split, Splitter
from .systems import System
from .tasks import Fit, Task

PROBE_SEED_STEP = 1000
FEW_REGIONS, SEEDS, SEEDS_OF_FEW = 1000, 5, 10


@dataclass(frozen=True)
class ProbeSettings:
    """Which cells of the table are computed.

    Attributes:
        protocols: of `random`, `block`.
        probes: of `mlp`, `ridge`.
        seeds: split seeds 0, 1, ...; None: 5, or 10 where fewer than 1,000 regions are compared.
        probe_seeds: probe seeds for each split seed.
        views: of `street_view`, `satellite`, `both`; None: all. A system takes part in those of
            them that it has.
        mlp: the MLP probe.
        ridge: the ridge probe.
        device: where the probes are trained.
        beside: what the vectors of every system are also put beside, with the ridge probe: labels
            of tables, or names of controls. Coordinates are always among it.
        controls: more controls, of `systems.EXTRA_CONTROLS`.
    """

    protocols: tuple[str, ...] = ("random", "block")
    probes: tuple[str, ...] = ("mlp", "ridge")
    seeds: int | None = None
    probe_seeds: int = 1
    views: tuple[str, ...] | None = None
    mlp: MLPSettings = field(default_factory=MLPSettings)
    ridge: RidgeSettings = field(default_factory=RidgeSettings)
    device: str = "cpu"
    beside: tuple[str, ...] = ()
    controls: tuple[str, ...] = ()

    def for_regions(self, num_regions: int) -> "ProbeSettings":
        """With the number of splits that suits so many regions, where none is set."""
        seeds = default_seeds(num_regions) if self.seeds is None else self.seeds
        return replace(self, seeds=seeds)


def default_seeds(num_regions: int) -> int:
    """Splits where none are asked for: the fewer regions, the more a score depends on the split."""
    return SEEDS_OF_FEW if num_regions < FEW_REGIONS else SEEDS


@dataclass(frozen=True)
class Comparison:
    """Who is compared on what, under which splits.

    Attributes:
        city: City whose regions are tested.
        source_city: Where something was learnt elsewhere, see [`ResultRow`].
        synthetic: Whether the data is simulated.
        table_hash: Hash of all that rows must share to be comparable.
        region_ids: `(N,)` ids of the regions that are compared, of one city or of several.
        targets: Indicators; each `y` is `(N,)`.
        systems: Systems and controls; each with `(N, D)` features.
        splitters: Protocol, as the rows name it, to what draws its splits of the N regions.
    """

    city: str
    source_city: str
    synthetic: bool
    table_hash: str
    region_ids: NDArray[np.object_]
    targets: Sequence[Target]
    systems: Sequence[System]
    splitters: Mapping[str, Splitter]


@dataclass(frozen=True)
class Cell:
    """One indicator under one split and one probe seed, with the task that trains it."""

    target: Target
    protocol: str
    split_seed: int
    probe_seed: int
    task: Task


def compute(
    comparison: Comparison,
    cells: Sequence[Cell],
    store: ResultStore,
    settings: ProbeSettings,
    progress: Callable[..., Any] = tqdm,
) -> None:
    """Compute those of the cells that have no row yet, and append their rows.

    Args:
        comparison: Who is compared.
        cells: What is predicted, under which splits, from [`make_cells`].
        store: Rows; predictions are written beside them.
        settings: Grids and device.
        progress: Wraps the iteration over batches of cells.

    Raises:
        InputError: A probe is unknown.
    """
    shared = {
        "city": comparison.city,
        "source_city": comparison.source_city,
        "synthetic": comparison.synthetic,
        "table_hash": comparison.table_hash,
        "code_revision": code_revision(),
    }
    batches = list(_batches(comparison, cells))
    for system, probe_name, batch in progress(
        batches, desc=f"probe {comparison.city}", unit="batch"
    ):
        fields = {**shared, **_system_fields(system, probe_name, settings)}
        _run_batch(store, system, probe_name, batch, fields, comparison.region_ids, settings)


def _batches(
    comparison: Comparison, cells: Sequence[Cell]
) -> Iterator[tuple[System, str, list[Cell]]]:
    """What is computed at once, and written at once: all cells of a system, probe and protocol."""
    for system in comparison.systems:
        for probe_name in system.probes:
            for protocol in comparison.splitters:
                batch = [
                    cell
                    for cell in cells
                    if cell.protocol == protocol and system.scores(cell.target.name)
                ]
                if probe_name != "mlp":  # nothing is drawn: one probe seed is all
                    batch = [cell for cell in batch if cell.probe_seed < PROBE_SEED_STEP]
                if batch:
                    yield system, probe_name, batch


def _run_batch(
    store: ResultStore,
    system: System,
    probe_name: str,
    cells: Sequence[Cell],
    shared: Mapping[str, Any],
    region_ids: NDArray[np.object_],
    settings: ProbeSettings,
) -> None:
    fields = [{**shared, **_cell_fields(cell)} for cell in cells]
    missing = [i for i, values in enumerate(fields) if row_key(values) not in store.keys]
    if not missing:
        return
    tasks = [cells[i].task for i in missing]
    start = time.perf_counter()
    fits = _fit(system.features, probe_name, tasks, settings)
    seconds = (time.perf_counter() - start) / len(missing)
    rows = [
        _row(fields[i], task, fit, seconds)
        for i, task, fit in zip(missing, tasks, fits, strict=True)
    ]
    # first the predictions: a row that stands has its predictions on the disk
    write_predictions(store.path.parent, region_ids, rows, tasks, fits)
    store.append(rows)


def _fit(
    X: NDArray[np.float64], probe_name: str, tasks: Sequence[Task], settings: ProbeSettings
) -> list[Fit]:
    if probe_name == "mean":
        return fit_mean(tasks)
    if probe_name == "knn":
        return fit_coordinates(X, tasks)
    if probe_name == "gbm":
        return fit_boosting(X, tasks)
    if probe_name == "mlp":
        return fit_mlp(X, tasks, settings.mlp, settings.device)
    if probe_name == "ridge":
        return fit_ridge(X, tasks, settings.ridge, settings.device)
    raise InputError(f"Unknown probe {probe_name!r}; known are 'mlp' and 'ridge'.")


# ---- cells --------------------------------------------------------------------------------------


def make_cells(
    targets: Sequence[Target], splitters: Mapping[str, Splitter], settings: ProbeSettings
) -> tuple[list[Cell], list[dict[str, Any]]]:
    """All cells that can be computed, and those that cannot, with the reason.

    Args:
        targets: Indicators; each `y` has one number per region that the splits count.
        splitters: Protocol to what draws its splits.
        settings: Numbers of seeds.
    """
    cells, skipped = [], []
    for protocol, splitter in splitters.items():
        for seed in range(settings.seeds or 0):
            try:
                split = splitter.split(seed)
            except SplitError as error:
                skipped += [skip(target.name, protocol, seed, str(error)) for target in targets]
                continue
            for target in targets:
                task = _make_task(target.y, split)
                if reason := _why_not(task):
                    skipped.append(skip(target.name, protocol, seed, reason))
                    continue
                for p in range(settings.probe_seeds):
                    probe_seed = PROBE_SEED_STEP * p + seed
                    seeded = replace(task, seed=probe_seed)
                    cells.append(Cell(target, protocol, seed, probe_seed, seeded))
    return cells, skipped


def leaking_cells(systems: Sequence[System], cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """The cells of systems whose inputs give the indicator away, as [`skip`] tells them."""
    reasons: dict[tuple[str, str, int], dict[str, Any]] = {}
    for system in systems:
        for cell in cells:
            name = cell.target.name
            if columns := system.leaks(name):
                given = ", ".join(columns[:3]) + (", ..." if len(columns) > 3 else "")
                reason = f"{system.name} was given {given}, so it is not scored on {name}"
                key = (reason, cell.protocol, cell.split_seed)
                reasons[key] = skip(name, cell.protocol, cell.split_seed, reason)
    return list(reasons.values())


def skip(indicator: str, protocol: str, split_seed: int, reason: str) -> dict[str, Any]:
    """A cell that is not computed, and why."""
    return {
        "indicator": indicator,
        "protocol": protocol,
        "split_seed": split_seed,
        "reason": reason,
    }


def _make_task(y: NDArray[np.float64], split: Split) -> Task:
    """The labelled regions of each part of a split."""
    labelled = np.isfinite(y)
    train, validation, test = (rows[labelled[rows]] for rows in split)
    return Task(y, split.train, train, validation, test)


def _why_not(task: Task) -> str | None:
    """Why a task cannot be computed; None if it can."""
    if not np.isfinite(task.y).any():
        return "no region has a label"
    for part, least in (("train", 2), ("validation", 1), ("test", 2)):
        rows = getattr(task, part)
        if len(rows) < least:
            return f"{len(rows)} labelled regions in {part}"
    for part in ("train", "test"):
        if np.ptp(task.y[getattr(task, part)]) == 0:
            return f"the labels in {part} are constant"
    return None


# ---- rows ---------------------------------------------------------------------------------------


def _system_fields(system: System, probe_name: str, settings: ProbeSettings) -> dict[str, Any]:
    """The fields of a row that say who was probed, and how."""
    return {
        "system": system.name,
        "beside": system.beside,
        "view": system.view,
        "probe": probe_name,
        "embedding_hash": system.hash,
        "uses": list(system.uses),
        "config_hash": _config_hash(probe_name, settings),
    }


def _config_hash(probe_name: str, settings: ProbeSettings) -> str:
    """Of all that is set of a probe: its grid and how it is trained."""
    grids: dict[str, Any] = {"mlp": asdict(settings.mlp), "ridge": asdict(settings.ridge)}
    grids |= {"knn": NEIGHBOURS, "gbm": [LEAVES, MAX_TREES, SHRINKAGE]}
    return digest(probe_name, grids.get(probe_name), FRACTIONS)


def _cell_fields(cell: Cell) -> dict[str, Any]:
    task = cell.task
    return {
        "indicator": cell.target.name,
        "unit": cell.target.unit,
        "transform": cell.target.transform,
        "protocol": cell.protocol,
        "split_seed": cell.split_seed,
        "probe_seed": cell.probe_seed,
        "n_train": len(task.train),
        "n_validation": len(task.validation),
        "n_test": len(task.test),
        "label_sd_test": float(task.y[task.test].std()),
    }


def _row(fields: Mapping[str, Any], task: Task, fit: Fit, seconds: float) -> ResultRow:
    scores = regression_metrics(fit.predictions, task.y[task.test])
    values: dict[str, Any] = {name: float(value) for name, value in scores.items()}
    values |= {"hyperparameters": fit.hyperparameters, "seconds": round(seconds, 4)}
    return ResultRow(**fields, **values)


__all__ = [
    "Cell",
    "Comparison",
    "ProbeSettings",
    "compute",
    "default_seeds",
    "leaking_cells",
    "make_cells",
    "skip",
]
