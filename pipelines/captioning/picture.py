"""Encoding of images for the models."""

import threading
from functools import cached_property

from PIL import Image

from dataset_builders.images import decode_image, encode_image

from .privacy import JPEG_QUALITY, Blurrer
from .records import Box, SourceImage
from .segment import crop


class Picture:
    """An image and the encoded forms that models receive. Thread-safe.

    Args:
        source: Image as stored.
        blurrer: Pixelates faces and number plates.
    """

    def __init__(self, source: SourceImage, blurrer: Blurrer):
        self.source = source
        self._blurrer = blurrer
        self._lock = threading.RLock()

    @property
    def image(self) -> Image.Image:
        """Upright RGB image.

        Raises:
            BadImageError: The image cannot be decoded.
        """
        with self._lock:
            return self._image

    def whole(self, blurred: bool) -> bytes:
        """Encoded image, without metadata."""
        with self._lock:
            return self._blurred if blurred else self._plain

    def crop(self, box: Box, blurred: bool) -> bytes:
        """Encoded crop of a box and its margin."""
        with self._lock:
            image = self._blurred_image if blurred else self._image
            return encode_image(crop(image, box), "JPEG", JPEG_QUALITY)

    @cached_property
    def _image(self) -> Image.Image:
        return decode_image(self.source.data)

    @cached_property
    def _plain(self) -> bytes:
        # re-encoded, since servers disagree on EXIF orientation, and metadata may identify people
        return encode_image(self._image, "JPEG", JPEG_QUALITY)

    @cached_property
    def _blurred(self) -> bytes:
        return self._blurrer.blur(self._plain)

    @cached_property
    def _blurred_image(self) -> Image.Image:
        return decode_image(self._blurred)
