"""Score systems on tasks and splits; existing result rows are not recomputed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dataset_builders.files import digest
from pipelines.common.errors import InputError

from .heads import fit_mlp, fit_ridge
from .scores import COLUMNS, Row, Store, block_sums, metrics
from .splits import BUFFER_M, PROTOCOLS, SEEDS, Split, block_ids, draw_split
from .systems import CONTROLS, Control, NoVectorsError, Vectors, aligned
from .tasks import Floats, Skipped, Task, find_tasks, read_task

FORMAT = 2  # version of the result rows
ROWS_FILE = "results.jsonl"

System = Control | Vectors
Splits = dict[tuple[str, int], Split]  # by protocol and seed


@dataclass(frozen=True)
class Settings:
    """Settings of a run.

    Attributes:
        cities: Cities to score; all by default.
        tasks: Tasks to score; all by default.
        protocols: Split protocols, of `splits.PROTOCOLS`.
        seeds: Seeds of the splits and of the MLP head.
        head: Probe of embeddings, `ridge` or `mlp`.
        buffer_m: Buffer of the protocol `block`, in metres.
        device: Torch device of the MLP head.
    """

    cities: Sequence[str] | None = None
    tasks: Sequence[str] | None = None
    protocols: Sequence[str] = PROTOCOLS
    seeds: Sequence[int] = SEEDS
    head: str = "ridge"
    buffer_m: float = BUFFER_M
    device: str = "cpu"


@dataclass
class Scored:
    """Result rows of a run, and tasks that could not be scored."""

    rows: list[Row] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)


def run(
    data: Path,
    output: Path,
    settings: Settings,
    systems: Sequence[System] = CONTROLS,
    progress: bool = True,
) -> Scored:
    """Score all systems on all tasks.

    Args:
        data: Folder of the release.
        output: Output folder. Rows are appended to its `results.jsonl`; existing rows are only
            recomputed if labels, embeddings or settings have changed.
        settings: Settings of the run.
        systems: Controls and embeddings to score.
        progress: Whether to show a progress bar.

    Raises:
        InputError: There is no task to score, or a system's files are damaged.
    """
    folders, skipped = find_tasks(data, settings.cities, settings.tasks)
    found, store = Scored(skipped=skipped), Store(output / ROWS_FILE)
    with tqdm(total=len(folders) * len(systems), unit="system", disable=not progress) as bar:
        for folder in folders:
            task = read_task(folder)
            splits, unsplit = _splits(task, settings)
            found.skipped += unsplit
            for system in systems:
                bar.set_description(f"{task.task_id} {system.name}")
                try:
                    found.rows += _score(task, system, splits, settings, store, output)
                except NoVectorsError as error:
                    found.skipped.append(Skipped(task.task_id, str(error)))
                bar.update()
    return found


def _splits(task: Task, settings: Settings) -> tuple[Splits, list[Skipped]]:
    splits, skipped = Splits(), []
    for protocol in settings.protocols:
        try:
            for seed in settings.seeds:
                splits[protocol, seed] = draw_split(task, protocol, seed, settings.buffer_m)
        except InputError as error:
            skipped.append(Skipped(task.task_id, f"{protocol}, seed {seed}: {error}"))
    return splits, skipped


def _score(
    task: Task, system: System, splits: Splits, settings: Settings, store: Store, scratch: Path
) -> list[Row]:
    if isinstance(system, Control):
        probe, vectors = system.probe, ""
    else:
        probe, vectors = settings.head, system.fingerprint
    keys = {}
    for protocol, seed in splits:
        buffer_m = settings.buffer_m if protocol == "block" else 0.0
        fingerprint = digest(FORMAT, task.fingerprint, vectors, buffer_m)
        cell = (task.city, task.name, protocol, system.name, probe, str(seed))
        keys[protocol, seed] = (*cell, fingerprint)
    missing = {where: splits[where] for where, key in keys.items() if key not in store.rows}
    for part, predictions, absent in _predict(task, system, missing, settings, scratch):
        store.append(
            _row(task, splits[where], predicted, absent, keys[where])
            for where, predicted in zip(part, predictions, strict=True)
        )
    return [store.rows[key] for key in keys.values()]


def _predict(
    task: Task, system: System, splits: Splits, settings: Settings, scratch: Path
) -> Iterator[tuple[Splits, list[Floats], int]]:
    """Yield splits with their predictions and the number of cells without a vector."""
    if not splits:
        return
    if isinstance(system, Control):
        yield splits, system.predict(task, list(splits.values())), 0
        return
    with aligned(system, task, scratch) as (X, absent):
        if settings.head == "ridge":
            yield splits, fit_ridge(X, task.target, list(splits.values())), absent
            return
        for (protocol, seed), split in splits.items():
            predicted = fit_mlp(X, task.target, split, seed, settings.device)
            yield {(protocol, seed): split}, [predicted], absent


def _row(task: Task, split: Split, predicted: Floats, absent: int, key: tuple[str, ...]) -> Row:
    truth = task.target[split.test].astype(float)
    sums = block_sums(truth, predicted, block_ids(task)[split.test])
    r2, rmse, mae = metrics(sums.sum(0))
    *names, seed, fingerprint = key
    scores = {"r2": float(r2), "rmse": float(rmse), "mae": float(mae), "missing": absent}
    sizes = {f"n_{name}": len(rows) for name, rows in vars(split).items()}
    found: dict[str, Any] = dict(zip(COLUMNS, names, strict=False))
    found |= {"seed": int(seed), "fingerprint": fingerprint, **scores, **sizes}
    tested = sums[:, 0].nonzero()[0].tolist()
    return Row(**found, sums=[[block, *sums[block].tolist()] for block in tested])


__all__ = ["Scored", "Settings", "run"]
