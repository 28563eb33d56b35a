"""Encoder, and embeddings of the regions from images or rasters."""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dataset_builders.photos import PhotoReject
from dataset_builders.schema import VIEWS
from pipelines.common.encoders import Encoder, load_encoder
from pipelines.common.errors import InputError
from pipelines.evaluation.embed.images import EmbedSettings, embed
from pipelines.evaluation.embed.raster import RasterSettings, embed_raster
from pipelines.evaluation.embed.tables import COUNT_COLUMNS, read_embeddings

from .inputs import Inputs

LABEL = "vectors"
OFFLINE_ENCODER = "efficientnet_lite0"
HUB_TIMEOUT_S = 3.0
RECOMMENDED = {
    "facebook/dinov2-base": "self-supervised vision model",
    "openai/clip-vit-base-patch16": "image-text model, the base of UrbanLN",
}
Log = Callable[[str], None]


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


def open_encoder(
    encoder: str | Encoder | None,
    device: str | None,
    seed: int,
    trust_remote_code: bool,
    log: Log,
) -> Encoder:
    """Load an encoder by name; None is the built-in encoder if the Hub cannot be reached.

    Raises:
        InputError: If there is no such encoder, or none is given and the Hub can be reached; the
            message recommends encoders.
    """
    from pipelines.evaluation.cli import default_device

    if encoder is None:
        encoder = _default_encoder(log)
    elif not isinstance(encoder, str | Path):
        return encoder
    return load_encoder(
        str(encoder),
        seed=seed,
        device=device or default_device(),
        trust_remote_code=trust_remote_code,
    )


def _default_encoder(log: Log) -> str:
    if _hub_is_reachable():
        choices = "\n".join(f"  --encoder {name}   {why}" for name, why in RECOMMENDED.items())
        raise InputError(
            f"Choose an encoder, such as one of these, or a vision model of the Hub:\n{choices}\n"
            f"  --encoder {OFFLINE_ENCODER}   small ImageNet model, no download"
        )
    log(
        f"No --encoder given and the Hub cannot be reached: using {OFFLINE_ENCODER} (ImageNet "
        f"weights). With the Hub, `--encoder {next(iter(RECOMMENDED))}` is usually better."
    )
    return OFFLINE_ENCODER


def _hub_is_reachable() -> bool:
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    if constants.HF_HUB_OFFLINE or os.environ.get("TRANSFORMERS_OFFLINE") == "1":
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=HUB_TIMEOUT_S)
    except Exception:
        return False
    return True


def embed_regions(
    encoder: Encoder,
    inputs: Inputs,
    folder: Path,
    settings: EmbedSettings,
    log: Log,
) -> Vectors:
    """Mean embeddings of the regions' images, views concatenated; resumes from the folder."""
    path = embed(encoder, inputs.source, folder / "embeddings", LABEL, settings, log)
    return _read_vectors(path, inputs)


def average_rasters(
    rasters: Sequence[str | Path],
    inputs: Inputs,
    folder: Path,
    settings: RasterSettings | None,
    log: Log,
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


__all__ = ["Vectors", "average_rasters", "embed_regions", "open_encoder"]
