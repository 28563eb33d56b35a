"""Drawing a picture and its mask in one pass.

Shapes are painted at twice the size into RGBA, where the fourth channel is no opacity but the
number of the thing painted. What hides what is thus the same in picture and mask, to the pixel.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

SCALE = 2  # supersampling
Point = Sequence[float]
Rgb = tuple[int, int, int]


class Canvas:
    """A picture being painted.

    Args:
        width: of the finished picture, pixels.
        height: of it.
        ground: its first colour.
        tag: number of that.

    All coordinates are pixels of the finished picture.
    """

    def __init__(self, width: int, height: int, ground: Rgb, tag: int = 0):
        self.width, self.height = width, height
        self._image = Image.new("RGBA", (width * SCALE, height * SCALE), (*ground, tag))
        self._draw = ImageDraw.Draw(self._image)
        self.tag = tag

    def polygon(self, points: Sequence[float], rgb: Rgb) -> None:
        """Fill a polygon of flat coordinates x0, y0, x1, y1, ..."""
        self._draw.polygon([value * SCALE for value in points], fill=(*rgb, self.tag))

    def rectangle(self, x0: float, y0: float, x1: float, y1: float, rgb: Rgb) -> None:
        """Fill a rectangle; corners in any order."""
        left, right = sorted((x0 * SCALE, x1 * SCALE))
        top, bottom = sorted((y0 * SCALE, y1 * SCALE))
        self._draw.rectangle((left, top, right, bottom), fill=(*rgb, self.tag))

    def ellipse(self, x: float, y: float, rx: float, ry: float, rgb: Rgb) -> None:
        """Fill an ellipse around a point."""
        box = ((x - rx) * SCALE, (y - ry) * SCALE, (x + rx) * SCALE, (y + ry) * SCALE)
        self._draw.ellipse(box, fill=(*rgb, self.tag))

    def line(self, points: Sequence[float], rgb: Rgb, width: float, joint: bool = False) -> None:
        """Draw a line through flat coordinates; widths below half a pixel become that."""
        self._draw.line(
            [value * SCALE for value in points],
            fill=(*rgb, self.tag),
            width=max(1, round(width * SCALE)),
            joint="curve" if joint else None,
        )

    def pixels(self) -> np.ndarray:
        """The smoothed picture, `(height, width, 3)` float32 in 0..255."""
        small = self._image.convert("RGB").reduce(SCALE)
        return np.asarray(small, dtype=np.float32)

    def mask(self) -> np.ndarray:
        """`(height, width)` uint8: the number of what is seen at each pixel."""
        return np.asarray(self._image.getchannel("A"))[SCALE // 2 :: SCALE, SCALE // 2 :: SCALE]


def shade(rgb: Rgb, factor: float) -> Rgb:
    """A colour made darker (< 1) or lighter (> 1)."""
    r, g, b = rgb
    return (
        min(255, max(0, int(r * factor))),
        min(255, max(0, int(g * factor))),
        min(255, max(0, int(b * factor))),
    )


def mix(first: Rgb, second: Rgb, share: float) -> Rgb:
    """A colour between two; `share` of the second."""
    r, g, b = (int(a + (z - a) * share) for a, z in zip(first, second, strict=True))
    return (r, g, b)


def finish(pixels: np.ndarray) -> Image.Image:
    """Float pixels to a PIL image."""
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8), "RGB")


__all__ = ["Canvas", "Rgb", "finish", "mix", "shade"]
