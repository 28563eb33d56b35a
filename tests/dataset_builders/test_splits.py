import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from dataset_builders.errors import SplitError
from dataset_builders.splits import (
    Neighbourhood,
    block_split,
    default_block_m,
    local_xy,
    random_split,
    region_splits,
)

NAMES = {"train", "validation", "test"}


def grid(width: int, height: int, cell: float = 1000.0) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    return x.ravel() * cell, y.ravel() * cell


def squares(x: np.ndarray, y: np.ndarray, cell: float = 1000.0) -> np.ndarray:
    half = cell / 2
    return shapely.box(x - half, y - half, x + half, y + half)


@given(st.integers(3, 2000), st.integers(0, 2**31))
def test_a_random_split_has_its_shares_and_is_seeded(n, seed):
    split = random_split(n, seed)
    counts = {name: int((split == name).sum()) for name in NAMES}
    assert sum(counts.values()) == n
    assert min(counts.values()) >= 1
    for name, fraction in (("train", 0.6), ("validation", 0.2), ("test", 0.2)):
        assert abs(counts[name] - fraction * n) <= 1
    np.testing.assert_array_equal(split, random_split(n, seed))


def test_another_seed_gives_another_split():
    assert (random_split(100, 0) != random_split(100, 1)).any()


@pytest.mark.parametrize("n", [0, 1, 2])
def test_too_few_regions_for_a_random_split(n):
    with pytest.raises(SplitError, match=f"needs 3 regions at least, got {n}"):
        random_split(n, 0)


@pytest.mark.parametrize("fractions", [(0.6, 0.2, 0.1), (1.0, 0.0, 0.0), (0.5, 0.5)])
def test_impossible_fractions(fractions):
    with pytest.raises(SplitError, match="sum to 1"):
        random_split(10, 0, fractions)


@settings(max_examples=40)
@given(
    st.integers(20, 40), st.integers(20, 40), st.integers(4, 8), st.integers(0, 1000),
    st.sampled_from([0.0, 1000.0]),
)  # fmt: skip
def test_splits_of_blocks_keep_their_distance(width, height, side, seed, buffer):
    x, y = grid(width, height)
    near = Neighbourhood(squares(x, y), 1000.0, buffer)
    split, folds = block_split(x, y, side * 1000.0, seed, neighbourhood=near)
    points = np.column_stack([x, y])
    train, validation, test = (points[split == name] for name in ("train", "validation", "test"))
    for one, other in ((train, test), (train, validation), (validation, test)):
        # rings of squares between two parts, the diagonal included
        assert cdist(one, other, "chebyshev").min() > 1000 + buffer / 2
    assert set(np.unique(folds)) == {0, 1, 2, 3, 4}


@settings(max_examples=40)
@given(st.integers(20, 45), st.integers(20, 45), st.integers(2, 4), st.integers(0, 1000))
def test_blocks_are_whole_and_have_their_shares(width, height, side, seed):
    x, y = grid(width, height)
    split, folds = block_split(x, y, side * 1000.0, seed)
    assert set(split) == NAMES
    largest_block = side * side
    for name, fraction in (("train", 0.6), ("validation", 0.2), ("test", 0.2)):
        assert abs((split == name).sum() - fraction * len(x)) <= largest_block
    # without a buffer, a block is one split and one fold
    block = (x // (side * 1000)) * 1000 + y // (side * 1000)
    for number in np.unique(block):
        assert len(set(split[block == number])) == 1
        assert len(set(folds[block == number])) == 1


@settings(max_examples=30)
@given(st.integers(0, 1000), st.integers(0, 1000))
def test_the_order_of_the_cells_does_not_matter(seed, shuffle):
    rng = np.random.default_rng(shuffle)
    x, y = rng.uniform(0, 40_000, (2, 300))
    order = rng.permutation(300)
    near = Neighbourhood(shapely.points(x, y), 0.0, 500.0)
    split, folds = block_split(x, y, 8000.0, seed, neighbourhood=near)
    again, folds_again = block_split(
        x[order], y[order], 8000.0, seed, neighbourhood=near.take(order)
    )
    np.testing.assert_array_equal(split[order], again)
    np.testing.assert_array_equal(folds[order], folds_again)


def test_training_cells_go_before_validation_and_test_cells_stay():
    x, y = grid(40, 40)
    bare, _ = block_split(x, y, 8000.0, 3)
    near = Neighbourhood(squares(x, y), 1000.0)
    split, _ = block_split(x, y, 8000.0, 3, neighbourhood=near)
    np.testing.assert_array_equal(split == "test", bare == "test")
    left_out = bare[split == None]  # noqa: E711
    assert set(left_out) == {"train", "validation"}


def test_a_region_alone_is_an_error_that_says_what_to_do():
    with pytest.raises(SplitError, match=r"1 regions fall into 1 block\(s\).*random split"):
        block_split(np.zeros(1), np.zeros(1), 1000.0, 0)


def test_regions_without_a_place_are_counted():
    with pytest.raises(SplitError, match="4 regions, 2 without coordinates"):
        block_split(np.array([0, 1, np.nan, 2]), np.array([0, np.nan, np.nan, 1]), 1.0, 0)


def test_a_buffer_that_leaves_nothing_is_an_error():
    x, y = grid(6, 6)
    with pytest.raises(SplitError, match="leave no region for"):
        block_split(x, y, 2000.0, 0, neighbourhood=Neighbourhood(squares(x, y), 1000.0, 9000.0))


def test_three_blocks_make_splits_but_no_folds():
    split, folds = block_split(np.array([0.0, 10, 20]), np.zeros(3), 5.0, 0)
    assert set(split) == NAMES
    assert np.isnan(folds).all()


@given(st.floats(-179, 179), st.floats(-70, 70))
def test_local_metres_are_metres(lon, lat):
    # 0.01 degrees along the meridian, 1105.7 to 1117 m by latitude
    _, y = local_xy(np.array([lon, lon]), np.array([lat, lat + 0.01]))
    assert 1105 < y[1] - y[0] < 1118
    x, _ = local_xy(np.array([lon, lon + 0.01]), np.array([lat, lat]))
    assert x[1] - x[0] == pytest.approx(1113.2 * np.cos(np.radians(lat)), rel=0.005)


def test_points_without_a_place_stay_without():
    x, y = local_xy(np.array([np.nan, 1.0]), np.array([np.nan, 2.0]))
    assert np.isnan([x[0], y[0]]).all()
    assert np.isfinite([x[1], y[1]]).all()
    assert np.isnan(local_xy(np.array([np.nan]), np.array([np.nan]))).all()


@pytest.mark.parametrize(
    ("width", "height", "cells"), [(80, 80, 16), (100, 65, 16), (40, 40, 8), (6, 6, 3), (20, 20, 4)]
)
def test_default_block(width, height, cells):
    assert default_block_m(*grid(width, height), 1000.0) == pytest.approx(cells * 1000.0)


@pytest.mark.parametrize("size", [6, 10, 12, 20])
@pytest.mark.parametrize("seed", range(5))
def test_small_cities_can_be_split_with_the_defaults(size, seed):
    x, y = grid(size, size)
    lon, lat = 116 + x / 85_000, 40 + y / 111_000
    columns, problems = region_splits(np.full(len(x), None), lon, lat, 1000.0, seed)
    assert not problems
    for name in ("split_random", "split_block"):
        assert set(columns[name]) - {None} == NAMES


def test_what_cannot_be_split_is_null_and_said():
    columns, problems = region_splits([None], np.array([1.0]), np.array([2.0]), 1000.0, 0)
    assert [list(column) for column in columns.values()] == [[None]] * 3
    assert len(problems) == 2
