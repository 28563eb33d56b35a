"""Random and block splits, and the neighbourhood of regions."""

import hashlib

import numpy as np
import pandas as pd
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import cdist

from dataset_builders.city.recipe import SplitSettings
from dataset_builders.city.splitting import split_regions
from dataset_builders.errors import SplitError
from dataset_builders.regions import h3_regions, square_grid, tile_regions
from dataset_builders.split_checks import (
    correlation_range,
    duplicate_groups,
    keep_together,
    variogram,
)
from dataset_builders.splits import (
    Neighbourhood,
    apply_buffer,
    block_split,
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


@settings(max_examples=50)
@given(st.integers(3, 2000), st.integers(0, 2**31))
def test_random_split_has_its_shares_and_is_seeded(n, seed):
    split = random_split(n, seed)
    for name, fraction in (("train", 0.6), ("validation", 0.2), ("test", 0.2)):
        assert max(1, fraction * n - 1) <= (split == name).sum() <= fraction * n + 1
    np.testing.assert_array_equal(split, random_split(n, seed))


@settings(max_examples=15)
@given(st.integers(20, 40), st.integers(4, 8), st.integers(0, 1000), st.sampled_from([0.0, 1000.0]))
def test_parts_of_block_splits_keep_their_distance(width, side, seed, buffer):
    x, y = grid(width, 30)
    near = Neighbourhood(squares(x, y), 1000.0, buffer)
    split, folds = block_split(x, y, side * 1000.0, seed, neighbourhood=near)
    points = np.column_stack([x, y])
    for one, other in PAIRS:
        # rings of squares between two parts, including diagonals
        apart = cdist(points[split == one], points[split == other], "chebyshev")
        assert apart.min() > 1000 + buffer / 2
    assert set(np.unique(folds)) == {0, 1, 2, 3, 4}


@settings(max_examples=15)
@given(st.integers(20, 45), st.integers(20, 45), st.integers(2, 4), st.integers(0, 1000))
def test_blocks_are_not_divided_and_have_their_shares(width, height, side, seed):
    x, y = grid(width, height)
    split, folds = block_split(x, y, side * 1000.0, seed)
    for name, fraction in (("train", 0.6), ("validation", 0.2), ("test", 0.2)):
        assert abs((split == name).sum() - fraction * len(x)) <= side * side
    blocks = pd.DataFrame({"split": split, "fold": folds}).groupby(
        [x // (side * 1000), y // (side * 1000)]
    )
    assert (blocks.nunique() == 1).all(axis=None)


@settings(max_examples=10)
@given(st.integers(0, 1000), st.integers(0, 1000))
def test_block_split_does_not_depend_on_order(seed, shuffle):
    rng = np.random.default_rng(shuffle)
    x, y = rng.uniform(0, 40_000, (2, 300))
    order = rng.permutation(300)
    near = Neighbourhood(shapely.points(x, y), 0.0, 500.0)
    found = block_split(x, y, 8000.0, seed, near)
    again = block_split(x[order], y[order], 8000.0, seed, near.take(order))
    for one, other in zip(found, again, strict=True):
        np.testing.assert_array_equal(one[order], other)


def test_buffer_drops_training_before_validation_and_keeps_test():
    x, y = grid(40, 40)
    bare, _ = block_split(x, y, 8000.0, 3)
    split, _ = block_split(x, y, 8000.0, 3, neighbourhood=Neighbourhood(squares(x, y), 1000.0))
    np.testing.assert_array_equal(split == "test", bare == "test")
    assert set(bare[split == None]) == {"train", "validation"}  # noqa: E711
    split, folds = block_split(np.array([0.0, 10, 20]), np.zeros(3), 5.0, 0)
    assert set(split) == NAMES
    assert np.isnan(folds).all()  # fewer blocks than folds


def test_rejects_impossible_splits():
    with pytest.raises(SplitError, match="needs 3 regions at least, got 2"):
        random_split(2, 0)
    with pytest.raises(SplitError, match=r"1 regions fall into 1 block\(s\).*random split"):
        block_split(np.zeros(1), np.zeros(1), 1000.0, 0)
    with pytest.raises(SplitError, match="4 regions, 2 without coordinates"):
        block_split(np.array([0, 1, np.nan, 2]), np.array([0, np.nan, np.nan, 1]), 1.0, 0)
    x, y = grid(6, 6)
    with pytest.raises(SplitError, match="leaves no region for"):
        block_split(x, y, 2000.0, 0, neighbourhood=Neighbourhood(squares(x, y), 1000.0, 9000.0))
    columns, problems = region_splits([None], np.array([1.0]), np.array([2.0]), 1000.0, 0)
    assert [list(column) for column in columns.values()] == [[None]] * 3
    assert len(problems) == 2


@pytest.mark.parametrize("size", [6, 12])
def test_splits_small_cities_with_the_defaults(size):
    x, y = grid(size, size)
    lon, lat = 116 + x / 85_000, 40 + y / 111_000
    for seed in range(3):
        columns, problems = region_splits(np.full(len(x), None), lon, lat, 1000.0, seed)
        assert not problems
        for name in ("split_random", "split_block"):
            assert set(columns[name]) - {None} == NAMES


BEIJING = shapely.Point(116.4, 39.9).buffer(0.12)
NICE = shapely.box(7.0, 43.0, 7.25, 43.18)
PAIRS = (("train", "test"), ("train", "validation"), ("validation", "test"))


def block_column(regions, cells=1.0, block_m=None):
    settings = SplitSettings(buffer_cells=cells, block_m=block_m)
    return split_regions(regions, pd.DataFrame(index=regions.index), [], settings).columns[
        "split_block"
    ]


@pytest.mark.parametrize("cells", [1.0, 2.5])
@pytest.mark.parametrize(
    "make",
    [
        lambda: square_grid(BEIJING, 1000),
        lambda: tile_regions(BEIJING, 16, "baidu"),
        lambda: h3_regions(BEIJING, 8),
        lambda: make_wards(0),
    ],
    ids=["squares", "baidu", "h3", "wards"],
)
def test_buffer_separates_the_parts(make, cells):
    regions = make()
    split = block_column(regions, cells, block_m=7000.0)
    asked_m = (cells - 1) * np.sqrt(regions["area_m2"].median())
    shapes = regions.to_crs(regions.estimate_utm_crs()).geometry.to_numpy()
    for one, other in PAIRS:
        (_, distance) = shapely.STRtree(shapes[split == other]).query_nearest(
            shapes[split == one], return_distance=True, all_matches=False
        )
        assert distance.min() > asked_m
    assert [touching_pairs(regions, split, *pair) for pair in PAIRS] == [0, 0, 0]


@pytest.mark.parametrize(
    ("make", "digest"),
    [
        (lambda: square_grid(NICE, 500, plane="epsg32632"), "a0a6ddcf3102d143"),
        (lambda: h3_regions(BEIJING, 8), "1a7febc3a24b9ba9"),
    ],
    ids=["squares", "h3"],
)
def test_splits_of_grids_are_reproducible(make, digest):
    """Digests of the columns from a buffer of 1.5 cells between centres."""
    column = ",".join(str(part) for part in block_column(make()))
    assert hashlib.sha256(column.encode()).hexdigest()[:16] == digest


@pytest.mark.parametrize("buffer_m", [0.0, 400.0])
def test_near_equals_brute_force(buffer_m):
    shapes = make_wards(3, n=150).to_crs("EPSG:32650").geometry.to_numpy()
    centres = shapely.get_coordinates(shapely.centroid(shapes))
    gaps = shapely.distance(shapes[:70, None], shapes[70:])
    apart = cdist(centres[:70], centres[70:])
    near = Neighbourhood(shapes, cell_m := 900.0, buffer_m)
    pairs = gaps <= buffer_m + 0.01 * cell_m
    expected = pairs | (apart <= buffer_m + 1.5 * cell_m)
    rows, others = np.arange(70), np.arange(70, 150)
    np.testing.assert_array_equal(near.near(rows, others), expected.any(axis=1))
    assert near.count_touching(rows, others) == pairs.sum()
    np.testing.assert_allclose(near.gaps_m(rows, others), gaps.min(axis=1))


def test_regions_without_geometry_are_points():
    shapes = [shapely.box(0, 0, 0.01, 0.01), None, None, shapely.box(0.01, 0, 0.02, 0.01)]
    near = region_neighbourhood(
        shapes, [0.005, 0.015, np.nan, 0.015], [0.005, 0.005, np.nan, 0.005]
    )
    assert near.placed.tolist() == [True, True, False, True]
    assert near.near([1, 2, 3], [0]).tolist() == [True, False, True]
    assert not near.near([0, 1], [2]).any()
    assert near.near([0], []).tolist() == [False]
    assert np.isnan(near.gaps_m([0, 2], [2])).all()


def test_neighbours_across_the_antimeridian_are_near():
    squares = square_grid(shapely.box(179.9, -17.1, 180.1, -16.9), 1000)
    near = region_neighbourhood(squares.geometry, squares["lon"], squares["lat"])
    counts = [near.near(np.arange(len(squares)), [row]).sum() for row in range(len(squares))]
    assert max(counts) == np.median(counts) == 9  # itself and its eight neighbours
    # one piece beyond 180 degrees touches its neighbour on the other side
    pair = [shapely.box(179.99, 0, 180.01, 0.02), shapely.box(-179.99, 0, -179.97, 0.02)]
    assert region_neighbourhood(pair).gaps_m([0], [1]) == pytest.approx([0], abs=0.01)
    x, _ = local_xy([179.99, -179.99], [0.0, 0.0])
    assert x[1] - x[0] == pytest.approx(0.02 * 111_320, rel=1e-3)


def test_buffer_keeps_clean_splits_and_mends_leaky_ones():
    wards = make_wards(1)
    near = region_neighbourhood(wards.geometry, wards["lon"], wards["lat"])
    split = block_column(wards)
    assert apply_buffer(split, near).tolist() == split.tolist()
    leaky = np.where(wards["lon"] < wards["lon"].median(), "train", "test").astype(object)
    mended = apply_buffer(leaky, near)
    assert touching_pairs(wards, leaky, "train", "test") > 0
    assert touching_pairs(wards, mended, "train", "test") == 0


def field(smoothing, n=60, seed=0):
    noise = np.random.default_rng(seed).standard_normal((3 * n, 3 * n))
    return gaussian_filter(noise, smoothing, mode="wrap")[:n, :n]


def test_smoother_labels_have_a_longer_range():
    x, y = grid(60, 60)
    ranges = [correlation_range(x, y, field(s).ravel()) for s in (0.5, 2, 4)]
    assert ranges[0] < ranges[1] < ranges[2]
    # a Gaussian of s cells gives exp(-d2 / 4 s2), which is 5 % at 3.46 s
    assert ranges[1] == pytest.approx(3.46 * 2000, rel=0.5)
    assert np.isnan(correlation_range(x, y, np.ones(3600)))
    with pytest.raises(SplitError, match="10 regions with a value, got 3"):
        correlation_range(x, y, np.where(np.arange(3600) < 3, 1.0, np.nan))


def test_semivariance_is_half_the_mean_squared_difference():
    x = np.arange(10) * 100.0
    distance, semivariance = variogram(x, np.zeros(10), np.arange(10.0))
    # pairs at a distance of d hundred metres differ by d
    assert np.allclose(semivariance, (distance / 100) ** 2 / 2, rtol=0.15)


REGIONS = [f"r{i}" for i in range(8)]


@settings(max_examples=40)
@given(
    st.lists(st.sampled_from(["train", "validation", "test", None]), min_size=8, max_size=8),
    st.dictionaries(st.sampled_from(REGIONS), st.lists(st.integers(0, 5), max_size=3)),
)
def test_no_image_is_in_two_parts(parts, keys):
    groups = duplicate_groups(keys)
    before = pd.Series(parts, REGIONS, dtype=object)
    after = pd.Series(keep_together(REGIONS, before.to_numpy(), groups), REGIONS, dtype=object)
    for group in groups:
        assert after[group].nunique(dropna=False) == 1
    others = after.index.difference([region for group in groups for region in group])
    assert after[others].tolist() == before[others].tolist()


def test_groups_join_through_others_and_prefer_training():
    keys = {"a": ["1"], "b": ["1", "2"], "c": ["2"], "d": ["3"], "e": ["4"], "f": ["4"]}
    assert duplicate_groups(keys) == [["a", "b", "c"], ["e", "f"]]
    split = np.array(["test", "train", None], dtype=object)
    assert list(keep_together(["a", "b", "c"], split, [["a", "b", "c"]])) == ["train"] * 3
    with pytest.raises(SplitError, match=r"does not have: \['z'\]"):
        keep_together(["a", "b", "c"], split, [["a", "z"]])
