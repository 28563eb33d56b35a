"""Image to text, text to image, and text to region: recall, ranks, and the search itself.

A region is as near to a text as the nearest of its images.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from dataset_builders.captions import plain_text
from dataset_builders.files import atomic_path, write_json

from ..embed.text_tower import TextTower, cached_vectors
from ..errors import InputError
from .gallery import Gallery, Pairs
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
class Hit:
    """A region that was found.

    Attributes:
        region_id: of the region.
        image_id: the image that is nearest to the text.
        score: cosine of the two.
        caption: of the image.
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
    """Recall at k and median rank of images and texts.

    A query finds what it should if any right candidate is among the k nearest. An image is right
    for a text if one of its texts is identical to it, and so is a text for an image: a text that
    fits two images may find either. A region is right if one of its images is. Among equal scores
    (within 1e-6) a wrong candidate goes first.

    Args:
        image_embeds: `(N, D)`, unit length; each image has one text at least.
        text_embeds: `(M, D)`, unit length.
        pairs: the M texts.
        regions: region of each image.
        ks: for which k.

    Returns:
        For each of `DIRECTIONS`: `recall_at_<k>`, `chance_recall_at_<k>` (of a random order),
        `median_rank` (of the first right candidate, from 1), `queries` and `candidates`.
    """
    _, text = np.unique(np.asarray(pairs.texts, dtype=object).astype(str), return_inverse=True)
    _, owners = np.unique(np.asarray(regions, dtype=object).astype(str), return_inverse=True)
    owner_keys, _ = owned_keys(image_embeds, owners)
    told = _incidence(text, pairs.image)
    in_region = _incidence(text, owners[pairs.image])
    images, places = np.arange(len(image_embeds)), np.arange(len(owner_keys))
    searches = {
        "image_to_text": (
            image_embeds,
            plain_keys(text_embeds),
            Relevance(told.T.tocsr(), images, text),
        ),
        "text_to_image": (text_embeds, plain_keys(image_embeds), Relevance(told, text, images)),
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
    """Retrieval between images and captions.

    Args:
        gallery: images; those without a caption take no part.
        pairs: the captions, from [`own_captions`] or [`all_captions`].
        tower: of the same checkpoint.
        output: folder of the city's files, for `retrieval-<view>-<name>.json` and `.md`.
        name: of the model, and of the captions where they are not the own ones.

    Returns:
        What the JSON file holds.

    Raises:
        InputError: no image has a caption.
    """
    if not pairs.texts:
        raise InputError(
            f"No {gallery.view} image of {gallery.description['city']!r} has a caption, so there "
            "is nothing to measure. --query searches without captions."
        )
    told, image = np.unique(pairs.image, return_inverse=True)
    regions = [gallery.region_ids[row] for row in told]
    text_embeds = unit(cached_vectors(output / ".texts", tower, pairs.texts))
    found = {
        **gallery.description,
        "name": name,
        "view": gallery.view,
        "images": len(told),
        "texts": len(pairs.texts),
        "distinct_texts": len(set(pairs.texts)),
        "regions": len(set(regions)),
        "images_without_caption": len(gallery.captions) - len(told),
        "images_without_vector": gallery.without_vector,
        "truncated_texts": tower.count_truncated(pairs.texts),
        "max_length": tower.max_length,
        "directions": retrieval_metrics(
            gallery.vectors[told], text_embeds, Pairs(pairs.texts, image), regions
        ),
    }
    path = output / f"retrieval-{gallery.view}-{name}.json"
    write_json(path, found)
    with atomic_path(path.with_suffix(".md")) as temporary:
        temporary.write_text(metrics_table(found) + "\n", encoding="utf-8")
    return found


def metrics_table(found: Mapping[str, Any]) -> str:
    """What [`measure`] found, in Markdown; chance in brackets."""
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
        "distinct (a caption may find any image that has it); "
        f"{found['truncated_texts']} captions are longer than the {found['max_length']} tokens "
        "that are read."
    )
    return note + "\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)


def search_regions(
    query: str,
    gallery: Gallery,
    encode: Callable[[Sequence[str]], NDArray[np.float32]],
    top: int = 10,
) -> list[Hit]:
    """The regions nearest to a text, nearest first.

    Args:
        query: what is looked for.
        gallery: images.
        encode: texts to `(n, D)` vectors of the same checkpoint.
        top: how many regions.

    Raises:
        InputError: the query says nothing.
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
    "Hit",
    "measure",
    "metrics_table",
    "retrieval_metrics",
    "search_regions",
]
