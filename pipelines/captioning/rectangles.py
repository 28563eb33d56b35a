"""The largest rectangle of ones in a binary mask: exact, linear in the pixels, NumPy alone.

For every set pixel, look at the run of set pixels that ends there from above. The widest rectangle
that has this run as its full height is bounded, left and right, by the nearest gap in any of the
run's rows. A rectangle that cannot be extended has such a pixel in its bottom row, so the largest
of these is the largest of all. Going down the rows, the three bounds (above, left, right) are
running maxima, which makes a row two vector operations; areas are looked at band by band, and only
where they could be the largest. It is the dynamic programming twin of the stack of histograms.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

BAND_ROWS = 128
LARGEST_INT16 = np.iinfo(np.int16).max
LARGEST_INT32 = np.iinfo(np.int32).max

Rectangle = tuple[int, int, int, int]


def largest_rectangle(mask: ArrayLike) -> Rectangle:
    """The largest axis-parallel rectangle in which every pixel is set.

    Of several of the same area, the first by (top, left, height).

    Args:
        mask: `(H, W)`, bool or 0 and 1 of any number type.

    Returns:
        (top, left, height, width) in pixels: rows `[top, top + height)`, columns
        `[left, left + width)`. (0, 0, 0, 0) if no pixel is set.

    Raises:
        ValueError: the mask has not two dimensions, or holds other values than 0 and 1.
    """
    pixels = as_mask(mask)
    best_area, best = 0, (0, 0, 0, 0)
    if not pixels.size:
        return best
    height, width = pixels.shape
    # as narrow as the coordinates allow: half the memory to go through, twice the numbers at once
    dtype = np.dtype(np.int16 if max(height, width) < LARGEST_INT16 else np.int32)
    area_dtype = np.int32 if pixels.size <= LARGEST_INT32 else np.int64
    for first_row, bounds in _bands(pixels, dtype):
        top, left, right = bounds[:, 0], bounds[:, 1], bounds[:, 2]
        heights = np.arange(first_row + 1, first_row + 1 + len(top), dtype=dtype)[:, None] - top
        # no larger one can end here, and none of the same area that begins higher
        if width * int(heights.max()) <= best_area:
            continue
        widths = width - left - right
        areas = np.multiply(widths, heights, dtype=area_dtype)
        area = int(areas.max())
        if area < best_area:
            continue
        found = np.unravel_index(np.flatnonzero(areas == area), areas.shape)
        # row by row as they are found, so that of the same corner the flattest comes first
        first = np.lexsort((left[found], top[found]))[0]
        row, column = found[0][first], found[1][first]
        rectangle = (
            int(top[row, column]),
            int(left[row, column]),
            int(heights[row, column]),
            int(widths[row, column]),
        )
        if area > best_area or rectangle < best:
            best_area, best = area, rectangle
    return best


def as_mask(mask: ArrayLike) -> NDArray[np.bool_]:
    """A mask as an array of bool.

    Raises:
        ValueError: it has not two dimensions, or holds other values than 0 and 1.
    """
    array = np.asarray(mask)
    if array.ndim != 2:
        raise ValueError(f"A mask has two dimensions (H, W), got an array of shape {array.shape}.")
    if array.dtype == np.bool_:
        return array
    if array.dtype.kind not in "iuf":
        raise ValueError(f"A mask is of bool or of the numbers 0 and 1, got {array.dtype}.")
    pixels = array == 1
    other = ~pixels & (array != 0)
    if other.any():
        raise ValueError(
            f"A mask holds 0 and 1 only, got {array[other][0]}; compare with a threshold first."
        )
    return pixels


def _bands(pixels: NDArray[np.bool_], dtype: np.dtype) -> Iterator[tuple[int, NDArray]]:
    """Bounds of every pixel's rectangle, some rows at a time: `(rows, 3, W + 1)`.

    The three are the first row of the run of set pixels above (one below the pixel itself where it
    is not set), and how many columns are out of reach on the left and on the right.
    """
    height, width = pixels.shape
    bounds = np.zeros((BAND_ROWS, 3, width + 1), dtype)
    previous = np.zeros((3, width + 1), dtype)
    for first_row in range(0, height, BAND_ROWS):
        rows = np.zeros((min(BAND_ROWS, height - first_row), width + 1), np.bool_)
        rows[:, :width] = pixels[first_row : first_row + BAND_ROWS]
        own, keep = _own_bounds(rows, first_row, dtype), rows.astype(dtype)
        for row, sides, row_own, row_keep in zip(bounds, bounds[:, 1:], own, keep, strict=False):
            np.maximum(previous, row_own, out=row)
            # a gap ends the run: what is below it is not bound by what is above
            np.multiply(sides, row_keep, out=sides)
            previous = row
        yield first_row, bounds[: len(rows)]


def _own_bounds(rows: NDArray[np.bool_], first_row: int, dtype: np.dtype) -> NDArray:
    """What each row alone says of the bounds; its last column is a gap."""
    count, columns = rows.shape
    bounds = np.empty((count, 3, columns), dtype)
    below = np.arange(first_row + 1, first_row + 1 + count, dtype=dtype)
    np.multiply(~rows, below[:, None], out=bounds[:, 0])
    # the rows laid end to end, as gaps and runs in turn; the gap at each row's end keeps them apart
    flat = rows.reshape(-1)
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    if flat[0]:
        edges = np.concatenate(([0], edges))
    lengths = np.diff(edges, prepend=0, append=flat.size)
    sides = np.zeros((len(lengths), 2), dtype)
    starts, ends = edges[0::2], edges[1::2]
    # (x % columns would take thrice as long)
    sides[1::2, 0] = starts - starts // columns * columns
    sides[1::2, 1] = columns - 1 - (ends - ends // columns * columns)
    each = np.repeat(sides, lengths, axis=0).reshape(count, columns, 2)
    bounds[:, 1], bounds[:, 2] = each[:, :, 0], each[:, :, 1]
    return bounds


__all__ = ["Rectangle", "as_mask", "largest_rectangle"]
