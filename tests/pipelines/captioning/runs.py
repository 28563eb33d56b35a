"""Helpers for tests of complete runs: a recipe on a small synthetic city, and its tables."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

MODELS = ("synthetic-amber", "synthetic-cedar")
FEW = {
    "max_images": 2,
    "refine": False,
    "views": ["satellite"],
    "run": {"images_per_shard": 2, "images_in_flight": 2, "gallery_size": 1},
}
"""Changes for a run that takes a second."""


def recipe_values(dataset: Path, output_dir: Path, **changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "dataset_name": str(dataset),
        "output_dir": str(output_dir),
        "synthetic": True,
        "models": [{"name": name, "client": "simulated"} for name in MODELS],
        "generate": {"captions_per_model": 2},
        "filter": {"detector": "simulated"},
        "max_images": 2,
        "run": {"images_per_shard": 2, "images_in_flight": 4, "gallery_size": 4},
    }
    return values | changes


def write_recipe(path: Path, values: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(values))
    return path


def table(output_dir: Path) -> list[dict[str, Any]]:
    """All candidates of a run, without durations."""
    rows = []
    for path in sorted(output_dir.glob("shards/*/candidates.parquet")):
        for row in pq.read_table(path).to_pylist():
            usage = json.loads(row["usage"])
            del usage["seconds"]
            rows.append(row | {"usage": usage})
    return rows


def rejects(output_dir: Path) -> list[dict[str, Any]]:
    paths = sorted(output_dir.glob("shards/*/rejects.parquet"))
    return [row for path in paths for row in pq.read_table(path).to_pylist()]
