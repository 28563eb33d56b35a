import re

import numpy as np
import pandas as pd
import pyproj
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from dataset_builders.coordinates import (
    SYSTEMS,
    convert,
    tile_corner,
    tile_index,
    tile_polygons,
)
from dataset_builders.errors import DatasetError

# Tiananmen, with published conversions
PLACE = (116.404, 39.915)
lons, lats = st.floats(75, 134), st.floats(4, 53)


def test_wgs84_to_gcj02_is_the_published_vector():
    found = convert(*PLACE, "wgs84", "gcj02")
    assert found == pytest.approx((116.41024449916938, 39.91640428150164), abs=1e-12)


def test_gcj02_to_bd09_is_the_published_vector():
    found = convert(*PLACE, "gcj02", "bd09")
    assert found == pytest.approx((116.41036949371029, 39.92133699351021), abs=1e-12)


def test_bd09_to_gcj02_is_exact_where_the_published_one_is_off_by_5_cm():
    found = convert(*PLACE, "bd09", "gcj02")
    assert found == pytest.approx((116.39762708785722, 39.90865633947842), abs=1e-12)
    published = (116.39762729119315, 39.90865673957631)
    assert found == pytest.approx(published, abs=5e-7)
    assert convert(*published, "gcj02", "bd09") != pytest.approx(PLACE, abs=1e-8)


@pytest.mark.parametrize(
    ("tile", "corner"),
    [
        ((12659, 4738), (116.44569035648394, 40.09315850201147)),
        ((12668, 4714), (116.52847819228352, 39.92338530941099)),
        ((12303, 2599), (113.17097150371777, 23.38370180200058)),
    ],
)
def test_baidu_tiles_have_the_corners_of_baidus_own_service(tile, corner):
    assert tile_corner(*tile, 16, "baidu") == pytest.approx(corner, abs=1e-12)


@given(lons, lats, st.sampled_from(SYSTEMS), st.sampled_from(SYSTEMS))
def test_round_trips_end_where_they_began(lon, lat, source, target):
    start = convert(lon, lat, "bd09", source)
    there = convert(*start, source, target)
    # close to 15, 30 and 45 degrees Baidu's polynomials have gaps of a centimetre
    in_gap = abs((lat + 7.5) % 15 - 7.5) < 1e-6
    metres, degrees = (0.02, 2e-7) if in_gap else (1e-6, 1e-9)
    tolerance = metres if source == "bd09mc" else degrees
    assert convert(*there, target, source) == pytest.approx(start, abs=tolerance, rel=0)


@given(st.floats(-180, 180), st.floats(-90, 90))
def test_nothing_is_flung_away_anywhere(lon, lat):
    x, y = convert(lon, lat, "bd09", "bd09mc")
    assert abs(x) < 2.01e7
    assert np.sign(y) * np.sign(lat) >= 0
    if abs(lat) < 74:
        # the difference between Mercator on the sphere and on the ellipsoid
        mercator = 6378137 * np.arcsinh(np.tan(np.radians(lat)))
        assert abs(y - mercator) < 45_000


@pytest.mark.parametrize("place", [(-0.1, 51.5), (2.35, 48.85), (-74.0, 40.7), (151.2, -33.9)])
@pytest.mark.parametrize("target", ["gcj02", "bd09", "bd09mc"])
def test_outside_china_there_is_no_way(place, target):
    with pytest.raises(DatasetError, match=f"from wgs84 to {target} at .* defined in China only"):
        convert(*place, "wgs84", target)
    if target != "bd09mc":
        with pytest.raises(DatasetError, match="defined in China only"):
            convert([PLACE[0], place[0]], [PLACE[1], place[1]], target, "wgs84")
    lon, lat = convert([PLACE[0], place[0]], [PLACE[1], place[1]], "wgs84", target, outside="nan")
    assert np.isfinite([lon[0], lat[0]]).all()
    assert np.isnan([lon[1], lat[1]]).all()
    # BD-09 Mercator is defined everywhere
    assert convert(*convert(*place, "bd09", "bd09mc"), "bd09mc", "bd09") == pytest.approx(place)


def test_arrays_numbers_and_shapes():
    lon, lat = np.full((3, 2), PLACE[0]), np.full((3, 2), PLACE[1])
    for target in SYSTEMS:
        arrays = convert(lon, lat, "wgs84", target)
        numbers = convert(*PLACE, "wgs84", target)
        assert arrays[0].shape == (3, 2)
        assert isinstance(numbers[0], float)
        np.testing.assert_allclose(arrays[0], numbers[0], rtol=1e-15)
        np.testing.assert_allclose(arrays[1], numbers[1], rtol=1e-15)
    assert convert(np.array([]), np.array([]), "gcj02", "bd09mc")[0].shape == (0,)


def test_unknown_places_stay_unknown_and_do_not_touch_others():
    lon, lat = np.array([np.nan, PLACE[0]]), np.array([np.nan, PLACE[1]])
    for source in SYSTEMS:
        for target in SYSTEMS:
            start = convert(lon, lat, "wgs84", source)
            found = convert(*start, source, target)
            assert np.isnan([found[0][0], found[1][0]]).all()
            assert np.isfinite([found[0][1], found[1][1]]).all()


def test_wrong_names_and_swapped_coordinates_are_errors():
    with pytest.raises(ValueError, match="coordinate system is one of"):
        convert(1, 2, "wgs84", "epsg3857")
    with pytest.raises(ValueError, match="are lon and lat swapped"):
        convert(39.9, 116.4, "wgs84", "gcj02")
    with pytest.raises(ValueError, match="tile scheme is one of"):
        tile_corner(1, 2, 3, "google")
    with pytest.raises(ValueError, match="zoom is a whole number"):
        tile_corner(1, 2, 3.5, "xyz")


def test_xyz_tiles_are_web_mercators():
    assert tile_corner(0, 0, 0, "xyz") == pytest.approx((-180, -85.0511287798066), abs=1e-10)
    # the example of OpenStreetMap's wiki, in Tokyo
    assert tile_index(139.7006793, 35.6590699, 18, "xyz") == (232798, 103246)


@given(st.integers(0, 20), st.data())
def test_xyz_corners_are_those_of_epsg_3857(z, data):
    x, y = (data.draw(st.integers(0, 2**z - 1)) for _ in range(2))
    half = 20037508.342789244
    side = 2 * half / 2**z
    to_degrees = pyproj.Transformer.from_crs("EPSG:3857", "EPSG:4326", always_xy=True)
    expected = to_degrees.transform(x * side - half, half - (y + 1) * side)
    assert tile_corner(x, y, z, "xyz") == pytest.approx(expected, abs=1e-8)


@given(st.integers(0, 22), st.data())
def test_tms_counts_the_same_tiles_from_the_south(z, data):
    x, y = (data.draw(st.integers(0, 2**z - 1)) for _ in range(2))
    flipped = 2**z - 1 - y
    assert tile_corner(x, y, z, "xyz") == pytest.approx(tile_corner(x, flipped, z, "tms"))


@given(st.sampled_from(["xyz", "tms", "baidu"]), st.integers(11, 18), lons, lats)
def test_a_point_lies_in_its_tile(scheme, z, lon, lat):
    x, y = tile_index(lon, lat, z, scheme)
    west, south = tile_corner(x, y, z, scheme)
    east, north = tile_corner(x + 1, y - 1 if scheme == "xyz" else y + 1, z, scheme)
    assert west - 1e-9 <= lon <= east + 1e-9
    assert south - 1e-9 <= lat <= north + 1e-9


@pytest.mark.parametrize("scheme", ["xyz", "tms", "baidu"])
def test_neighbouring_tiles_share_their_corners_and_leave_no_hole(scheme):
    x, y = np.meshgrid(np.arange(12650, 12654), np.arange(4710, 4714))
    polygons = tile_polygons(x.ravel(), y.ravel(), 16, scheme)
    whole = shapely.union_all(polygons)
    assert whole.geom_type == "Polygon"
    assert not whole.interiors
    assert shapely.area(polygons).sum() == pytest.approx(whole.area, rel=1e-12)
    assert all(polygon.exterior.is_ccw for polygon in polygons)


def test_the_toolkits_column_named_wgs84_is_bd09_of_the_south_west_corner(shared_data):
    table = pd.read_csv(shared_data / "urbanclip_toolkit/indicators/Beijing.csv")
    numbers = table["BD09 coordinate"].map(lambda text: [int(n) for n in re.findall(r"\d+", text)])
    x, y = np.array(numbers.tolist()).T
    places = table["WGS84 coordinate"].map(lambda t: [float(n) for n in re.findall(r"[\d.]+", t)])
    lat, lon = np.array(places.tolist()).T
    found = convert(x * 1024.0, y * 1024.0, "bd09mc", "bd09")
    np.testing.assert_allclose(found[0], lon, rtol=0, atol=1e-9)
    np.testing.assert_allclose(found[1], lat, rtol=0, atol=1e-9)
    true = convert(*found, "bd09", "wgs84")
    # taken as WGS-84, the column is off by 0.8 to 1.4 km
    away = np.hypot((lon - true[0]) * 85_300, (lat - true[1]) * 111_000)
    assert (away > 800).all()
    assert (away < 1500).all()
