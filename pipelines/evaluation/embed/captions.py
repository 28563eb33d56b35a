"""Region vectors from captions alone: what is told of a city without a look at it.

Two of them, both without any label: words weighted by TF-IDF, whose 256 main axes are kept, and
the text tower of a checkpoint. As embedding tables they are probed beside all others, so a table
says what an image encoder sees that its captions do not tell, and the other way round.

TF-IDF is fitted on the captions of all regions of the city, test regions among them, as image
encoders are pretrained on all images: no label is seen, but the words of held-out districts are.
The vectors are dense (latent semantic analysis, Deerwester et al. 1990,
doi:10.1002/(SICI)1097-4571(199009)41:6<391::AID-ASI1>3.0.CO;2-9), for that is what an embedding
table holds: a ridge on the sparse matrix itself would be a probe of its own, that no other system
gets.
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
from .region_captions import RegionCaptions
from .tables import earlier_metadata, write_embeddings
from .text_tower import TextTower, cached_vectors

TFIDF_LABEL, TOWER_LABEL = "captions-tfidf", "captions-text-tower"
TFIDF_VERSION = 1


@dataclass(frozen=True)
class TfidfSettings:
    """How captions become numbers.

    Attributes:
        dim: axes that are kept of the truncated singular value decomposition.
        max_words: of an n-gram.
        min_captions: an n-gram must occur in that many captions.
        seed: of the randomised decomposition.
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
    """Write `<output>/<label>.parquet`: mean TF-IDF of a region's captions, dense.

    Args:
        captions: of a city.
        output: folder of the city's tables.
        label: name of the system.
        settings: of TF-IDF.
        log: takes messages for the user.

    Raises:
        InputError: too few captions, or no word occurs often enough.
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
    """Write `<output>/<label>.parquet`: mean text features of a region's captions.

    Args:
        captions: of a city.
        tower: encodes them.
        output: folder of the city's tables.
        label: name of the system.
        batch_size: captions encoded at a time.
        log: takes messages for the user.
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
    """Texts to `(M, dim)`, and what was fitted: the vocabulary's size, the variance that is kept.

    Raises:
        InputError: too few texts, or no word occurs often enough.
    """
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(
        ngram_range=(1, settings.max_words), min_df=settings.min_captions, sublinear_tf=True
    )
    if len(texts) < 2:
        raise InputError(f"TF-IDF needs two captions at least, got {len(texts)}.")
    try:
        weights = vectorizer.fit_transform(texts)
    except ValueError as error:
        raise InputError(
            f"No word or pair of words occurs in {settings.min_captions} of {len(texts)} captions: "
            f"{error}"
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
        log(f"{path} is there already, of the same captions and encoder.")
        return path
    start = time.perf_counter()
    counts, vectors, facts = {}, {}, {}
    for view, own in captions.views.items():
        encoded, facts[view] = encode(own.texts)
        counts[view], vectors[view] = _mean_by_region(encoded, own.region, len(captions.region_ids))
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


def _mean_by_region(
    vectors: NDArray[np.float32], region: NDArray[np.int64], num_regions: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    counts = np.bincount(region, minlength=num_regions)
    sums = np.zeros((num_regions, vectors.shape[1]))
    np.add.at(sums, region, vectors)
    return counts, (sums / np.maximum(counts, 1)[:, None]).astype(np.float32)


def _summary(path: Path, captions: RegionCaptions, counts: dict[str, NDArray[np.int64]]) -> str:
    lines = [f"Wrote {path}: {len(captions.region_ids)} regions."]
    for view, count in counts.items():
        with_any = int((count > 0).sum())
        lines.append(f"  {view}: {int(count.sum())} captions of {with_any} regions")
    lines += [f"  left out: {n} ({reason})" for reason, n in sorted(captions.dropped.items())]
    return "\n".join(lines)


__all__ = [
    "TFIDF_LABEL",
    "TOWER_LABEL",
    "TfidfSettings",
    "embed_text_tower",
    "embed_tfidf",
    "tfidf_vectors",
]
