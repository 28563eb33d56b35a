import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from PIL import Image

from dataset_builders.images import decode_image
from pipelines.captioning.errors import CaptioningError
from pipelines.captioning.records import Box
from pipelines.captioning.segment import crop, largest_rectangle, salient_boxes
from pipelines.captioning.segmenters import FelzenszwalbSegmenter

SHAPE = (24, 32)


def rectangle(top, left, height, width, shape=SHAPE):
    mask = np.zeros(shape, bool)
    mask[top : top + height, left : left + width] = True
    return mask


def inside(box, mask):
    return mask[box.top : box.top + box.height, box.left : box.left + box.width]


def coverage(boxes, shape):
    counts = np.zeros(shape, int)
    for box in boxes:
        inside(box, counts)[:] += 1
    return counts


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


@settings(max_examples=150)
@given(mask_lists(), st.integers(0, 6))
def test_salient_boxes_are_disjoint_inside_and_each_in_a_mask(masks, max_boxes):
    boxes = salient_boxes(masks, SHAPE, max_boxes=max_boxes)
    assert len(boxes) <= max_boxes
    assert coverage(boxes, SHAPE).max(initial=0) <= 1
    for box in boxes:
        assert 0 <= box.top < box.top + box.height <= SHAPE[0]
        assert 0 <= box.left < box.left + box.width <= SHAPE[1]
        assert any(inside(box, mask).all() for mask in masks)
        assert [type(side) for side in vars(box).values()] == [int] * 4
    areas = [box.height * box.width for box in boxes]
    assert areas == sorted(areas, reverse=True)


@settings(max_examples=150)
@given(mask_lists(), st.integers(1, 30), st.integers(1, 4))
def test_salient_boxes_takes_the_largest_rectangle_at_each_step(masks, min_area, min_side):
    # identical masks are one object
    different = list({mask.tobytes(): mask for mask in masks if mask.any()}.values())
    boxes = salient_boxes(
        masks,
        SHAPE,
        min_mask_area=0,
        max_mask_area=1,
        duplicate_iou=1,
        min_box_area=min_area / (SHAPE[0] * SHAPE[1]),
        min_side=min_side / min(SHAPE),
    )
    assert boxes == eager_boxes(different, min_area, min_side, 12)


@settings(max_examples=60)
@given(mask_lists(), st.randoms(use_true_random=False))
def test_salient_boxes_do_not_depend_on_the_order_of_masks(masks, random):
    shuffled = random.sample(masks, len(masks))
    assert salient_boxes(shuffled, SHAPE) == salient_boxes(masks, SHAPE)


def test_salient_boxes_cuts_an_overlapped_mask_around_the_larger_one():
    masks = [rectangle(4, 4, 10, 10), rectangle(8, 8, 16, 24)]
    assert salient_boxes(masks, SHAPE) == (Box(8, 8, 16, 24), Box(4, 4, 4, 10))


def test_salient_boxes_drops_masks_that_are_tiny_or_nearly_the_image():
    tiny, whole = rectangle(0, 0, 2, 3), rectangle(0, 0, 24, 31)
    thing = rectangle(10, 10, 5, 5)
    boxes = salient_boxes([tiny, whole, thing], SHAPE, min_mask_area=7 / (24 * 32))
    assert boxes == (Box(10, 10, 5, 5),)
    assert len(salient_boxes([tiny, whole, thing], SHAPE, min_mask_area=0, max_mask_area=1)) == 1
    assert salient_boxes([tiny], SHAPE, min_mask_area=6 / (24 * 32), min_box_area=0) == (
        Box(0, 0, 2, 3),
    )


def test_salient_boxes_uses_one_of_near_duplicate_masks():
    thing, again = rectangle(2, 2, 10, 10), rectangle(2, 2, 10, 9)
    # IoU 0.9: the rest of the larger mask is not a new object
    larger_first = salient_boxes([thing, again], SHAPE, min_box_area=0, min_side=0)
    assert larger_first == (Box(2, 2, 10, 10),)
    # the hole in a mask is no reason to keep a duplicate
    holed = rectangle(2, 2, 10, 10)
    holed[6:8, 6:8] = False
    boxes = salient_boxes([holed, thing], SHAPE, duplicate_iou=0.95, min_box_area=0)
    assert boxes == (Box(2, 2, 10, 10),)
    # these masks share 86 of 100 pixels
    boxes = salient_boxes([holed, again], SHAPE, duplicate_iou=0.86, min_box_area=0)
    assert boxes == (Box(2, 2, 4, 10),)
    boxes = salient_boxes([holed, again], SHAPE, duplicate_iou=0.87, min_box_area=0)
    assert boxes == (Box(2, 2, 10, 9), Box(2, 11, 10, 1))


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ([np.zeros((32, 24))], r"image of shape \(24, 32\) .* got \(32, 24\)"),
        ([np.zeros((24, 32, 1))], "two dimensions"),
        ([np.full(SHAPE, 2)], "0 and 1 only"),
    ],
)
def test_salient_boxes_rejects_invalid_masks(masks, message):
    with pytest.raises(ValueError, match=message):
        salient_boxes(masks, SHAPE)


def test_crop_contains_the_box_and_is_clipped_at_the_border():
    pixels = np.arange(100 * 200, dtype=np.int32).reshape(100, 200)
    image = Image.fromarray(pixels)
    whole = np.asarray(crop(image, Box(0, 0, 100, 200)))
    assert np.array_equal(whole, pixels)
    corner = np.asarray(crop(image, Box(90, 195, 10, 5), margin=0.1))
    assert np.array_equal(corner, pixels[80:, 175:])
    bare = np.asarray(crop(image, Box(10, 20, 30, 40), margin=0))
    assert np.array_equal(bare, pixels[10:40, 20:60])


@pytest.mark.parametrize(
    "box",
    [Box(-1, 0, 5, 5), Box(0, 0, 0, 5), Box(0, 196, 5, 5), Box(96, 0, 5, 5), Box(0, 0, 5, -5)],
)
def test_crop_rejects_a_box_outside_the_image(box):
    with pytest.raises(CaptioningError, match="not inside an image of 200x100 pixels"):
        crop(Image.new("RGB", (200, 100)), box)


def test_boxes_of_a_rotated_photo_refer_to_the_upright_image():
    rng = np.random.default_rng(0)
    pixels = np.kron(rng.integers(0, 255, (3, 4, 3)), np.ones((40, 40, 1))).astype(np.uint8)
    stored, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6  # orientation: rotated by 90 degrees
    Image.fromarray(pixels).save(stored, "JPEG", quality=95, exif=exif)
    upright = decode_image(stored.getvalue())
    assert upright.size == (120, 160)
    masks = FelzenszwalbSegmenter().masks(upright)
    boxes = salient_boxes(masks, (upright.height, upright.width))
    assert len(boxes) == 12
    assert max(box.top + box.height for box in boxes) > 120
    turned = np.rot90(pixels, -1)
    for box in boxes:  # one block of one colour each, except for the smoothed border
        block = inside(box, turned)[3:-3, 3:-3].reshape(-1, 3)
        assert (block == block[0]).all()


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


@settings(max_examples=300)
@given(SMALL_MASKS)
def test_largest_rectangle_equals_brute_force(mask):
    assert largest_rectangle(mask) == brute_force(mask)


def test_largest_rectangle_breaks_ties_by_position():
    mask = np.zeros((5, 7), bool)
    mask[0:2, 4:7] = True
    mask[2:5, 0:2] = True
    assert largest_rectangle(mask) == (0, 4, 2, 3)
    # same corner: the lower height wins
    assert largest_rectangle([[1, 1], [1, 0]]) == (0, 0, 1, 2)
    # the rectangle of smaller height wins, though it starts later
    late = np.zeros((6, 4), bool)
    late[:6, 0] = True
    late[1:3, 1:4] = True
    assert largest_rectangle(late) == (1, 0, 2, 4)
    late[1:3, 3] = False
    assert largest_rectangle(late) == (0, 0, 6, 1)
    narrow = np.array([[1, 0], [1, 1], [1, 1], [1, 0]])
    assert largest_rectangle(narrow) == (0, 0, 4, 1)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (1, 40_000), (40_000, 2)])
def test_largest_rectangle_of_all_set_is_the_mask(shape):
    assert largest_rectangle(np.ones(shape, bool)) == (0, 0, *shape)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.zeros(4), r"two dimensions \(H, W\), got shape \(4,\)"),
        (np.zeros((2, 2, 3)), r"shape \(2, 2, 3\)"),
        (True, r"shape \(\)"),
        (np.array([[0, 255]], np.uint8), "0 and 1 only, got 255"),
        (np.array([[0.0, 0.5]]), "0 and 1 only, got 0.5"),
        (np.array([[0.0, np.nan]]), "0 and 1 only, got nan"),
        (np.array([[-1]]), "got -1"),
        (np.array([["a"]]), "must be bool or numbers 0 and 1, got <U1"),
        (np.array([[1j]]), "got complex128"),
        (np.array([[None]]), "got object"),
    ],
)
def test_largest_rectangle_rejects_invalid_masks(mask, message):
    with pytest.raises(ValueError, match=message):
        largest_rectangle(mask)
