"""Embeddings of the regions, from images or rasters."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dataset_builders.photos import PhotoReject
from dataset_builders.schema import VIEWS
from pipelines.common.encoders import Encoder
from pipelines.evaluation.embed.images import EmbedSettings, embed
from pipelines.evaluation.embed.raster import RasterSettings, embed_raster
from pipelines.evaluation.embed.tables import COUNT_COLUMNS, read_embeddings

from .inputs import Inputs

LABEL = "vectors"


@dataclass(frozen=True)
class Vectors:
    """Embeddings of the regions with an image.

    Attributes:
        rows: Row of each among all regions, `(M,)`, ascending.
        X: Embeddings, `(M, D)`; NaN for missing views.
        counts: Number of images per region, `(M,)`.
        rejects: Images without an embedding, and reasons.
    """

    rows: NDArray[np.int64]
    X: NDArray[np.floating]
    counts: NDArray[np.int64]
    rejects: Sequence[PhotoReject] = ()


def embed_regions(
    encoder: Encoder,
    inputs: Inputs,
    folder: Path,
    settings: EmbedSettings,
    log: Callable[[str], None],
) -> Vectors:
    """Mean embeddings of the regions' images, views concatenated; resumes from the folder."""
    path = embed(encoder, inputs.source, folder / "embeddings", LABEL, settings, log)
    return _read_vectors(path, inputs)


def average_rasters(
    rasters: Sequence[str | Path],
    inputs: Inputs,
    folder: Path,
    settings: RasterSettings | None,
    log: Callable[[str], None],
) -> tuple[Vectors, Inputs]:
    """Mean embeddings of raster cells, and the inputs with notes on regions without cells."""
    about = {"synthetic": inputs.synthetic}
    output = folder / "embeddings"
    path = embed_raster(rasters, inputs.regions, output, LABEL, about, settings, log)
    vectors = _read_vectors(path, inputs)
    reasons = Counter(reject.reason for reject in vectors.rejects)
    notes = [f"{n:,} regions are excluded: {why.replace('_', ' ')}." for why, n in reasons.items()]
    inputs = replace(
        inputs,
        notes=[*inputs.notes, *notes],
        region_rejects=[*inputs.region_rejects, *vectors.rejects],
    )
    return replace(vectors, rejects=()), inputs


def _read_vectors(path: Path, inputs: Inputs) -> Vectors:
    table = read_embeddings(path)
    images = pq.read_table(path, columns=list(COUNT_COLUMNS.values()))
    counts = sum(images[name].to_numpy() for name in images.column_names)
    X = np.concatenate([table.vectors[view] for view in table.views if view in VIEWS], axis=1)
    row_of = {name: row for row, name in enumerate(inputs.regions["region_id"])}
    rows = np.array([row_of[name] for name in table.region_ids])
    kept = np.flatnonzero(np.isfinite(X).any(1))
    kept = kept[np.argsort(rows[kept])]
    unusable = pq.read_table(path.with_name(f"{LABEL}.rejects.parquet")).to_pylist()
    rejects = [PhotoReject(one["item"], one["reason"], one["detail"]) for one in unusable]
    return Vectors(rows[kept], X[kept], np.asarray(counts)[kept], rejects)


__all__ = ["Vectors", "average_rasters", "embed_regions"]
