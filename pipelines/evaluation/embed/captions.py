"""Captions of regions, and baselines from captions alone: TF-IDF with SVD, or a text encoder.

TF-IDF is fitted without labels on the captions of all regions, test regions included, just as image
encoders are pretrained on all images. Truncated SVD makes its vectors dense (latent semantic
analysis, Deerwester et al. 1990,
doi:10.1002/(SICI)1097-4571(199009)41:6<391::AID-ASI1>3.0.CO;2-9), so that all systems share the
same probes.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dataset_builders.captions import EMPTY, caption_text, clean_caption
from dataset_builders.errors import DatasetError
from dataset_builders.files import digest
from dataset_builders.schema import VIEWS
from dataset_builders.storage import list_tables, read_metadata, read_table

from ..errors import InputError
from .tables import earlier_metadata, mean_by_region, write_embeddings
from .text_tower import TextTower, cached_vectors

TFIDF_LABEL, TOWER_LABEL = "captions-tfidf", "captions-text-tower"
TFIDF_VERSION = 2
TILE = ["tile_z", "tile_x", "tile_y"]


@dataclass(frozen=True)
class ViewCaptions:
    """Captions of one view, one per image, sorted by image id.

    Attributes:
        image_ids: Image ids, `(M,)`.
        region: Row index of each image's region, `(M,)`.
        texts: Cleaned captions, `(M,)`.
    """

    image_ids: list[str]
    region: NDArray[np.int64]
    texts: list[str]


@dataclass(frozen=True)
class RegionCaptions:
    """Captions of a city.

    Attributes:
        region_ids: Region ids, `(N,)`.
        views: Captions by view; views without captions are missing.
        dropped: Number of skipped images or captions by reason.
        description: Metadata: dataset, city, synthetic.
        fingerprint: Hash of captions and regions.
    """

    region_ids: list[str]
    views: dict[str, ViewCaptions]
    dropped: dict[str, int]
    description: dict[str, Any]
    fingerprint: str


def read_captions(dataset_name: str, city: str) -> RegionCaptions:
    """Read one caption per image: column `caption`, else the best candidate in table `captions`.

    A caption without an image (tiles published without images) is assigned, as satellite view, to
    the region of the tile in its image id, `z_x_y`.

    Args:
        dataset_name: Folder or Hub id of a dataset.
        city: City of the dataset.

    Raises:
        InputError: The dataset or city does not exist, or has no captions.
    """
    try:
        regions = read_table(dataset_name, city, "regions", ["region_id", *TILE])
        tables = [table for name, table in list_tables(dataset_name) if name == city]
        columns = ["image_id", "region_id", "caption"]
        images = {v: read_table(dataset_name, city, v, columns) for v in VIEWS if v in tables}
        candidates = _candidates(dataset_name, city) if "captions" in tables else {}
        synthetic = read_metadata(dataset_name, city).synthetic
    except DatasetError as error:
        raise InputError(str(error)) from error
    dropped: Counter[str] = Counter()
    rows = {region_id: row for row, region_id in enumerate(regions["region_id"])}
    found: dict[str, dict[str, tuple[int, str]]] = {view: {} for view in VIEWS}
    for view, table in images.items():
        own = zip(table["image_id"], table["region_id"], table["caption"], strict=True)
        for image_id, region_id, caption in own:
            text, fault = caption_text(caption if isinstance(caption, str) else None)
            text = text or candidates.get(image_id)
            reason = "no caption" if fault == EMPTY else fault
            if text is not None:
                reason = "" if region_id in rows else "unknown region"
            if text is None or reason:
                dropped[f"{view} image: {reason}"] += 1
            else:
                found[view][image_id] = rows[region_id], text
    known = {image_id for table in images.values() for image_id in table["image_id"]}
    tiles = _tiles(regions)
    for image_id, text in candidates.items():
        if image_id in tiles and image_id not in known:
            found["satellite"][image_id] = tiles[image_id], text
        elif image_id not in known:
            dropped["caption of an image and tile that are not there"] += 1
    views = {view: _view(captions) for view, captions in found.items() if captions}
    if not views:
        raise InputError(
            f"{dataset_name} has no caption of {city!r} ({dict(dropped)}). Generate captions with "
            "`python -m pipelines.captioning`, or import them."
        )
    region_ids = regions["region_id"].tolist()
    parts = [(v, one.image_ids, one.region.tolist(), one.texts) for v, one in views.items()]
    description = {"dataset": str(dataset_name), "city": city, "synthetic": synthetic}
    return RegionCaptions(
        region_ids, views, dict(dropped), description, digest(city, region_ids, parts)
    )


def _candidates(dataset_name: str, city: str) -> dict[str, str]:
    """Kept caption with the highest score of each image; ties are broken by model name."""
    frame = read_table(
        dataset_name, city, "captions", ["image_id", "model", "text", "score", "kept"]
    )
    frame = frame[frame["kept"].fillna(True).astype(bool)]
    frame = frame.assign(text=frame["text"].map(_text)).dropna(subset=["text"])
    frame = frame.sort_values(
        ["image_id", "score", "model", "text"],
        ascending=[True, False, True, True],
        na_position="last",
    ).drop_duplicates("image_id")
    return dict(zip(frame["image_id"], frame["text"], strict=True))


def _text(value: Any) -> str | None:
    return clean_caption(value) if isinstance(value, str) else None


def _tiles(regions: pd.DataFrame) -> dict[str, int]:
    placed = regions[TILE].notna().all(axis=1).to_numpy()
    numbers = regions.loc[placed, TILE].astype(np.int64).to_numpy()
    return {
        f"{z}_{x}_{y}": int(row)
        for row, (z, x, y) in zip(np.flatnonzero(placed), numbers, strict=True)
    }


def _view(captions: dict[str, tuple[int, str]]) -> ViewCaptions:
    image_ids = sorted(captions)
    return ViewCaptions(
        image_ids,
        np.array([captions[image_id][0] for image_id in image_ids], np.int64),
        [captions[image_id][1] for image_id in image_ids],
    )


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
    about: dict[str, Any] = {"encoder": "TF-IDF of captions, truncated SVD", "random_init": False}
    about |= {"settings": asdict(settings)}

    def encode(texts: Sequence[str]) -> tuple[NDArray[np.float32], dict[str, Any]]:
        return tfidf_vectors(texts, settings)

    return _embed(captions, output, label, fingerprint, about, encode, log)


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
    vectors = svd.fit_transform(weights)
    # further components are rounding errors, which probes would standardise to unit variance
    rank = int((svd.singular_values_ > 1e-6 * svd.singular_values_[0]).sum())
    vectors = vectors[:, :rank].astype(np.float32)
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
    log(f"Wrote {path}: {len(captions.region_ids)} regions.")
    for view, count in counts.items():
        log(f"  {view}: {count.sum()} captions of {(count > 0).sum()} regions")
    for reason, number in sorted(captions.dropped.items()):
        log(f"  skipped: {number} ({reason})")
    return path


__all__ = [
    "TFIDF_LABEL",
    "TOWER_LABEL",
    "RegionCaptions",
    "TfidfSettings",
    "ViewCaptions",
    "embed_text_tower",
    "embed_tfidf",
    "read_captions",
    "tfidf_vectors",
]
