"""Data of a city for baselines; decoded images are cached, memory-mapped, by view and size.

Satellite images are resized without cropping, to keep the complete region. Street views are resized
by their shorter side and centre-cropped, as in CLIP's processor.
"""

import os
import zlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from filelock import FileLock
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from dataset_builders.captions import clean_caption
from dataset_builders.errors import DatasetError
from dataset_builders.files import digest, file_sha256, read_json, set_aside, write_state
from dataset_builders.images import BadImageError
from dataset_builders.schema import VIEWS
from dataset_builders.storage import iter_images, read_indicators, read_regions, read_table

from ..embed.images import Source, decode_row
from ..embed.poi import PREFIX, poi_columns, training_columns
from ..embed.sources import open_images
from ..probe.splits import geography
from .base import RegionData, View

DATA_VERSION = "1"
SAVE_EVERY = 512  # images
HEADER_BYTES = 128  # NumPy's padded header size, for any number of images


def load_region_data(
    dataset_name: str, city: str, size_px: int, cache_dir: str | Path
) -> RegionData:
    """Read images at one size, captions, coordinates and POI counts of a city.

    POI columns that leak an indicator of the dataset are excluded. Pixels are decoded once per
    size, resumably and in constant memory; unusable images are listed next to the cache.

    Args:
        dataset_name: Folder or Hub id of a dataset.
        city: City of the dataset.
        size_px: Side length of images.
        cache_dir: Folder of the decoded pixels.

    Raises:
        InputError: The dataset or city does not exist.
    """
    source = open_images(dataset_name, city)
    regions = read_regions(dataset_name, city)
    place = geography(regions)
    lonlat = regions[["lon", "lat"]].to_numpy(np.float64)
    key = digest("pixels", DATA_VERSION, source.fingerprint, size_px)
    views = {
        view: _view(dataset_name, city, view, source, lonlat, size_px, Path(cache_dir) / key)
        for view in sorted(VIEWS)
        if source.num_images[view]
    }
    views = {name: view for name, view in views.items() if len(view)}
    columns = poi_columns(regions)
    seen = training_columns(columns, read_indicators(dataset_name, city))
    categories = tuple(name.removeprefix(PREFIX) for name in seen)
    poi = np.nan_to_num(regions[list(seen)].to_numpy(np.float64, na_value=0.0)) if seen else None
    counts = b"" if poi is None else poi.tobytes()
    content: list[object] = [key, lonlat.tobytes(), counts, list(categories)]
    for name, view in sorted(views.items()):
        content += [name, view.captions, view.lonlat.tobytes(), view.heading.tobytes()]
    return RegionData(
        city=city,
        region_ids=source.region_ids,
        xy=place.xy,
        lonlat=lonlat,
        cell_m=place.cell_m,
        views=views,
        poi=poi,
        poi_categories=categories,
        poi_left_out=tuple(column for column in columns if column not in seen),
        synthetic=source.description["synthetic"],
        fingerprint=digest(*content),
    )


def _view(
    dataset_name: str,
    city: str,
    view: str,
    source: Source,
    lonlat: NDArray[np.float64],
    size_px: int,
    folder: Path,
) -> View:
    rows = iter_images(dataset_name, city, view)
    known = frozenset(source.region_ids)
    path = folder / f"{view}.npy"
    pixels, left_out = decode_view(rows, source.num_images[view], view, size_px, known, path)
    if left_out:
        reasons = dict(sorted(Counter(one.reason for one in left_out).items()))
        print(f"{view}: skipped {reasons}; listed in {path.with_suffix('.left_out.json')}")
    table = _columns(dataset_name, city, view).drop(index=[one.row for one in left_out])
    region = pd.Index(source.region_ids).get_indexer(pd.Index(table["region_id"])).astype(np.int64)
    own = table[["lon", "lat"]].to_numpy(np.float64, na_value=np.nan)
    return View(
        image_ids=table["image_id"].tolist(),
        region=region,
        pixels=pixels,
        captions=[clean_caption(c) if isinstance(c, str) else None for c in table["caption"]],
        lonlat=np.where(np.isfinite(own).all(axis=1, keepdims=True), own, lonlat[region]),
        heading=table["heading"].to_numpy(np.float64, na_value=np.nan),
    )


def _columns(dataset_name: str, city: str, view: str) -> pd.DataFrame:
    names = ["image_id", "region_id", "caption", "lon", "lat", "heading"]
    try:
        return read_table(dataset_name, city, view, names)
    except DatasetError:  # satellite images have no coordinates
        return read_table(dataset_name, city, view, names[:3]).reindex(columns=names)


# ---- decoded images ---------------------------------------------------------------------------


@dataclass(frozen=True)
class LeftOut:
    """Skipped image.

    Attributes:
        row: Row index in the stored view.
        image_id: Id of the image.
        reason: "unknown_region", "empty" or a reason of `BadImageError`.
        detail: Description of the error.
    """

    row: int
    image_id: str
    reason: str
    detail: str


def decode_view(
    rows: Iterable[dict[str, Any]],
    total: int,
    view: str,
    size: int,
    known_regions: frozenset[str],
    path: Path,
) -> tuple[NDArray[np.uint8], list[LeftOut]]:
    """Decode a view to `path`, resuming an interrupted run, or open the finished file.

    Args:
        rows: Rows with `image`, `image_id` and `region_id` in stored order; not read if the file
            is finished.
        total: Number of rows, for the progress bar.
        view: "satellite" or "street_view".
        size: Side length of decoded images, in pixels.
        known_regions: Region ids; images of other regions are skipped.
        path: Path of the `.npy` file; the list of skipped images is stored next to it.

    Returns:
        Memory-mapped pixels, `(M, size, size, 3)`, uint8, and the skipped images.
    """
    listed = path.with_suffix(".left_out.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    # a concurrent run waits for this one
    with FileLock(path.with_suffix(".lock")):
        if (left_out := _stored(listed, path)) is None:
            left_out = _decode(rows, total, view, size, known_regions, path)
            named, sha256 = [asdict(one) for one in left_out], file_sha256(_partial(path))
            write_state(listed, {"left_out": named, "sha256": sha256})
            _partial(path).replace(path)
            _progress(path).unlink(missing_ok=True)
    return np.load(path, mmap_mode="r"), left_out


def _stored(listed: Path, path: Path) -> list[LeftOut] | None:
    """Skipped images of a finished file; None if it is missing, or damaged and moved aside."""
    known = read_json(listed)
    if not isinstance(known, dict) or not path.is_file():
        return None
    if known["sha256"] != file_sha256(path):
        set_aside(path)
        return None
    return [LeftOut(**one) for one in known["left_out"]]


def square(image: Image.Image, view: str, size: int) -> NDArray[np.uint8]:
    """Resize an RGB image to `(size, size, 3)`; street views are centre-cropped."""
    box = None
    if view == "street_view":
        side = min(image.size)
        left, top = ((length - side) / 2 for length in image.size)
        box = (left, top, left + side, top + side)
    small = image.resize((size, size), Image.Resampling.BICUBIC, box=box, reducing_gap=3.0)
    return np.asarray(small, dtype=np.uint8)


def _decode(
    rows: Iterable[dict[str, Any]],
    total: int,
    view: str,
    size: int,
    known_regions: frozenset[str],
    path: Path,
) -> list[LeftOut]:
    bytes_each = size * size * 3
    done, left_out, crc = _earlier(path, bytes_each)
    with (
        _partial(path).open("r+b" if done else "w+b") as file,
        tqdm(total=total, initial=done, desc=f"decode {view}", unit="image", disable=None) as bar,
    ):
        # rows after the last saved progress are written again
        file.truncate(HEADER_BYTES + (done - len(left_out)) * bytes_each)
        file.seek(0, os.SEEK_END)
        for number, row in enumerate(rows):
            if number < done:
                continue
            try:
                pixels = square(decode_row(row, known_regions), view, size).tobytes()
                crc = zlib.crc32(pixels, crc)
                file.write(pixels)
            except BadImageError as error:
                image_id = str(row["image_id"])
                left_out.append(LeftOut(number, image_id, error.reason, str(error)))
            done = number + 1
            bar.update()
            if done % SAVE_EVERY == 0:
                _sync(file)
                named = [asdict(one) for one in left_out]
                write_state(_progress(path), {"done": done, "left_out": named, "crc32": crc})
        file.seek(0)
        file.write(_header((done - len(left_out), size, size, 3)))
        _sync(file)
    return left_out


def _header(shape: tuple[int, ...]) -> bytes:
    """Header of a `.npy` file (format 1.0), padded to a fixed length."""
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}"
    start = b"\x93NUMPY\x01\x00" + (HEADER_BYTES - 10).to_bytes(2, "little")
    return start + text.ljust(HEADER_BYTES - 11).encode("latin1") + b"\n"


def _earlier(path: Path, bytes_each: int) -> tuple[int, list[LeftOut], int]:
    """Progress of an earlier run: rows read, skipped images, checksum of the pixels."""
    saved, crc = read_json(_progress(path)), 0
    if saved is None or not _partial(path).is_file():
        return 0, [], 0
    left_out = [LeftOut(**one) for one in saved["left_out"]]
    with _partial(path).open("rb") as file:
        file.seek(HEADER_BYTES)
        for _ in range(saved["done"] - len(left_out)):
            crc = zlib.crc32(file.read(bytes_each), crc)
    if saved.get("crc32", crc) != crc:
        set_aside(_partial(path))
        return 0, [], 0
    return saved["done"], left_out, crc


def _sync(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


def _progress(path: Path) -> Path:
    return path.with_name(f".{path.name}.progress.json")


__all__ = ["LeftOut", "decode_view", "load_region_data", "square"]
