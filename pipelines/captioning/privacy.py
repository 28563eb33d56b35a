"""Removal of personal data: faces and number plates in images, addresses and numbers in text.

By default, OpenCV's bundled cascades detect large frontal faces and many plates; they miss others
and give false positives. A recipe may name a better detector. Detections are irreversibly pixelated
before an image leaves the machine.
"""

import re
import threading
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dataset_builders.images import decode_image, encode_image

from .errors import MissingDependencyError, load_callable
from .records import Box, SourceImage
from .segment import crop

BLURRER_RULES = "blur-2"
CASCADES = (
    "haarcascade_frontalface_default.xml",
    "haarcascade_profileface.xml",
    "haarcascade_russian_plate_number.xml",
)
LONG_SIDE_PX = 1600
"""Larger images are reduced to this size for detection; smaller details are not readable."""
MOSAIC = 6
"""Cells across a detection; too few to recognise a face or read a plate."""
MARGIN = 0.15
JPEG_QUALITY = 95
PLAIN_INFO = frozenset(
    {"jfif", "jfif_version", "jfif_unit", "jfif_density", "dpi", "progressive", "progression"}
)
"""Metadata that does not reveal where or by whom a photo was taken."""
Detector = Callable[[NDArray[np.uint8]], Sequence[Box]]
"""Function from RGB pixels `(H, W, 3)` to the boxes to pixelate."""


class Blurrer:
    """Pixelates faces and number plates; `revision` is part of the ledger's keys.

    Args:
        detector: "package.module:callable", a `Detector`; OpenCV's cascades by default.

    Raises:
        CaptioningError: The detector cannot be imported.
    """

    def __init__(self, detector: str | None = None):
        self._given = load_callable(detector, "privacy.detector") if detector else None
        self.revision = f"{BLURRER_RULES}/{detector or 'opencv-cascades'}"

    @cached_property
    def _detect(self) -> Detector:
        return self._given or _cascade_detector()

    def blur(self, data: bytes) -> bytes:
        """Pixelate faces and number plates in an image.

        Args:
            data: Encoded upright image.

        Returns:
            The same bytes if nothing was detected and there is no metadata (EXIF, comments, ...);
            otherwise a JPEG without metadata.
        """
        image = decode_image(data)
        found = sorted(self._detect(np.asarray(image)))
        plain = image.info.keys() <= PLAIN_INFO
        image.info.clear()  # else the encoder writes the comment again
        for box in found:
            _mosaic(image, box)
        return data if plain and not found else encode_image(image, "JPEG", JPEG_QUALITY)


def _mosaic(image: Image.Image, box: Box) -> None:
    pad_y, pad_x = round(box.height * MARGIN), round(box.width * MARGIN)
    area = (
        max(0, box.left - pad_x),
        max(0, box.top - pad_y),
        min(image.width, box.left + box.width + pad_x),
        min(image.height, box.top + box.height + pad_y),
    )
    part = image.crop(area)
    if 0 in part.size:
        return
    cells = (min(MOSAIC, part.width), min(MOSAIC, part.height))
    small = part.resize(cells, Image.Resampling.BOX)
    image.paste(small.resize(part.size, Image.Resampling.NEAREST), area[:2])


def _cascade_detector() -> Detector:
    try:
        import cv2
    except ImportError as error:
        raise MissingDependencyError(
            'Blurring faces and plates needs OpenCV: pip install -e ".[captioning]". Or set '
            "`privacy: {blur: never}` in the recipe."
        ) from error
    if not hasattr(cv2, "CascadeClassifier"):
        raise MissingDependencyError(
            f"OpenCV {cv2.__version__} has no cascades: pip install 'opencv-python-headless<5', or "
            "name a detector in the recipe."
        )
    folder = Path(cv2.data.haarcascades)  # type: ignore[attr-defined]
    cascades = [cv2.CascadeClassifier(str(folder / file)) for file in CASCADES]

    def detect(pixels: NDArray[np.uint8]) -> list[Box]:
        height, width = pixels.shape[:2]
        scale = max(1.0, max(height, width) / LONG_SIDE_PX)
        grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
        if scale > 1:
            size = (round(width / scale), round(height / scale))
            grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
        grey = cv2.equalizeHist(grey)
        boxes = []
        for cascade in cascades:
            for found in cascade.detectMultiScale(grey, 1.1, 4, minSize=(16, 16)):
                left, top, width, height = (round(float(value) * scale) for value in found)
                boxes.append(Box(top, left, height, width))
        return boxes

    return detect


class ModelImage:
    """An image in the encoded forms that models receive. Thread-safe."""

    def __init__(self, source: SourceImage, blurrer: Blurrer):
        self._source, self._blurrer = source, blurrer
        self._lock = threading.RLock()

    @property
    def pixels(self) -> Image.Image:
        """Upright RGB image.

        Raises:
            BadImageError: The image cannot be decoded.
        """
        with self._lock:
            return self._decoded

    def encode(self, box: Box | None, blurred: bool) -> bytes:
        """JPEG of the image, or of a box and its margin, without metadata."""
        with self._lock:
            if box is None:
                return self._blurred if blurred else self._plain
            image = self._decoded_blurred if blurred else self._decoded
            return encode_image(crop(image, box), "JPEG", JPEG_QUALITY)

    @cached_property
    def _decoded(self) -> Image.Image:
        return decode_image(self._source.data)

    @cached_property
    def _plain(self) -> bytes:
        # re-encoded, since servers disagree on EXIF orientation, and metadata may identify people
        return encode_image(self._decoded, "JPEG", JPEG_QUALITY)

    @cached_property
    def _blurred(self) -> bytes:
        return self._blurrer.blur(self._plain)

    @cached_property
    def _decoded_blurred(self) -> Image.Image:
        return decode_image(self._blurred)


# ---- texts --------------------------------------------------------------------------------------

REPLACEMENTS = {
    "email": "an e-mail address",
    "phone": "a telephone number",
    "plate": "a number plate",
    "url": "a web address",
}
"""Replacement text by kind of personal data."""

_PATTERNS: dict[str, re.Pattern[str]] = {
    # linear time: repetitions are bounded, and a match cannot start within a longer one
    "email": re.compile(
        r"(?<![\w.+-])[A-Za-z0-9][\w.+-]{0,63}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){1,4}"
        # and others that touch it: what is left of them would look like an address again
        r"(?:[\w.+-]*@[\w.+-]+)*"
    ),
    "url": re.compile(r"\b(?:https?://|www\.)[^\s<>\"']+", re.IGNORECASE),
    "phone": re.compile(
        r"(?<![\w.,-])(?:\+|00)[1-9]\d{0,2}(?:[ .-]?\(?\d{1,4}\)?){2,5}(?![\w-])"
        r"|(?<![\w.,-])\(?0\d{1,4}\)?(?:[ .-]\d{2,4}){2,4}(?![\w-])"
        r"|(?<![\w.,-])(?:\(0\d{2,3}\) ?|0\d{2,3}[ -])\d{7,8}(?![\w-])"
        # North America, with or without its 1
        r"|(?<![\w.,-])(?:1[ .-])?(?:\(\d{3}\) ?|\d{3}[ .-])\d{3}[ .-]\d{4}(?![\w-])"
        # mainland China, mobile
        r"|(?<![\w.,-])1[3-9]\d(?:[ -]?\d{4}){2}(?![\w-])"
    ),
    "plate": re.compile(
        # mainland China
        r"[\u4eac\u6d25\u6caa\u6e1d\u5180\u8c6b\u4e91\u8fbd\u9ed1\u6e58\u7696\u9c81\u65b0\u82cf"
        r"\u6d59\u8d63\u9102\u6842\u7518\u664b\u8499\u9655\u5409\u95fd\u8d35\u7ca4\u9752\u85cf\u5ddd"
        r"\u5b81\u743c][A-Z][\u00b7 .-]?[A-Z0-9]{5,6}"
        # letters and digits mixed, such as AB12 CDE, B-MW 1234, 7ABC123, A 123 BC
        r"|(?<![\w-])[A-Z]{2}\d{2} ?[A-Z]{3}(?![\w-])"
        r"|(?<![\w-])[A-Z]{1,3}-[A-Z]{1,2} ?\d{2,4}(?![\w-])"
        r"|(?<![\w-])\d[A-Z]{3}\d{3}(?![\w-])"
        # not the year of a date, as in MAY 2019
        r"|(?<![\w-])[A-Z]{3}(?:-?\d{4}| (?!19|20)\d{4})(?![\w-])"
        r"|(?<![\w-])[A-Z]{2}[ -]\d{3}[ -][A-Z]{2}(?![\w-])"
    ),
}


def scan_text(text: str) -> tuple[str, ...]:
    """Kinds of personal data that a text appears to contain, as sorted keys of `REPLACEMENTS`."""
    return tuple(sorted({kind for _, _, kind in _findings(text)}))


def redact_text(text: str) -> str:
    """Replace the personal data that `scan_text` finds; overlapping findings become one."""
    parts, end = [], 0
    for start, stop, kind in _findings(text):
        if start >= end:
            parts += [text[end:start], REPLACEMENTS[kind]]
        end = max(end, stop)
    return "".join([*parts, text[end:]])


def _findings(text: str) -> list[tuple[int, int, str]]:
    """Start, end and kind of each finding; of those that start together, the longest first."""
    found = [
        (match.start(), match.end(), kind)
        for kind, pattern in _PATTERNS.items()
        for match in pattern.finditer(text)
    ]
    return sorted(found, key=lambda one: (one[0], -one[1], one[2]))
