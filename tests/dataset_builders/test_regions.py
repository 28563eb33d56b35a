import geopandas as gpd
import h3
import mercantile
import numpy as np
import pyproj
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset_builders.coordinates import convert, tile_corner
from dataset_builders.errors import DatasetError, SourceError
from dataset_builders.globe import geodesic_areas, wrap
from dataset_builders.planes import Plane, choose_plane
from dataset_builders.regions import (
    grid_cells,
    h3_regions,
    polygon_regions,
    square_grid,
    tile_regions,
)

BEIJING = shapely.box(116.2, 39.8, 116.5, 40.0)
CITIES = {
    "across zones": shapely.box(119.9, 30.0, 120.1, 30.15),
    "rim of a zone at the equator": shapely.box(29.4, -0.1, 29.7, 0.1),
    "south": shapely.box(-46.8, -23.7, -46.6, -23.5),
    "far north": shapely.box(18.6, 69.5, 19.2, 69.7),
    "antimeridian": shapely.box(179.85, -18.2, 180.15, -18.0),
}


@pytest.mark.parametrize("name", CITIES)
def test_squares_have_equal_area_and_do_not_overlap(name):
    boundary, side = CITIES[name], 733.5
    frame = square_grid(boundary, side)
    assert frame.crs == "EPSG:4326"
    assert frame["region_id"].is_unique
    assert np.abs(frame["area_m2"] / side**2 - 1).max() < 1e-3
    assert frame["area_m2"].to_numpy() == pytest.approx(geodesic_areas(frame.geometry), rel=1e-8)
    shapes = wrap(frame.geometry.to_numpy(), centre=boundary.centroid.x)
    whole = shapely.union_all(shapes)
    assert sum(shapely.area(shapes)) == pytest.approx(whole.area, rel=1e-9)
    # the boundary is covered except for its edge
    assert whole.buffer(1e-9).covers(boundary.buffer(-2e-5 * side))
    assert frame["cover"].between(0.5 - 1e-6, 1).all()


@pytest.mark.parametrize("name", CITIES)
def test_squares_do_not_depend_on_the_boundary(name):
    boundary = CITIES[name]
    west, south, east, north = boundary.bounds
    other = shapely.box(west + 0.013, south - 0.02, east + 0.004, north - 0.03)
    one, two = (square_grid(shape, 1000).set_index("region_id") for shape in (boundary, other))
    shared = one.index.intersection(two.index)
    assert len(shared) > 0.5 * len(one)
    assert (one.geometry[shared].to_wkb() == two.geometry[shared].to_wkb()).all()  # bit-equal
    inside = boundary.intersection(other).buffer(-0.02)
    assert set(one.index[one.geometry.within(inside)]) <= set(two.index)


def test_ids_encode_projection_side_and_position():
    first = square_grid(BEIJING, 1000).iloc[0]
    plane, side, column, row = first["region_id"].split("_")
    assert (plane, side) == ("epsg32650", "1000")
    to_plane = pyproj.Transformer.from_crs("EPSG:4326", "EPSG:32650", always_xy=True)
    corner = np.array([int(column), int(row)]) * 1000
    centre = to_plane.transform(first["lon"], first["lat"])
    assert centre == pytest.approx(tuple(corner + 500), abs=1e-3)
    south_west = shapely.get_coordinates(first.geometry)[0]
    assert to_plane.transform(*south_west) == pytest.approx(tuple(corner), abs=1e-3)
    assert square_grid(BEIJING, 333.5)["region_id"].str.startswith("epsg32650_333.5_").all()


def test_projection_is_chosen_by_location_or_pinned():
    assert choose_plane(BEIJING, 1000).name == "epsg32650"
    assert choose_plane(CITIES["south"], 1000).name == "epsg32723"
    assert choose_plane(CITIES["across zones"], 1000).name == "laea30n120e"
    assert choose_plane(CITIES["rim of a zone at the equator"], 1000).name == "laea0n30e"
    assert choose_plane(CITIES["antimeridian"], 1000).name == "laea20s180w"
    pinned = square_grid(CITIES["across zones"], 1000, plane="epsg32651")
    assert pinned["region_id"].str.startswith("epsg32651_1000_").all()
    with pytest.raises(DatasetError, match="named like epsg32650"):
        square_grid(BEIJING, 1000, plane="utm50")
    with pytest.raises(DatasetError, match="not a projection in metres"):
        Plane("epsg4326")


def test_cover_is_the_share_within_the_boundary():
    circle = shapely.Point(116.4, 39.9).buffer(0.1)
    everything = square_grid(circle, 1000, min_cover=0.0).set_index("region_id")
    expected = [shape.intersection(circle).area / shape.area for shape in everything.geometry]
    assert everything["cover"].to_numpy() == pytest.approx(np.array(expected), abs=2e-5)
    for least in (0.5, 1.0):
        kept = set(square_grid(circle, 1000, min_cover=least)["region_id"])
        assert kept == set(everything.index[everything["cover"] > least - 1e-9])


def test_boundary_in_another_crs_of_a_file_or_of_several_rows(tmp_path):
    series = gpd.GeoSeries([BEIJING], crs="EPSG:4326")
    series.to_file(tmp_path / "a.gpkg")
    halves = [shapely.box(116.2, 39.8, 116.35, 40.0), None, shapely.box(116.35, 39.8, 116.5, 40.0)]
    expected = list(square_grid(BEIJING, 1000)["region_id"])
    for boundary in (
        gpd.GeoDataFrame(geometry=series.to_crs("EPSG:3857")),
        tmp_path / "a.gpkg",
        gpd.GeoSeries(halves, crs="EPSG:4326"),
    ):
        assert list(square_grid(boundary, 1000)["region_id"]) == expected


def test_antimeridian_in_all_notations():
    one = square_grid(shapely.box(179.6, -44.1, 180.1, -43.9), 1000)
    split = shapely.MultiPolygon(
        [shapely.box(179.6, -44.1, 180, -43.9), shapely.box(-180, -44.1, -179.9, -43.9)]
    )
    jumping = shapely.Polygon([(179.6, -44.1), (-179.9, -44.1), (-179.9, -43.9), (179.6, -43.9)])
    west = shapely.box(-180.4, -44.1, -179.9, -43.9)
    for boundary in (jumping, west, gpd.GeoSeries([split], crs="EPSG:4326")):
        two = square_grid(boundary, 1000)
        assert list(two["region_id"]) == list(one["region_id"])
        assert shapely.equals_exact(two.geometry.to_numpy(), one.geometry.to_numpy(), 1e-9).all()
    assert np.abs(one.total_bounds[[0, 2]]).max() <= 180
    assert one.geometry.is_valid.all()


BOWTIE = shapely.Polygon([(116, 39), (117, 40), (117, 39), (116, 40)])

with np.errstate(invalid="ignore"):
    BROKEN = shapely.Polygon([(0, 0), (np.nan, 1), (1, 1)])


@pytest.mark.parametrize(
    ("boundary", "message"),
    [
        (BOWTIE, r"crosses itself \(Self-intersection"),
        (gpd.GeoSeries([None, shapely.Polygon()], crs="EPSG:4326"), "empty"),
        (shapely.LineString([(0, 0), (1, 1)]), "got a LineString"),
        (shapely.box(448000, 4417000, 458000, 4427000), "in metres"),
        (gpd.GeoSeries([BEIJING], crs="EPSG:32650"), "look like degrees"),
        (gpd.GeoSeries([BEIJING]), "no CRS"),
        (shapely.box(39.8, 116.2, 40.0, 116.5), "lon and lat swapped"),
        (shapely.box(0, 88, 10, 89.5), "near a pole"),
        (shapely.box(-100, 10, 100, 20), "more than half of the globe"),
        (BROKEN, "not finite"),
        ("nowhere.geojson", "no boundary at"),
    ],
)
def test_rejects_invalid_boundaries(boundary, message):
    with pytest.raises((DatasetError, SourceError), match=message):
        square_grid(boundary, 1000)


def test_rejects_impossible_regions():
    with pytest.raises(DatasetError, match="above 0 m"):
        square_grid(BEIJING, np.nan)
    with pytest.raises(DatasetError, match="is the limit"):
        square_grid(BEIJING, 0.01)
    with pytest.raises(DatasetError, match="smaller regions"):
        square_grid(BEIJING, 500_000)
    with pytest.raises(DatasetError, match="0 to 15"):
        h3_regions(BEIJING, 16)
    with pytest.raises(DatasetError, match="in China only"):
        tile_regions(shapely.box(2.2, 48.8, 2.4, 48.9), 16, "baidu")


def test_repairs_slight_defects_with_a_warning():
    loop = [(116.2, 39.8), (116.5, 39.8), (116.5, 40.0), (116.49999, 40.0), (116.5, 39.99999)]
    boundary = shapely.Polygon([*loop, (116.5, 40.00001), (116.2, 40.0)])
    assert not boundary.is_valid
    with pytest.warns(UserWarning, match="was made valid"):
        found = square_grid(boundary, 1000)
    assert list(found["region_id"]) == list(square_grid(BEIJING, 1000)["region_id"])


@pytest.mark.parametrize(("scheme", "zoom"), [("xyz", 15), ("tms", 15), ("baidu", 16)])
def test_tiles_match_tile_corner_and_leave_no_hole(scheme, zoom):
    frame = tile_regions(BEIJING, zoom, scheme)
    for row in frame.iloc[:: len(frame) // 7].itertuples():
        assert row.region_id == f"{scheme}_{zoom}_{row.tile_x}_{row.tile_y}"
        corner = tile_corner(row.tile_x, row.tile_y, zoom, scheme)
        if scheme == "baidu":
            corner = convert(*corner, "bd09", "wgs84")
        assert tuple(shapely.get_coordinates(row.geometry)[0]) == pytest.approx(corner, abs=1e-13)
        assert row.geometry.centroid.distance(shapely.Point(row.lon, row.lat)) < 2e-5
    union = shapely.union_all(frame.geometry.to_numpy())
    assert shapely.area(frame.geometry.to_numpy()).sum() == pytest.approx(union.area, rel=1e-12)
    assert union.geom_type == "Polygon"
    assert union.buffer(1e-9).covers(BEIJING.buffer(-0.006))


def test_xyz_tiles_equal_mercantile_and_wrap_at_the_antimeridian():
    found = tile_regions(BEIJING, 14, min_cover=0.0)
    expected = set(mercantile.tiles(*BEIJING.bounds, 14))
    assert set(zip(found["tile_x"], found["tile_y"], strict=True)) == {(t.x, t.y) for t in expected}
    row = found.iloc[0]
    bounds = mercantile.bounds(row["tile_x"], row["tile_y"], 14)
    assert row.geometry.bounds == pytest.approx(tuple(bounds), abs=1e-9)
    frame = tile_regions(CITIES["antimeridian"], 12, min_cover=0.0)
    assert (frame["tile_x"].min(), frame["tile_x"].max()) == (0, 2**12 - 1)


def test_h3_cells():
    frame = h3_regions(BEIJING, 8, min_cover=0.0, city="beijing")
    row = frame.iloc[3]
    cell = row["region_id"].removeprefix("h3_")
    assert h3.get_resolution(cell) == 8
    assert row["area_m2"] == pytest.approx(h3.cell_area(cell, "m^2"), rel=1e-2)
    assert shapely.union_all(frame.geometry.to_numpy()).buffer(1e-6).covers(BEIJING)
    half = h3_regions(BEIJING, 8)
    assert list(half["region_id"]) == sorted(frame.loc[frame["cover"] >= 0.5, "region_id"])
    across = h3_regions(CITIES["antimeridian"], 7)
    assert across.geometry.is_valid.all()
    assert across.total_bounds[0] >= -180
    assert across["area_m2"].max() < 1e7


def districts(**columns):
    # the first extends into the second by a sliver
    shapes = [shapely.box(116 + i, 39, 117 + i + 1e-5 * (i == 0), 40) for i in range(3)]
    frame = gpd.GeoDataFrame({"code": ["c", "a", "b"]}, geometry=shapes, crs="EPSG:4326")
    return frame.assign(**columns)


def test_polygons_become_regions_by_id():
    found = polygon_regions(districts().to_crs("EPSG:3857"), "code", city="x")
    assert list(found["region_id"]) == ["a", "b", "c"]
    assert list(found.columns) == ["region_id", "city", "lon", "lat", "area_m2", "geometry"]
    assert shapely.intersects_xy(found.geometry.to_numpy(), found["lon"], found["lat"]).all()
    assert polygon_regions(districts(code=[3, 1, 2]), "code")["region_id"].tolist() == list("123")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.set_crs(None, allow_override=True), "no CRS"),
        (lambda f: f.rename(columns={"code": "name"}), r"no column 'code'.*name"),
        (lambda f: f.iloc[:0], "no polygons"),
        (lambda f: f.assign(code=["a", None, "b"]), r"1 polygon\(s\) have no 'code'"),
        (lambda f: f.assign(code=["a", "b", "a"]), "duplicate ids: 'a'"),
        (lambda f: f.set_geometry([None, shapely.Polygon(), f.geometry[2]]), "are empty: 'a', 'c'"),
        (lambda f: f.set_geometry([BOWTIE, *f.geometry[1:]]), "not valid.*'c'"),
        (
            lambda f: f.set_geometry([shapely.box(116.5, 39, 117.5, 40), *f.geometry[1:]]),
            "'a' and 'c'",
        ),
    ],
)
def test_rejects_invalid_polygons(change, message):
    with pytest.raises(DatasetError, match=message):
        polygon_regions(change(districts()), "code")


@settings(max_examples=30)
@given(st.floats(-170, 170), st.floats(-75, 75), st.integers(0, 1000))
def test_grid_cells_contain_their_points_and_do_not_overlap(lon, lat, seed):
    rng = np.random.default_rng(seed)
    lons, lats = lon + rng.uniform(0, 0.05, 20), lat + rng.uniform(0, 0.05, 20)
    ids, cells = grid_cells(np.append(lons, np.nan), np.append(lats, lat), 1000.0)
    assert (ids[-1], cells[-1]) == (None, None)
    assert shapely.dwithin(cells[:-1], shapely.points(lons, lats), 1e-9).all()
    distinct = list(dict(zip(ids[:-1], cells[:-1], strict=True)).values())
    assert sum(shapely.area(distinct)) == pytest.approx(shapely.union_all(distinct).area, rel=1e-6)
