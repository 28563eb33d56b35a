import sys

import geopandas as gpd
import numpy as np
import pyproj
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset_builders.coordinates import convert, tile_corner
from dataset_builders.errors import DatasetError, MissingExtraError, SourceError
from dataset_builders.globe import geodesic_areas
from dataset_builders.importers.base import square_around
from dataset_builders.planes import Plane, choose_plane
from dataset_builders.regions import (
    _cell_shares,
    grid_cells,
    h3_regions,
    polygon_regions,
    square_grid,
    tile_regions,
)

WGS84 = pyproj.Geod(ellps="WGS84")
BEIJING = shapely.box(116.2, 39.8, 116.5, 40.0)
CITIES = {
    "within a zone": BEIJING,
    "across zones": shapely.box(119.9, 30.0, 120.2, 30.2),
    "rim of a zone at the equator": shapely.box(29.4, -0.1, 29.7, 0.1),
    "south": shapely.box(-46.8, -23.7, -46.5, -23.5),
    "across the equator": shapely.box(-78.6, -0.2, -78.3, 0.1),
    "far north": shapely.box(18.6, 69.5, 19.4, 69.8),
    "antimeridian": shapely.box(179.85, -18.2, 180.15, -18.0),
    "antimeridian off the middle": shapely.box(179.6, -44.1, 180.1, -43.9),
}


def areas(frame):
    return np.array(
        [
            sum(abs(WGS84.geometry_area_perimeter(part)[0]) for part in shapely.get_parts(shape))
            for shape in frame.geometry
        ]
    )


def unwrapped(frame, boundary):
    """Geometries with longitudes close to the boundary's, to detect overlaps."""
    middle = (boundary.bounds[0] + boundary.bounds[2]) / 2

    def turn(xy):
        lon = xy[:, 0] - 360 * np.round((xy[:, 0] - middle) / 360)
        return np.column_stack([lon, xy[:, 1]])

    shapes = []
    for shape in frame.geometry:
        parts = [
            shapely.Polygon(turn(shapely.get_coordinates(part.exterior)))
            for part in shapely.get_parts(shape)
            if part.geom_type == "Polygon"
        ]
        shapes.append(parts[0] if len(parts) == 1 else shapely.union_all(parts))
    return np.array(shapes, dtype=object)


@pytest.mark.parametrize("name", CITIES)
def test_squares_have_their_area_and_do_not_overlap(name):
    boundary, side = CITIES[name], 733.5
    frame = square_grid(boundary, side)
    assert frame.crs == "EPSG:4326"
    assert frame["region_id"].is_unique
    found = areas(frame)
    assert np.abs(found / side**2 - 1).max() < 1e-3
    assert frame["area_m2"].to_numpy() == pytest.approx(found, rel=1e-8, abs=0.05)
    shapes = unwrapped(frame, boundary)
    assert sum(shapely.area(shapes)) == pytest.approx(shapely.union_all(shapes).area, rel=1e-9)
    # the boundary is covered except for its edge, and nothing far from it
    inner = boundary.buffer(-2e-5 * side)
    assert shapely.union_all(shapes).buffer(1e-9).covers(inner)
    assert frame["cover"].between(0.5 - 1e-6, 1).all()
    assert shapely.dwithin(
        shapes, shapely.points(shapely.get_coordinates(shapely.centroid(shapes))), 1e-6
    ).all()


@pytest.mark.parametrize("name", CITIES)
def test_another_boundary_of_the_city_gives_the_same_squares(name):
    boundary = CITIES[name]
    west, south, east, north = boundary.bounds
    other = shapely.box(west + 0.013, south - 0.02, east + 0.004, north - 0.03)
    one = square_grid(boundary, 1000).set_index("region_id")
    two = square_grid(other, 1000).set_index("region_id")
    shared = one.index.intersection(two.index)
    assert len(shared) > 0.5 * len(one)
    # bit-equal
    assert (
        shapely.to_wkb(one.loc[shared].geometry) == shapely.to_wkb(two.loc[shared].geometry)
    ).all()
    inside = boundary.intersection(other).buffer(-0.02)
    near = one[one.geometry.within(inside)]
    assert set(near.index) <= set(two.index)


def test_neighbours_share_their_corners_exactly():
    frame = square_grid(BEIJING, 1000)
    corners = shapely.get_coordinates(frame.geometry)
    rounded = np.unique(corners.round(7), axis=0)
    assert len(np.unique(corners, axis=0)) == len(rounded)
    # 5 vertices per square, most of them shared by four
    assert len(rounded) < 1.2 * len(frame)


def test_ids_name_the_plane_the_side_and_the_square():
    frame = square_grid(BEIJING, 1000)
    assert frame["region_id"].str.match(r"epsg32650_1000_\d+_\d+$").all()
    first = frame.iloc[0]
    _, _, column, row = first["region_id"].split("_")
    to_plane = pyproj.Transformer.from_crs("EPSG:4326", "EPSG:32650", always_xy=True)
    x, y = to_plane.transform(first["lon"], first["lat"])
    assert (x, y) == pytest.approx((int(column) * 1000 + 500, int(row) * 1000 + 500), abs=1e-3)
    south_west = shapely.get_coordinates(first.geometry)[0]
    assert to_plane.transform(*south_west) == pytest.approx(
        (int(column) * 1000, int(row) * 1000), abs=1e-3
    )
    assert square_grid(BEIJING, 333.5)["region_id"].str.startswith("epsg32650_333.5_").all()


@given(st.floats(-179, 179), st.floats(-75, 75), st.floats(0.02, 0.6), st.sampled_from([500, 3000]))
@settings(max_examples=30)
def test_area_is_nominal_anywhere(lon, lat, size, side):
    boundary = shapely.box(lon, lat, lon + size, lat + size / 2)
    frame = square_grid(boundary, side, min_cover=0.0)
    assert np.abs(frame["area_m2"] / side**2 - 1).max() < 1e-3
    plane = frame["region_id"].iloc[0].split("_")[0]
    assert plane.startswith("laea") or plane.startswith("epsg32")


def test_the_plane_of_a_city():
    assert choose_plane(BEIJING, 1000).name == "epsg32650"
    assert choose_plane(CITIES["south"], 1000).name == "epsg32723"
    assert choose_plane(CITIES["across zones"], 1000).name == "laea30n120e"
    assert choose_plane(CITIES["rim of a zone at the equator"], 1000).name == "laea0n30e"
    assert choose_plane(CITIES["antimeridian"], 1000).name == "laea20s180w"


def test_a_plane_can_be_pinned():
    pinned = square_grid(CITIES["across zones"], 1000, plane="epsg32651")
    assert pinned["region_id"].str.startswith("epsg32651_1000_").all()
    with pytest.raises(DatasetError, match="named like epsg32650"):
        square_grid(BEIJING, 1000, plane="utm50")
    with pytest.raises(DatasetError, match="not a projection in metres"):
        Plane("epsg4326")
    with pytest.raises(DatasetError, match="no EPSG:1"):
        Plane("epsg1")


def test_cover_is_the_share_within_the_boundary():
    circle = shapely.Point(116.4, 39.9).buffer(0.1)
    everything = square_grid(circle, 1000, min_cover=0.0).set_index("region_id")
    expected = [shape.intersection(circle).area / shape.area for shape in everything.geometry]
    assert everything["cover"].to_numpy() == pytest.approx(np.array(expected), abs=2e-5)
    half = square_grid(circle, 1000)
    assert set(half["region_id"]) == set(everything.index[everything["cover"] >= 0.5])
    whole = square_grid(circle, 1000, min_cover=1.0)
    assert set(whole["region_id"]) == set(everything.index[everything["cover"] > 1 - 1e-9])
    assert everything["area_m2"] @ everything["cover"] == pytest.approx(
        abs(WGS84.geometry_area_perimeter(circle)[0]), rel=1e-5
    )


@pytest.mark.parametrize("kind", ["series", "frame", "other crs", "gpkg", "parquet", "rows"])
def test_boundaries_in_any_form(kind, tmp_path):
    series = gpd.GeoSeries([BEIJING], crs="EPSG:4326")
    given_boundary = {
        "series": lambda: series,
        "frame": lambda: gpd.GeoDataFrame(geometry=series),
        "other crs": lambda: series.to_crs("EPSG:3857"),
        "gpkg": lambda: series.to_file(tmp_path / "a.gpkg") or tmp_path / "a.gpkg",
        "parquet": lambda: (
            gpd.GeoDataFrame(geometry=series).to_parquet(tmp_path / "a.parquet")
            or str(tmp_path / "a.parquet")
        ),
        "rows": lambda: gpd.GeoSeries(
            [shapely.box(116.2, 39.8, 116.35, 40.0), None, shapely.box(116.35, 39.8, 116.5, 40.0)],
            crs="EPSG:4326",
        ),
    }[kind]()
    expected = square_grid(BEIJING, 1000)
    assert list(square_grid(given_boundary, 1000)["region_id"]) == list(expected["region_id"])


def test_the_antimeridian_may_be_written_in_three_ways():
    one = square_grid(shapely.box(179.6, -44.1, 180.1, -43.9), 1000)
    split = shapely.MultiPolygon(
        [shapely.box(179.6, -44.1, 180, -43.9), shapely.box(-180, -44.1, -179.9, -43.9)]
    )
    jumping = shapely.Polygon([(179.6, -44.1), (-179.9, -44.1), (-179.9, -43.9), (179.6, -43.9)])
    west = shapely.box(-180.4, -44.1, -179.9, -43.9)
    for boundary in (split, jumping, west, gpd.GeoSeries([split], crs="EPSG:4326")):
        two = square_grid(boundary, 1000)
        assert list(two["region_id"]) == list(one["region_id"])
        assert shapely.equals_exact(two.geometry.to_numpy(), one.geometry.to_numpy(), 1e-9).all()
    bounds = one.total_bounds
    assert bounds[0] >= -180
    assert bounds[2] <= 180
    assert one.geometry.is_valid.all()


BOWTIE = shapely.Polygon([(116, 39), (117, 40), (117, 39), (116, 40)])

with np.errstate(invalid="ignore"):
    BROKEN = shapely.Polygon([(0, 0), (np.nan, 1), (1, 1)])


@pytest.mark.parametrize(
    ("boundary", "message"),
    [
        (BOWTIE, r"crosses itself \(Self-intersection"),
        (gpd.GeoSeries([BOWTIE], crs="EPSG:4326"), "crosses itself"),
        (shapely.Polygon(), "empty"),
        (gpd.GeoSeries([], crs="EPSG:4326"), "empty"),
        (gpd.GeoSeries([None, shapely.Polygon()], crs="EPSG:4326"), "empty"),
        (shapely.Point(1, 1), "got a Point"),
        (shapely.LineString([(0, 0), (1, 1)]), "got a LineString"),
        (shapely.box(448000, 4417000, 458000, 4427000), "in metres"),
        (gpd.GeoSeries([BEIJING], crs="EPSG:32650"), "look like degrees"),
        (gpd.GeoSeries([BEIJING]), "no CRS"),
        (gpd.GeoSeries([shapely.box(448000, 0, 458000, 1)], crs="EPSG:4326"), "in degrees"),
        (shapely.box(39.8, 116.2, 40.0, 116.5), "lon and lat swapped"),
        (shapely.box(0, 88, 10, 89.5), "near a pole"),
        (shapely.box(-180, -90, 180, -70), "near a pole"),
        (shapely.box(-100, 10, 100, 20), "more than half of the globe"),
        (BROKEN, "not finite"),
        (shapely.box(116.2, 39.8, 116.2, 40), r"not a valid polygon \(Too few points"),
        (shapely.box(-180, -10, 180, 10), "more than half of the globe"),
        ("nowhere.geojson", "no boundary at"),
        (42, "got int"),
    ],
)
def test_impossible_boundaries_are_refused(boundary, message):
    with pytest.raises((DatasetError, SourceError), match=message):
        square_grid(boundary, 1000)


def test_slight_defects_are_mended_with_a_warning():
    loop = [(116.2, 39.8), (116.5, 39.8), (116.5, 40.0), (116.49999, 40.0), (116.5, 39.99999)]
    boundary = shapely.Polygon([*loop, (116.5, 40.00001), (116.2, 40.0)])
    assert not boundary.is_valid
    with pytest.warns(UserWarning, match="was made valid"):
        found = square_grid(boundary, 1000)
    assert list(found["region_id"]) == list(square_grid(BEIJING, 1000)["region_id"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"side_m": 0}, "above 0 m"),
        ({"side_m": -5}, "above 0 m"),
        ({"side_m": np.nan}, "above 0 m"),
        ({"side_m": np.inf}, "above 0 m"),
        ({"side_m": 0.01}, "is the limit"),
        ({"side_m": 500_000}, "smaller regions"),
        ({"side_m": 1000, "min_cover": 1.5}, r"lies in \[0, 1\]"),
    ],
)
def test_impossible_squares_are_refused(arguments, message):
    with pytest.raises(DatasetError, match=message):
        square_grid(BEIJING, **arguments)


@pytest.mark.parametrize("scheme", ["xyz", "tms", "baidu"])
def test_tiles_are_the_corner_functions_own(scheme):
    zoom = 15 if scheme != "baidu" else 16
    frame = tile_regions(BEIJING, zoom, scheme)
    assert frame["region_id"].is_unique
    for row in frame.iloc[:: len(frame) // 7].itertuples():
        assert row.region_id == f"{scheme}_{zoom}_{row.tile_x}_{row.tile_y}"
        corner = tile_corner(row.tile_x, row.tile_y, zoom, scheme)
        if scheme == "baidu":
            corner = convert(*corner, "bd09", "wgs84")
        assert tuple(shapely.get_coordinates(row.geometry)[0]) == pytest.approx(corner, abs=1e-13)
        assert shapely.intersects_xy(row.geometry, row.lon, row.lat)
        distance = shapely.distance(row.geometry.centroid, shapely.Point(row.lon, row.lat))
        assert distance < 2e-5
    union = shapely.union_all(frame.geometry.to_numpy())
    assert shapely.area(frame.geometry.to_numpy()).sum() == pytest.approx(union.area, rel=1e-12)
    assert union.geom_type == "Polygon"
    assert not union.interiors
    assert union.buffer(1e-9).covers(BEIJING.buffer(-0.006))
    assert frame["area_m2"].to_numpy() == pytest.approx(areas(frame), rel=1e-8)


def test_xyz_tiles_are_those_of_mercantile():
    mercantile = pytest.importorskip("mercantile")
    found = tile_regions(BEIJING, 14, min_cover=0.0)
    expected = set(mercantile.tiles(*BEIJING.bounds, 14))
    assert {(row.tile_x, row.tile_y) for row in found.itertuples()} == {
        (tile.x, tile.y) for tile in expected
    }
    row = found.iloc[0]
    bounds = mercantile.bounds(row["tile_x"], row["tile_y"], 14)
    assert row.geometry.bounds == pytest.approx(tuple(bounds), abs=1e-9)


def test_tiles_across_the_antimeridian_wrap():
    frame = tile_regions(shapely.box(179.9, -18.2, 180.1, -18.0), 12, min_cover=0.0)
    assert frame["tile_x"].min() == 0
    assert frame["tile_x"].max() == 2**12 - 1


def test_baidu_tiles_are_refused_outside_china():
    with pytest.raises(DatasetError, match="in China only"):
        tile_regions(shapely.box(2.2, 48.8, 2.4, 48.9), 16, "baidu")
    with pytest.raises(ValueError, match="scheme"):
        tile_regions(BEIJING, 15, "bing")


def test_hexagons():
    h3 = pytest.importorskip("h3")
    frame = h3_regions(BEIJING, 8, min_cover=0.0, city="beijing")
    row = frame.iloc[3]
    cell = row["region_id"].removeprefix("h3_")
    assert h3.get_resolution(cell) == 8
    assert row["area_m2"] == pytest.approx(h3.cell_area(cell, "m^2"), rel=1e-2)
    union = shapely.union_all(frame.geometry.to_numpy())
    assert union.buffer(1e-6).covers(BEIJING)
    half = h3_regions(BEIJING, 8)
    assert set(half["region_id"]) == set(frame.loc[frame["cover"] >= 0.5, "region_id"])
    assert list(half["region_id"]) == sorted(half["region_id"])
    across = h3_regions(shapely.box(179.9, -18.1, 180.1, -18.0), 7)
    assert across.geometry.is_valid.all()
    assert across.total_bounds[0] >= -180
    assert across["area_m2"].max() < 1e7
    with pytest.raises(DatasetError, match="0 to 15"):
        h3_regions(BEIJING, 16)
    with pytest.raises(DatasetError, match="smaller regions"):
        h3_regions(BEIJING, 0)


def test_without_h3_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "h3", None)
    with pytest.raises(MissingExtraError, match=r"h3.*\[geo\]"):
        h3_regions(BEIJING, 8)


def districts(**columns):
    shapes = [shapely.box(116 + i, 39, 117 + i, 40) for i in range(3)]
    frame = gpd.GeoDataFrame({"code": ["c", "a", "b"]}, geometry=shapes, crs="EPSG:4326")
    return frame.assign(**columns)


def test_polygons_of_others_become_regions_by_id():
    found = polygon_regions(districts().to_crs("EPSG:3857"), "code", city="x")
    assert list(found["region_id"]) == ["a", "b", "c"]
    assert list(found.columns) == ["region_id", "city", "lon", "lat", "area_m2", "geometry"]
    assert found["area_m2"].to_numpy() == pytest.approx(areas(found), rel=1e-5)
    assert shapely.intersects_xy(found.geometry.to_numpy(), found["lon"], found["lat"]).all()
    assert polygon_regions(districts(code=[3, 1, 2]), "code")["region_id"].tolist() == list("123")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.set_crs(None, allow_override=True), "no CRS"),
        (lambda f: f.iloc[:0], "no polygons"),
        (lambda f: f.rename(columns={"code": "name"}), r"no column 'code'.*name"),
        (lambda f: f.assign(code=["a", None, "b"]), r"1 polygon\(s\) have no 'code'"),
        (lambda f: f.assign(code=["a", "b", "a"]), "duplicate ids: 'a'"),
        (lambda f: f.set_geometry([None, shapely.Polygon(), f.geometry[2]]), "are empty: 'a', 'c'"),
        (lambda f: f.set_geometry([shapely.Point(1, 1), *f.geometry[1:]]), "not polygons: 'c'"),
        (lambda f: f.set_geometry([BOWTIE, *f.geometry[1:]]), "not valid.*'c'"),
        (
            lambda f: f.set_geometry([shapely.box(116.5, 39, 117.5, 40), *f.geometry[1:]]),
            "'a' and 'c'",
        ),
    ],
)
def test_bad_polygons_are_listed(change, message):
    frame = districts()
    changed = change(frame)
    if isinstance(changed, gpd.GeoDataFrame) and len(changed) and changed.crs is None:
        changed = frame.set_crs(None, allow_override=True)
    with pytest.raises(DatasetError, match=message):
        polygon_regions(changed, "code")


def test_slivers_between_polygons_are_no_overlap():
    frame = districts()
    frame.loc[0, "geometry"] = shapely.box(116, 39, 117.00001, 40)
    assert len(polygon_regions(frame, "code")) == 3


@given(st.floats(-170, 170), st.floats(-75, 75), st.integers(0, 1000))
def test_points_lie_in_their_cells_and_cells_do_not_overlap(lon, lat, seed):
    rng = np.random.default_rng(seed)
    lons, lats = lon + rng.uniform(0, 0.05, 20), lat + rng.uniform(0, 0.05, 20)
    ids, cells = grid_cells(lons, lats, 1000.0)
    assert shapely.dwithin(cells, shapely.points(lons, lats), 1e-9).all()
    by_id = dict(zip(ids, cells, strict=True))
    whole = shapely.union_all(list(by_id.values()))
    assert sum(shapely.area(list(by_id.values()))) == pytest.approx(whole.area, rel=1e-6)


def test_points_without_a_place_have_no_cell():
    ids, cells = grid_cells(np.array([np.nan, 1.0]), np.array([2.0, 1.0]), 1000.0)
    assert ids[0] is None
    assert cells[0] is None
    assert ids[1].startswith("epsg32631_1000_")
    ids, _ = grid_cells(np.array([116.39]), np.array([39.9]), 500.0)
    assert ids[0] == "epsg32650_500_895_8833"


@settings(max_examples=40)
@given(st.integers(0, 10**6))
def test_shares_of_cells_are_those_of_every_cell_by_itself(seed):
    rng = np.random.default_rng(seed)
    shape = shapely.concave_hull(shapely.MultiPoint(rng.uniform(-3, 11, (12, 2))), 0.2)
    shape = shape.difference(shapely.Point(rng.uniform(0, 8, 2)).buffer(rng.uniform(0.1, 2)))
    cells, shares = _cell_shares(shape)
    column, row = (axis.ravel() for axis in np.meshgrid(np.arange(-4, 12), np.arange(-4, 12)))
    expected = shapely.area(
        shapely.intersection(shape, shapely.box(column, row, column + 1, row + 1))
    )
    table = np.zeros((16, 16))
    table[cells[:, 1] + 4, cells[:, 0] + 4] = shares
    assert len(np.unique(cells, axis=0)) == len(cells)
    np.testing.assert_allclose(table.ravel(), expected, atol=1e-8)


@given(st.floats(-170, 170), st.floats(-70, 70), st.floats(100, 2000))
def test_a_square_around_a_point_has_its_side_and_centre(lon, lat, side):
    square = square_around(np.array([lon, np.nan]), np.array([lat, lat]), side)
    assert square[1] is None
    assert geodesic_areas(square)[0] == pytest.approx(side**2, rel=1e-3)
    assert (square[0].centroid.x, square[0].centroid.y) == pytest.approx((lon, lat), abs=1e-7)
