"""The one door for images: encoded bytes to RGB pixels and back.

Formats are admitted by name, since some codecs start other programs (EPS: Ghostscript), and pixels
are counted before they are decoded. An image that cannot be used is refused with a reason.
"""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

# MPO opens as JPEG; AVIF and JPEG 2000 are not in every build of Pillow, and open() accepts no name
# that it does not know
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "PPM", "JPEG2000")
Image.init()
READABLE = [name for name in FORMATS if name in Image.OPEN]
# formats whose further frames are an animation, not a preview (MPO) or another page (TIFF)
ANIMATED_FORMATS = ("GIF", "WEBP", "PNG", "AVIF")
STORED_FORMATS = ("JPEG", "PNG", "WEBP")
MIN_SIDE = 8
MAX_ASPECT_RATIO = 20.0
MAX_PIXELS = 80_000_000
ORIENTATION_TAG = 0x0112


class BadImageError(ValueError):
    """An image that cannot be used.

    Attributes:
        reason: "missing", "empty", "outside_dataset", "unreadable", "truncated", "animated",
            "aspect_ratio", "too_small" or "too_large".
    """

    def __init__(self, reason: str, detail: str):
        self.reason = reason
        super().__init__(detail)


def decode_image(
    source: bytes | Path,
    min_side: int = MIN_SIDE,
    max_aspect_ratio: float = MAX_ASPECT_RATIO,
    max_pixels: int = MAX_PIXELS,
) -> Image.Image:
    """Decode an image fully to RGB, upright.

    EXIF orientation is applied; transparency is laid on white; 16-bit grey is scaled to 8 bit;
    CMYK and palette colours are converted. Of several pages or images (TIFF, MPO) the first is
    taken.

    Args:
        source: encoded bytes, or a file.
        min_side: smallest side, in pixels.
        max_aspect_ratio: largest ratio of long to short side.
        max_pixels: largest number of pixels, checked before decoding.

    Raises:
        BadImageError: with the `reason`.
    """
    image = open_image(source, max_pixels)
    _check_shape(image, min_side, max_aspect_ratio)
    try:
        frames = getattr(image, "n_frames", 1) if image.format in ANIMATED_FORMATS else 1
        if frames > 1:
            raise BadImageError("animated", f"an animated {image.format} of {frames} frames")
        image.load()
    except BadImageError:
        raise
    except Exception as error:  # each decoder has its own exceptions for a broken stream
        raise BadImageError("truncated", f"{image.format} data end or break: {error}") from error
    return _to_rgb(_upright(image))


def open_image(source: bytes | Path, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Open an image without decoding its pixels.

    Args:
        source: encoded bytes, or a file.
        max_pixels: largest number of pixels.

    Raises:
        BadImageError: no file, no image of the [`FORMATS`], or too many pixels.
    """
    data = _read(source)
    try:
        image = Image.open(io.BytesIO(data), formats=READABLE)
    except Image.DecompressionBombError as error:
        raise BadImageError("too_large", str(error)) from error
    except UnidentifiedImageError as error:
        raise BadImageError("unreadable", f"no image: starts with {data[:12]!r}") from error
    except Exception as error:  # a header cut short fails differently in each format
        raise BadImageError("unreadable", f"broken header: {error}") from error
    width, height = image.size
    if width * height > max_pixels:
        raise BadImageError("too_large", f"{width} x {height} pixels, more than {max_pixels}")
    return image


def stored_bytes(image: Mapping[str, Any] | None, *folders: Path) -> bytes | None:
    """The bytes of an image as a row of a dataset stores it, `{"bytes": ..., "path": ...}`.

    A row was written by whoever made the dataset, and must not choose what is read here: a path is
    opened only below the given folders, an address never.

    Args:
        image: the value of the column; None for no image.
        folders: folders of the dataset's own files; without any, only embedded bytes are used.

    Returns:
        The encoded bytes; None if the row has none and names no file.

    Raises:
        BadImageError: "outside_dataset", or the file cannot be read.
    """
    if image is None or image.get("bytes") is not None:
        return None if image is None else image["bytes"]
    if not (name := image.get("path")):
        return None
    for folder in folders:
        try:
            path = (folder / name).resolve()
        except (OSError, ValueError):  # no name of a file
            continue
        if path.is_relative_to(folder.resolve()) and path.is_file():
            return _read(path)
    raise BadImageError("outside_dataset", f"{name!r} is no file of the dataset")


def encode_image(image: Image.Image, format: str = "JPEG", quality: int = 90) -> bytes:
    """Encode to bytes; `quality` applies to JPEG and WebP."""
    buffer = io.BytesIO()
    if format == "PNG":
        image.save(buffer, format)
    else:
        # without the comment of the original file, which may tell place and photographer
        image.save(buffer, format, quality=quality, comment=b"")
    return buffer.getvalue()


def storable_bytes(source: bytes | Path) -> bytes:
    """The bytes to store: unchanged where every reader sees the same pixels, else as PNG.

    JPEG, PNG and WebP in 8-bit RGB or grey, upright, stay unchanged; anything else (CMYK, palette,
    transparent, 16-bit, rotated by EXIF, other formats) is stored as decoded by [`decode_image`].

    Raises:
        BadImageError: the image cannot be used.
    """
    data = _read(source)
    decoded = decode_image(data)
    original = open_image(data)
    plain = original.format in STORED_FORMATS and original.mode in ("RGB", "L")
    if plain and "transparency" not in original.info and not _is_rotated(original):
        return data
    return encode_image(decoded, "PNG")


def _read(source: bytes | Path) -> bytes:
    data = _read_file(source) if isinstance(source, Path) else source
    if not data:
        raise BadImageError("empty", "0 bytes")
    return data


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        reason = "missing" if isinstance(error, FileNotFoundError) else "unreadable"
        raise BadImageError(reason, f"{path.name}: {error.strerror}") from error


def _check_shape(image: Image.Image, min_side: int, max_aspect_ratio: float) -> None:
    width, height = image.size
    size = f"{width} x {height} pixels"
    if min(width, height) == 0 or max(width, height) / min(width, height) > max_aspect_ratio:
        raise BadImageError("aspect_ratio", f"{size}, more than {max_aspect_ratio:g} to 1")
    if min(width, height) < min_side:
        raise BadImageError("too_small", f"{size}, a side under {min_side}")


def _is_rotated(image: Image.Image) -> bool:
    try:
        return image.getexif().get(ORIENTATION_TAG, 1) != 1
    except Exception:  # EXIF blocks are written by anything
        return False


def _upright(image: Image.Image) -> Image.Image:
    if not _is_rotated(image):
        return image
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # the tag can be read and the rest of the EXIF block be broken
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _grey16_to_rgb(image)
    if image.mode == "F":
        raise BadImageError("unreadable", "floating-point samples have no agreed white")
    try:
        if "A" in image.mode or image.mode == "La" or "transparency" in image.info:
            image = image.convert("RGBA")
            white = Image.new("RGBA", image.size, "white")
            return Image.alpha_composite(white, image).convert("RGB")
        return image.convert("RGB")
    except ValueError as error:
        raise BadImageError("unreadable", f"colour mode {image.mode}: {error}") from error


def _grey16_to_rgb(image: Image.Image) -> Image.Image:
    # Pillow's own conversion clips at 255 instead of scaling
    samples = np.asarray(image).astype(np.int64)
    if samples.min() < 0 or samples.max() > 65535:
        raise BadImageError(
            "unreadable", f"grey from {samples.min()} to {samples.max()} is not 16 bit"
        )
    return Image.fromarray(((samples + 128) // 257).astype(np.uint8), "L").convert("RGB")


__all__ = [
    "BadImageError",
    "decode_image",
    "encode_image",
    "open_image",
    "storable_bytes",
    "stored_bytes",
]
