"""Evaluation loop: probes of all systems on all indicators and splits, appended as result rows.

All protocols share this loop. Their regions, splits and systems are given by a [`Comparison`], made
by [`run`] within a city and by [`transfer`] between cities.
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

from ..embed.poi import poi_columns
from ..errors import InputError
from ..urban_regression.metrics import regression_metrics
from .city import City, Target
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
from .results import FORMAT_VERSION, ResultRow, ResultStore, code_revision, row_key
from .splits import FRACTIONS, SPLIT_RULE, Fit, Geography, Split, Splitter, Task
from .systems import System

PROBE_SEED_STEP = 1000
FEW_REGIONS, SEEDS, SEEDS_OF_FEW = 1000, 5, 10


@dataclass(frozen=True)
class ProbeSettings:
    """Settings of the evaluation.

    Attributes:
        protocols: Split protocols, of `random`, `block`.
        probes: Probes, of `mlp`, `ridge`.
        seeds: Number of split seeds; by default 5, or 10 for fewer than 1,000 compared regions.
        probe_seeds: Number of probe seeds per split seed.
        views: Views, of `street_view`, `satellite`, `both`; all by default. A system is evaluated
            in those it has.
        mlp: Settings of the MLP probe.
        ridge: Settings of the ridge probe.
        device: Torch device of the probes.
        beside: Inputs that all systems are also combined with, for the ridge probe: labels of
            tables or names of controls, besides coordinates, which are always included.
        controls: Additional controls, of `systems.EXTRA_CONTROLS`.
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
        """Copy with the default number of splits if none is set, higher for few regions."""
        default = SEEDS_OF_FEW if num_regions < FEW_REGIONS else SEEDS
        return replace(self, seeds=default if self.seeds is None else self.seeds)


@dataclass(frozen=True)
class Comparison:
    """Systems to compare, with their regions, targets and splits.

    Attributes:
        city: City of the test regions.
        source_city: Source cities of a transfer, see [`ResultRow`].
        synthetic: Whether the data is simulated.
        table_hash: Hash of everything that comparable rows share.
        region_ids: `(N,)` ids of the compared regions, of one or several cities.
        targets: Target indicators, with `y` of shape `(N,)`.
        systems: Systems and controls, with `(N, D)` features.
        splitters: Protocol name, as in the rows, to the splitter of the N regions.
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
    """One indicator under one split and one probe seed, with its task."""

    target: Target
    protocol: str
    split_seed: int
    probe_seed: int
    task: Task


def hash_table(
    city: City, kept: NDArray[np.int64], place: Geography, settings: ProbeSettings
) -> str:
    """Hash of everything that comparable rows share: regions, labels, splits and probe settings.

    Includes the POI counts, which are the features of a control.
    """
    regions = city.regions.iloc[kept]
    stored = {
        name: city.regions[name].astype(object).where(city.regions[name].notna(), None).tolist()
        for name in ("split_random", "split_block")
        if name in city.regions
    }
    labels = {target.name: [target.unit, target.transform] for target in city.targets}
    return digest(
        FORMAT_VERSION,
        city.name,
        regions["region_id"].tolist(),
        stored,
        labels,
        *(target.y[kept].tobytes() for target in city.targets),
        city.numbers(poi_columns(regions))[kept].tobytes(),
        [place.block_m, place.buffer_m, SPLIT_RULE] if np.isfinite(place.block_m) else [],
        asdict(settings.mlp),
        asdict(settings.ridge),
    )


def compute(
    comparison: Comparison,
    cells: Sequence[Cell],
    store: ResultStore,
    settings: ProbeSettings,
    progress: Callable[..., Any] = tqdm,
) -> None:
    """Compute the cells without a row and append their rows.

    Args:
        comparison: Systems to compare.
        cells: Indicators and splits, from [`make_cells`].
        store: Store of the rows; predictions are written next to its file.
        settings: Probe settings.
        progress: Progress bar that wraps the iteration over batches of cells.

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
        own = {
            **shared,
            "system": system.name,
            "beside": system.beside,
            "view": system.view,
            "probe": probe_name,
            "embedding_hash": system.hash,
            "uses": list(system.uses),
            "config_hash": _config_hash(probe_name, settings),
        }
        fields = [{**own, **_cell_fields(cell)} for cell in batch]
        missing = [i for i, values in enumerate(fields) if row_key(values) not in store.keys]
        if not missing:
            continue
        tasks = [batch[i].task for i in missing]
        start = time.perf_counter()
        fits = _fit(system.features, probe_name, tasks, settings)
        seconds = (time.perf_counter() - start) / len(missing)
        rows = [
            _row(fields[i], task, fit, seconds)
            for i, task, fit in zip(missing, tasks, fits, strict=True)
        ]
        # predictions first, so that every stored row has predictions
        write_predictions(store.path.parent, comparison.region_ids, rows, tasks, fits)
        store.append(rows)


def _batches(
    comparison: Comparison, cells: Sequence[Cell]
) -> Iterator[tuple[System, str, list[Cell]]]:
    """Cells of one system, probe and protocol, which are computed and written together."""
    for system in comparison.systems:
        for probe_name in system.probes:
            for protocol in comparison.splitters:
                batch = [
                    cell
                    for cell in cells
                    if cell.protocol == protocol and system.scores(cell.target.name)
                ]
                if probe_name != "mlp":  # deterministic: one probe seed suffices
                    batch = [cell for cell in batch if cell.probe_seed < PROBE_SEED_STEP]
                if batch:
                    yield system, probe_name, batch


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
    """Cells that can be computed, and the skipped ones with their reason.

    Args:
        targets: Target indicators, with one value per region of the splits.
        splitters: Protocol to splitter.
        settings: Probe settings with the numbers of seeds.
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
    """Skipped cells of systems whose inputs leak the indicator, in the format of [`skip`]."""
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
    """Record of a cell that is not computed."""
    record = {"indicator": indicator, "protocol": protocol, "split_seed": split_seed}
    return {**record, "reason": reason}


def _make_task(y: NDArray[np.float64], split: Split) -> Task:
    labelled = np.isfinite(y)
    train, validation, test = (rows[labelled[rows]] for rows in split)
    return Task(y, split.train, train, validation, test)


def _why_not(task: Task) -> str | None:
    """Reason why a task cannot be computed; None if it can."""
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


def _config_hash(probe_name: str, settings: ProbeSettings) -> str:
    """Hash of the grid and training settings of a probe."""
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
    "hash_table",
    "leaking_cells",
    "make_cells",
    "skip",
]
