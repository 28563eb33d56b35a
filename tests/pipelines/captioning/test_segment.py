import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from PIL import Image

from pipelines.captioning.errors import CaptioningError
from pipelines.captioning.records import Box
from pipelines.captioning.segment import crop, largest_rectangle, salient_boxes

SHAPE = (24, 32)


def rectangle(top, left, height, width, shape=SHAPE):
    mask = np.zeros(shape, bool)
    mask[top : top + height, left : left + width] = True
    return mask


def inside(box, mask):
    return mask[box.top : box.top + box.height, box.left : box.left + box.width]


@st.composite
def mask_lists(draw):
    """Overlapping blobs: unions of a few rectangles, with holes."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    masks = []
    for _ in range(draw(st.integers(0, 8))):
        mask = np.zeros(SHAPE, bool)
        for value in (True, True, False)[: rng.integers(1, 4)]:
            top, left = rng.integers(0, SHAPE[0]), rng.integers(0, SHAPE[1])
            mask[top : top + rng.integers(1, 16), left : left + rng.integers(1, 20)] = value
        masks.append(mask)
    return masks


def rank(mask):
    """Sort key of masks; of two with the same largest rectangle, the first gives the box."""
    (top, *_, bottom), (left, *_, right) = (
        np.flatnonzero(mask.any(axis))[[0, -1]].tolist() for axis in (1, 0)
    )
    cut = mask[top : bottom + 1, left : right + 1]
    return -np.count_nonzero(mask), top, left, cut.shape, np.packbits(cut).tobytes()


def eager_boxes(masks, min_area, min_side, max_boxes) -> tuple[Box, ...]:
    """`salient_boxes` without a heap, recomputing all rectangles at each step."""
    free = np.ones(SHAPE, bool)
    boxes: list[Box] = []
    waiting = sorted((mask.copy() for mask in masks), key=rank)
    while waiting and len(boxes) < max_boxes:
        found = [Box(*largest_rectangle(mask & free)) for mask in waiting]
        best = min(found, key=lambda box: (-box.height * box.width, box))
        if best.height * best.width < min_area:
            break
        if min(best.height, best.width) < min_side:
            inside(best, waiting[found.index(best)])[:] = False
            continue
        waiting.pop(found.index(best))  # one box per mask
        boxes.append(best)
        inside(best, free)[:] = False
    return tuple(boxes)


@settings(max_examples=60)
@given(mask_lists(), st.integers(1, 30), st.integers(1, 4), st.randoms(use_true_random=False))
def test_salient_boxes_takes_the_largest_rectangle_at_each_step(masks, area, side, random):
    # identical masks are one object
    different = list({mask.tobytes(): mask for mask in masks if mask.any()}.values())
    options = {"min_mask_area": 0, "max_mask_area": 1, "duplicate_iou": 1}
    options |= {"min_box_area": area / (SHAPE[0] * SHAPE[1]), "min_side": side / min(SHAPE)}
    boxes = salient_boxes(random.sample(masks, len(masks)), SHAPE, **options)
    assert boxes == eager_boxes(different, area, side, 12)
    for box in boxes:
        assert any(inside(box, mask).all() for mask in masks)
        assert [type(value) for value in vars(box).values()] == [int] * 4


HOLED = rectangle(2, 2, 10, 10)
HOLED[6:8, 6:8] = False
AGAIN = rectangle(2, 2, 10, 9)  # 86 pixels in common with HOLED


@pytest.mark.parametrize(
    ("masks", "options", "expected"),
    [
        # an overlapped mask is cut around the larger one
        ([rectangle(4, 4, 10, 10), rectangle(8, 8, 16, 24)], {},
         (Box(8, 8, 16, 24), Box(4, 4, 4, 10))),
        # tiny and nearly image-sized masks are dropped
        ([rectangle(0, 0, 2, 3), rectangle(0, 0, 24, 31), rectangle(10, 10, 5, 5)],
         {"min_mask_area": 7 / (24 * 32)}, (Box(10, 10, 5, 5),)),
        # near duplicates: the rest of the larger mask is not a new object
        ([rectangle(2, 2, 10, 10), AGAIN], {"min_box_area": 0, "min_side": 0},
         (Box(2, 2, 10, 10),)),
        ([HOLED, AGAIN], {"duplicate_iou": 0.86, "min_box_area": 0}, (Box(2, 2, 4, 10),)),
        ([HOLED, AGAIN], {"duplicate_iou": 0.87, "min_box_area": 0},
         (Box(2, 2, 10, 9), Box(2, 11, 10, 1))),
    ],
)  # fmt: skip
def test_salient_boxes_of_hand_made_masks(masks, options, expected):
    assert salient_boxes(masks, SHAPE, **options) == expected


def test_salient_boxes_rejects_masks_of_another_shape():
    with pytest.raises(ValueError, match=r"image of shape \(24, 32\) .* got \(32, 24\)"):
        salient_boxes([np.zeros((32, 24))], SHAPE)


def test_crop_contains_the_box_and_is_clipped_at_the_border():
    pixels = np.arange(100 * 200, dtype=np.int32).reshape(100, 200)
    image = Image.fromarray(pixels)
    corner = np.asarray(crop(image, Box(90, 195, 10, 5), margin=0.1))
    assert np.array_equal(corner, pixels[80:, 175:])
    bare = np.asarray(crop(image, Box(10, 20, 30, 40), margin=0))
    assert np.array_equal(bare, pixels[10:40, 20:60])
    for box in (Box(-1, 0, 5, 5), Box(0, 0, 0, 5), Box(0, 196, 5, 5)):
        with pytest.raises(CaptioningError, match="not inside an image of 200x100 pixels"):
            crop(image, box)


# ---- the largest rectangle ----------------------------------------------------------------------

SMALL_MASKS = st_numpy.arrays(np.bool_, st_numpy.array_shapes(min_dims=2, max_dims=2, max_side=9))


def brute_force(mask):
    """Check all rectangles in the order of the tie-break, with an integral image."""
    height, width = mask.shape
    sums = np.pad(mask.astype(int), ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    best = (0, 0, 0, 0)
    for top in range(height):
        for left in range(width):
            for h in range(1, height - top + 1):
                for w in range(1, width - left + 1):
                    a, b = top + h, left + w
                    full = sums[a, b] - sums[top, b] - sums[a, left] + sums[top, left] == h * w
                    if full and h * w > best[2] * best[3]:
                        best = (top, left, h, w)
    return best


@settings(max_examples=80)
@given(SMALL_MASKS)
def test_largest_rectangle_equals_brute_force(mask):
    assert largest_rectangle(mask) == brute_force(mask)


def test_largest_rectangle_of_a_long_mask():
    assert largest_rectangle(np.ones((40_000, 2), bool)) == (0, 0, 40_000, 2)  # not an int16


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.zeros(4), r"two dimensions \(H, W\), got shape \(4,\)"),
        (np.array([[0, 255]], np.uint8), "0 and 1 only, got 255"),
        (np.array([[0.0, np.nan]]), "0 and 1 only, got nan"),
        (np.array([["a"]]), "must be bool or numbers 0 and 1, got <U1"),
        (np.array([[None]]), "got object"),
    ],
)
def test_largest_rectangle_rejects_invalid_masks(mask, message):
    with pytest.raises(ValueError, match=message):
        largest_rectangle(mask)
