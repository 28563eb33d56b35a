import geopandas as gpd
import numpy as np
import pytest
import shapely

from dataset_builders.assignment import assign_points
from dataset_builders.coordinates import convert
from dataset_builders.errors import DatasetError
from dataset_builders.regions import polygon_regions, square_grid, tile_regions

BEIJING = shapely.box(116.2, 39.8, 116.5, 40.0)
FIJI = shapely.box(179.85, -18.2, 180.15, -18.0)
GRIDS = {
    "utm": lambda: square_grid(BEIJING, 2000),
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
def test_points_are_assigned_by_outline_and_shared_edges_count_once(name):
    regions = GRIDS[name]()
    around, edges = points_around(regions, 2000, 0), points_on_edges(regions, 500, 1)
    lon, lat = np.concatenate([around, edges], axis=1)
    found = assign_points(lon, lat, regions)
    assert np.array_equal(found, brute_force(lon, lat, regions))
    assert 0 < (found[:2000] >= 0).mean() < 1
    touched, _ = shapely.STRtree(regions.geometry).query(
        shapely.points(lon, lat), predicate="intersects"
    )
    assert np.bincount(touched).max() > 1  # a spatial join would repeat the point
    shuffled = regions.sample(frac=1, random_state=2)
    again = assign_points(lon, lat, shuffled)
    ids, other = (np.append(frame["region_id"], "") for frame in (regions, shuffled))
    assert (ids[found] == other[again]).all()


def test_shared_points_go_to_the_first_id():
    boxes = [shapely.box(116, 39, 117, 40), shapely.box(117, 39, 118, 40)]
    frame = gpd.GeoDataFrame({"name": ["b", "a"]}, geometry=boxes, crs="EPSG:4326")
    regions = polygon_regions(frame, "name")
    for rows in (regions, regions.iloc[::-1]):
        found = assign_points([116.5, 117.0, 117.5, 118.0, 119.0], np.full(5, 39.5), rows)
        assert "".join([*rows["region_id"], "-"][k] for k in found) == "baaa-"


def test_unknown_coordinates_longitudes_beyond_180_and_invalid_input():
    regions = square_grid(FIJI, 1300)
    lon, lat = regions["lon"].to_numpy() % 360, regions["lat"].to_numpy()
    found = assign_points(np.r_[lon, np.nan, 0.0], np.r_[lat, -18.1, 0.0], regions)
    assert found.tolist() == [*range(len(regions)), -1, -1]
    assert list(assign_points([116.3], [39.9], regions.iloc[:0])) == [-1]
    with pytest.raises(DatasetError, match="of equal length"):
        assign_points([1.0, 2.0], [1.0], regions)
    with pytest.raises(DatasetError, match="EPSG:4326, got WGS 84 / Pseudo"):
        assign_points([1.0], [1.0], regions.to_crs("EPSG:3857"))


WRONG = {
    "lon and lat are swapped": lambda lon, lat: (lat, lon),
    "they are in gcj02": lambda lon, lat: convert(lon, lat, "wgs84", "gcj02"),
    "they are in bd09mc": lambda lon, lat: convert(lon, lat, "wgs84", "bd09mc"),
    "in wgs84 and not in bd09 ": lambda lon, lat: convert(lon, lat, "bd09", "wgs84"),
}


@pytest.mark.parametrize("system", WRONG)
def test_names_the_likely_coordinate_system(system):
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
