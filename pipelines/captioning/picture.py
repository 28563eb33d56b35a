"""An image on its way to the models: decoded once, upright, blurred where it leaves the machine."""

import threading
from functools import cached_property

from PIL import Image

from dataset_builders.images import decode_image, encode_image

from .privacy import Blurrer
from .records import Box, SourceImage
from .segment import crop

JPEG_QUALITY = 95


class Picture:
    """An image and the forms in which models get it. Its methods may be called from any thread.

    Args:
        source: the image as stored.
        blurrer: makes faces and plates unreadable.
    """

    def __init__(self, source: SourceImage, blurrer: Blurrer):
        self.source = source
        self._blurrer = blurrer
        self._lock = threading.RLock()

    @property
    def image(self) -> Image.Image:
        """RGB, upright.

        Raises:
            BadImageError: it cannot be used.
        """
        with self._lock:
            return self._image

    def whole(self, blurred: bool) -> bytes:
        """The encoded image, without metadata."""
        with self._lock:
            return self._blurred if blurred else self._plain

    def crop(self, box: Box, blurred: bool) -> bytes:
        """The encoded surroundings of a box."""
        with self._lock:
            image = self._blurred_image if blurred else self._image
            return encode_image(crop(image, box), "JPEG", JPEG_QUALITY)

    @cached_property
    def _image(self) -> Image.Image:
        return decode_image(self.source.data)

    @cached_property
    def _plain(self) -> bytes:
        # encoded anew: models and servers disagree on EXIF orientation, and metadata may say
        # where and by whom a photo was taken
        return encode_image(self._image, "JPEG", JPEG_QUALITY)

    @cached_property
    def _blurred(self) -> bytes:
        return self._blurrer.blur(self._plain)

    @cached_property
    def _blurred_image(self) -> Image.Image:
        return decode_image(self._blurred)
