import re

import numpy as np
import pandas as pd
import pyproj
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataset_builders.coordinates import (
    SYSTEMS,
    convert,
    tile_corner,
    tile_index,
)
from dataset_builders.errors import DatasetError

# Tiananmen, with published conversions
PLACE = (116.404, 39.915)
lons, lats = st.floats(75, 134), st.floats(4, 53)


def test_equals_published_vectors():
    found = convert(*PLACE, "wgs84", "gcj02")
    assert found == pytest.approx((116.41024449916938, 39.91640428150164), abs=1e-12)
    found = convert(*PLACE, "gcj02", "bd09")
    assert found == pytest.approx((116.41036949371029, 39.92133699351021), abs=1e-12)
    # exact, where the published inverse is off by 5 cm
    found = convert(*PLACE, "bd09", "gcj02")
    assert found == pytest.approx((116.39762708785722, 39.90865633947842), abs=1e-12)
    assert found == pytest.approx((116.39762729119315, 39.90865673957631), abs=5e-7)


@pytest.mark.parametrize(
    ("tile", "corner"),
    [
        ((12659, 4738), (116.44569035648394, 40.09315850201147)),
        ((12303, 2599), (113.17097150371777, 23.38370180200058)),
    ],
)
def test_baidu_tiles_equal_those_of_baidus_service(tile, corner):
    assert tile_corner(*tile, 16, "baidu") == pytest.approx(corner, abs=1e-12)


@given(lons, lats, st.sampled_from(SYSTEMS), st.sampled_from(SYSTEMS))
def test_round_trips(lon, lat, source, target):
    start = convert(lon, lat, "bd09", source)
    there = convert(*start, source, target)
    # close to 15, 30 and 45 degrees Baidu's polynomials have gaps of a centimetre
    in_gap = abs((lat + 7.5) % 15 - 7.5) < 1e-6
    metres, degrees = (0.02, 2e-7) if in_gap else (1e-6, 1e-9)
    tolerance = metres if source == "bd09mc" else degrees
    assert convert(*there, target, source) == pytest.approx(start, abs=tolerance, rel=0)


@pytest.mark.parametrize("target", ["gcj02", "bd09", "bd09mc"])
def test_rejects_points_outside_china(target):
    place = (-74.0, 40.7)
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


@pytest.mark.parametrize("source", SYSTEMS)
@pytest.mark.parametrize("target", SYSTEMS)
def test_arrays_equal_scalars_and_nan_stays_nan(source, target):
    start = convert(*PLACE, "wgs84", source)
    expected = convert(*start, source, target)
    assert isinstance(expected[0], float)
    x, y = (np.array([[np.nan, value], [value, value]]) for value in start)
    for found, one in zip(convert(x, y, source, target), expected, strict=True):
        assert np.isnan(found[0, 0])
        np.testing.assert_allclose(found.ravel()[1:], one, rtol=1e-15)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: convert(1, 2, "wgs84", "epsg3857"), "coordinate system is one of"),
        (lambda: convert(39.9, 116.4, "wgs84", "gcj02"), "are lon and lat swapped"),
        (lambda: tile_corner(1, 2, 3, "google"), "tile scheme is one of"),
        (lambda: tile_corner(1, 2, 3.5, "xyz"), "zoom is a whole number"),
    ],
)
def test_rejects_unknown_names_and_swapped_coordinates(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@given(st.integers(0, 20), st.data())
def test_xyz_and_tms_corners_equal_epsg_3857(z, data):
    x, y = (data.draw(st.integers(0, 2**z - 1)) for _ in range(2))
    half = 20037508.342789244
    side = 2 * half / 2**z
    to_degrees = pyproj.Transformer.from_crs("EPSG:3857", "EPSG:4326", always_xy=True)
    expected = to_degrees.transform(x * side - half, half - (y + 1) * side)
    assert tile_corner(x, y, z, "xyz") == pytest.approx(expected, abs=1e-8)
    assert tile_corner(x, 2**z - 1 - y, z, "tms") == pytest.approx(expected, abs=1e-8)


@given(st.sampled_from(["xyz", "tms", "baidu"]), st.integers(11, 18), lons, lats)
def test_points_lie_in_their_tiles(scheme, z, lon, lat):
    x, y = tile_index(lon, lat, z, scheme)
    west, south = tile_corner(x, y, z, scheme)
    east, north = tile_corner(x + 1, y - 1 if scheme == "xyz" else y + 1, z, scheme)
    assert west - 1e-9 <= lon <= east + 1e-9
    assert south - 1e-9 <= lat <= north + 1e-9


def test_urbanclip_toolkit_coordinates_are_bd09_corners(shared_data):
    """Its column named WGS84 is BD-09 of the south-west corner, 0.8 to 1.4 km away."""
    table = pd.read_csv(shared_data / "urbanclip_toolkit/indicators/Beijing.csv")
    numbers, places = (
        np.array([re.findall(r"[\d.]+", text) for text in table[column]], float)
        for column in ("BD09 coordinate", "WGS84 coordinate")
    )
    lat, lon = places.T
    found = convert(*(numbers.T * 1024), "bd09mc", "bd09")
    np.testing.assert_allclose(found, [lon, lat], rtol=0, atol=1e-9)
    true = convert(*found, "bd09", "wgs84")
    away = np.hypot((lon - true[0]) * 85_300, (lat - true[1]) * 111_000)
    assert 800 < away.min() < away.max() < 1500
