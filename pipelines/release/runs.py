"""Metadata of a training run, read from its files."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dataset_builders.errors import DatasetError
from dataset_builders.schema import DatasetMetadata
from dataset_builders.storage import list_cities, read_metadata
from dataset_builders.yaml_records import read_yaml

from ..common.errors import InputError
from .scores import CityScores, read_scores

SUMMARY, ARGUMENTS, METRICS = "training_summary.json", "train_arguments.yaml", "metrics.jsonl"
EXPORTS, FIGURES = "export.json", "figures"


@dataclass(frozen=True)
class Run:
    """Training run and its evaluation.

    Attributes:
        folder: Model folder.
        summary: Summary of the training.
        arguments: Arguments of the training.
        config: Configuration of the model.
        retrieval: Last validation retrieval.
        dataset: Metadata of the training dataset, if it is available.
        cities: Scores by city.
        exports: Deviation of each export from the model.
        figures: Figures of the results.
    """

    folder: Path
    summary: dict[str, Any]
    arguments: dict[str, Any]
    config: dict[str, Any]
    retrieval: dict[str, float] = field(default_factory=dict)
    dataset: DatasetMetadata | None = None
    cities: tuple[CityScores, ...] = ()
    exports: tuple[dict[str, Any], ...] = ()
    figures: tuple[Path, ...] = ()

    @property
    def synthetic(self) -> bool:
        """Whether the model was trained or evaluated on simulated data."""
        return (self.dataset is not None and self.dataset.synthetic) or any(
            one.synthetic for one in self.cities
        )


def read_run(
    folder: str | Path, results: str | Path | None = None, system: str | None = None
) -> Run:
    """Read a training run.

    Args:
        folder: Output folder of `train.py`.
        results: Output folder of `evaluate.py probe` and `report`.
        system: See [`read_scores`][pipelines.release.scores.read_scores].

    Raises:
        InputError: If the folder contains no finished model or a damaged file, or the results lack
            controls or intervals.
    """
    folder = Path(folder)
    needed = ("config.json", "model.safetensors")
    if missing := [name for name in needed if not (folder / name).exists()]:
        pickled = sorted(path.name for path in folder.glob("*.bin")) if folder.is_dir() else []
        hint = f" Pickled weights ({pickled[0]}) are not published." if pickled else ""
        raise InputError(f"{folder} lacks {', '.join(missing)}: not a finished model.{hint}")
    arguments = read_yaml(folder / ARGUMENTS) if (folder / ARGUMENTS).exists() else {}
    summary = _read(folder / SUMMARY, {})
    cities = () if results is None else read_scores(Path(results), system)
    figures = [] if results is None else sorted((Path(results) / FIGURES).glob("*.png"))
    return Run(
        folder,
        summary,
        arguments,
        _read(folder / "config.json", {}),
        _last_retrieval(folder / METRICS),
        _dataset(summary.get("dataset_name")),
        cities,
        tuple(_read(folder / EXPORTS, [])),
        tuple(figures),
    )


def _read(path: Path, default: Any) -> Any:
    if not path.exists():
        return default
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, type(default)):
        raise InputError(f"{path} is damaged: it must contain a {type(default).__name__} in JSON.")
    return found


def _last_retrieval(path: Path) -> dict[str, float]:
    found: dict[str, float] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        recalls = {name: value for name, value in json.loads(line).items() if "recall" in name}
        found = recalls or found
    return found


def _dataset(name: Any) -> DatasetMetadata | None:
    if not name:
        return None
    try:
        return read_metadata(name, list_cities(name)[0])
    except (DatasetError, OSError):
        return None


__all__ = ["Run", "read_run"]
