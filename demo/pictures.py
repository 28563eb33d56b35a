"""Random access to the images of a city in Parquet shards."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from dataset_builders.errors import DatasetError
from dataset_builders.images import BadImageError, decode_image, encode_image
from dataset_builders.parquet import open_shard
from dataset_builders.storage import table_shards
from dataset_builders.unique import RepeatedIdError

THUMBNAIL_SIDE, PICTURE_SIDE = 192, 768  # pixels, at most
KEPT_PICTURES, KEPT_GROUPS = 2048, 16
COLUMNS = ("image_id", "region_id")
SHOWN = ("caption", "caption_model", "source", "licence", "captured_at")


@dataclass(frozen=True)
class Picture:
    """An image of a region.

    Attributes:
        image_id: Id of the image.
        region_id: Id of its region.
        view: `street_view` or `satellite`.
        jpeg: Resized JPEG, or None if the image cannot be decoded.
        caption: Caption, or None.
        caption_model: Model that wrote the caption, or None.
        origin: Source, licence and date, as far as they are known.
    """

    image_id: str
    region_id: str
    view: str
    jpeg: bytes | None
    caption: str | None
    caption_model: str | None
    origin: str


class Pictures:
    """Image table of one view, with ids in memory and images on disk.

    Args:
        dataset_name: Dataset folder or Hub id.
        city: City of the dataset.
        view: `street_view` or `satellite`.

    Raises:
        DatasetError: There is no such table.
    """

    def __init__(self, dataset_name: str, city: str, view: str):
        self.view = view
        ids: list[pa.Table] = []
        self._groups: list[tuple[Path, int]] = []
        sizes: list[int] = []
        for path in table_shards(dataset_name, city, view):
            with open_shard(path) as file:
                ids.append(file.read(columns=list(COLUMNS)).replace_schema_metadata(None))
                for group in range(file.num_row_groups):
                    self._groups.append((path, group))
                    sizes.append(file.metadata.row_group(group).num_rows)
        self._ends = np.cumsum(sizes)
        table = pa.concat_tables(ids)
        self.image_ids: list[str] = table["image_id"].to_pylist()
        self._by_region: dict[str, list[int]] = {}
        for number, region_id in enumerate(table["region_id"].to_pylist()):
            self._by_region.setdefault(region_id, []).append(number)
        self._by_id = {image_id: number for number, image_id in enumerate(self.image_ids)}
        # a cache per object is freed with the object
        self._read = lru_cache(KEPT_PICTURES)(self._read_uncached)

    def of_region(self, region_id: str, limit: int, side: int = PICTURE_SIDE) -> list[Picture]:
        """First images of a region."""
        return [self._read(n, side) for n in self._by_region.get(region_id, [])[:limit]]

    def count(self, region_id: str) -> int:
        """Number of images of a region."""
        return len(self._by_region.get(region_id, ()))

    def by_id(self, image_id: str) -> Picture | None:
        """Image by id, or None if there is no such image."""
        number = self._by_id.get(image_id)
        return None if number is None else self._read(number, PICTURE_SIDE)

    def ids_of_region(self, region_id: str) -> list[str]:
        """Ids of all images of a region."""
        return [self.image_ids[number] for number in self._by_region.get(region_id, ())]

    def stored(self, image_id: str) -> dict[str, Any]:
        """Stored row of an image; `bytes` is the image file.

        Raises:
            KeyError: There is no such image.
        """
        return self._row(self._by_id[image_id])

    def _row(self, number: int) -> dict[str, Any]:
        which = int(np.searchsorted(self._ends, number, side="right"))
        first = int(self._ends[which - 1]) if which else 0
        values = _read_group(*self._groups[which]).slice(number - first, 1).to_pylist()[0]
        image = values.pop("image") or {}
        return {**values, "bytes": image.get("bytes") or b""}

    def _read_uncached(self, number: int, side: int) -> Picture:
        values = self._row(number)
        known = [values[name] for name in SHOWN[2:] if values.get(name)]
        try:
            jpeg = shrunk(decode_image(values["bytes"]), side)
        except BadImageError:
            jpeg = None
        return Picture(
            image_id=self.image_ids[number],
            region_id=values["region_id"],
            view=self.view,
            jpeg=jpeg,
            caption=values.get("caption"),
            caption_model=values.get("caption_model"),
            origin=", ".join(dict.fromkeys(known)),
        )


@lru_cache(KEPT_GROUPS)
def _read_group(path: Path, group: int) -> pa.Table:
    """Cached, as a row group holds a hundred images and similar regions often share a group."""
    with open_shard(path) as file:
        have = [name for name in ("image", *COLUMNS, *SHOWN) if name in file.schema_arrow.names]
        return file.read_row_group(group, columns=have, use_threads=False)


def shrunk(image: Image.Image, side: int) -> bytes:
    """Resize an image to a JPEG of at most `side` pixels."""
    small = image.copy()
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    return encode_image(small, quality=82)


def open_pictures(dataset_name: str, city: str) -> dict[str, Pictures]:
    """Open the image tables of the views that a city has, satellite first.

    Raises:
        RepeatedIdError: If a table has several rows for an image.
    """
    found = {}
    for view in ("satellite", "street_view"):
        try:
            found[view] = Pictures(dataset_name, city, view)
        except RepeatedIdError:
            raise
        except DatasetError:  # a city with only one view
            continue
    return found


__all__ = ["PICTURE_SIDE", "THUMBNAIL_SIDE", "Picture", "Pictures", "open_pictures", "shrunk"]
