"""Regions across 180 degrees, against shapes cut by hand, closed forms and exactextract."""

import geopandas as gpd
import numpy as np
import pyproj
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

rasterio = pytest.importorskip("rasterio")
from affine import Affine  # noqa: E402  (comes with rasterio)

from dataset_builders.errors import DatasetError  # noqa: E402
from dataset_builders.globe import EPSG_4326, geodesic_areas, to_degrees, wrap  # noqa: E402
from dataset_builders.indicators import zonal  # noqa: E402
from dataset_builders.regions import polygon_regions, square_grid  # noqa: E402
from tests.dataset_builders.rasters import write_raster as write  # noqa: E402

WGS84 = pyproj.Geod(ellps="WGS84")
FIJI = "EPSG:3460"
MOLLWEIDE = "ESRI:54009"
MOLLWEIDE_150 = "+proj=moll +lon_0=150 +datum=WGS84"
GOODE = "+proj=igh +datum=WGS84"
FAR_SIDE = shapely.box(26, 0, 28, 0.5)  # a quarter turn from the centre of UTM zone 50
JUMP = shapely.Polygon([(179, -18), (-179, -18), (-179, -17), (179, -17)])


def noise(height, width):
    return np.random.default_rng(0).gamma(1, 10, (height, width))


def world(path, west=-180.0, columns=360):
    """One-degree cells; a meridian has the same values wherever the raster begins."""
    values = np.roll(noise(180, 360), -round(west + 180), axis=1)
    values = np.concatenate([values, values], axis=1)[:, :columns]
    return write(path, values, Affine(1, 0, west, 0, -1, 90))


def globe_map(path, crs, step=1e5, values=None):
    """Map of the entire world."""
    width, height = int(2 * 20.1e6 / step), int(2 * 9.1e6 / step)
    values = np.ones((height, width)) if values is None else values
    return write(path, values, Affine(step, 0, -20.1e6, 0, -step, 9.1e6), crs)


def fiji_map(path):
    """4 km cells, from 174 E to 174 W."""
    return write(path, noise(400, 330), Affine(4000, 0, 1_400_000, 0, -4000, 4_700_000), FIJI)


def frame(*shapes, crs="EPSG:4326"):
    return gpd.GeoDataFrame({"id": list("abcdefgh"[: len(shapes)])}, geometry=list(shapes), crs=crs)


def halves(west, south, east, north):
    """A box with an east end beyond 180, cut by hand."""
    return frame(shapely.box(west, south, 180, north), shapely.box(-180, south, east - 360, north))


def fiji_box(west, south, east, north):
    """Box in metres of the Fiji map grid that spans these degrees along two of its sides."""
    x, y = pyproj.Transformer.from_crs("EPSG:4326", FIJI, always_xy=True).transform(
        [west, east], [south, north]
    )
    return shapely.box(x[0], y[0], x[1], y[1])


def fiji_in_degrees(shape):
    """Shape of the Fiji map grid in degrees of 0 to 360, with densified edges."""
    dense = shapely.segmentize(shape, shape.length / 4000)
    to_degrees = pyproj.Transformer.from_crs(FIJI, "EPSG:4326", always_xy=True)

    def turned(xy):
        lon, lat = to_degrees.transform(*xy.T)
        return np.column_stack([lon % 360.0, lat])

    return shapely.transform(dense, turned)


RASTERS = {
    "-180 to 180": world,
    "0 to 360": lambda path: world(path, 0.0),
    "-30 to 330": lambda path: world(path, -30.0),
    "170 to 200": lambda path: world(path, 170.0, 30),
    "a column twice": lambda path: world(path, -180.0, 361),
    "Mollweide": lambda path: globe_map(path, MOLLWEIDE, values=noise(182, 402)),
    "Mollweide, 150 E": lambda path: globe_map(path, MOLLWEIDE_150, values=noise(182, 402)),
    "Fiji": fiji_map,
}
SOUTH_SEA = (176.3, -19.6, 183.9, -14.2)


@pytest.mark.parametrize("name", RASTERS)
def test_a_region_across_180_is_what_its_two_halves_are(tmp_path, name):
    path = RASTERS[name](tmp_path / "a.tif")
    west, south, east, north = SOUTH_SEA
    ways = [
        shapely.box(*SOUTH_SEA),
        shapely.box(west - 360, south, east - 360, north),
        shapely.MultiPolygon(list(halves(*SOUTH_SEA).geometry)),
    ]
    widths = np.array([180 - west, east - 180]) / (east - west)
    for kind, tolerance in (("count", 1e-4), ("intensity", 1e-3), ("density", 1e-2)):
        two = zonal(path, halves(*SOUTH_SEA), kind)
        assert two["coverage"].tolist() == pytest.approx([1, 1], abs=1e-7)
        expected = two["value"] @ (widths if kind == "intensity" else np.ones(2))
        for crs in ("EPSG:4326", "EPSG:4490", "OGC:CRS84"):
            found = zonal(path, frame(*ways, crs=crs), kind)
            assert found["coverage"].to_numpy() == pytest.approx(1, abs=1e-7)
            assert found["value"].to_numpy() == pytest.approx(expected, rel=tolerance)
            assert np.ptp(found["value"]) <= 1e-5 * found["value"][0]


@pytest.mark.parametrize("west", [-180.0, 0.0])
def test_regions_of_a_projected_crs_on_degrees_are_those_of_exactextract(tmp_path, west):
    """exactextract gets the halves cut by hand, on a raster of -180 to 180."""
    exactextract = pytest.importorskip("exactextract")
    shapes = [
        fiji_box(178.2, -19, -178.1, -15),
        fiji_box(179.5, -18, -179.2, -16.5).difference(fiji_box(179.9, -17.5, -179.8, -17)),
        shapely.Point(2_010_000, 3_900_000).buffer(150_000),
        fiji_box(177, -18, 179, -17),  # west of the antimeridian
        fiji_box(-179.5, -18, -178, -17),  # east of it
    ]
    found = zonal(world(tmp_path / "a.tif", west), frame(*shapes, crs=FIJI), "count")
    cut = []
    for shape in shapes:
        turned = fiji_in_degrees(shape)
        east = shapely.intersection(turned, shapely.box(0, -90, 180, 90))
        beyond = shapely.intersection(turned, shapely.box(180, -90, 360, 90))
        cut.append(
            shapely.union(east, shapely.transform(beyond, lambda xy: xy - np.array([360.0, 0.0])))
        )
    expected = exactextract.exact_extract(
        str(world(tmp_path / "b.tif")), frame(*cut), ["sum", "count"], output="pandas"
    )
    assert found["value"].to_numpy() == pytest.approx(expected["sum"].to_numpy(), rel=1e-3)
    assert found["coverage"].to_numpy() == pytest.approx(1, abs=1e-6)
    assert expected["count"].max() < 20


@pytest.mark.parametrize("crs", [MOLLWEIDE, MOLLWEIDE_150, "EPSG:6933", GOODE])
@pytest.mark.parametrize("box", [(170, -20, 190, -10), (-31, 5, -29, 15), (-190, 30, -175, 40)])
def test_cells_of_an_equal_area_map_are_the_area_of_a_box(tmp_path, crs, box):
    """For maps cut at 180, at 30 W, and additionally at 40 W."""
    west, south, east, north = box
    if crs == "EPSG:6933":
        expected = geodesic_areas([shapely.segmentize(shapely.box(*box), 0.1)])[0]
    else:  # these projections assume a sphere
        height = np.sin(np.radians(north)) - np.sin(np.radians(south))
        expected = 6378137.0**2 * np.radians(east - west) * height
    turn = -360 if east > 180 else 360
    turned = shapely.box(west + turn, south, east + turn, north)
    found = zonal(globe_map(tmp_path / "a.tif", crs), frame(shapely.box(*box), turned), "count")
    assert found["value"].to_numpy() * 1e10 == pytest.approx(expected, rel=1e-4)
    assert found["coverage"].to_numpy() == pytest.approx(1, abs=1e-7)


def test_the_whole_world_on_a_map_of_it(tmp_path):
    everything = frame(shapely.box(-180, -90, 180, 90), shapely.box(-180, -90, 0, 90))
    for crs in (MOLLWEIDE, MOLLWEIDE_150):
        found = zonal(globe_map(tmp_path / "a.tif", crs), everything, "count")
        assert found["value"][0] * 1e10 == pytest.approx(4 * np.pi * 6378137.0**2, rel=1e-5)
        assert found["value"][1] == pytest.approx(found["value"][0] / 2, rel=1e-5)
    for west in (-180.0, 0.0, -30.0):
        path = world(tmp_path / "b.tif", west)
        assert zonal(path, everything, "count")["value"][0] == pytest.approx(noise(180, 360).sum())


def test_a_hundred_metres_a_cell_in_mollweide(tmp_path):
    """As GHSL rasters; only the rows around Fiji, most columns without data."""
    step, top, rows = 100.0, -2_100_000.0, 40
    values = np.full((rows, 360_820), 1, dtype="uint8")
    place = Affine(step, 0, -18_041_000, 0, -step, top)
    path = write(tmp_path / "a.tif", values, place, MOLLWEIDE, 255, compress="deflate")
    to_degrees = pyproj.Transformer.from_crs(MOLLWEIDE, "EPSG:4326", always_xy=True)
    lat = to_degrees.transform([0, 0], [top - 3500, top - 500])[1]
    inside = frame(shapely.box(179.99, lat[0], 180.01, lat[1]))
    found = zonal(path, inside, "count").iloc[0]
    height = np.diff(np.sin(np.radians(lat)))[0]
    expected = 6378137.0**2 * np.radians(0.02) * height / step**2
    assert found["value"] == pytest.approx(expected, rel=1e-6)
    assert found["coverage"] == pytest.approx(1, abs=1e-6)


def test_a_polygon_across_both_a_cut_and_a_hole(tmp_path):
    outer, inner = shapely.box(177, -20, 185, -12), shapely.box(179, -18, 181, -15)
    path = globe_map(tmp_path / "a.tif", MOLLWEIDE)
    found = zonal(path, frame(outer.difference(inner), outer, inner), "count")["value"]
    assert found[0] == pytest.approx(found[1] - found[2], rel=1e-4)


@pytest.mark.parametrize(
    ("shape", "crs", "message"),
    [
        (JUMP, "EPSG:4326", r"more than 180 degrees of longitude.*: 0\. If they lie across"),
        (shapely.Point(0, 0).buffer(1e6), "EPSG:3413", "contain or touch a pole.*: 0"),
        (shapely.box(0, -1e5, 1e6, 1e5), "EPSG:3413", "contain or touch a pole"),
        (
            shapely.box(3e7, 0, 3.1e7, 1e6),
            MOLLWEIDE,
            "cannot be transformed to degrees from World_Mollweide",
        ),
    ],
)
def test_what_has_no_clear_place_is_refused(tmp_path, shape, crs, message):
    path = world(tmp_path / "a.tif")
    with pytest.raises(DatasetError, match=message):
        zonal(path, frame(shape, crs=crs), "count")
    with pytest.raises(DatasetError, match=message.replace(": 0", ": 'a'")):
        polygon_regions(frame(shape, crs=crs), "id")


@pytest.mark.parametrize(
    ("crs", "shape"),
    [
        (GOODE, shapely.box(-30, -40, -10, -20)),
        (GOODE, shapely.box(-21, -8, -19, -6)),
        ("EPSG:3035", shapely.box(-180, -90, 180, 90)),
        ("EPSG:32650", shapely.box(-180, -80, 180, 80)),
        ("EPSG:32650", shapely.MultiPolygon([shapely.box(116, 1, 117, 2), FAR_SIDE])),
        ("EPSG:3857", shapely.box(0, 0, 10, 90)),
    ],
)
def test_a_region_that_the_map_tears_is_refused(tmp_path, crs, shape):
    path = globe_map(tmp_path / "a.tif", crs)
    with pytest.raises(DatasetError, match=r"cross the edge of the projection of .*a\.tif"):
        zonal(path, frame(shape), "count")


def test_a_region_wholly_beyond_the_plane_has_no_value(tmp_path):
    path = globe_map(tmp_path / "a.tif", "EPSG:32650")
    found = zonal(path, frame(shapely.box(116, 1, 117, 2), FAR_SIDE), "intensity")
    assert found["value"][0] == 1
    assert np.isnan(found["value"][1])
    assert found["coverage"].tolist() == pytest.approx([1, 0])


def test_an_edge_bent_like_an_s_is_followed(tmp_path):
    """The midpoint of the edge lies on the straight line between its ends."""
    values = np.ones((400, 400))
    values[:200] = 3
    place = Affine(40_000, 0, -8e6, 0, -40_000, 8e6)
    path = write(tmp_path / "a.tif", values, place, "+proj=sinu +lon_0=0")
    shape = shapely.Polygon([(-50, -50), (50, 50), (50, -50)])
    dense = shapely.segmentize(shape, 0.01)
    found = zonal(path, frame(shape), "count")["value"][0]
    assert found == pytest.approx(zonal(path, frame(dense), "count")["value"][0], rel=1e-5)


def test_polygons_of_others_across_180():
    """Beyond 180, cut, and in a projected CRS: the same geometry, centre and area."""
    box = (178.9, -18.0, 181.4, -17.0)
    cut = shapely.MultiPolygon(list(halves(*box).geometry))
    area = geodesic_areas(halves(*box).geometry).sum()
    for shape in (shapely.box(*box), shapely.box(-181.1, -18, -178.6, -17), cut):
        found = polygon_regions(frame(shape), "id").iloc[0]
        assert shapely.equals(found["geometry"], cut)
        assert found["lon"] == pytest.approx(-179.3, abs=0.6)
        assert shapely.intersects_xy(found["geometry"], found["lon"], found["lat"])
        assert found["area_m2"] == pytest.approx(area, rel=1e-6)


def test_neighbours_of_a_projected_crs_across_180_do_not_overlap():
    """Neighbours share edges along 180 and across it; their areas are those of the projection."""
    x = np.linspace(1_800_000, 2_400_000, 8)
    y = np.linspace(3_700_000, 4_300_000, 6)
    boxes = [shapely.box(x[i], y[j], x[i + 1], y[j + 1]) for i in range(7) for j in range(5)]
    regions = gpd.GeoDataFrame({"id": range(35)}, geometry=boxes, crs=FIJI)
    found = polygon_regions(regions, "id").set_index("region_id").loc[[str(i) for i in range(35)]]
    assert found.geometry.is_valid.all()
    bounds = found.geometry.bounds
    assert bounds["minx"].min() >= -180
    assert bounds["maxx"].max() <= 180
    crossing = (bounds["minx"] == -180) & (bounds["maxx"] == 180)
    assert 0 < crossing.sum() < 15
    assert shapely.intersects_xy(found.geometry.to_numpy(), found["lon"], found["lat"]).all()
    # the scale of the Fiji map grid is .99985 at its centre and 1.002 at 400 km
    plane = shapely.area(np.array(boxes, dtype=object))
    assert found["area_m2"].to_numpy() == pytest.approx(plane, rel=5e-3)
    whole = polygon_regions(frame(shapely.box(x[0], y[0], x[-1], y[-1]), crs=FIJI), "id")
    assert found["area_m2"].sum() == pytest.approx(whole["area_m2"][0], rel=1e-5)
    overlapping = regions.assign(geometry=regions.geometry.buffer(2000))
    with pytest.raises(DatasetError, match=r"pair\(s\) of polygons overlap"):
        polygon_regions(overlapping, "id")


def test_a_boundary_of_a_projected_crs_across_180_has_its_squares(tmp_path):
    boundary = fiji_box(179.3, -17.2, -179.6, -16.4)
    found = square_grid(gpd.GeoSeries([boundary], crs=FIJI), 10_000)
    assert found["area_m2"].sum() == pytest.approx(boundary.area, rel=0.05)
    sums = zonal(world(tmp_path / "a.tif"), found, "intensity")
    assert sums["coverage"].to_numpy() == pytest.approx(1, abs=1e-7)
    assert sums["value"].max() <= noise(180, 360).max()


def test_shapes_that_need_no_change_are_left_alone():
    shapes = np.array([shapely.box(0, 0, 1, 1), shapely.box(-180, -90, 0, 90)], dtype=object)
    done = to_degrees(shapes, EPSG_4326, np.array(["a", "b"]))
    assert done[0] is shapes[0]
    assert shapely.equals(done[1], shapes[1])
    assert wrap(shapes) is shapes
    moved = wrap(shapes, centre=180.0)
    assert moved[0] is shapes[0]
    assert shapely.equals(moved[1], shapely.box(180, -90, 360, 90))


@pytest.mark.parametrize("width", [10.0, 359.0, 400.0, 720.0])
def test_ground_that_is_covered_twice_counts_once(width):
    band = np.array([shapely.box(170, 0, 170 + width, 1)], dtype=object)
    (found,) = wrap(band)
    assert found.bounds[0] >= -180
    assert found.bounds[2] <= 180
    assert found.area == pytest.approx(min(width, 360.0))


def test_grads_from_paris(tmp_path):
    """A CRS in grads (400 per turn), with another prime meridian."""
    shape = shapely.box(2.1, 48.2, 2.9, 48.9)
    paris = frame(shape).to_crs("EPSG:4807")
    path = write(tmp_path / "a.tif", noise(30, 40), Affine(0.1, 0, 1, 0, -0.1, 50))
    expected = zonal(path, frame(shape), "count")
    found = zonal(path, paris, "count")
    assert found["value"][0] == pytest.approx(expected["value"][0], rel=1e-4)
    assert zonal(path, paris.to_crs("EPSG:27572"), "count")["value"][0] == pytest.approx(
        expected["value"][0], rel=1e-3
    )


@settings(max_examples=60)
@given(st.floats(-180, 180), st.floats(-84, 84), st.floats(1e-4, 1), st.floats(0, 6.3))
def test_areas_are_those_of_the_ellipsoid(lon, lat, size, turn):
    angles = turn + np.array([0.0, 1.1, 2.9, 4.0])
    ring = np.array([lon, lat]) + size * np.column_stack([np.cos(angles), np.sin(angles)])
    shape = shapely.Polygon(ring)
    expected, _ = WGS84.geometry_area_perimeter(shape)
    assert geodesic_areas([shape])[0] == pytest.approx(abs(expected), rel=1e-9, abs=0.05)


def test_areas_of_holes_parts_and_none():
    whole = shapely.box(0, 0, 0.3, 0.3)
    hole = shapely.box(0.1, 0.1, 0.2, 0.2)
    far = shapely.box(5, 5, 5.1, 5.1)
    pierced = shapely.Polygon(whole.exterior, [hole.exterior])
    one, two, three, both, empty, none = geodesic_areas(
        [whole, hole, pierced, shapely.MultiPolygon([whole, far]), shapely.Polygon(), None]
    )
    assert three == pytest.approx(one - two, rel=1e-9)
    assert both == pytest.approx(one + geodesic_areas([far])[0], rel=1e-12)
    assert empty == 0
    assert np.isnan(none)
