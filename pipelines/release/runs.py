"""What a finished run says of itself: training, data, scores; read from its files alone."""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from dataset_builders.errors import DatasetError
from dataset_builders.schema import DatasetMetadata
from dataset_builders.storage import list_cities, read_metadata

from .errors import ReleaseError

SUMMARY, ARGUMENTS, METRICS = "training_summary.json", "train_arguments.yaml", "metrics.jsonl"
CONTROLS = ("mean", "coordinates")
Cell = tuple[str, str, str, str]


@dataclass(frozen=True)
class Score:
    """R2 of a system on an indicator.

    Attributes:
        mean: over the seeds.
        sd: over the seeds.
        seeds: number.
        n_test: regions scored, on average.
    """

    mean: float
    sd: float
    seeds: int
    n_test: float


@dataclass(frozen=True)
class CityScores:
    """The scores of a city, of every system and control.

    Attributes:
        city: its name.
        synthetic: the data is simulated.
        scores: by protocol, view, system and indicator; of the ridge probe, and of the controls'
            own.
        indicators: in their order.
    """

    city: str
    synthetic: bool
    scores: dict[Cell, Score]
    indicators: tuple[str, ...]

    @property
    def protocols(self) -> list[str]:
        """Those that were run, in their order."""
        return list(dict.fromkeys(protocol for protocol, _, _, _ in self.scores))

    def systems(self, protocol: str, view: str) -> list[str]:
        """Those with a score, controls first."""
        found = [s for p, v, s, _ in self.scores if p == protocol and v in (view, "none")]
        names = list(dict.fromkeys(found))
        return sorted(names, key=lambda name: (name not in CONTROLS, names.index(name)))


@dataclass(frozen=True)
class Run:
    """A finished training run and what was measured of it.

    Attributes:
        folder: of the model.
        summary: of the training.
        arguments: of the training.
        config: of the model.
        retrieval: on validation, at the end.
        dataset: what it was trained on; None where the dataset is not at hand.
        cities: scores; empty where nothing was measured.
    """

    folder: Path
    summary: dict[str, Any]
    arguments: dict[str, Any]
    config: dict[str, Any]
    retrieval: dict[str, float] = field(default_factory=dict)
    dataset: DatasetMetadata | None = None
    cities: tuple[CityScores, ...] = ()

    @property
    def synthetic(self) -> bool:
        """The model was trained or measured on simulated data."""
        return (self.dataset is not None and self.dataset.synthetic) or any(
            one.synthetic for one in self.cities
        )


def read_run(folder: str | Path, results: str | Path | None = None) -> Run:
    """Read a run.

    Args:
        folder: that `train.py` wrote.
        results: the `--output_dir` of `evaluate.py probe`.

    Raises:
        ReleaseError: the folder holds no finished model, or the results hold a system without
            its controls.
    """
    folder = Path(folder)
    missing = [
        name for name in ("config.json", "model.safetensors") if not (folder / name).exists()
    ]
    if missing:
        pickled = sorted(path.name for path in folder.glob("*.bin")) if folder.is_dir() else []
        hint = f" Weights in pickle ({pickled[0]}) are not published." if pickled else ""
        raise ReleaseError(f"{folder} lacks {', '.join(missing)}: it is no finished model.{hint}")
    arguments = _read(folder / ARGUMENTS, yaml.safe_load)
    summary = _read(folder / SUMMARY, json.loads)
    cities = [] if results is None else [_read_city(path) for path in _result_files(Path(results))]
    return Run(
        folder,
        summary,
        arguments,
        _read(folder / "config.json", json.loads),
        _last_retrieval(folder / METRICS),
        _dataset(summary.get("dataset_name")),
        tuple(cities),
    )


def _read(path: Path, parse: Any) -> dict[str, Any]:
    return dict(parse(path.read_text(encoding="utf-8"))) if path.exists() else {}


def _lines(path: Path) -> Iterable[dict[str, Any]]:
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            yield json.loads(line)


def _last_retrieval(path: Path) -> dict[str, float]:
    found: dict[str, float] = {}
    for line in _lines(path):
        recalls = {name: value for name, value in line.items() if "recall" in name}
        found = recalls or found
    return found


def _dataset(name: Any) -> DatasetMetadata | None:
    if not name:
        return None
    try:
        return read_metadata(name, list_cities(name)[0])
    except (DatasetError, OSError):
        return None


def _result_files(results: Path) -> list[Path]:
    files = sorted(results.glob("*/results.jsonl"))
    if not files:
        raise ReleaseError(
            f"There are no results in {results} (CITY/results.jsonl). Give the --output_dir of "
            "`evaluate.py probe`."
        )
    return files


def _read_city(path: Path) -> CityScores:
    r2: dict[Cell, list[float]] = defaultdict(list)
    tests: dict[Cell, list[int]] = defaultdict(list)
    synthetic = False
    indicators: dict[str, None] = {}
    for row in _lines(path):
        if row["probe"] == "mlp" or row["r2"] is None:
            continue
        cell = (row["protocol"], row["view"], row["system"], row["indicator"])
        r2[cell].append(row["r2"])
        tests[cell].append(row["n_test"])
        indicators[row["indicator"]] = None
        synthetic |= bool(row["synthetic"])
    scores = {
        cell: Score(float(np.mean(v)), _sd(v), len(v), float(np.mean(tests[cell])))
        for cell, v in r2.items()
    }
    found = CityScores(path.parent.name, synthetic, scores, tuple(indicators))
    _check_controls(found, path)
    return found


def _sd(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def _check_controls(found: CityScores, path: Path) -> None:
    for protocol in found.protocols:
        systems: Sequence[str] = [s for p, _, s, _ in found.scores if p == protocol]
        absent = [name for name in CONTROLS if name not in systems]
        if absent:
            raise ReleaseError(
                f"{path} has scores under {protocol!r} without the control {', '.join(absent)}: "
                "a model's score is not shown without them. Run `evaluate.py probe` again."
            )


__all__ = ["CONTROLS", "CityScores", "Run", "Score", "read_run"]
