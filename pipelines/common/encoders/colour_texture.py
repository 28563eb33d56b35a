"""Colour, gradient and texture statistics of an image: features without learning.

Hue, saturation and value histograms; colour moments on a 3 x 3 grid; histograms of oriented
gradients on a 2 x 2 grid; uniform local binary patterns (Ojala et al. 2002,
doi:10.1109/TPAMI.2002.1017623) at two scales; colourfulness, greenness, entropy and sharpness.
Histograms enter as square roots (Hellinger) so that standardisation does not inflate rare bins.
"""

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

COLOUR_TEXTURE_VERSION = 1
SIDE = 128  # pixels
HUES, LEVELS, ORIENTATIONS = 16, 8, 8
GRID, GRADIENT_GRID = 3, 2
UNIFORM_PATTERNS = 59
COLOUR_TEXTURE_DIM = (
    HUES
    + 2 * LEVELS
    + GRID * GRID * 6
    + (GRADIENT_GRID * GRADIENT_GRID + 1) * ORIENTATIONS
    + 2 * UNIFORM_PATTERNS
    + 7
)

Array = NDArray[np.floating]


class ColourTextureEncoder:
    """Colour, gradient and texture statistics."""

    name = "colour_texture"
    dim = COLOUR_TEXTURE_DIM
    fingerprint = f"colour_texture-{COLOUR_TEXTURE_VERSION}"
    random_init = False
    pooling = "statistics"

    def prepare(self, image: Image.Image) -> torch.Tensor:
        """Compute the features of an image."""
        return torch.from_numpy(colour_texture(image))

    def encode(self, batch: torch.Tensor) -> NDArray[np.float32]:
        """Return the features that `prepare` computed."""
        return batch.numpy()


def load(**_: object) -> ColourTextureEncoder:
    """Create the encoder; it has no settings."""
    return ColourTextureEncoder()


def colour_texture(image: Image.Image) -> NDArray[np.float32]:
    """Features of an RGB image, of shape `(COLOUR_TEXTURE_DIM,)`."""
    small = image.resize((SIDE, SIDE), Image.Resampling.BILINEAR, reducing_gap=2.0)
    rgb = np.asarray(small, np.float32) / 255
    hsv = np.asarray(small.convert("HSV"), np.float32) / 255
    grey = rgb @ np.array([0.299, 0.587, 0.114], np.float32)
    half = grey.reshape(SIDE // 2, 2, SIDE // 2, 2).mean((1, 3))
    parts = (
        _colour_histograms(hsv),
        _colour_moments(rgb),
        _gradient_histograms(grey),
        _binary_patterns(grey),
        _binary_patterns(half),
        _summary(rgb, grey),
    )
    return np.concatenate(parts).astype(np.float32)


def _colour_histograms(hsv: Array) -> Array:
    hue, saturation, value = hsv.reshape(-1, 3).T
    # grey pixels have no hue: weight by saturation
    hues = np.histogram(hue, HUES, (0, 1), weights=saturation)[0] / len(hue)
    levels = [np.histogram(v, LEVELS, (0, 1))[0] / len(v) for v in (saturation, value)]
    return np.sqrt(np.concatenate([hues, *levels]))


def _colour_moments(rgb: Array) -> Array:
    rows = np.array_split(rgb, GRID, axis=0)
    cells = [cell for row in rows for cell in np.array_split(row, GRID, axis=1)]
    return np.concatenate([m for cell in cells for m in (cell.mean((0, 1)), cell.std((0, 1)))])


def _gradient_histograms(grey: Array) -> Array:
    dy, dx = np.gradient(grey)
    strength = np.hypot(dx, dy)
    bins = ((np.arctan2(dy, dx) % np.pi) / np.pi * ORIENTATIONS).astype(int) % ORIENTATIONS
    step = SIDE // GRADIENT_GRID
    row, column = np.indices(grey.shape) // step
    cell = row * GRADIENT_GRID + column
    counts = np.bincount(
        (cell * ORIENTATIONS + bins).ravel(), strength.ravel(), GRADIENT_GRID**2 * ORIENTATIONS
    ) / (step * step)
    whole = counts.reshape(-1, ORIENTATIONS).mean(0)
    return np.concatenate([counts, whole])


@lru_cache(maxsize=1)
def _uniform_codes() -> NDArray[np.int64]:
    """Codes of the 8-bit patterns: one per uniform pattern, and a common one for all others."""
    patterns = (np.arange(256)[:, None] >> np.arange(8)) & 1
    changes = (patterns != np.roll(patterns, 1, axis=1)).sum(1)
    codes = np.full(256, UNIFORM_PATTERNS - 1)
    codes[changes <= 2] = np.arange((changes <= 2).sum())
    return codes


def _binary_patterns(grey: Array) -> Array:
    centre = grey[1:-1, 1:-1]
    ring = ((0, 0), (0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0))
    height, width = centre.shape
    # a threshold above rounding, so that a uniform sky does not yield noise
    pattern = sum(
        (grey[top : top + height, left : left + width] > centre + 1 / 255).astype(int) << bit
        for bit, (top, left) in enumerate(ring)
    )
    counts = np.bincount(_uniform_codes()[np.asarray(pattern)].ravel(), minlength=UNIFORM_PATTERNS)
    return np.sqrt(counts / centre.size)


def _summary(rgb: Array, grey: Array) -> Array:
    red, green, blue = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    opponent = (red - green, 0.5 * (red + green) - blue)
    colourfulness = np.hypot(*(o.std() for o in opponent)) + 0.3 * np.hypot(
        *(o.mean() for o in opponent)
    )
    excess_green = 2 * green - red - blue
    shares = np.histogram(grey, 32, (0, 1))[0] / grey.size
    entropy = -(shares * np.log2(np.where(shares > 0, shares, 1))).sum()
    laplacian = (
        grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * grey[1:-1, 1:-1]
    )
    return np.array(
        [
            colourfulness,
            excess_green.mean(),
            (excess_green > 0.1).mean(),
            (blue - red > 0.1).mean(),
            entropy,
            np.abs(laplacian).mean(),
            np.square(laplacian).mean() ** 0.5,
        ],
        np.float32,
    )


__all__ = [
    "COLOUR_TEXTURE_DIM",
    "COLOUR_TEXTURE_VERSION",
    "ColourTextureEncoder",
    "colour_texture",
    "load",
]
