"""Image embeddings of a city and their captions, for retrieval.

The vectors of single images are cached in `<output>/images/<view>/<label>.parquet`, computed by the
streaming, resumable embedding loop of regions.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dataset_builders.captions import clean_caption
from dataset_builders.errors import DatasetError
from dataset_builders.files import digest
from dataset_builders.schema import VIEWS
from dataset_builders.storage import read_table
from pipelines.common.encoders import Encoder

from ..embed.images import EmbedSettings, Row, Source, embed
from ..embed.sources import open_images
from ..embed.tables import read_embeddings
from ..errors import InputError
from .nearest import unit


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
    """Use the image id as region id, to get one vector per image."""
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


def own_captions(gallery: Gallery) -> Pairs:
    """Caption of each captioned image."""
    rows = [row for row, caption in enumerate(gallery.captions) if caption]
    return Pairs([str(gallery.captions[row]) for row in rows], np.array(rows, np.int64))


def all_captions(gallery: Gallery) -> Pairs:
    """All kept captions of the images in the table of captions, without duplicates per image.

    Raises:
        InputError: The table does not exist.
    """
    about = gallery.description
    try:
        columns = ["image_id", "text", "kept"]
        table = read_table(str(about["dataset"]), str(about["city"]), "captions", columns)
    except DatasetError as error:
        raise InputError(str(error)) from error
    rows = {image_id: row for row, image_id in enumerate(gallery.image_ids)}
    kept = table["kept"].fillna(True).astype(bool)
    found = {
        (rows[image_id], text)
        for image_id, raw, keep in zip(table["image_id"], table["text"], kept, strict=True)
        if keep and image_id in rows and isinstance(raw, str) and (text := clean_caption(raw))
    }
    ordered = sorted(found)
    return Pairs([text for _, text in ordered], np.array([row for row, _ in ordered], np.int64))


__all__ = ["Gallery", "Pairs", "all_captions", "open_gallery", "own_captions"]
