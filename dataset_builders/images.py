"""Image decoding and encoding.

Formats are allow-listed, since some codecs start other programs (EPS: Ghostscript), and pixels are
counted before they are decoded. Unusable images raise [`BadImageError`].
"""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

# MPO opens as JPEG; Image.open rejects names of codecs that are not built in (AVIF, JPEG 2000)
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "PPM", "JPEG2000")
Image.init()
READABLE = [name for name in FORMATS if name in Image.OPEN]
# formats whose frames are an animation, not previews (MPO) or pages (TIFF)
ANIMATED_FORMATS = ("GIF", "WEBP", "PNG", "AVIF")
STORED_FORMATS = ("JPEG", "PNG", "WEBP")
MIN_SIDE = 8
MAX_ASPECT_RATIO = 20.0
MAX_PIXELS = 80_000_000
ORIENTATION_TAG = 0x0112


class BadImageError(ValueError):
    """Raised for an unusable image.

    Attributes:
        reason: "missing", "empty", "outside_dataset", "unreadable", "truncated", "animated",
            "aspect_ratio", "too_small" or "too_large".
    """

    def __init__(self, reason: str, detail: str):
        self.reason = reason
        super().__init__(detail)


def decode_image(
    source: bytes | Path, min_side: int = MIN_SIDE, max_pixels: int = MAX_PIXELS
) -> Image.Image:
    """Decode an image completely to RGB, upright.

    Applies EXIF orientation, lays transparency on white, scales 16-bit grey to 8 bit, converts CMYK
    and palettes, and takes the first of several pages or images (TIFF, MPO).

    Args:
        source: Encoded bytes, or a file.
        min_side: Minimum length of a side, in pixels.
        max_pixels: Maximum number of pixels, checked before decoding.

    Raises:
        BadImageError: The image is unusable.
    """
    image = open_image(source, max_pixels)
    width, height = image.size
    size = f"{width} x {height} pixels"
    if min(width, height) == 0 or max(width, height) / min(width, height) > MAX_ASPECT_RATIO:
        raise BadImageError("aspect_ratio", f"{size}, more than {MAX_ASPECT_RATIO:g} to 1")
    if min(width, height) < min_side:
        raise BadImageError("too_small", f"{size}, a side under {min_side}")
    try:
        frames = getattr(image, "n_frames", 1) if image.format in ANIMATED_FORMATS else 1
        if frames > 1:
            raise BadImageError("animated", f"an animated {image.format} of {frames} frames")
        image.load()
    except BadImageError:
        raise
    except Exception as error:  # each decoder has its own exceptions for a broken stream
        raise BadImageError(
            "truncated", f"truncated or corrupt {image.format} data: {error}"
        ) from error
    return _to_rgb(_upright(image))


def open_image(source: bytes | Path, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Open an image without decoding its pixels.

    Args:
        source: Encoded bytes, or a file.
        max_pixels: Maximum number of pixels.

    Raises:
        BadImageError: Missing file, format outside [`FORMATS`], or too many pixels.
    """
    data = _read(source)
    try:
        image = Image.open(io.BytesIO(data), formats=READABLE)
    except Image.DecompressionBombError as error:
        raise BadImageError("too_large", str(error)) from error
    except UnidentifiedImageError as error:
        raise BadImageError("unreadable", f"no image: starts with {data[:12]!r}") from error
    except Exception as error:  # truncated headers raise different exceptions per format
        raise BadImageError("unreadable", f"broken header: {error}") from error
    width, height = image.size
    if width * height > max_pixels:
        raise BadImageError("too_large", f"{width} x {height} pixels, more than {max_pixels}")
    return image


def stored_bytes(image: Mapping[str, Any] | None, *folders: Path) -> bytes | None:
    """Encoded bytes of an image in a dataset row, `{"bytes": ..., "path": ...}`.

    Rows are untrusted: a path is opened only within the given folders, a URL never.

    Args:
        image: Value of the image column; None for no image.
        folders: Folders of the dataset; without any, only embedded bytes are used.

    Returns:
        The encoded bytes; None if the row has neither bytes nor a path.

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
        except (OSError, ValueError):  # not a valid file name
            continue
        if path.is_relative_to(folder.resolve()) and path.is_file():
            return _read(path)
    raise BadImageError("outside_dataset", f"{name!r} is not a file of the dataset")


def encode_image(image: Image.Image, format: str = "JPEG", quality: int = 90) -> bytes:
    """Encode an image; `quality` applies to JPEG and WebP."""
    buffer = io.BytesIO()
    # drop the comment of the original file, which may reveal place and photographer
    options = {} if format == "PNG" else {"quality": quality, "comment": b""}
    image.save(buffer, format, **options)
    return buffer.getvalue()


def storable_bytes(source: bytes | Path) -> bytes:
    """Bytes to store: unchanged if every reader decodes the same pixels, else as PNG.

    Upright JPEG, PNG and WebP in 8-bit RGB or grey stay unchanged. Other images (CMYK, palette,
    transparent, 16-bit, rotated by EXIF, other formats) are stored as decoded by [`decode_image`].

    Raises:
        BadImageError: The image is unusable.
    """
    data = _read(source)
    decoded = decode_image(data)
    original = open_image(data)
    plain = original.format in STORED_FORMATS and original.mode in ("RGB", "L")
    if plain and "transparency" not in original.info and not _is_rotated(original):
        return data
    return encode_image(decoded, "PNG")


def _read(source: bytes | Path) -> bytes:
    try:
        data = source.read_bytes() if isinstance(source, Path) else source
    except OSError as error:
        reason = "missing" if isinstance(error, FileNotFoundError) else "unreadable"
        raise BadImageError(reason, f"{getattr(source, 'name', '')}: {error.strerror}") from error
    if not data:
        raise BadImageError("empty", "0 bytes")
    return data


def _is_rotated(image: Image.Image) -> bool:
    try:
        return image.getexif().get(ORIENTATION_TAG, 1) != 1
    except Exception:  # malformed EXIF data
        return False


def _upright(image: Image.Image) -> Image.Image:
    if not _is_rotated(image):
        return image
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # the rest of the EXIF data may be malformed
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _grey16_to_rgb(image)
    if image.mode == "F":
        raise BadImageError("unreadable", "floating-point samples have no defined range")
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
