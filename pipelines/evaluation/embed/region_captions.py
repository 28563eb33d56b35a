"""Captions of a city's images, by region."""

from collections import Counter
from dataclasses import dataclass
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


__all__ = ["RegionCaptions", "ViewCaptions", "read_captions"]
