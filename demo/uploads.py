"""Limits, validation and decoding of uploaded images.

Only uploaded files are read, never URLs. The size of a request is checked before it is stored, that
of a file before reading and the number of pixels before decoding; the format is detected from the
content, not from the name.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from starlette.responses import JSONResponse

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
MAX_UPLOAD_BYTES = (MAX_STREET_VIEWS + 1) * MAX_BYTES  # per request, which may hold many files

Uploads = dict[str, list[Image.Image]]


def read_uploads(street_views: Sequence[str] | None, satellite: str | None) -> Uploads:
    """Decode uploaded files.

    Args:
        street_views: Paths on this server.
        satellite: Path on this server.

    Returns:
        Upright RGB images by view, for the views with any.

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
    given = {"street_view": names, "satellite": [] if satellite is None else [satellite]}
    return {
        view: [read_picture(Path(name)) for name in paths] for view, paths in given.items() if paths
    }


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


class UploadLimit:
    """ASGI middleware that rejects uploads with a missing or too large `Content-Length`."""

    def __init__(self, app: Any):
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Handle an ASGI request."""
        app = self.app
        if scope["type"] == "http" and scope["path"].rstrip("/").endswith("/upload"):
            header = dict(scope["headers"]).get(b"content-length", b"")
            length = int(header) if header.isdigit() else 0
            if scope["method"] == "POST" and not 0 < length <= MAX_UPLOAD_BYTES:
                detail = (
                    f"At most {MAX_STREET_VIEWS} images of {MAX_BYTES // 1_000_000} MB each can be "
                    f"uploaded; got {length / 1e6:.0f} MB. Upload fewer or smaller ones."
                )
                app = JSONResponse({"detail": detail}, status_code=413)
        await app(scope, receive, send)


__all__ = [
    "MAX_STREET_VIEWS",
    "MAX_UPLOAD_BYTES",
    "UploadLimit",
    "Uploads",
    "read_picture",
    "read_uploads",
]
