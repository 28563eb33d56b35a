"""Salient boxes: from overlapping masks of things to a few disjoint crops of an image.

The paper cuts an image with SAM and a maximal-rectangle algorithm. Here: tiny, all-covering and
near-duplicate masks go; then, again and again, the largest rectangle that lies in a mask and in
what no box covers yet becomes a box. So boxes never overlap, and each shows one thing. (The code
that the paper builds on clusters bounding boxes instead, which may overlap, and looks for free
rectangles on a grid of 4 pixels, with the last row and column of each lost:
https://github.com/foundation-multimodal-models/CAPTURE, utils/bbox_cluster.py.)
"""

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from .errors import CaptioningError
from .records import Box
from .rectangles import as_mask, largest_rectangle
from .segmenters import open_segmenter

# changes with the rules below: what they give for the same masks and options
BOXES_REVISION = "greedy-1"


@dataclass(frozen=True)
class _Region:
    """A mask cut out at its bounding box."""

    top: int
    left: int
    pixels: NDArray[np.bool_]
    area: int


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
    """The things of an image as disjoint boxes, largest first.

    The same masks in another order give the same boxes.

    Args:
        masks: `(H, W)` each, bool or 0 and 1; may overlap.
        shape: (H, W) of the image.
        min_mask_area: share of the image; masks of less are dropped (0.1 %, as the reference's
            boxes).
        max_mask_area: share of the image; masks of more are dropped (90 %, likewise).
        duplicate_iou: of masks that overlap at least so much (intersection over union), only the
            largest is taken.
        min_box_area: share of the image; smaller boxes are not worth a caption.
        min_side: share of the image's shorter side; models see nothing in narrower boxes, so
            that what is left of the mask is looked at instead.
        max_boxes: at most so many (the reference ends with 13 or fewer).

    Returns:
        Half-open boxes inside the image, no two of which share a pixel.

    Raises:
        CaptioningError: an option is out of its range, or a mask has not the image's shape.
        ValueError: a mask holds other values than 0 and 1.
    """
    shares = {
        "min_mask_area": min_mask_area,
        "max_mask_area": max_mask_area,
        "duplicate_iou": duplicate_iou,
        "min_box_area": min_box_area,
        "min_side": min_side,
    }
    _check_options(shares, max_boxes)
    pixels = shape[0] * shape[1]
    regions = [_region(mask, shape) for mask in masks]
    regions = [
        one for one in regions if min_mask_area * pixels <= one.area <= max_mask_area * pixels
    ]
    regions = _without_duplicates([one for one in regions if one.area], duplicate_iou)
    least_area, least_side = max(min_box_area * pixels, 1), min_side * min(shape)
    return tuple(_disjoint(regions, shape, least_area, least_side, max_boxes))


def crop(image: Image.Image, box: Box, margin: float = 0.02) -> Image.Image:
    """Cut a box out of an image, with a little of what surrounds it.

    The margin lets a model see the edges of a thing. Boxes are disjoint; neighbouring crops share
    their margins.

    Args:
        image: upright, as the box's coordinates are (`dataset_builders.images.decode_image`).
        box: pixels.
        margin: on each side, as a share of the image's side, rounded down: a fiftieth as in the
            reference. Ends at the image's edge.

    Raises:
        CaptioningError: the box is empty or not inside the image, or the margin is negative.
    """
    bottom, right = box.top + box.height, box.left + box.width
    inside = 0 <= box.top < bottom <= image.height and 0 <= box.left < right <= image.width
    if not inside:
        raise CaptioningError(
            f"{box} is empty or not inside an image of {image.width}x{image.height} pixels; boxes "
            "belong to the upright image."
        )
    if margin < 0:
        raise CaptioningError(f"The margin of a crop is not negative, got {margin}.")
    across, down = (int(side * margin) for side in image.size)
    return image.crop(
        (
            max(box.left - across, 0),
            max(box.top - down, 0),
            min(right + across, image.width),
            min(bottom + down, image.height),
        )
    )


def _check_options(shares: Mapping[str, float], max_boxes: int) -> None:
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise CaptioningError(f"{name} is a share in [0, 1], got {share}.")
    if max_boxes < 0:
        raise CaptioningError(f"max_boxes is not negative, got {max_boxes}.")


def _region(mask: ArrayLike, shape: tuple[int, int]) -> _Region:
    pixels = as_mask(mask)
    if pixels.shape != tuple(shape):
        raise CaptioningError(
            f"A mask of an image of shape {tuple(shape)} (H, W) has the same shape, got "
            f"{pixels.shape}."
        )
    rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
    if not len(rows):
        return _Region(0, 0, pixels[:0, :0], 0)
    cut = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].copy()
    return _Region(int(rows[0]), int(columns[0]), cut, int(np.count_nonzero(cut)))


def _without_duplicates(regions: list[_Region], duplicate_iou: float) -> list[_Region]:
    """Largest first; of those that overlap nearly fully, the first."""

    def rank(one: _Region) -> tuple:
        # the pixels come last: they decide only between masks that are alike in all else
        pixels = np.packbits(one.pixels).tobytes()
        return -one.area, one.top, one.left, one.pixels.shape, pixels

    kept: list[_Region] = []
    for region in sorted(regions, key=rank):
        if not any(_iou_reaches(other, region, duplicate_iou) for other in kept):
            kept.append(region)
    return kept


def _iou_reaches(larger: _Region, smaller: _Region, least: float) -> bool:
    if smaller.area < least * larger.area:  # even if it lay wholly inside
        return False
    top, left = max(larger.top, smaller.top), max(larger.left, smaller.left)
    bottom = min(one.top + one.pixels.shape[0] for one in (larger, smaller))
    right = min(one.left + one.pixels.shape[1] for one in (larger, smaller))
    if bottom <= top or right <= left:
        return least == 0
    a, b = (
        one.pixels[top - one.top : bottom - one.top, left - one.left : right - one.left]
        for one in (larger, smaller)
    )
    shared = int(np.count_nonzero(a & b))
    return shared >= least * (larger.area + smaller.area - shared)


def _disjoint(
    regions: list[_Region],
    shape: tuple[int, int],
    least_area: float,
    least_side: float,
    max_boxes: int,
) -> list[Box]:
    """Always the largest rectangle that is left, of any region; ties by (top, left, height).

    Changes the regions: strips that are too narrow for a box are taken out of them.
    """
    free = np.ones(shape, np.bool_)
    boxes: list[Box] = []
    waiting: list[tuple[int, Box, int]] = []

    def wait(number: int) -> None:
        box = _largest_free(regions[number], free)
        if box.height * box.width >= least_area:
            heapq.heappush(waiting, (-box.height * box.width, box, number))

    for number in range(len(regions)):
        wait(number)
    while waiting and len(boxes) < max_boxes:
        _, box, number = heapq.heappop(waiting)
        if not _slice(free, box).all():
            # what is free only shrinks, so that nothing that waits will be larger than it was
            wait(number)
        elif min(box.height, box.width) < least_side:
            _remove(regions[number], box)
            wait(number)
        else:
            boxes.append(box)
            _slice(free, box)[:] = False
    return boxes


def _remove(region: _Region, box: Box) -> None:
    inside = Box(box.top - region.top, box.left - region.left, box.height, box.width)
    _slice(region.pixels, inside)[:] = False


def _largest_free(region: _Region, free: NDArray[np.bool_]) -> Box:
    height, width = region.pixels.shape
    here = free[region.top : region.top + height, region.left : region.left + width]
    top, left, height, width = largest_rectangle(region.pixels & here)
    return Box(region.top + top, region.left + left, height, width)


def _slice(array: NDArray[np.bool_], box: Box) -> NDArray[np.bool_]:
    return array[box.top : box.top + box.height, box.left : box.left + box.width]


__all__ = ["BOXES_REVISION", "crop", "largest_rectangle", "open_segmenter", "salient_boxes"]
