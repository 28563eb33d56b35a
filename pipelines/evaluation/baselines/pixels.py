"""Cache of decoded images of one view at one size, memory-mapped.

Satellite images are resized without cropping, to keep the complete region. Street views are resized
by their shorter side and centre-cropped, as in CLIP's processor.
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
from dataset_builders.images import BadImageError

from ..embed.images import decode_row

SAVE_EVERY = 512  # images
HEADER_BYTES = 128  # NumPy's padded header size, for any number of images


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
    if known is None or not path.is_file():
        return None
    if isinstance(known, list):  # of a version that kept no checksum
        known = {"left_out": known, "sha256": None}
    if known["sha256"] not in (None, file_sha256(path)):
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
                _save(path, done, left_out, crc)
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
