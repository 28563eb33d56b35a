"""Salient boxes: disjoint crops of an image from overlapping segmentation masks.

The paper segments an image with SAM and a maximal-rectangle algorithm. Here, tiny, image-sized and
near-duplicate masks are dropped; then the largest rectangle within a mask and outside all previous
boxes is repeatedly added as a box. Boxes never overlap, and each shows one object. (The code that
the paper builds on clusters bounding boxes, which may overlap:
https://github.com/foundation-multimodal-models/CAPTURE, utils/bbox_cluster.py.)
"""

import heapq
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from .errors import CaptioningError
from .records import Box

BOXES_REVISION = "greedy-1"
"""Changed whenever the boxes for the same masks and options change."""

Rectangle = tuple[int, int, int, int]


def salient_boxes(
    masks: Iterable[ArrayLike],
    shape: tuple[int, int],
    *,
    min_mask_area: float = 0.001,
    max_mask_area: float = 0.9,
    duplicate_iou: float = 0.8,
    min_box_area: float = 0.002,
    min_side: float = 0.02,
    max_boxes: int = 12,
) -> tuple[Box, ...]:
    """Disjoint boxes of the objects in an image, largest first.

    The result does not depend on the order of the masks.

    Args:
        masks: Masks `(H, W)` of bool or 0 and 1; may overlap.
        shape: (H, W) of the image.
        min_mask_area: Minimum area of a mask as a share of the image. The defaults of this and of
            `max_mask_area` are those of the reference.
        max_mask_area: Maximum area of a mask as a share of the image.
        duplicate_iou: Only the largest of masks with at least this intersection over union is used.
        min_box_area: Minimum area of a box as a share of the image.
        min_side: Minimum side of a box as a share of the image's shorter side. Narrower boxes are
            removed from their mask, which is searched again.
        max_boxes: Maximum number of boxes.

    Returns:
        Disjoint half-open boxes inside the image.

    Raises:
        CaptioningError: The shape of a mask differs from that of the image.
        ValueError: A mask contains values other than 0 and 1.
    """
    pixels = shape[0] * shape[1]
    regions = [_region(mask, shape) for mask in masks]
    least, most = max(min_mask_area * pixels, 1), max_mask_area * pixels
    regions = [one for one in regions if least <= one.area <= most]
    regions = _without_duplicates(regions, duplicate_iou)
    least_area, least_side = max(min_box_area * pixels, 1), min_side * min(shape)
    return tuple(_disjoint(regions, shape, least_area, least_side, max_boxes))


def largest_rectangle(mask: ArrayLike) -> Rectangle:
    """Largest axis-aligned rectangle of set pixels.

    For each set pixel, take the vertical run of set pixels that ends there. The widest rectangle of
    this height is bounded on both sides by the nearest gaps in the rows of the run; the largest of
    these rectangles is the result. The bounds are running maxima over rows, so each row takes two
    vector operations. Ties are broken by (top, left, height).

    Args:
        mask: `(H, W)` of bool or 0 and 1 of any number type.

    Returns:
        (top, left, height, width) in pixels: rows `[top, top + height)`, columns
        `[left, left + width)`. (0, 0, 0, 0) if no pixel is set.

    Raises:
        ValueError: The mask is not two-dimensional, or contains values other than 0 and 1.
    """
    pixels = _as_mask(mask)
    if not pixels.any():
        return 0, 0, 0, 0
    height, width = pixels.shape
    # int16 halves the memory traffic
    dtype = np.int16 if max(height, width) < np.iinfo(np.int16).max else np.int32
    rows, columns = (np.arange(1, size + 1, dtype=dtype) for size in (height, width))
    # per pixel: first row of its run, and numbers of columns excluded on the left and on the right
    bounds = np.empty((height, 3, width), dtype)
    np.multiply(~pixels, rows[:, None], out=bounds[:, 0])
    gaps = ~pixels * columns
    np.maximum.accumulate(gaps, axis=1, out=bounds[:, 1])
    np.multiply(~pixels, columns[::-1], out=gaps)
    bounds[:, 2] = np.maximum.accumulate(gaps[:, ::-1], axis=1)[:, ::-1]
    previous = np.zeros((3, width), dtype)
    for row, set_pixels in zip(bounds, pixels.astype(dtype), strict=True):
        np.maximum(previous, row, out=row)
        row[1:] *= set_pixels  # a new run begins below a gap
        previous = row
    heights = rows[:, None] - bounds[:, 0]
    areas = np.multiply(width - bounds[:, 1] - bounds[:, 2], heights, dtype=np.int32)
    largest = np.unravel_index(np.flatnonzero(areas == areas.max()), areas.shape)
    tops, lefts, found = bounds[:, 0][largest], bounds[:, 1][largest], heights[largest]
    first = np.lexsort((found, lefts, tops))[0]
    top, left, tall = int(tops[first]), int(lefts[first]), int(found[first])
    return top, left, tall, int(areas.max()) // tall


def crop(image: Image.Image, box: Box, margin: float = 0.02) -> Image.Image:
    """Crop a box and a margin, which shows the edges of the object.

    Args:
        image: Upright image (`dataset_builders.images.decode_image`).
        box: Box in pixels.
        margin: Margin on each side as a share of the image's side, rounded down and clipped at the
            image border; the default is that of the reference.

    Raises:
        CaptioningError: The box is empty or not inside the image.
    """
    bottom, right = box.top + box.height, box.left + box.width
    if not (0 <= box.top < bottom <= image.height and 0 <= box.left < right <= image.width):
        raise CaptioningError(
            f"{box} is empty or not inside an image of {image.width}x{image.height} pixels; boxes "
            "refer to the upright image."
        )
    across, down = (int(side * margin) for side in image.size)
    return image.crop(
        (
            max(box.left - across, 0),
            max(box.top - down, 0),
            min(right + across, image.width),
            min(bottom + down, image.height),
        )
    )


@dataclass(frozen=True)
class _Region:
    """A mask cropped to its bounding box."""

    top: int
    left: int
    pixels: NDArray[np.bool_]
    area: int

    def cut(self, top: int, left: int, bottom: int, right: int) -> NDArray[np.bool_]:
        return self.pixels[top - self.top : bottom - self.top, left - self.left : right - self.left]


def _region(mask: ArrayLike, shape: tuple[int, int]) -> _Region:
    pixels = _as_mask(mask)
    if pixels.shape != tuple(shape):
        raise CaptioningError(
            f"A mask of an image of shape {tuple(shape)} (H, W) must have the same shape, got "
            f"{pixels.shape}."
        )
    rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
    if not len(rows):
        return _Region(0, 0, pixels[:0, :0], 0)
    cut = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].copy()
    return _Region(int(rows[0]), int(columns[0]), cut, int(np.count_nonzero(cut)))


def _as_mask(mask: ArrayLike) -> NDArray[np.bool_]:
    array = np.asarray(mask)
    if array.ndim != 2:
        raise ValueError(f"A mask must have two dimensions (H, W), got shape {array.shape}.")
    if array.dtype.kind not in "biuf":
        raise ValueError(f"A mask must be bool or numbers 0 and 1, got {array.dtype}.")
    pixels = array == 1
    if (other := ~pixels & (array != 0)).any():
        raise ValueError(
            f"A mask must contain 0 and 1 only, got {array[other][0]}; apply a threshold first."
        )
    return pixels


def _without_duplicates(regions: list[_Region], duplicate_iou: float) -> list[_Region]:
    """Distinct regions, largest first."""

    def rank(one: _Region) -> tuple:
        # the pixels break the remaining ties
        return -one.area, one.top, one.left, one.pixels.shape, np.packbits(one.pixels).tobytes()

    kept: list[_Region] = []
    for region in sorted(regions, key=rank):
        if not any(_iou_reaches(other, region, duplicate_iou) for other in kept):
            kept.append(region)
    return kept


def _iou_reaches(larger: _Region, smaller: _Region, least: float) -> bool:
    if smaller.area < least * larger.area:  # an upper bound of the IoU
        return False
    top, left = max(larger.top, smaller.top), max(larger.left, smaller.left)
    bottom = min(one.top + one.pixels.shape[0] for one in (larger, smaller))
    right = min(one.left + one.pixels.shape[1] for one in (larger, smaller))
    if bottom <= top or right <= left:
        return least == 0
    a, b = (one.cut(top, left, bottom, right) for one in (larger, smaller))
    shared = int(np.count_nonzero(a & b))
    return shared >= least * (larger.area + smaller.area - shared)


def _disjoint(
    regions: list[_Region],
    shape: tuple[int, int],
    least_area: float,
    least_side: float,
    max_boxes: int,
) -> list[Box]:
    """Repeatedly take the largest free rectangle of any region; ties by (top, left, height).

    Modifies the regions: strips that are too narrow for a box are removed.
    """
    free = np.ones(shape, np.bool_)
    boxes: list[Box] = []
    waiting: list[tuple[int, Box, int]] = []

    def wait(number: int) -> None:
        region = regions[number]
        here = Box(region.top, region.left, *region.pixels.shape)
        top, left, height, width = largest_rectangle(region.pixels & _inside(free, here))
        if height * width >= least_area:
            box = Box(region.top + top, region.left + left, height, width)
            heapq.heappush(waiting, (-height * width, box, number))

    for number in range(len(regions)):
        wait(number)
    while waiting and len(boxes) < max_boxes:
        _, box, number = heapq.heappop(waiting)
        if not _inside(free, box).all():
            # free areas only shrink, so no waiting rectangle can become larger
            wait(number)
        elif min(box.height, box.width) < least_side:
            region = regions[number]
            bottom, right = box.top + box.height, box.left + box.width
            region.cut(box.top, box.left, bottom, right)[:] = False
            wait(number)
        else:
            boxes.append(box)
            _inside(free, box)[:] = False
    return boxes


def _inside(array: NDArray[np.bool_], box: Box) -> NDArray[np.bool_]:
    return array[box.top : box.top + box.height, box.left : box.left + box.width]
