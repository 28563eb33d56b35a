"""Probe every system on every indicator under every split, beside the controls.

What is compared is comparable: all systems of a run share regions, labels and splits. A system
takes part in the views it has; regions that lack a vector of any system in any of its views are
left out for all, and counted.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from dataset_builders.errors import SplitError
from dataset_builders.files import atomic_path, digest, write_json

from ..embed.poi import poi_columns
from ..embed.tables import EmbeddingTable
from ..errors import InputError
from ..urban_regression.metrics import regression_metrics
from .city import City, Target, transform_labels
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
from .predictions import (
    BLOCK_COLUMN,
    PREDICTIONS_FOLDER,
    REGIONS_FILE,
    RESULTS_FILE,
    SUMMARY_FILE,
    write_predictions,
)
from .results import FORMAT_VERSION, ResultRow, ResultStore, code_revision, row_key
from .splits import (
    FRACTIONS,
    SPLIT_RULE,
    Geography,
    block_ids,
    draw_split,
    geography,
    stored_neighbours,
)
from .systems import (
    CONTROL_NAMES,
    NO_VIEW,
    VIEW_CHOICES,
    System,
    common_regions,
    left_out_inputs,
    make_systems,
    views_of,
)
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
    """

    protocols: tuple[str, ...] = ("random", "block")
    probes: tuple[str, ...] = ("mlp", "ridge")
    seeds: int | None = None
    probe_seeds: int = 1
    views: tuple[str, ...] | None = None
    mlp: MLPSettings = field(default_factory=MLPSettings)
    ridge: RidgeSettings = field(default_factory=RidgeSettings)
    device: str = "cpu"


@dataclass(frozen=True)
class Cell:
    """One indicator under one split and one probe seed, with the task that trains it."""

    target: Target
    protocol: str
    split_seed: int
    probe_seed: int
    task: Task


def probe(
    city: City,
    tables: Sequence[EmbeddingTable],
    output: Path,
    settings: ProbeSettings | None = None,
    progress: Callable[..., Any] = tqdm,
) -> Path:
    """Compute the cells that are not in `<output>/results.jsonl` yet.

    Beside the rows it writes `predictions/`, the test predictions in Parquet; `regions.parquet`,
    places and labels for maps; and `probe.json`: what was left out and why.

    Args:
        city: regions and indicators.
        tables: the systems.
        output: folder of the city's results.
        settings: which cells.
        progress: wraps the iteration over batches of cells.

    Returns:
        The path of results.jsonl.

    Raises:
        InputError: no region or no view is left to compare on, or tables do not fit together.
    """
    settings = settings or ProbeSettings()
    views = views_of(tables, settings.views)
    kept, dropped = common_regions(city, tables, views)
    if settings.seeds is None:
        settings = replace(settings, seeds=default_seeds(len(kept)))
    place = geography(city.regions, city.block_m)
    cells, skipped = make_cells(city, kept, place, settings)
    systems = make_systems(city, tables, views, kept, place, settings.probes)
    skipped += _seen(systems, cells)
    table_hash = hash_table(city, kept, place, settings)

    store = ResultStore(output / RESULTS_FILE)
    _write_summary(output, city, tables, views, kept, dropped, skipped, place, settings, table_hash)
    region_ids = city.regions["region_id"].to_numpy()[kept]
    shared = {"city": city.name, "synthetic": city.synthetic, "table_hash": table_hash}
    shared |= {"code_revision": code_revision(), "source_city": ""}
    batches = list(_batches(systems, cells, settings.protocols))
    for system, probe_name, batch in progress(batches, desc=f"probe {city.name}", unit="batch"):
        fields = {**shared, **system_fields(system, probe_name, settings)}
        run_batch(store, system.X, probe_name, batch, fields, region_ids, settings)
    return store.path


def default_seeds(num_regions: int) -> int:
    """Splits where none are asked for: the fewer regions, the more a score depends on the split."""
    return SEEDS_OF_FEW if num_regions < FEW_REGIONS else SEEDS


def run_batch(
    store: ResultStore,
    X: NDArray[np.float64],
    probe_name: str,
    cells: Sequence[Cell],
    shared: Mapping[str, Any],
    region_ids: NDArray[np.object_],
    settings: ProbeSettings,
) -> None:
    """Compute those of the cells that have no row yet, and append their rows.

    Args:
        store: the rows; predictions are written beside them.
        X: `(N, D)` features of the regions.
        probe_name: `mean`, `knn`, `gbm`, `ridge` or `mlp`.
        cells: what is predicted, under which splits.
        shared: the fields of [`ResultRow`] that all cells have in common.
        region_ids: `(N,)`.
        settings: grids and device.

    Raises:
        InputError: the probe is unknown.
    """
    if probe_name != "mlp":  # nothing is drawn: one probe seed is all
        cells = [cell for cell in cells if cell.probe_seed < PROBE_SEED_STEP]
    fields = [{**shared, **_cell_fields(cell)} for cell in cells]
    missing = [i for i, values in enumerate(fields) if row_key(values) not in store.keys]
    if not missing:
        return
    tasks = [cells[i].task for i in missing]
    start = time.perf_counter()
    fits = _fit(X, probe_name, tasks, settings)
    seconds = (time.perf_counter() - start) / len(missing)
    rows = [
        _row(fields[i], task, fit, seconds)
        for i, task, fit in zip(missing, tasks, fits, strict=True)
    ]
    # first the predictions: a row that stands has its predictions on the disk
    write_predictions(store.path.parent, region_ids, rows, tasks, fits)
    store.append(rows)


# ------------------------------------------------------- what is compared on what


def make_cells(
    city: City, kept: NDArray[np.int64], place: Geography, settings: ProbeSettings
) -> tuple[list[Cell], list[dict[str, Any]]]:
    """All cells that can be computed, and those that cannot, with the reason."""
    cells, skipped = [], []
    for protocol in settings.protocols:
        for seed in range(settings.seeds or 0):
            try:
                split = draw_split(city.regions, place, protocol, seed)[kept]
            except SplitError as error:
                names = [target.name for target in city.targets]
                skipped += [skip(name, protocol, seed, str(error)) for name in names]
                continue
            # one array for all tasks of the split: they are standardised together
            fit_rows = np.flatnonzero(split == "train")
            for target in city.targets:
                task = make_task(target.y[kept], split, fit_rows)
                reason = why_not(task)
                if reason:
                    skipped.append(skip(target.name, protocol, seed, reason))
                    continue
                for p in range(settings.probe_seeds):
                    probe_seed = PROBE_SEED_STEP * p + seed
                    seeded = Task(**{**vars(task), "seed": probe_seed})
                    cells.append(Cell(target, protocol, seed, probe_seed, seeded))
    return cells, skipped


def _seen(systems: Sequence[System], cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """The cells of systems whose inputs give the indicator away."""
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


def make_task(
    y: NDArray[np.float64], split: NDArray[np.object_], fit_rows: NDArray[np.int64]
) -> Task:
    """The labelled regions of each part of a split."""
    labelled = np.isfinite(y)
    train, validation, test = (
        np.flatnonzero((split == part) & labelled) for part in ("train", "validation", "test")
    )
    return Task(y, fit_rows, train, validation, test)


def why_not(task: Task) -> str | None:
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


def hash_table(
    city: City, kept: NDArray[np.int64], place: Geography, settings: ProbeSettings
) -> str:
    """Of all that rows must share to be comparable; not of which cells were asked for.

    The counts of points of interest are among it: they are the control's vectors.
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


# ------------------------------------------------------------------- computation


def _batches(
    systems: Sequence[System], cells: Sequence[Cell], protocols: Sequence[str]
) -> Iterator[tuple[System, str, list[Cell]]]:
    """What is computed at once, and written at once: all cells of a system, protocol and probe."""
    for system in systems:
        for probe_name in system.probes:
            for protocol in protocols:
                batch = [
                    cell
                    for cell in cells
                    if cell.protocol == protocol and system.scores(cell.target.name)
                ]
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


def system_fields(system: System, probe_name: str, settings: ProbeSettings) -> dict[str, Any]:
    """The fields of a row that say who was probed, and how."""
    return {
        "system": system.name,
        "view": system.view,
        "probe": probe_name,
        "embedding_hash": system.hash,
        "uses": list(system.uses),
        "config_hash": config_hash(probe_name, settings),
    }


def config_hash(probe_name: str, settings: ProbeSettings) -> str:
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


# ------------------------------------------------------------------------ output


def _write_summary(
    output: Path,
    city: City,
    tables: Sequence[EmbeddingTable],
    views: Mapping[str, Sequence[str]],
    kept: NDArray[np.int64],
    dropped: dict[str, int],
    skipped: list[dict[str, Any]],
    place: Geography,
    settings: ProbeSettings,
    table_hash: str,
) -> None:
    regions = city.regions.iloc[kept][["region_id", "lon", "lat", "geometry"]]
    labels = {target.name: target.y[kept] for target in city.targets}
    with atomic_path(output / REGIONS_FILE) as temporary:
        regions.assign(**labels, **{BLOCK_COLUMN: block_ids(place)[kept]}).to_parquet(temporary)
    summary = {
        "city": city.name,
        "dataset_name": city.dataset_name,
        "synthetic": city.synthetic,
        "table_hash": table_hash,
        "code_revision": code_revision(),
        "views": [view for view in VIEW_CHOICES if any(view in own for own in views.values())],
        "indicators": {t.name: {"unit": t.unit, "transform": t.transform} for t in city.targets},
        "regions": {"all": len(city.regions), "compared": len(kept), "dropped": dropped},
        "invalid_labels": {t.name: t.invalid for t in city.targets if t.invalid},
        "skipped": skipped,
        "left_out_inputs": left_out_inputs(city),
        "block_m": place.block_m if np.isfinite(place.block_m) else None,
        "buffer_m": place.buffer_m if np.isfinite(place.block_m) else None,
        "stored_neighbours": stored_neighbours(city.regions, place),
        "without_coordinates": int((~np.isfinite(place.xy[kept]).all(1)).sum()),
        "settings": asdict(settings),
        "systems": {
            table.label: {
                **table.metadata,
                "embedding_hash": table.hash,
                "views": views[table.label],
                "uses": table.uses,
            }
            for table in tables
        },
    }
    write_json(output / SUMMARY_FILE, _with_earlier(output / SUMMARY_FILE, summary))


def _with_earlier(path: Path, summary: dict[str, Any]) -> dict[str, Any]:
    """Keep the systems of earlier runs that compare with this one: same regions, same settings."""
    if not path.is_file():
        return summary
    earlier = json.loads(path.read_text(encoding="utf-8"))
    if earlier["table_hash"] != summary["table_hash"]:
        return summary
    systems = {**earlier["systems"], **summary["systems"]}
    new = [item for item in summary["skipped"] if item not in earlier["skipped"]]
    return {**summary, "systems": systems, "skipped": [*earlier["skipped"], *new]}


__all__ = [
    "BLOCK_COLUMN",
    "CONTROL_NAMES",
    "NO_VIEW",
    "PREDICTIONS_FOLDER",
    "REGIONS_FILE",
    "RESULTS_FILE",
    "SUMMARY_FILE",
    "Cell",
    "City",
    "ProbeSettings",
    "Target",
    "config_hash",
    "default_seeds",
    "hash_table",
    "make_cells",
    "make_task",
    "probe",
    "run_batch",
    "skip",
    "system_fields",
    "transform_labels",
    "why_not",
]
