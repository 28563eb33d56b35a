"""Validation and decoding of uploaded images.

Only uploaded files are read, never URLs. The file size is checked before reading and the number of
pixels before decoding; the format is detected from the content, not from the name.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from dataset_builders.images import BadImageError, decode_image
from pipelines.evaluation.errors import InputError

MAX_STREET_VIEWS = 40
MAX_BYTES = 20_000_000  # per file
MAX_PIXELS = 50_000_000
WORKING_SIDE = 1024  # pixels; more than any model here takes
SHOWN_NAME = 60  # characters

# first bytes of files that are not images
BEGINNINGS = (
    (b"PK\x03\x04", "a zip archive"),
    (b"%PDF", "a PDF"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x80\x02", "a pickle"),
    (b"\x80\x04", "a pickle"),
)
REMEDIES = {
    "too_large": "Reduce it to at most {pixels:,} pixels and upload it again.",
    "truncated": "Copy the file again and upload it.",
    "animated": "Save a single frame as JPEG or PNG.",
    "aspect_ratio": "Crop it: one side is more than 20 times as long as the other.",
    "too_small": "Upload an image of at least 8 x 8 pixels.",
    "empty": "Copy the file again and upload it.",
}
REASONS = {
    "too_large": "it has too many pixels",
    "aspect_ratio": "it is too narrow",
}
ELSE = "Upload a JPEG, PNG or WebP image."


@dataclass(frozen=True)
class Upload:
    """Decoded images of an upload.

    Attributes:
        street_views: Upright RGB images.
        satellite: Upright RGB image, or None.
    """

    street_views: list[Image.Image]
    satellite: Image.Image | None

    @property
    def views(self) -> dict[str, list[Image.Image]]:
        """Images by view, without empty views."""
        above = [] if self.satellite is None else [self.satellite]
        both = {"street_view": self.street_views, "satellite": above}
        return {name: images for name, images in both.items() if images}


def read_uploads(street_views: Sequence[str] | None, satellite: str | None) -> Upload:
    """Decode uploaded files.

    Args:
        street_views: Paths on this server.
        satellite: Path on this server.

    Raises:
        InputError: There is no file, there are too many, or one is not a usable image.
    """
    names = list(street_views or [])
    if not names and satellite is None:
        raise InputError(
            "There are no images yet. Upload street views, a satellite image, or both, and press "
            "the button again."
        )
    if len(names) > MAX_STREET_VIEWS:
        raise InputError(
            f"At most {MAX_STREET_VIEWS} street views can be uploaded, got {len(names)}. Use "
            "`python evaluate.py embed` for larger collections."
        )
    above = None if satellite is None else read_picture(Path(satellite))
    return Upload([read_picture(Path(name)) for name in names], above)


def read_picture(path: Path) -> Image.Image:
    """Decode a file to an upright RGB image with sides of at most `WORKING_SIDE` pixels.

    Raises:
        InputError: The file is too large or not an image.
    """
    name = path.name if len(path.name) <= SHOWN_NAME else f"{path.name[: SHOWN_NAME - 1]}…"
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise InputError(
            f"“{name}” has {size / 1e6:.0f} MB, but the maximum is {MAX_BYTES / 1e6:.0f} MB. "
            "Reduce its size and upload it again."
        )
    try:
        image = decode_image(path, max_pixels=MAX_PIXELS)
    except BadImageError as error:
        raise InputError(f"“{name}” cannot be used: {_why(path, error)}") from error
    image.thumbnail((WORKING_SIDE, WORKING_SIDE), Image.Resampling.LANCZOS)
    return image


def _why(path: Path, error: BadImageError) -> str:
    if error.reason in REMEDIES:
        reason = REASONS.get(error.reason, f"it is {error.reason.replace('_', ' ')}")
        return f"{reason}. {REMEDIES[error.reason].format(pixels=MAX_PIXELS)}"
    return f"it is {_kind(path)}. {ELSE}"


def _kind(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(512)
    for beginning, kind in BEGINNINGS:
        if head.startswith(beginning):
            return kind
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if b"<svg" in start:
        return "an SVG drawing, which is not supported"
    if start.startswith(b"<"):
        return "a web page or another file with markup"
    try:
        head.decode("utf-8")
    except UnicodeDecodeError:
        return "not a readable image"
    return "text"


__all__ = ["MAX_STREET_VIEWS", "Upload", "read_picture", "read_uploads"]
