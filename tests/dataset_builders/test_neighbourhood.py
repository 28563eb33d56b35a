"""Which regions are too near to be in different parts, and that splits keep to it."""

import hashlib

import numpy as np
import pandas as pd
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset_builders.city.recipe import SplitSettings
from dataset_builders.city.splitting import split_regions
from dataset_builders.errors import SplitError
from dataset_builders.regions import h3_regions, square_grid, tile_regions
from dataset_builders.splits import (
    Neighbourhood,
    apply_buffer,
    local_xy,
    region_neighbourhood,
    region_splits,
)
from tests.wards import make_wards, touching_pairs

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


@pytest.mark.parametrize("seed", range(6))
def test_wards_of_different_parts_do_not_touch(seed):
    wards = make_wards(seed)
    cell_m = float(np.sqrt(wards["area_m2"].median()))
    shapes, lon, lat = wards.geometry, wards["lon"].to_numpy(), wards["lat"].to_numpy()
    split = region_splits(shapes, lon, lat, cell_m, seed)[0]["split_block"]
    assert [touching_pairs(wards, split, *pair) for pair in PAIRS] == [0, 0, 0]
    assert all((split == part).sum() > 20 for part in ("train", "validation", "test"))


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
    """Digests of the columns that a buffer of 1.5 cells between centres gave."""
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
    # two neighbours above, each with half of the long edge as another program rounded it
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
        assert max(counts) == 9  # itself and the eight around it
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
