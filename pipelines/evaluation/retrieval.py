"""Image to text, text to image, and text to region: recall, ranks, and the search itself.

Searched are single images, not the means of regions: a region is as near to a text as the nearest
of its images. Image vectors lie in a table that is made once (`<output>/images/<view>/`), by the
same streamed and resumable way as the vectors of regions.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dataset_builders.captions import clean_caption
from dataset_builders.errors import DatasetError
from dataset_builders.files import atomic_path, digest, write_json
from dataset_builders.schema import VIEWS
from dataset_builders.storage import read_table

from .embed import EmbedSettings, Row, Source, embed
from .embedding_tables import read_embeddings
from .encoders import Encoder
from .errors import InputError
from .nearest import Keys, chance_recall, first_hits, num_right, owned_keys, plain_keys, top_k, unit
from .sources import open_images
from .text_tower import TextTower, cached_vectors

KS = (1, 5, 10)
DIRECTIONS = {
    "image_to_text": "image → text",
    "text_to_image": "text → image",
    "text_to_region": "text → region",
}


@dataclass(frozen=True)
class Gallery:
    """The images of one view of a city that have a vector.

    Attributes:
        image_ids: `(N,)`.
        region_ids: `(N,)` region of each.
        captions: `(N,)`; None where an image has none.
        vectors: `(N, D)` float32, unit length.
        view: of the images.
        description: dataset, city, synthetic, encoder.
        without_vector: images left out, for they cannot be decoded or lie in no region.
    """

    image_ids: list[str]
    region_ids: list[str]
    captions: list[str | None]
    vectors: NDArray[np.float32]
    view: str
    description: Mapping[str, Any]
    without_vector: int = 0


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


def open_gallery(
    encoder: Encoder,
    dataset_name: str,
    city: str,
    view: str,
    output: Path,
    label: str,
    settings: EmbedSettings | None = None,
) -> Gallery:
    """Encode every image of a view, or read what was encoded before.

    Args:
        encoder: of the images.
        dataset_name: a dataset folder, or the id of a dataset on the Hub.
        city: of the dataset.
        view: `street_view` or `satellite`.
        output: folder of the city's files; the vectors go to `images/<view>/<label>.parquet`.
        label: name of the model.
        settings: how images are streamed.

    Raises:
        InputError: no such dataset, city or view, or no image that gives a vector.
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

    def rows(name: str) -> Any:
        return (_by_image(row, wanted) for row in regional.open_view(name))

    single = Source(
        region_ids=table["image_id"].tolist(),
        num_images={name: regional.num_images[name] if name == view else 0 for name in VIEWS},
        open_view=rows,
        fingerprint=digest("images", view, regional.fingerprint),
        description=regional.description,
    )
    path = embed(encoder, single, output / "images" / view, label, settings)
    return _gallery(read_embeddings(path).vectors[view], table, view, regional, encoder.name)


def _by_image(row: Row, wanted: frozenset[str]) -> Row:
    """The image as a region of its own, for one vector an image; one of no region stays so."""
    return {**row, "region_id": row["image_id"] if row["image_id"] in wanted else None}


def _gallery(
    vectors: NDArray[np.float32], table: pd.DataFrame, view: str, source: Source, encoder: str
) -> Gallery:
    known = np.isfinite(vectors).all(1)
    table = table.iloc[np.flatnonzero(known)]
    texts = (clean_caption(c) if isinstance(c, str) else None for c in table["caption"])
    return Gallery(
        table["image_id"].tolist(),
        table["region_id"].tolist(),
        list(texts),
        unit(vectors[known]),
        view,
        {**source.description, "encoder": encoder},
        source.num_images[view] - int(known.sum()),
    )


def retrieval_metrics(
    image_embeds: NDArray[np.float32],
    text_embeds: NDArray[np.float32],
    texts: Sequence[str],
    regions: Sequence[str],
    ks: Sequence[int] = KS,
) -> dict[str, dict[str, float]]:
    """Recall at k and median rank of N image-text pairs, where pair i is row i of all.

    A query finds what it should if its own counterpart, or one with the identical text, is among
    the k nearest: a text that fits two images may find either. A region is right if one of its
    images is. Among equal scores (within 1e-6) a wrong candidate goes first.

    Args:
        image_embeds: `(N, D)`, unit length.
        text_embeds: `(N, D)`, unit length.
        texts: N captions.
        regions: region of each image.
        ks: for which k.

    Returns:
        For each of `DIRECTIONS`: `recall_at_<k>`, `chance_recall_at_<k>` (of a random order),
        `median_rank` (of the first right candidate, from 1), `queries` and `candidates`.
    """
    _, groups = np.unique(np.asarray(texts, dtype=object).astype(str), return_inverse=True)
    _, owners = np.unique(np.asarray(regions, dtype=object).astype(str), return_inverse=True)
    by_region, order = owned_keys(image_embeds, owners)
    return {
        "image_to_text": _direction(image_embeds, plain_keys(text_embeds), groups, groups, ks),
        "text_to_image": _direction(text_embeds, plain_keys(image_embeds), groups, groups, ks),
        "text_to_region": _direction(text_embeds, by_region, groups, groups[order], ks),
    }


def _direction(
    queries: NDArray[np.float32],
    keys: Keys,
    query_groups: NDArray[np.int64],
    key_groups: NDArray[np.int64],
    ks: Sequence[int],
) -> dict[str, float]:
    hits = first_hits(queries, query_groups, keys, key_groups)
    right = num_right(query_groups, keys, key_groups)
    return {
        **{f"recall_at_{k}": float((hits < k).mean()) for k in ks},
        **{f"chance_recall_at_{k}": chance_recall(right, len(keys), k) for k in ks},
        "median_rank": float(np.median(hits)) + 1,
        "queries": len(queries),
        "candidates": len(keys),
    }


def measure(gallery: Gallery, tower: TextTower, output: Path, label: str) -> dict[str, Any]:
    """Retrieval between the images and their own captions.

    Args:
        gallery: images; those without a caption take no part.
        tower: of the same checkpoint.
        output: folder of the city's files, for `retrieval-<view>-<label>.json` and `.md`.
        label: name of the model.

    Returns:
        What the JSON file holds.

    Raises:
        InputError: no image has a caption.
    """
    rows = [row for row, caption in enumerate(gallery.captions) if caption]
    if not rows:
        raise InputError(
            f"No {gallery.view} image of {gallery.description['city']!r} has a caption, so there "
            "is nothing to measure. --query searches without captions."
        )
    texts = [str(gallery.captions[row]) for row in rows]
    regions = [gallery.region_ids[row] for row in rows]
    text_embeds = unit(cached_vectors(output / ".texts", tower, texts))
    found = {
        **gallery.description,
        "model": label,
        "view": gallery.view,
        "pairs": len(rows),
        "distinct_texts": len(set(texts)),
        "regions": len(set(regions)),
        "images_without_caption": len(gallery.captions) - len(rows),
        "images_without_vector": gallery.without_vector,
        "truncated_texts": tower.count_truncated(texts),
        "max_length": tower.max_length,
        "directions": retrieval_metrics(gallery.vectors[rows], text_embeds, texts, regions),
    }
    path = output / f"retrieval-{gallery.view}-{label}.json"
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
        f"{synthetic}{found['model']}, {found['view'].replace('_', ' ')} of {found['city']}: "
        f"{found['pairs']} pairs, {found['distinct_texts']} distinct texts, of which any image "
        f"counts as right; {found['truncated_texts']} texts are longer than the "
        f"{found['max_length']} tokens that are read."
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
    text = clean_caption(query)
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
    "measure",
    "metrics_table",
    "open_gallery",
    "retrieval_metrics",
    "search_regions",
]
