import itertools

import geopandas as gpd
import numpy as np
import pytest
import shapely

from dataset_builders.assignment import assign_points
from dataset_builders.coordinates import convert
from dataset_builders.errors import DatasetError
from dataset_builders.regions import h3_regions, polygon_regions, square_grid, tile_regions

BEIJING = shapely.box(116.2, 39.8, 116.5, 40.0)
CIRCLE = shapely.Point(120, 30).buffer(0.12)
FIJI = shapely.box(179.85, -18.2, 180.15, -18.0)
GRIDS = {
    "utm": lambda: square_grid(BEIJING, 2000),
    "laea, ragged": lambda: square_grid(CIRCLE, 2000),
    "antimeridian": lambda: square_grid(FIJI, 2600),
    "baidu": lambda: tile_regions(BEIJING, 15, "baidu"),
    "some missing": lambda: square_grid(BEIJING, 2000).sample(frac=0.7, random_state=1),
}


def brute_force(lon, lat, regions):
    """Region with the first id that touches each point, by testing all regions."""
    order = np.argsort(regions["region_id"].to_numpy(dtype=str), kind="stable")
    points, found = shapely.points(lon, lat), np.full(len(lon), -1)
    for row in order[::-1]:
        found[shapely.intersects(regions.geometry.iloc[row], points)] = row
    return found


def points_around(regions, count, seed):
    rng = np.random.default_rng(seed)
    west, south, east, north = regions.total_bounds
    if east - west > 180:
        lon = (rng.uniform(179.8, 180.2, count) + 180) % 360 - 180
    else:
        lon = rng.uniform(west - 0.01, east + 0.01, count)
    return lon, rng.uniform(south - 0.01, north + 0.01, count)


def points_on_edges(regions, count, seed):
    """Corners of regions, and points along their sides, mostly exact to the last bit."""
    rng = np.random.default_rng(seed)
    shapes = regions.geometry.to_numpy()[rng.integers(0, len(regions), count)]
    rings = shapely.get_exterior_ring(shapely.get_geometry(shapes, 0))
    corners = shapely.get_coordinates(shapely.get_point(rings, 1))
    along = shapely.line_interpolate_point(rings, rng.random(count), normalized=True)
    return np.vstack([corners, shapely.get_coordinates(along)]).T


@pytest.mark.parametrize("name", GRIDS)
def test_points_go_where_the_outlines_say(name):
    regions = GRIDS[name]()
    lon, lat = points_around(regions, 3000, 0)
    found = assign_points(lon, lat, regions)
    assert np.array_equal(found, brute_force(lon, lat, regions))
    assert 0 < (found >= 0).mean() < 1


@pytest.mark.parametrize("name", GRIDS)
def test_a_point_on_a_shared_edge_counts_once(name):
    """A spatial join would give it two rows, or none."""
    regions = GRIDS[name]()
    lon, lat = points_on_edges(regions, 1000, 1)
    found = assign_points(lon, lat, regions)
    assert np.array_equal(found, brute_force(lon, lat, regions))
    points = shapely.points(lon, lat)
    touched, _ = shapely.STRtree(regions.geometry).query(points, predicate="intersects")
    assert np.bincount(touched, minlength=len(lon)).max() > 1
    assert ((found >= 0) == (np.bincount(touched, minlength=len(lon)) > 0)).all()
    shuffled = regions.sample(frac=1, random_state=2)
    again = assign_points(lon, lat, shuffled)
    ids, other = (np.append(frame["region_id"], "") for frame in (regions, shuffled))
    assert (ids[found] == other[again]).all()


def test_every_point_of_a_line_across_a_grid_is_found_once():
    """Points along the sides of rows of squares."""
    regions = square_grid(BEIJING, 1000, min_cover=0.0)
    parts = regions["region_id"].str.split("_", expand=True)
    row = regions[parts[3] == parts[3].unique()[4]]
    corners = np.stack([shapely.get_coordinates(shape)[0] for shape in row.geometry])
    steps = np.linspace(0, 1, 501)[:, None]
    line = np.vstack([a + (b - a) * steps for a, b in itertools.pairwise(corners)])
    found = assign_points(line[:, 0], line[:, 1], regions)
    assert (found >= 0).all()


def test_other_polygons_give_shared_points_to_the_first_id():
    frame = gpd.GeoDataFrame(
        {"name": ["b", "a"]},
        geometry=[shapely.box(116, 39, 117, 40), shapely.box(117, 39, 118, 40)],
        crs="EPSG:4326",
    )
    regions = polygon_regions(frame, "name")
    lon, lat = np.array([116.5, 117.0, 117.5, 118.0, 119.0]), np.full(5, 39.5)
    found = assign_points(lon, lat, regions)
    names = regions["region_id"]
    assert "".join(names.iloc[k] if k >= 0 else "-" for k in found) == "baaa-"
    turned = assign_points(lon, lat, regions.iloc[::-1])
    assert [regions.iloc[::-1]["region_id"].iloc[k] for k in turned[:4]] == list("baaa")


def test_hexagons_hold_their_points():
    h3 = pytest.importorskip("h3")
    regions = h3_regions(BEIJING, 8, min_cover=0.0)
    lon, lat = points_around(regions, 2000, 3)
    found = assign_points(lon, lat, regions)
    names = regions["region_id"].to_numpy()
    for k in np.flatnonzero(found >= 0):
        assert names[found[k]] == f"h3_{h3.latlng_to_cell(lat[k], lon[k], 8)}"


def test_points_without_a_place_and_longitudes_beyond_180():
    regions = square_grid(FIJI, 1300)
    lon = regions["lon"].to_numpy()
    lon = np.r_[np.where(lon < 0, lon + 360, lon), np.nan, np.inf, 0.0]
    lat = np.r_[regions["lat"].to_numpy(), -18.1, 0.0, 0.0]
    found = assign_points(lon, lat, regions)
    assert np.array_equal(found[:-3], np.arange(len(regions)))
    assert list(found[-3:]) == [-1, -1, -1]


def test_nothing_to_assign():
    regions = square_grid(BEIJING, 1000)
    assert len(assign_points([], [], regions)) == 0
    assert list(assign_points([116.3], [39.9], regions.iloc[:0])) == [-1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: ([1.0, 2.0], [1.0], r), "of equal length"),
        (lambda r: ([1.0], [1.0], r.set_crs(None, allow_override=True)), "got no CRS"),
        (lambda r: ([1.0], [1.0], r.to_crs("EPSG:3857")), "EPSG:4326, got WGS 84 / Pseudo"),
    ],
)
def test_impossible_assignments_are_refused(change, message):
    with pytest.raises(DatasetError, match=message):
        assign_points(*change(square_grid(BEIJING, 5000)))


WRONG = {
    "lon and lat are swapped": lambda lon, lat: (lat, lon),
    "they are in gcj02": lambda lon, lat: convert(lon, lat, "wgs84", "gcj02"),
    "they are in bd09 ": lambda lon, lat: convert(lon, lat, "wgs84", "bd09"),
    "they are in bd09mc": lambda lon, lat: convert(lon, lat, "wgs84", "bd09mc"),
    "Web Mercator": lambda lon, lat: (
        lon * 111_319.49079327358,
        np.arcsinh(np.tan(np.radians(lat))) * 6378137.0,
    ),
    "in wgs84 and not in gcj02": lambda lon, lat: convert(lon, lat, "gcj02", "wgs84"),
    "in wgs84 and not in bd09 ": lambda lon, lat: convert(lon, lat, "bd09", "wgs84"),
}


@pytest.mark.parametrize("system", WRONG)
def test_points_of_another_system_are_found_out(system):
    """A town so small that a shift of 500 m leaves it."""
    town = shapely.box(116.300, 39.900, 116.3045, 39.9035)
    regions = square_grid(town, 100, min_cover=0.0)
    rng = np.random.default_rng(0)
    lon, lat = rng.uniform(116.3, 116.3045, 500), rng.uniform(39.9, 39.9035, 500)
    assert (assign_points(lon, lat, regions) >= 0).mean() > 0.9
    wrong = WRONG[system](lon, lat)
    with pytest.raises(DatasetError, match=system.strip()):
        assign_points(*wrong, regions)
    assert (assign_points(*wrong, regions, check=False) >= 0).mean() < 0.5


def test_points_of_elsewhere_are_no_other_system():
    regions = square_grid(BEIJING, 1000)
    rng = np.random.default_rng(0)
    found = assign_points(rng.uniform(73, 135, 1000), rng.uniform(18, 53, 1000), regions)
    assert (found >= 0).mean() < 0.1
