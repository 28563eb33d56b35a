"""Fit a baseline on a city and write its embedding table."""

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from dataset_builders.files import digest
from dataset_builders.schema import VIEWS

from ..embed.poi import POI, PREFIX
from ..embed.tables import earlier_metadata, rename_training, write_embeddings
from ..embed.trainings import Training
from ..errors import InputError
from .data import load_region_data
from .registry import build, read_settings


def run_baseline(
    system: str,
    size: str,
    dataset_name: str,
    city: str,
    output_dir: str | Path,
    *,
    label: str | None = None,
    training: Training | None = None,
    seed: int = 0,
    device: str = "cpu",
    cache_dir: str | Path | None = None,
    overrides: dict[str, Any] | None = None,
    log: Callable[[str], None] = print,
) -> Path:
    """Fit a system on a city without labels, and write one vector per region.

    An existing table of the same system, settings, seed and data is kept.

    Args:
        system: Name in [`SYSTEMS`][pipelines.evaluation.baselines.registry.SYSTEMS].
        size: Size of the recipe, "paper" or "cpu".
        dataset_name: Folder or Hub id of a dataset.
        city: City of the dataset.
        output_dir: Output folder; the table is `output_dir/city/label.parquet`.
        label: Name in tables and plots. Default: name of the system.
        training: Training metadata to store with the table.
        seed: Seed of weights, pairs and batches.
        device: Device of the models.
        cache_dir: Folder of decoded pixels, shared by all systems. Default: `output_dir/pixels`.
        overrides: Settings that override those of the recipe.
        log: Receives progress messages.

    Returns:
        Path of the table.

    Raises:
        InputError: Unknown system or setting, unsuitable data, or the path holds another file.
    """
    settings = read_settings(system, size, **(overrides or {}))
    encoder = build(system, settings, seed, device)
    label = label or encoder.name
    path = Path(output_dir) / city / f"{label}.parquet"
    cache = Path(output_dir) / "pixels" if cache_dir is None else Path(cache_dir)
    data = load_region_data(dataset_name, city, settings.image_size, cache)
    fingerprint = digest(encoder.fingerprint, data.fingerprint)
    if earlier := earlier_metadata(path):
        if (earlier.get("fingerprint"), earlier.get("label")) == (fingerprint, label):
            log(f"{path} already exists, from the same system, settings, seed and city.")
            rename_training(path, training)
            return path
        log(f"{path} is from other settings, seed or data and will be replaced.")
    start = time.perf_counter()
    encoder.fit(data)
    fitted = time.perf_counter()
    vectors = encoder.encode(data)
    provenance = encoder.provenance
    metadata = {
        "label": label,
        "encoder": encoder.name,
        "dataset": str(dataset_name),
        "city": city,
        "synthetic": data.synthetic,
        "system": system,
        "size": size,
        "settings": asdict(settings),
        "seed": seed,
        "fit_seconds": round(fitted - start, 3),
        "seconds": round(time.perf_counter() - start, 3),
        "fingerprint": fingerprint,
        "provenance": {"source": provenance.source, "differs": list(provenance.differs)},
        "uses": sorted(provenance.uses),
        "pretrained": provenance.pretrained or "random weights",
        **(training.metadata() if training else {}),
    }
    if POI in provenance.uses:
        metadata["poi_columns"] = [f"{PREFIX}{category}" for category in data.poi_categories]
        metadata["poi_left_out"] = list(data.poi_left_out)
    if not vectors:
        raise InputError(
            f"{label} returned no vectors: {city} lacks images of its views and has only "
            f"{', '.join(sorted(data.views)) or 'none'}."
        )
    missing = {view: ~np.isfinite(x).all(axis=1) for view, x in sorted(vectors.items())}
    counts = {
        view: np.bincount(data.views[view].region, minlength=len(data.region_ids))
        for view in sorted(set(vectors) & set(VIEWS))
    }
    for view, count in counts.items():
        # regions have vectors if and only if they have images
        if not np.array_equal(missing[view], count == 0):
            raise InputError(
                f"{label} returned no {view} vector for {int(missing[view].sum())} regions, but "
                f"{int((count == 0).sum())} have no image. Training may have diverged."
            )
    metadata["dim"] = next(iter(vectors.values())).shape[1]
    metadata["images"] = {view: int(count.sum()) for view, count in counts.items()}
    metadata["regions_without"] = {view: int(none.sum()) for view, none in missing.items()}
    write_embeddings(path, data.region_ids, counts, vectors, metadata)
    log(f"Wrote {path}: {encoder.name}, {metadata['pretrained']}.")
    for view, none in missing.items():
        without = f"; {int(none.sum())} regions have no vector" if none.any() else ""
        log(f"  {view}: {int((~none).sum())} regions, {vectors[view].shape[1]} dimensions{without}")
    log(f"  uses {', '.join(metadata['uses'])}; {metadata['seconds']:.1f} s")
    if left_out := metadata.get("poi_left_out"):
        log(f"  without {', '.join(left_out)}, which would leak an indicator")
    return path


__all__ = ["run_baseline"]
