"""Image-text retrieval metrics, and search of regions by text.

Vectors of single images are cached in `<output>/images/<view>/<label>.parquet`, computed by the
resumable embedding loop of regions. The score of a region is the maximum over its images.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from dataset_builders.captions import clean_caption, plain_text
from dataset_builders.errors import DatasetError
from dataset_builders.files import atomic_path, digest, write_json
from dataset_builders.schema import VIEWS
from dataset_builders.storage import read_table
from pipelines.common.encoders import Encoder

from ..embed.images import EmbedSettings, Row, Source, embed
from ..embed.sources import open_images
from ..embed.tables import read_embeddings
from ..embed.text_tower import TextTower, cached_vectors
from ..errors import InputError
from .nearest import (
    Keys,
    Relevance,
    chance_recall,
    first_hits,
    owned_keys,
    plain_keys,
    top_k,
    unit,
)

KS = (1, 5, 10)
DIRECTIONS = {
    "image_to_text": "image → text",
    "text_to_image": "text → image",
    "text_to_region": "text → region",
}


@dataclass(frozen=True)
class Gallery:
    """Embedded images of one view of a city.

    Attributes:
        image_ids: Image ids, `(N,)`.
        region_ids: Region id of each image, `(N,)`.
        captions: Caption of each image or None, `(N,)`.
        vectors: L2-normalised image embeddings, `(N, D)`, float32.
        view: View of the images.
        description: Metadata: dataset, city, synthetic, encoder.
        without_vector: Number of skipped images: undecodable or in no region.
    """

    image_ids: list[str]
    region_ids: list[str]
    captions: list[str | None]
    vectors: NDArray[np.float32]
    view: str
    description: Mapping[str, Any]
    without_vector: int = 0


@dataclass(frozen=True)
class Pairs:
    """Text-image pairs.

    Attributes:
        texts: Texts, `(M,)`.
        image: Row index of each text's image in the gallery, `(M,)`.
    """

    texts: list[str]
    image: NDArray[np.int64]


def open_gallery(
    encoder: Encoder,
    dataset_name: str,
    city: str,
    view: str,
    output: Path,
    label: str,
    settings: EmbedSettings | None = None,
) -> Gallery:
    """Embed every image of a view, or read the cached embeddings.

    Args:
        encoder: Image encoder.
        dataset_name: Folder or Hub id of a dataset.
        city: City of the dataset.
        view: `street_view` or `satellite`.
        output: Folder of the city's files.
        label: Name of the model.
        settings: Streaming settings.

    Raises:
        InputError: The dataset, city or view does not exist, or no image could be embedded.
    """
    regional = open_images(dataset_name, city)
    if not regional.num_images.get(view):
        have = [name for name in VIEWS if regional.num_images[name]]
        raise InputError(f"{city!r} has no {view} images; it has: {', '.join(have) or 'none'}.")
    try:
        table = read_table(dataset_name, city, view, ["image_id", "region_id", "caption"])
    except DatasetError as error:
        raise InputError(str(error)) from error
    table = table[table["region_id"].isin(set(regional.region_ids))]
    table = table.drop_duplicates("image_id").sort_values(["region_id", "image_id"])
    wanted = frozenset(table["image_id"])

    def rows(name: str) -> Iterator[Row]:
        """Rows with the image id as region id, to get one vector per image."""
        for row in regional.open_view(name):
            yield {**row, "region_id": row["image_id"] if row["image_id"] in wanted else None}

    single = Source(
        region_ids=table["image_id"].tolist(),
        num_images={name: regional.num_images[name] if name == view else 0 for name in VIEWS},
        open_view=rows,
        fingerprint=digest("images", view, regional.fingerprint),
        description=regional.description,
    )
    path = embed(encoder, single, output / "images" / view, label, settings)
    vectors = read_embeddings(path).vectors[view]
    known = np.isfinite(vectors).all(1)
    table = table.iloc[np.flatnonzero(known)]
    texts = (clean_caption(c) if isinstance(c, str) else None for c in table["caption"])
    return Gallery(
        table["image_id"].tolist(),
        table["region_id"].tolist(),
        list(texts),
        unit(vectors[known]),
        view,
        {**regional.description, "encoder": encoder.name},
        regional.num_images[view] - int(known.sum()),
    )


def own_captions(gallery: Gallery) -> Pairs:
    """Caption of each captioned image."""
    rows = [row for row, caption in enumerate(gallery.captions) if caption]
    return Pairs([str(gallery.captions[row]) for row in rows], np.array(rows, np.int64))


@dataclass(frozen=True)
class Hit:
    """Region found by a query.

    Attributes:
        region_id: Id of the region.
        image_id: Id of the region's image nearest to the query.
        score: Cosine similarity of image and query.
        caption: Caption of the image.
    """

    region_id: str
    image_id: str
    score: float
    caption: str | None


def retrieval_metrics(
    image_embeds: NDArray[np.float32],
    text_embeds: NDArray[np.float32],
    pairs: Pairs,
    regions: Sequence[str],
    ks: Sequence[int] = KS,
) -> dict[str, dict[str, float]]:
    """Recall at k and median rank between images, texts and regions.

    A query is a hit if any relevant candidate is among the k nearest. An image and a text are
    relevant to each other if one of the image's texts is identical to the text; a region is
    relevant if one of its images is. Ties (within 1e-6) are resolved against relevant candidates.

    Args:
        image_embeds: L2-normalised embeddings of images with at least one text, `(N, D)`.
        text_embeds: L2-normalised text embeddings, `(M, D)`.
        pairs: The M texts and their images.
        regions: Region id of each image, `(N,)`.
        ks: Values of k.

    Returns:
        For each of `DIRECTIONS`: `recall_at_<k>`, `chance_recall_at_<k>` (random ranking),
        `median_rank` (of the first relevant candidate, from 1), `queries` and `candidates`.
    """
    _, text = np.unique(np.asarray(pairs.texts, dtype=object).astype(str), return_inverse=True)
    _, owners = np.unique(np.asarray(regions, dtype=object).astype(str), return_inverse=True)
    owner_keys, _ = owned_keys(image_embeds, owners)
    paired = _incidence(text, pairs.image)
    in_region = _incidence(text, owners[pairs.image])
    images, places = np.arange(len(image_embeds)), np.arange(len(owner_keys))
    searches = {
        "image_to_text": (
            image_embeds,
            plain_keys(text_embeds),
            Relevance(paired.T.tocsr(), images, text),
        ),
        "text_to_image": (
            text_embeds,
            plain_keys(image_embeds),
            Relevance(paired, text, images),
        ),
        "text_to_region": (text_embeds, owner_keys, Relevance(in_region, text, places)),
    }
    return {name: _direction(*search, ks) for name, search in searches.items()}


def _incidence(rows: NDArray[np.int64], columns: NDArray[np.int64]) -> csr_array:
    together = np.unique(np.stack([rows, columns]), axis=1)
    return csr_array((np.ones(together.shape[1], bool), tuple(together)))


def _direction(
    queries: NDArray[np.float32], keys: Keys, relevance: Relevance, ks: Sequence[int]
) -> dict[str, float]:
    hits = first_hits(queries, keys, relevance)
    right = relevance.num_right()
    return {
        **{f"recall_at_{k}": float((hits < k).mean()) for k in ks},
        **{f"chance_recall_at_{k}": chance_recall(right, len(keys), k) for k in ks},
        "median_rank": float(np.median(hits)) + 1,
        "queries": len(queries),
        "candidates": len(keys),
    }


def measure(
    gallery: Gallery, pairs: Pairs, tower: TextTower, output: Path, name: str
) -> dict[str, Any]:
    """Measure retrieval between images and captions; write `retrieval-<view>-<name>.json` and .md.

    Args:
        gallery: Embedded images; those without a caption are ignored.
        pairs: Captions, see [`own_captions`].
        tower: Text encoder of the same checkpoint.
        output: Folder of the city's files.
        name: Name of the model and caption set.

    Returns:
        Content of the JSON file.

    Raises:
        InputError: No image has a caption.
    """
    if not pairs.texts:
        raise InputError(
            f"No {gallery.view} image of {gallery.description['city']!r} has a caption, which "
            "retrieval metrics require. --query searches without captions."
        )
    captioned, image = np.unique(pairs.image, return_inverse=True)
    regions = [gallery.region_ids[row] for row in captioned]
    text_embeds = unit(cached_vectors(output / ".texts", tower, pairs.texts))
    found = {
        **gallery.description,
        "name": name,
        "view": gallery.view,
        "images": len(captioned),
        "texts": len(pairs.texts),
        "distinct_texts": len(set(pairs.texts)),
        "regions": len(set(regions)),
        "images_without_caption": len(gallery.captions) - len(captioned),
        "images_without_vector": gallery.without_vector,
        "truncated_texts": tower.count_truncated(pairs.texts),
        "max_length": tower.max_length,
        "directions": retrieval_metrics(
            gallery.vectors[captioned], text_embeds, Pairs(pairs.texts, image), regions
        ),
    }
    path = output / f"retrieval-{gallery.view}-{name}.json"
    write_json(path, found)
    with atomic_path(path.with_suffix(".md")) as temporary:
        temporary.write_text(metrics_table(found) + "\n", encoding="utf-8")
    return found


def metrics_table(found: Mapping[str, Any]) -> str:
    """Markdown table of the results of [`measure`]."""
    head = ["", *(f"R@{k} (chance)" for k in KS), "median rank", "queries", "candidates"]
    lines = [head, ["---"] * len(head)]
    for name, title in DIRECTIONS.items():
        own = found["directions"][name]
        recalls = [f"{own[f'recall_at_{k}']:.3f} ({own[f'chance_recall_at_{k}']:.3f})" for k in KS]
        counts = [f"{own['median_rank']:g}", str(own["queries"]), str(own["candidates"])]
        lines.append([title, *recalls, *counts])
    synthetic = "Synthetic data. " if found["synthetic"] else ""
    note = (
        f"{synthetic}{found['name']}, {found['view'].replace('_', ' ')} of {found['city']}: "
        f"{found['images']} images, {found['texts']} captions, {found['distinct_texts']} of them "
        "distinct (images with the same caption are equally correct); "
        f"{found['truncated_texts']} captions are truncated at {found['max_length']} tokens."
    )
    return note + "\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)


def search_regions(
    query: str,
    gallery: Gallery,
    encode: Callable[[Sequence[str]], NDArray[np.float32]],
    top: int = 10,
) -> list[Hit]:
    """Find the regions nearest to a text, nearest first.

    Args:
        query: Query text.
        gallery: Embedded images.
        encode: Text encoder of the same checkpoint; returns `(n, D)`.
        top: Number of regions.

    Raises:
        InputError: The query is empty.
    """
    text = plain_text(query)
    if text is None:
        raise InputError("--query is empty.")
    vector = unit(encode([text]))
    names, owners = np.unique(np.asarray(gallery.region_ids, dtype=object), return_inverse=True)
    keys, order = owned_keys(gallery.vectors, owners)
    scores, found = top_k(vector, keys, top)
    hits = []
    for score, number in zip(scores[0], found[0], strict=True):
        begin, end = keys.starts[number], keys.starts[number + 1]
        image = int(order[begin + int(np.argmax(keys.vectors[begin:end] @ vector[0]))])
        region_id, caption = str(names[number]), gallery.captions[image]
        hits.append(Hit(region_id, gallery.image_ids[image], float(score), caption))
    return hits


__all__ = [
    "DIRECTIONS",
    "KS",
    "Gallery",
    "Hit",
    "Pairs",
    "measure",
    "metrics_table",
    "open_gallery",
    "own_captions",
    "retrieval_metrics",
    "search_regions",
]
