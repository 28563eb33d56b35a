"""Regions across 180 degrees, against shapes cut by hand, closed forms and exactextract."""

import exactextract
import geopandas as gpd
import numpy as np
import pyproj
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset_builders.errors import DatasetError
from dataset_builders.globe import geodesic_areas
from dataset_builders.indicators import zonal
from dataset_builders.regions import polygon_regions
from tests.dataset_builders.rasters import write_raster as write

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
    "0 to 360": lambda path: world(path, 0.0),
    "170 to 200": lambda path: world(path, 170.0, 30),
    "Mollweide, 150 E": lambda path: globe_map(path, MOLLWEIDE_150, values=noise(182, 402)),
    "Fiji": fiji_map,
}
SOUTH_SEA = (176.3, -19.6, 183.9, -14.2)


@pytest.mark.parametrize("name", RASTERS)
def test_region_across_180_equals_its_halves(tmp_path, name):
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
        for crs in ("EPSG:4326", "EPSG:4490"):
            found = zonal(path, frame(*ways, crs=crs), kind)
            assert found["coverage"].to_numpy() == pytest.approx(1, abs=1e-7)
            assert found["value"].to_numpy() == pytest.approx(expected, rel=tolerance)
            assert np.ptp(found["value"]) <= 1e-5 * found["value"][0]


def test_projected_regions_on_a_raster_in_degrees_equal_exactextract(tmp_path):
    """exactextract gets the halves cut by hand, on a raster of -180 to 180."""
    shapes = [
        fiji_box(178.2, -19, -178.1, -15),
        fiji_box(179.5, -18, -179.2, -16.5).difference(fiji_box(179.9, -17.5, -179.8, -17)),
        shapely.Point(2_010_000, 3_900_000).buffer(150_000),
        fiji_box(177, -18, 179, -17),  # west of the antimeridian
        fiji_box(-179.5, -18, -178, -17),  # east of it
    ]
    found = zonal(world(tmp_path / "a.tif", 0.0), frame(*shapes, crs=FIJI), "count")
    turned = np.array([fiji_in_degrees(shape) for shape in shapes])
    east, beyond = (
        shapely.intersection(turned, shapely.box(x, -90, x + 180, 90)) for x in (0, 180)
    )
    cut = shapely.union(east, shapely.transform(beyond, lambda xy: xy - np.array([360.0, 0.0])))
    path = str(world(tmp_path / "b.tif"))
    expected = exactextract.exact_extract(path, frame(*cut), ["sum"], output="pandas")
    assert found["value"].to_numpy() == pytest.approx(expected["sum"].to_numpy(), rel=1e-3)
    assert found["coverage"].to_numpy() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("crs", [MOLLWEIDE_150, "EPSG:6933", GOODE])
def test_sum_of_equal_area_cells_is_the_area(tmp_path, crs):
    """For maps cut at 180, at 30 W, and additionally at 40 W."""
    for west, south, east, north in ((170, -20, 190, -10), (-31, 5, -29, 15)):
        box = shapely.box(west, south, east, north)
        if crs == "EPSG:6933":
            expected = geodesic_areas([shapely.segmentize(box, 0.1)])[0]
        else:  # these projections assume a sphere
            height = np.sin(np.radians(north)) - np.sin(np.radians(south))
            expected = 6378137.0**2 * np.radians(east - west) * height
        turned = shapely.transform(box, lambda xy: xy - [360, 0])
        found = zonal(globe_map(tmp_path / "a.tif", crs), frame(box, turned), "count")
        assert found["value"].to_numpy() * 1e10 == pytest.approx(expected, rel=1e-4)
        assert found["coverage"].to_numpy() == pytest.approx(1, abs=1e-7)


@pytest.mark.parametrize(
    ("shape", "crs", "message"),
    [
        (JUMP, "EPSG:4326", r"more than 180 degrees of longitude.*: 0\. If they lie across"),
        (shapely.Point(0, 0).buffer(1e6), "EPSG:3413", "contain or touch a pole.*: 0"),
        (shapely.box(3e7, 0, 3.1e7, 1e6), MOLLWEIDE, "cannot be transformed to degrees"),
    ],
)
def test_rejects_ambiguous_regions(tmp_path, shape, crs, message):
    with pytest.raises(DatasetError, match=message):
        zonal(world(tmp_path / "a.tif"), frame(shape, crs=crs), "count")
    with pytest.raises(DatasetError, match=message.replace(": 0", ": 'a'")):
        polygon_regions(frame(shape, crs=crs), "id")


@pytest.mark.parametrize(
    ("crs", "shape"),
    [
        (GOODE, shapely.box(-30, -40, -10, -20)),
        ("EPSG:32650", shapely.MultiPolygon([shapely.box(116, 1, 117, 2), FAR_SIDE])),
    ],
)
def test_rejects_regions_cut_by_the_edge_of_the_projection(tmp_path, crs, shape):
    path = globe_map(tmp_path / "a.tif", crs, 2e5)
    with pytest.raises(DatasetError, match=r"cross the edge of the projection of .*a\.tif"):
        zonal(path, frame(shape), "count")


def test_follows_s_shaped_edges(tmp_path):
    """The midpoint of the edge lies on the straight line between its ends."""
    values = np.repeat([3.0, 1.0], 200)[:, None].repeat(400, axis=1)
    place = Affine(40_000, 0, -8e6, 0, -40_000, 8e6)
    path = write(tmp_path / "a.tif", values, place, "+proj=sinu +lon_0=0")
    shape = shapely.Polygon([(-50, -50), (50, 50), (50, -50)])
    found = zonal(path, frame(shape, shapely.segmentize(shape, 0.01)), "count")["value"]
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_projected_neighbours_across_180_do_not_overlap():
    """Their areas are those of the projection, whose scale is .99985 to 1.002 here."""
    x, y = np.linspace(1_800_000, 2_400_000, 8), np.linspace(3_700_000, 4_300_000, 6)
    boxes = [shapely.box(x[i], y[j], x[i + 1], y[j + 1]) for i in range(7) for j in range(5)]
    regions = gpd.GeoDataFrame({"id": range(35)}, geometry=boxes, crs=FIJI)
    found = polygon_regions(regions, "id").set_index("region_id").loc[[str(i) for i in range(35)]]
    assert found.geometry.is_valid.all()
    bounds = found.geometry.bounds
    assert bounds["minx"].min() == -180
    assert bounds["maxx"].max() == 180
    assert shapely.intersects_xy(found.geometry.to_numpy(), found["lon"], found["lat"]).all()
    assert found["area_m2"].to_numpy() == pytest.approx(shapely.area(boxes), rel=5e-3)
    overlapping = regions.assign(geometry=regions.geometry.buffer(2000))
    with pytest.raises(DatasetError, match=r"pair\(s\) of polygons overlap"):
        polygon_regions(overlapping, "id")


@settings(max_examples=30)
@given(st.floats(-180, 180), st.floats(-84, 84), st.floats(1e-4, 1), st.floats(0, 6.3))
def test_geodesic_areas_equal_pyproj(lon, lat, size, turn):
    angles = turn + np.array([0.0, 1.1, 2.9, 4.0])
    ring = np.array([lon, lat]) + size * np.column_stack([np.cos(angles), np.sin(angles)])
    shape = shapely.Polygon(ring)
    expected, _ = WGS84.geometry_area_perimeter(shape)
    assert geodesic_areas([shape])[0] == pytest.approx(abs(expected), rel=1e-9, abs=0.05)


def test_geodesic_areas_of_holes_parts_and_null():
    whole, hole, far = (
        shapely.box(0, 0, 0.3, 0.3), shapely.box(0.1, 0.1, 0.2, 0.2), shapely.box(5, 5, 5.1, 5.1),
    )  # fmt: skip
    pierced, both = whole.difference(hole), shapely.MultiPolygon([whole, far])
    found = geodesic_areas([whole, hole, far, pierced, both, shapely.Polygon(), None])
    assert found[3:5] == pytest.approx([found[0] - found[1], found[0] + found[2]], rel=1e-9)
    assert found[5] == 0
    assert np.isnan(found[6])
