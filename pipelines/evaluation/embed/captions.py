"""Caption-only baselines: region vectors from TF-IDF with SVD, or from a text encoder.

TF-IDF is fitted without labels on the captions of all regions, test regions included, just as image
encoders are pretrained on all images. Truncated SVD makes its vectors dense (latent semantic
analysis, Deerwester et al. 1990,
doi:10.1002/(SICI)1097-4571(199009)41:6<391::AID-ASI1>3.0.CO;2-9), so that all systems share the
same probes.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataset_builders.files import digest
from dataset_builders.schema import VIEWS

from ..errors import InputError
from .pooling import mean_by_region
from .region_captions import RegionCaptions
from .tables import earlier_metadata, write_embeddings
from .text_tower import TextTower, cached_vectors

TFIDF_LABEL, TOWER_LABEL = "captions-tfidf", "captions-text-tower"
TFIDF_VERSION = 1


@dataclass(frozen=True)
class TfidfSettings:
    """Settings of TF-IDF and the truncated SVD.

    Attributes:
        dim: Number of SVD components.
        max_words: Maximum n-gram length, in words.
        min_captions: Minimum number of captions that contain an n-gram.
        seed: Seed of the randomised SVD.
    """

    dim: int = 256
    max_words: int = 2
    min_captions: int = 3
    seed: int = 0


def embed_tfidf(
    captions: RegionCaptions,
    output: Path,
    label: str = TFIDF_LABEL,
    settings: TfidfSettings | None = None,
    log: Callable[[str], None] = print,
) -> Path:
    """Write `<output>/<label>.parquet`: mean TF-IDF vector of each region's captions.

    Args:
        captions: Captions of a city.
        output: Folder of the city's tables.
        label: Name of the system.
        settings: Settings of TF-IDF and SVD.
        log: Receives progress messages.

    Raises:
        InputError: Fewer than two captions, or no n-gram occurs often enough.
    """
    settings = settings or TfidfSettings()
    fingerprint = digest("tfidf", TFIDF_VERSION, asdict(settings), captions.fingerprint)
    about: dict[str, Any] = {
        "encoder": "TF-IDF of captions, truncated SVD",
        "settings": asdict(settings),
    }
    about["random_init"] = False
    return _embed(
        captions,
        output,
        label,
        fingerprint,
        about,
        lambda texts: tfidf_vectors(texts, settings),
        log,
    )


def embed_text_tower(
    captions: RegionCaptions,
    tower: TextTower,
    output: Path,
    label: str = TOWER_LABEL,
    batch_size: int = 64,
    log: Callable[[str], None] = print,
) -> Path:
    """Write `<output>/<label>.parquet`: mean text features of each region's captions.

    Args:
        captions: Captions of a city.
        tower: Text encoder.
        output: Folder of the city's tables.
        label: Name of the system.
        batch_size: Captions per batch.
        log: Receives progress messages.
    """

    def encode(texts: Sequence[str]) -> tuple[NDArray[np.float32], dict[str, Any]]:
        vectors = cached_vectors(output / ".texts", tower, texts, batch_size)
        return vectors, {"max_length": tower.max_length, "truncated": tower.count_truncated(texts)}

    about = {"encoder": f"text tower of {tower.name}", "random_init": tower.random_init}
    fingerprint = digest("text tower", tower.fingerprint, captions.fingerprint)
    return _embed(captions, output, label, fingerprint, about, encode, log)


def tfidf_vectors(
    texts: Sequence[str], settings: TfidfSettings
) -> tuple[NDArray[np.float32], dict[str, Any]]:
    """Fit TF-IDF and truncated SVD; return vectors `(M, dim)` and statistics of the fit.

    Raises:
        InputError: Fewer than two texts, or no n-gram occurs often enough.
    """
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(
        ngram_range=(1, settings.max_words), min_df=settings.min_captions, sublinear_tf=True
    )
    if len(texts) < 2:
        raise InputError(f"TF-IDF needs at least two captions, got {len(texts)}.")
    try:
        weights = vectorizer.fit_transform(texts)
    except ValueError as error:
        raise InputError(
            f"No n-gram occurs in {settings.min_captions} of {len(texts)} captions: {error}"
        ) from error
    dim = min(settings.dim, weights.shape[1])
    svd = TruncatedSVD(dim, random_state=settings.seed)
    vectors = svd.fit_transform(weights).astype(np.float32)
    kept = float(svd.explained_variance_ratio_.sum())
    return vectors, {"vocabulary": weights.shape[1], "variance_kept": round(kept, 4)}


def _embed(
    captions: RegionCaptions,
    output: Path,
    label: str,
    fingerprint: str,
    about: dict[str, Any],
    encode: Callable[[Sequence[str]], tuple[NDArray[np.float32], dict[str, Any]]],
    log: Callable[[str], None],
) -> Path:
    path = output / f"{label}.parquet"
    if earlier_metadata(path).get("fingerprint") == fingerprint:
        log(f"{path} already exists, from the same captions and encoder.")
        return path
    start = time.perf_counter()
    counts, vectors, facts = {}, {}, {}
    for view, own in captions.views.items():
        encoded, facts[view] = encode(own.texts)
        counts[view] = np.bincount(own.region, minlength=len(captions.region_ids))
        vectors[view] = mean_by_region(encoded, own.region, len(captions.region_ids))
    metadata = {
        "label": label,
        **about,
        "uses": ["captions"],
        "images": dict.fromkeys(VIEWS, 0),
        "dim": next(iter(vectors.values())).shape[1],
        "fingerprint": fingerprint,
        "captions": {view: len(own.texts) for view, own in captions.views.items()},
        "encoding": facts,
        "regions_without": {view: int((n == 0).sum()) for view, n in counts.items()},
        "rejects": captions.dropped,
        "seconds": round(time.perf_counter() - start, 3),
        **captions.description,
    }
    write_embeddings(path, captions.region_ids, counts, vectors, metadata)
    log(_summary(path, captions, counts))
    return path


def _summary(path: Path, captions: RegionCaptions, counts: dict[str, NDArray[np.int64]]) -> str:
    lines = [f"Wrote {path}: {len(captions.region_ids)} regions."]
    for view, count in counts.items():
        with_any = int((count > 0).sum())
        lines.append(f"  {view}: {int(count.sum())} captions of {with_any} regions")
    lines += [f"  skipped: {n} ({reason})" for reason, n in sorted(captions.dropped.items())]
    return "\n".join(lines)


__all__ = [
    "TFIDF_LABEL",
    "TOWER_LABEL",
    "TfidfSettings",
    "embed_text_tower",
    "embed_tfidf",
    "tfidf_vectors",
]
