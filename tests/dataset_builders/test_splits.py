"""Random and block splits, and the neighbourhood of regions."""

import hashlib

import numpy as np
import pandas as pd
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from dataset_builders.city.recipe import SplitSettings
from dataset_builders.city.splitting import split_regions
from dataset_builders.errors import SplitError
from dataset_builders.regions import h3_regions, square_grid, tile_regions
from dataset_builders.splits import (
    Neighbourhood,
    apply_buffer,
    block_split,
    default_block_m,
    local_xy,
    random_split,
    region_neighbourhood,
    region_splits,
)
from tests.wards import make_wards, touching_pairs

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


@pytest.mark.parametrize("n", [0, 1, 2])
def test_too_few_regions_for_a_random_split(n):
    with pytest.raises(SplitError, match=f"needs 3 regions at least, got {n}"):
        random_split(n, 0)


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
        # rings of squares between two parts, including diagonals
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
    with pytest.raises(SplitError, match="leaves no region for"):
        block_split(x, y, 2000.0, 0, neighbourhood=Neighbourhood(squares(x, y), 1000.0, 9000.0))


def test_three_blocks_make_splits_but_no_folds():
    split, folds = block_split(np.array([0.0, 10, 20]), np.zeros(3), 5.0, 0)
    assert set(split) == NAMES
    assert np.isnan(folds).all()


@given(st.floats(-179, 179), st.floats(-70, 70))
def test_local_metres_are_metres(lon, lat):
    # 0.01 degrees along the meridian: 1105.7 to 1117 m, depending on latitude
    _, y = local_xy(np.array([lon, lon]), np.array([lat, lat + 0.01]))
    assert 1105 < y[1] - y[0] < 1118
    x, _ = local_xy(np.array([lon, lon + 0.01]), np.array([lat, lat]))
    assert x[1] - x[0] == pytest.approx(1113.2 * np.cos(np.radians(lat)), rel=0.005)


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


BEIJING = shapely.Point(116.4, 39.9).buffer(0.12)
NICE = shapely.box(7.0, 43.0, 7.25, 43.18)
PAIRS = (("train", "test"), ("train", "validation"), ("validation", "test"))


def block_column(regions, cells=1.0, block_m=None):
    settings = SplitSettings(buffer_cells=cells, block_m=block_m)
    return split_regions(regions, pd.DataFrame(index=regions.index), [], settings).columns[
        "split_block"
    ]


def rows_of(split, part):
    return np.flatnonzero(split == part)


@pytest.mark.parametrize("cells", [1.0, 2.0, 3.5])
@pytest.mark.parametrize(
    "regions",
    [
        square_grid(BEIJING, 1000),
        tile_regions(BEIJING, 15),
        tile_regions(BEIJING, 16, "baidu"),
        h3_regions(BEIJING, 8),
        make_wards(0),
    ],
    ids=["squares", "xyz", "baidu", "h3", "wards"],
)
def test_parts_keep_the_gap_that_is_asked_for(regions, cells):
    split = block_column(regions, cells, block_m=7000.0)
    asked_m = (cells - 1) * np.sqrt(regions["area_m2"].median())
    shapes = regions.to_crs(regions.estimate_utm_crs()).geometry.to_numpy()
    for one, other in PAIRS:
        theirs = shapes[split == other]
        (_, distance) = shapely.STRtree(theirs).query_nearest(
            shapes[split == one], return_distance=True, all_matches=False
        )
        assert distance.min() > asked_m
    assert [touching_pairs(regions, split, *pair) for pair in PAIRS] == [0, 0, 0]


@pytest.mark.parametrize(
    ("make", "digest"),
    [
        (lambda: square_grid(NICE, 500, plane="epsg32632"), "a0a6ddcf3102d143"),
        (lambda: tile_regions(BEIJING, 15), "af682588854eea63"),
        (lambda: h3_regions(BEIJING, 8), "1a7febc3a24b9ba9"),
    ],
    ids=["squares", "xyz", "h3"],
)
def test_grids_are_split_as_by_the_distance_of_centres(make, digest):
    """Digests of the columns from a buffer of 1.5 cells between centres."""
    column = ",".join(str(part) for part in block_column(make()))
    assert hashlib.sha256(column.encode()).hexdigest()[:16] == digest


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 25), st.integers(2, 25), st.integers(0, 1000), st.integers(1, 6))
def test_near_squares_are_the_rings_around_a_cell(width, height, seed, cells):
    column, row = (index.ravel() for index in np.meshgrid(np.arange(width), np.arange(height)))
    near = Neighbourhood(
        shapely.box(column, row, column + 1.0, row + 1.0), cell_m=1.0, buffer_m=cells - 1.0
    )
    rng = np.random.default_rng(seed)
    others = rng.choice(width * height, rng.integers(1, width * height), replace=False)
    rows = np.setdiff1d(np.arange(width * height), others)
    apart = np.hypot(column[rows][:, None] - column[others], row[rows][:, None] - row[others])
    expected = (apart <= cells + 0.5).any(axis=1)
    np.testing.assert_array_equal(near.near(rows, others), expected)


def test_near_agrees_with_all_pairs():
    wards = make_wards(3, n=150)
    shapes = wards.to_crs("EPSG:32650").geometry.to_numpy()
    cell_m = 900.0
    centres = shapely.get_coordinates(shapely.centroid(shapes))
    gaps = shapely.distance(shapes[:, None], shapes)
    apart = np.linalg.norm(centres[:, None] - centres, axis=-1)
    rows, others = np.arange(0, 70), np.arange(70, 150)
    for buffer_m in (0.0, 400.0, 3000.0):
        near = Neighbourhood(shapes, cell_m, buffer_m)
        pairs = gaps[:70, 70:] <= buffer_m + 0.01 * cell_m
        expected = pairs | (apart[:70, 70:] <= buffer_m + 1.5 * cell_m)
        np.testing.assert_array_equal(near.near(rows, others), expected.any(axis=1))
        assert near.count_touching(rows, others) == pairs.sum()
        np.testing.assert_allclose(near.gaps_m(rows, others), gaps[:70, 70:].min(axis=1))


def test_points_are_near_up_to_one_and_a_half_times_their_spacing():
    lon, lat = np.arange(6) * 0.01, np.zeros(6)
    near = region_neighbourhood(np.full(6, None), lon, lat)
    assert near.cell_m == pytest.approx(1113.2, rel=1e-3)
    assert near.near([1, 2, 3, 4, 5], [0]).tolist() == [True, False, False, False, False]
    np.testing.assert_allclose(near.gaps_m([2, 0], [0]), [2 * 1113.2, 0], rtol=1e-3)


def test_regions_without_a_geometry_are_points_and_without_a_place_near_none():
    square = shapely.box(0, 0, 0.01, 0.01)
    shapes = [square, None, None, shapely.Polygon(), shapely.box(0.01, 0, 0.02, 0.01)]
    lon, lat = [0.005, 0.015, np.nan, 0.5, 0.015], [0.005, 0.005, np.nan, 0.5, 0.005]
    near = region_neighbourhood(shapes, lon, lat)
    assert near.placed.tolist() == [True, True, False, True, True]
    assert near.near([1, 2, 3, 4], [0]).tolist() == [True, False, False, True]
    assert not near.near([0, 1], [2]).any()
    assert near.near([0], []).tolist() == [False]
    assert np.isnan(near.gaps_m([2], [0])).all()
    assert np.isnan(near.gaps_m([0], [2])).all()


def test_borders_that_nearly_agree_touch():
    wide = shapely.box(0, 50, 0.4, 50.1)
    # two neighbours above, whose halves of the long edge are rounded differently
    left, right = shapely.box(0, 50.10003, 0.2, 50.2), shapely.box(0.2, 50.09998, 0.4, 50.2)
    apart = shapely.box(0, 50.105, 0.4, 50.2)
    near = region_neighbourhood([wide, left, right, apart], cell_m=5000.0)
    centres_apart = region_neighbourhood([wide, apart], cell_m=5000.0)
    assert near.near([1, 2], [0]).all()
    assert not centres_apart.near([1], [0]).any()


@pytest.mark.parametrize("turn", [0.0, 360.0])
def test_neighbours_across_the_antimeridian_are_near(turn):
    squares = square_grid(shapely.box(179.9, -17.1, 180.1, -16.9), 1000)
    near = region_neighbourhood(squares.geometry, squares["lon"], squares["lat"])
    away = square_grid(shapely.box(177.9, -17.1, 178.1, -16.9), 1000)
    there = region_neighbourhood(away.geometry, away["lon"], away["lat"])
    for one, frame in ((near, squares), (there, away)):
        counts = [one.near(np.arange(len(frame)), [row]).sum() for row in range(len(frame))]
        assert max(counts) == 9  # itself and its eight neighbours
        assert np.median(counts) == 9
    # one piece beyond 180 degrees touches its neighbour on the other side
    pair = [
        shapely.box(179.99, 0, 180.01, 0.02),
        shapely.box(-179.99 + turn, 0, -179.97 + turn, 0.02),
    ]
    assert region_neighbourhood(pair).gaps_m([0], [1]) == pytest.approx([0], abs=0.01)
    x, _ = local_xy([179.99, -179.99], [0.0, 0.0])
    assert x[1] - x[0] == pytest.approx(0.02 * 111_320, rel=1e-3)


def test_a_clean_split_stays_and_a_leaky_one_loses_what_touches():
    wards = make_wards(1)
    near = region_neighbourhood(wards.geometry, wards["lon"], wards["lat"])
    split = block_column(wards)
    assert apply_buffer(split, near).tolist() == split.tolist()
    leaky = np.where(wards["lon"] < wards["lon"].median(), "train", "test").astype(object)
    mended = apply_buffer(leaky, near)
    assert touching_pairs(wards, leaky, "train", "test") > 0
    assert touching_pairs(wards, mended, "train", "test") == 0
    assert set(leaky[mended == None]) == {"train"}  # noqa: E711


def test_impossible_distances_are_errors():
    with pytest.raises(SplitError, match=r"got -1\.0 and 0\.0"):
        Neighbourhood([shapely.Point(0, 0)], -1.0)
    with pytest.raises(SplitError, match=r"got 1\.0 and nan"):
        Neighbourhood([shapely.Point(0, 0)], 1.0, float("nan"))
