"""The images of a view, decoded once to one size and mapped from disk.

A satellite image is resized whole, for all of its region counts. A street view is resized by its
shorter side and cut to the middle square, as CLIP's own processor does.
"""

import os
import zlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from dataset_builders.files import file_sha256, read_json, set_aside, write_state
from dataset_builders.images import BadImageError, decode_image

SAVE_EVERY = 512  # images
HEADER_BYTES = 128  # numpy pads its header to this for any number of images


@dataclass(frozen=True)
class LeftOut:
    """An image that is not among the pixels.

    Attributes:
        row: its number in the stored view.
        image_id: of the dataset.
        reason: "unknown_region", "empty" or one of `BadImageError`'s.
        detail: what was found.
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
    """Decode a view to `path`, or go on where a killed run was, or take what is there.

    Args:
        rows: `{"image", "image_id", "region_id"}` in stored order; not read if `path` is there.
        total: number of them, for the bar.
        view: "satellite" or "street_view".
        size: side of the squares, pixels.
        known_regions: images of others are left out.
        path: of the `.npy` file; what is left out lies beside it.

    Returns:
        `(M, size, size, 3)` uint8, mapped from disk, and what is left out.
    """
    listed = path.with_suffix(".left_out.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    # of two runs at a time one decodes, and the other waits for it
    with FileLock(path.with_suffix(".lock")):
        if (left_out := _stored(listed, path)) is None:
            left_out = _decode(rows, total, view, size, known_regions, path)
            named, sha256 = [asdict(one) for one in left_out], file_sha256(_partial(path))
            write_state(listed, {"left_out": named, "sha256": sha256})
            _partial(path).replace(path)
            _progress(path).unlink(missing_ok=True)
    return np.load(path, mmap_mode="r"), left_out


def _stored(listed: Path, path: Path) -> list[LeftOut] | None:
    """What was left out of the pixels; None if they are not there, or damaged and set aside."""
    known = read_json(listed)
    if known is None or not path.is_file():
        return None
    if isinstance(known, list):  # of a version that kept no checksum
        known = {"left_out": known, "sha256": None}
    if known["sha256"] not in (None, file_sha256(path)):
        set_aside(path)
        return None
    return [LeftOut(**one) for one in known["left_out"]]


def square(image: Image.Image, view: str, size: int) -> NDArray[np.uint8]:
    """`(size, size, 3)` of an RGB image."""
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
        # what was written after the last saved progress is written again
        file.truncate(HEADER_BYTES + (done - len(left_out)) * bytes_each)
        file.seek(0, os.SEEK_END)
        for number, row in enumerate(rows):
            if number < done:
                continue
            try:
                pixels = _pixels(row, view, size, known_regions).tobytes()
                crc = zlib.crc32(pixels, crc)
                file.write(pixels)
            except BadImageError as error:
                image_id = str(row["image_id"])
                left_out.append(LeftOut(number, image_id, error.reason, str(error)))
            done = number + 1
            bar.update()
            if done % SAVE_EVERY == 0:
                _sync(file)
                _save(path, done, left_out, crc)
        file.seek(0)
        file.write(_header((done - len(left_out), size, size, 3)))
        _sync(file)
    return left_out


def _pixels(
    row: dict[str, Any], view: str, size: int, known_regions: frozenset[str]
) -> NDArray[np.uint8]:
    if row["region_id"] not in known_regions:
        raise BadImageError("unknown_region", f"region_id is {row['region_id']!r}")
    if not row["image"]:
        raise BadImageError("empty", "no bytes")
    return square(decode_image(row["image"]), view, size)


def _header(shape: tuple[int, ...]) -> bytes:
    """The first bytes of a `.npy` file (format 1.0), padded to a length that never changes."""
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}"
    start = b"\x93NUMPY\x01\x00" + (HEADER_BYTES - 10).to_bytes(2, "little")
    return start + text.ljust(HEADER_BYTES - 11).encode("latin1") + b"\n"


def _earlier(path: Path, bytes_each: int) -> tuple[int, list[LeftOut], int]:
    """Rows that an earlier run has read, what it left out, and the checksum of the rest."""
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


def _save(path: Path, done: int, left_out: list[LeftOut], crc: int) -> None:
    named = [asdict(one) for one in left_out]
    write_state(_progress(path), {"done": done, "left_out": named, "crc32": crc})


def _sync(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


def _progress(path: Path) -> Path:
    return path.with_name(f".{path.name}.progress.json")


__all__ = ["LeftOut", "decode_view", "square"]
