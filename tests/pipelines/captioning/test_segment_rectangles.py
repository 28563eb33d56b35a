import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from pipelines.captioning import rectangles
from pipelines.captioning.segment import largest_rectangle

SMALL_MASKS = st_numpy.arrays(np.bool_, st_numpy.array_shapes(min_dims=2, max_dims=2, max_side=9))


def brute_force(mask):
    """Every rectangle, in the order of the tie-break; sums by an integral image."""
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


def largest_area_by_stack(mask):
    """The textbook's stack of histograms, row by row."""
    heights, best = [0] * mask.shape[1], 0
    for row in mask.tolist():
        heights = [h + 1 if one else 0 for h, one in zip(heights, row, strict=True)]
        stack: list[tuple[int, int]] = []
        for column, height in enumerate([*heights, 0]):
            start = column
            while stack and stack[-1][1] >= height:
                start, tallest = stack.pop()
                best = max(best, tallest * (column - start))
            stack.append((start, height))
    return best


@settings(max_examples=300)
@given(SMALL_MASKS)
def test_largest_rectangle_equals_brute_force(mask):
    assert largest_rectangle(mask) == brute_force(mask)


@settings(max_examples=100)
@given(SMALL_MASKS, st.integers(1, 4))
def test_largest_rectangle_is_the_same_however_rows_are_grouped(mask, rows):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rectangles, "BAND_ROWS", rows)
        assert largest_rectangle(mask) == brute_force(mask)


@pytest.mark.parametrize("density", [0.5, 0.9, 0.99, 0.999])
def test_largest_rectangle_has_the_area_that_the_stack_finds(density):
    mask = np.random.default_rng(3).random((257, 190)) < density
    top, left, height, width = largest_rectangle(mask)
    assert mask[top : top + height, left : left + width].all()
    assert height * width == largest_area_by_stack(mask)


@pytest.mark.parametrize("rows", [1, 2, 128])
def test_largest_rectangle_takes_the_first_of_equals(monkeypatch, rows):
    monkeypatch.setattr(rectangles, "BAND_ROWS", rows)
    mask = np.zeros((5, 7), bool)
    mask[0:2, 4:7] = True
    mask[2:5, 0:2] = True
    assert largest_rectangle(mask) == (0, 4, 2, 3)
    # the same corner: the flatter one
    assert largest_rectangle([[1, 1], [1, 0]]) == (0, 0, 1, 2)
    # the higher one wins, though the lower one ends first
    late = np.zeros((6, 4), bool)
    late[:6, 0] = True
    late[1:3, 1:4] = True
    assert largest_rectangle(late) == (1, 0, 2, 4)
    late[1:3, 3] = False
    assert largest_rectangle(late) == (0, 0, 6, 1)
    narrow = np.array([[1, 0], [1, 1], [1, 1], [1, 0]])
    assert largest_rectangle(narrow) == (0, 0, 4, 1)


@pytest.mark.parametrize(
    "dtype", [bool, np.int8, np.uint8, np.int64, np.uint16, np.float16, np.float32, np.float64]
)
def test_largest_rectangle_takes_ones_of_any_type(dtype):
    mask = np.array([[0, 1, 1], [1, 1, 1], [0, 0, 1]], dtype)
    found = largest_rectangle(mask)
    assert found == (0, 1, 2, 2)
    assert [type(number) for number in found] == [int] * 4


def test_largest_rectangle_reads_any_layout_and_leaves_it_alone():
    base = (np.random.default_rng(0).random((40, 60)) < 0.8).astype(np.uint8)
    for view in (base[::-1, ::3], base.T, np.asfortranarray(base), base[5:, 7:33]):
        before = view.copy()
        view.flags.writeable = False
        assert largest_rectangle(view) == brute_force(view[:, :].astype(bool))
        assert np.array_equal(view, before)


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5, 0), (1, 1), (1, 9), (9, 1), (150, 40)])
def test_largest_rectangle_of_nothing_set_is_all_zeros(shape):
    assert largest_rectangle(np.zeros(shape)) == (0, 0, 0, 0)


@pytest.mark.parametrize(
    "shape", [(1, 1), (1, 9), (9, 1), (128, 3), (129, 3), (1, 40_000), (40_000, 2)]
)
def test_largest_rectangle_of_all_set_is_the_mask(shape):
    assert largest_rectangle(np.ones(shape, bool)) == (0, 0, *shape)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.zeros(4), r"two dimensions \(H, W\), got an array of shape \(4,\)"),
        (np.zeros((2, 2, 3)), r"shape \(2, 2, 3\)"),
        (True, r"shape \(\)"),
        (np.array([[0, 255]], np.uint8), "0 and 1 only, got 255"),
        (np.array([[0.0, 0.5]]), "0 and 1 only, got 0.5"),
        (np.array([[0.0, np.nan]]), "0 and 1 only, got nan"),
        (np.array([[-1]]), "got -1"),
        (np.array([["a"]]), "of bool or of the numbers 0 and 1, got <U1"),
        (np.array([[1j]]), "got complex128"),
        (np.array([[None]]), "got object"),
    ],
)
def test_largest_rectangle_refuses_what_is_no_mask(mask, message):
    with pytest.raises(ValueError, match=message):
        largest_rectangle(mask)
