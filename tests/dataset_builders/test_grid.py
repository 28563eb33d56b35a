import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from dataset_builders.errors import DatasetError
from dataset_builders.grid import grid_cells
from dataset_builders.importers.base import geodesic_areas, square_around


@given(st.floats(-170, 170), st.floats(-75, 75), st.integers(0, 1000))
def test_points_lie_in_their_cells_and_cells_do_not_overlap(lon, lat, seed):
    rng = np.random.default_rng(seed)
    lons, lats = lon + rng.uniform(0, 0.05, 20), lat + rng.uniform(0, 0.05, 20)
    ids, cells = grid_cells(lons, lats, 1000.0)
    assert shapely.dwithin(cells, shapely.points(lons, lats), 1e-9).all()
    by_id = dict(zip(ids, cells, strict=True))
    whole = shapely.union_all(list(by_id.values()))
    assert sum(shapely.area(list(by_id.values()))) == pytest.approx(whole.area, rel=1e-6)


def test_cells_have_their_area_and_their_names_do_not_depend_on_the_other_points():
    lon, lat = np.array([116.39, 116.41, 116.80]), np.array([39.90, 39.91, 40.20])
    ids, cells = grid_cells(lon, lat, 500.0)
    assert geodesic_areas(cells) == pytest.approx(250_000, rel=2e-3)
    alone, _ = grid_cells(lon[:1], lat[:1], 500.0)
    assert alone[0] == ids[0] == "epsg32650_500_895_8833"


def test_points_without_a_place_have_no_cell():
    ids, cells = grid_cells(np.array([np.nan, 1.0]), np.array([2.0, 1.0]), 1000.0)
    assert ids[0] is None
    assert cells[0] is None
    assert ids[1].startswith("epsg32631_1000_")


def test_an_impossible_side():
    with pytest.raises(DatasetError, match="above 0 m"):
        grid_cells(np.zeros(1), np.zeros(1), 0.0)


@given(st.floats(-170, 170), st.floats(-70, 70), st.floats(100, 2000))
def test_squares_have_their_side_and_centre(lon, lat, side):
    square = square_around(np.array([lon, np.nan]), np.array([lat, lat]), side)
    assert square[1] is None
    assert geodesic_areas(square)[0] == pytest.approx(side**2, rel=1e-3)
    assert (square[0].centroid.x, square[0].centroid.y) == pytest.approx((lon, lat), abs=1e-7)
