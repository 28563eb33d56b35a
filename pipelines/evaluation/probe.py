"""Probe every system on every indicator under every split, beside the controls.

What is compared is comparable: all systems of a run share regions, labels and splits. A system
takes part in the views it has; regions that lack a vector of any system in any of its views are
left out for all, and counted.
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from tqdm import tqdm

from dataset_builders.errors import SplitError
from dataset_builders.files import atomic_path, digest, write_json

from .controls import fit_coordinates, fit_mean
from .embedding_tables import BOTH, EmbeddingTable
from .errors import InputError
from .probing import Fit, MLPSettings, RidgeSettings, Task, fit_mlp, fit_ridge
from .results import ResultRow, ResultStore, row_key
from .splits import Geography, draw_split, geography
from .urban_regression.metrics import regression_metrics

NO_VIEW = "none"
VIEW_CHOICES = ("street_view", "satellite", BOTH)
PROBE_SEED_STEP = 1000
FORMAT_VERSION = 1  # of what a row means; a new one starts a new table
SEEN_AS_INPUT = ("poi",)  # indicators that a system may have been given
CONTROL_NAMES = ("mean", "coordinates")
SUMMARY_FILE, RESULTS_FILE, REGIONS_FILE = "probe.json", "results.jsonl", "regions.parquet"
PREDICTIONS_FOLDER = "predictions"


@dataclass(frozen=True)
class Target:
    """An indicator as it is scored.

    Attributes:
        name: of the indicator.
        unit: of its raw values.
        transform: `ln1p` or `identity`.
        y: `(N,)` transformed; nan where missing.
        invalid: labels that have no logarithm (below 0), taken as missing.
    """

    name: str
    unit: str
    transform: str
    y: NDArray[np.float64]
    invalid: int = 0


@dataclass(frozen=True)
class City:
    """What is predicted, and where.

    Attributes:
        name: of the city.
        dataset_name: where it comes from.
        synthetic: the data is simulated.
        regions: all regions, with region_id, lon, lat, geometry and stored splits.
        targets: the indicators.
        block_m: side of the blocks that the dataset holds out, where it names one.
    """

    name: str
    dataset_name: str
    synthetic: bool
    regions: gpd.GeoDataFrame
    targets: list[Target]
    block_m: float | None = None


@dataclass(frozen=True)
class ProbeSettings:
    """Which cells of the table are computed.

    Attributes:
        protocols: of `random`, `block`.
        probes: of `mlp`, `ridge`.
        seeds: split seeds 0, 1, ...
        probe_seeds: probe seeds for each split seed.
        views: of `street_view`, `satellite`, `both`; None: all. A system takes part in those of
            them that it has.
        mlp: the MLP probe.
        ridge: the ridge probe.
        device: where the probes are trained.
    """

    protocols: tuple[str, ...] = ("random", "block")
    probes: tuple[str, ...] = ("mlp", "ridge")
    seeds: int = 5
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


@dataclass(frozen=True)
class System:
    """A row of the table: an embedding table's view, or a control.

    Attributes:
        name: label of the embedding table, or the control's name.
        view: of the table; `none` for controls that see no image.
        hash: of the vectors.
        X: `(N, D)` vectors of the regions that are compared.
        uses: what the system has seen.
    """

    name: str
    view: str
    hash: str
    X: NDArray[np.float64] | None = None
    uses: tuple[str, ...] = ()

    def scores(self, indicator: str) -> bool:
        """Whether it may be scored on an indicator: not on one that it has seen."""
        return indicator not in self.uses or indicator not in SEEN_AS_INPUT


def transform_labels(raw: NDArray[np.float64], transform: str) -> tuple[NDArray[np.float64], int]:
    """ln(y + 1), or the values as they are.

    Returns:
        The labels, nan where missing, and how many were taken as missing though present: they are
        negative where a logarithm is asked for, or infinite.

    Raises:
        InputError: the transform is unknown.
    """
    if transform not in ("ln1p", "identity"):
        raise InputError(f"Unknown transform {transform!r}; known are 'ln1p' and 'identity'.")
    present = ~np.isnan(raw)
    usable = np.isfinite(raw) & ((raw >= 0) | (transform == "identity"))
    y = np.where(usable, raw, np.nan)
    return (np.log1p(y) if transform == "ln1p" else y), int((present & ~usable).sum())


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
    views = _views(tables, settings.views)
    kept, dropped = _common_regions(city, tables, views)
    place = geography(city.regions, city.block_m)
    cells, skipped = _cells(city, kept, place, settings)
    systems = _systems(city, tables, views, kept, place)
    skipped += _seen(systems, cells)
    table_hash = _table_hash(city, kept, place, settings)

    store = ResultStore(output / RESULTS_FILE)
    _write_summary(output, city, tables, views, kept, dropped, skipped, place, settings, table_hash)
    region_ids = city.regions["region_id"].to_numpy()[kept]
    batches = list(_batches(systems, cells, settings))
    bar = progress(batches, desc=f"probe {city.name}", unit="batch")
    for system, probe_name, batch in bar:
        if probe_name != "mlp":  # nothing is drawn: one probe seed is all
            batch = [cell for cell in batch if cell.probe_seed < PROBE_SEED_STEP]
        shared = _system_fields(city, system, probe_name, table_hash)
        fields = {id(cell): {**shared, **_cell_fields(cell)} for cell in batch}
        missing = [cell for cell in batch if row_key(fields[id(cell)]) not in store.keys]
        if not missing:
            continue
        start = time.perf_counter()
        fits = _fit(system, probe_name, [cell.task for cell in missing], place.xy[kept], settings)
        seconds = (time.perf_counter() - start) / len(missing)
        rows = [
            _row(fields[id(cell)], cell, fit, seconds)
            for cell, fit in zip(missing, fits, strict=True)
        ]
        # first the predictions: a row that stands has its predictions on the disk
        _write_predictions(output / PREDICTIONS_FOLDER, region_ids, missing, rows, fits)
        store.append(rows)
    return store.path


# ------------------------------------------------------- what is compared on what


def _views(tables: Sequence[EmbeddingTable], wanted: Sequence[str] | None) -> dict[str, list[str]]:
    """The views in which each system takes part, by its label."""
    if not tables:
        raise InputError("No embedding table given. Make one with `python evaluate.py embed`.")
    labels = [table.label for table in tables]
    twice = [name for name, n in Counter(labels).items() if n > 1]
    if twice:
        raise InputError(f"Several tables are labelled {twice[0]!r}: give each its own --label.")
    clash = sorted(set(labels) & set(CONTROL_NAMES))
    if clash:
        raise InputError(f"The label {clash[0]!r} is that of a control: choose another --label.")
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


def _common_regions(
    city: City, tables: Sequence[EmbeddingTable], views: Mapping[str, Sequence[str]]
) -> tuple[NDArray[np.int64], dict[str, int]]:
    """Rows of the regions of which every system has all its views; others counted."""
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


def _systems(
    city: City,
    tables: Sequence[EmbeddingTable],
    views: Mapping[str, Sequence[str]],
    kept: NDArray[np.int64],
    place: Geography,
) -> list[System]:
    systems = [System("mean", NO_VIEW, "")]
    if place.complete(kept):
        systems.append(System("coordinates", NO_VIEW, ""))
    wanted = city.regions["region_id"].to_numpy()[kept]
    for table in tables:
        position = {region_id: row for row, region_id in enumerate(table.region_ids)}
        rows = [position[region_id] for region_id in wanted]
        systems += [
            System(table.label, view, table.hash, table.matrix(view)[rows], tuple(table.uses))
            for view in views[table.label]
        ]
    return systems


def _cells(
    city: City, kept: NDArray[np.int64], place: Geography, settings: ProbeSettings
) -> tuple[list[Cell], list[dict[str, Any]]]:
    """All cells that can be computed, and those that cannot, with the reason."""
    cells, skipped = [], []
    for protocol in settings.protocols:
        for seed in range(settings.seeds):
            try:
                split = draw_split(city.regions, place, protocol, seed)[kept]
            except SplitError as error:
                names = [target.name for target in city.targets]
                skipped += [_skip(name, protocol, seed, str(error)) for name in names]
                continue
            # one array for all tasks of the split: they are standardised together
            fit_rows = np.flatnonzero(split == "train")
            for target in city.targets:
                task = _task(target.y[kept], split, fit_rows)
                reason = _why_not(task)
                if reason:
                    skipped.append(_skip(target.name, protocol, seed, reason))
                    continue
                for p in range(settings.probe_seeds):
                    probe_seed = PROBE_SEED_STEP * p + seed
                    seeded = Task(**{**vars(task), "seed": probe_seed})
                    cells.append(Cell(target, protocol, seed, probe_seed, seeded))
    return cells, skipped


def _seen(systems: Sequence[System], cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """The cells of systems that were given the indicator."""
    reasons: dict[tuple[str, str, int], dict[str, Any]] = {}
    for system in systems:
        for cell in cells:
            name = cell.target.name
            if not system.scores(name):
                reason = f"{system.name} uses {name}, so it is not scored on it"
                key = (reason, cell.protocol, cell.split_seed)
                reasons[key] = _skip(name, cell.protocol, cell.split_seed, reason)
    return list(reasons.values())


def _skip(indicator: str, protocol: str, split_seed: int, reason: str) -> dict[str, Any]:
    return {
        "indicator": indicator,
        "protocol": protocol,
        "split_seed": split_seed,
        "reason": reason,
    }


def _task(y: NDArray[np.float64], split: NDArray[np.object_], fit_rows: NDArray[np.int64]) -> Task:
    labelled = np.isfinite(y)
    train, validation, test = (
        np.flatnonzero((split == part) & labelled) for part in ("train", "validation", "test")
    )
    return Task(y, fit_rows, train, validation, test)


def _why_not(task: Task) -> str | None:
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


def _table_hash(
    city: City, kept: NDArray[np.int64], place: Geography, settings: ProbeSettings
) -> str:
    """Of all that rows must share to be comparable; not of which cells were asked for."""
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
        [place.block_m, place.buffer_m] if np.isfinite(place.block_m) else [],
        asdict(settings.mlp),
        asdict(settings.ridge),
    )


# ------------------------------------------------------------------- computation


def _batches(
    systems: Sequence[System], cells: Sequence[Cell], settings: ProbeSettings
) -> Iterator[tuple[System, str, list[Cell]]]:
    """What is computed at once, and written at once: all cells of a system, protocol and probe."""
    for system in systems:
        control = {"mean": ("mean",), "coordinates": ("knn",)}
        for probe_name in control.get(system.name, settings.probes):
            for protocol in settings.protocols:
                batch = [
                    cell
                    for cell in cells
                    if cell.protocol == protocol and system.scores(cell.target.name)
                ]
                if batch:
                    yield system, probe_name, batch


def _fit(
    system: System,
    probe_name: str,
    tasks: Sequence[Task],
    xy: NDArray[np.float64],
    settings: ProbeSettings,
) -> list[Fit]:
    if probe_name == "mean":
        return fit_mean(tasks)
    if probe_name == "knn":
        return fit_coordinates(xy, tasks)
    if system.X is None:
        raise ValueError(f"{system.name} has no vectors.")
    if probe_name == "mlp":
        return fit_mlp(system.X, tasks, settings.mlp, settings.device)
    if probe_name == "ridge":
        return fit_ridge(system.X, tasks, settings.ridge, settings.device)
    raise InputError(f"Unknown probe {probe_name!r}; known are 'mlp' and 'ridge'.")


def _system_fields(city: City, system: System, probe_name: str, table_hash: str) -> dict[str, Any]:
    return {
        "system": system.name,
        "view": system.view,
        "city": city.name,
        "probe": probe_name,
        "table_hash": table_hash,
        "embedding_hash": system.hash,
        "synthetic": city.synthetic,
    }


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


def _row(fields: dict[str, Any], cell: Cell, fit: Fit, seconds: float) -> ResultRow:
    scores = regression_metrics(fit.predictions, cell.task.y[cell.task.test])
    values: dict[str, Any] = {name: float(value) for name, value in scores.items()}
    values |= {"hyperparameters": fit.hyperparameters, "seconds": round(seconds, 4)}
    return ResultRow(**fields, **values)


# ------------------------------------------------------------------------ output


def _write_predictions(
    folder: Path,
    region_ids: NDArray[np.object_],
    cells: Sequence[Cell],
    rows: Sequence[ResultRow],
    fits: Sequence[Fit],
) -> None:
    lengths = [len(cell.task.test) for cell in cells]
    columns: dict[str, Any] = {
        name: pa.array(np.repeat([getattr(row, name) for row in rows], lengths).tolist())
        for name in (
            "table_hash",
            "embedding_hash",
            "system",
            "view",
            "indicator",
            "protocol",
            "probe",
            "split_seed",
            "probe_seed",
        )
    }
    columns["region_id"] = np.concatenate([region_ids[cell.task.test] for cell in cells])
    columns["truth"] = np.concatenate([cell.task.y[cell.task.test] for cell in cells])
    columns["prediction"] = np.concatenate([fit.predictions for fit in fits])
    name = digest([row.key for row in rows])
    with atomic_path(folder / f"{name}.parquet") as temporary:
        pq.write_table(pa.table(columns), temporary)


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
        regions.assign(**labels).to_parquet(temporary)
    summary = {
        "city": city.name,
        "dataset_name": city.dataset_name,
        "synthetic": city.synthetic,
        "table_hash": table_hash,
        "views": [view for view in VIEW_CHOICES if any(view in own for own in views.values())],
        "indicators": {t.name: {"unit": t.unit, "transform": t.transform} for t in city.targets},
        "regions": {"all": len(city.regions), "compared": len(kept), "dropped": dropped},
        "invalid_labels": {t.name: t.invalid for t in city.targets if t.invalid},
        "skipped": skipped,
        "block_m": place.block_m if np.isfinite(place.block_m) else None,
        "buffer_m": place.buffer_m if np.isfinite(place.buffer_m) else None,
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


__all__ = ["City", "ProbeSettings", "Target", "probe", "transform_labels"]
