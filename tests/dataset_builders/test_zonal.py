"""Zonal statistics of GeoTIFFs, against exactextract and against sums by hand."""

import sys

import geopandas as gpd
import numpy as np
import pandas as pd
import pyproj
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

rasterio = pytest.importorskip("rasterio")
from affine import Affine  # noqa: E402  (comes with rasterio)

from dataset_builders import exact_cells, rasters  # noqa: E402
from dataset_builders import zonal as room  # noqa: E402
from dataset_builders.errors import DatasetError, MissingExtraError  # noqa: E402
from dataset_builders.indicators import zonal  # noqa: E402
from dataset_builders.regions import square_grid  # noqa: E402
from tests.dataset_builders.rasters import write_raster as write  # noqa: E402

NODATA = -99999.0
UTM = "EPSG:32650"
# exactextract computes shares in single precision
EXACT = 1e-6
WGS84 = pyproj.Geod(ellps="WGS84")


def degrees(lon=116.0, lat=40.0, step=1 / 120):
    return Affine(step, 0, lon, 0, -step, lat)


def metres(x=440_000.0, y=4_430_000.0, step=100.0):
    return Affine(step, 0, x, 0, -step, y)


def people(height, width, seed=0, gaps=0.1):
    rng = np.random.default_rng(seed)
    values = np.exp(rng.normal(0, 2, (height, width)))
    values[rng.random(values.shape) < gaps] = NODATA
    return values


def tiling(bounds, columns, rows, crs, seed=0):
    """Rectangles of random sizes that fill a box, unaligned with the raster's grid."""
    rng = np.random.default_rng(seed)
    west, south, east, north = bounds
    x = np.sort(np.r_[west, rng.uniform(west, east, columns - 1), east])
    y = np.sort(np.r_[south, rng.uniform(south, north, rows - 1), north])
    boxes = [
        shapely.box(x[i], y[j], x[i + 1], y[j + 1]) for i in range(columns) for j in range(rows)
    ]
    return gpd.GeoDataFrame(geometry=boxes, crs=crs)


def raster_bounds(path):
    with rasterio.open(path) as dataset:
        return rasters.raster_bounds(dataset)


def place(transform, column, row):
    """Location in the raster's projection."""
    return (
        transform.a * column + transform.b * row + transform.c,
        transform.d * column + transform.e * row + transform.f,
    )


def by_hand(values, transform, shape):
    """Sum, covered cells with a value, and area in cells, computed cell by cell with shapely."""
    total = covered = 0.0
    for row in range(values.shape[0]):
        for column in range(values.shape[1]):
            corners = [
                place(transform, column + i, row + j) for i, j in ((0, 0), (1, 0), (1, 1), (0, 1))
            ]
            cell = shapely.Polygon(corners)
            share = cell.intersection(shape).area / cell.area
            if values[row, column] != NODATA:
                total += values[row, column] * share
                covered += share
    return total, covered, shape.area / cell.area


@pytest.mark.parametrize("size", [(6, 5), (200, 150)])
@pytest.mark.parametrize("place", ["degrees", "metres"])
def test_mass_is_conserved(tmp_path, size, place):
    transform, crs = (degrees(), "EPSG:4326") if place == "degrees" else (metres(), UTM)
    values = people(*size)
    path = write(tmp_path / "a.tif", values, transform, crs)
    regions = tiling(raster_bounds(path), 9, 7, crs)
    found = zonal(path, regions, "count")
    total = values[values != NODATA].sum()
    assert found["value"].sum() == pytest.approx(total, rel=EXACT)
    valid = (values != NODATA).sum() / values.size
    shares = shapely.area(regions.geometry) / shapely.box(*raster_bounds(path)).area
    assert found["coverage"] @ shares == pytest.approx(valid, rel=EXACT)


@settings(max_examples=25)
@given(st.integers(0, 10**6))
def test_mass_is_conserved_by_any_polygons_that_tile(tmp_path_factory, seed):
    rng = np.random.default_rng(seed)
    folder = tmp_path_factory.mktemp("raster")
    values = people(7, 9, seed)
    path = write(folder / "a.tif", values, degrees())
    west, south, east, north = raster_bounds(path)
    points = shapely.MultiPoint(rng.uniform((west, south), (east, north), (12, 2)))
    cells = shapely.get_parts(
        shapely.voronoi_polygons(points, extend_to=shapely.box(west, south, east, north).buffer(1))
    )
    regions = gpd.GeoDataFrame(geometry=cells, crs="EPSG:4326")
    found = zonal(path, regions, "count")
    total = values[values != NODATA].sum()
    assert found["value"].sum() == pytest.approx(total, rel=EXACT)
    shuffled = regions.sample(frac=1, random_state=seed % 1000)
    again = zonal(path, shuffled, "count").loc[regions.index]
    pd.testing.assert_frame_equal(again, found, rtol=EXACT)


def test_mass_of_squares_of_another_crs_over_the_whole_raster(tmp_path):
    """Squares of a UTM grid tile a raster in degrees."""
    values = people(60, 60, gaps=0)
    path = write(tmp_path / "a.tif", values, degrees(step=1 / 1200))
    boundary = shapely.box(*raster_bounds(path)).buffer(0.02)
    found = zonal(path, square_grid(boundary, 700, min_cover=0.0), "count")
    assert found["value"].sum() == pytest.approx(values.sum(), rel=EXACT)
    assert found["value"].isna().any()


@pytest.mark.parametrize("kind", ["count", "intensity"])
def test_values_are_those_of_exactextract(tmp_path, kind):
    exactextract = pytest.importorskip("exactextract")
    values = people(120, 130)
    path = write(tmp_path / "a.tif", values, metres(), UTM)
    west, south, east, north = raster_bounds(path)
    circles = [
        shapely.Point(x, y).buffer(r)
        for x, y, r in np.random.default_rng(0).uniform(
            (west - 500, south - 500, 30), (east + 500, north + 500, 3000), (60, 3)
        )
    ]
    regions = gpd.GeoDataFrame(geometry=circles, crs=UTM)
    found = zonal(path, regions, kind)
    stat = {"count": "sum", "intensity": "mean"}[kind]
    expected = exactextract.exact_extract(str(path), regions, [stat, "count"], output="pandas")
    known = expected["count"].to_numpy() > 0
    assert known.sum() > 30
    assert found["value"][known].to_numpy() == pytest.approx(expected[stat][known], rel=EXACT)
    assert found["value"][~known].isna().all()
    areas = shapely.area(regions.geometry) / 100**2
    assert found["coverage"].to_numpy() == pytest.approx(expected["count"] / areas, rel=EXACT)


COS, SIN = np.cos(np.radians(31)), np.sin(np.radians(31))
TRANSFORMS = {
    "north-up": metres(step=500),
    "south-up": Affine(500, 0, 440_000, 0, 500, 4_420_000),
    "rotated": Affine(500 * COS, 500 * SIN, 440_000, 500 * SIN, -500 * COS, 4_430_000),
    "sheared": Affine(500, 120, 440_000, -60, -400, 4_430_000),
    "mirrored": Affine(-500, 0, 450_000, 0, -500, 4_430_000),
    "oblong": Affine(700, 0, 440_000, 0, -300, 4_430_000),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_any_geotransform(tmp_path, name):
    transform = TRANSFORMS[name]
    values = people(11, 13, gaps=0.2)
    path = write(tmp_path / "a.tif", values, transform, UTM)
    middle = place(transform, 6.5, 5.5)
    shapes = [
        shapely.Point(middle).buffer(1400),
        shapely.box(middle[0] - 3000, middle[1] - 500, middle[0] + 50, middle[1] + 2500),
        shapely.Point(place(transform, 0.2, 0.3)).buffer(900),  # partly outside
        shapely.box(middle[0], middle[1], middle[0] + 90, middle[1] + 70),  # within a cell
    ]
    regions = gpd.GeoDataFrame(geometry=shapes, crs=UTM, index=list("abcd"))
    count, mean = (zonal(path, regions, kind) for kind in ("count", "intensity"))
    assert list(count.index) == list("abcd")
    for key, shape in regions.geometry.items():
        total, covered, extent = by_hand(values, transform, shape)
        assert count.loc[key, "coverage"] == pytest.approx(covered / extent, rel=EXACT)
        if covered:
            assert count.loc[key, "value"] == pytest.approx(total, rel=EXACT)
            assert mean.loc[key, "value"] == pytest.approx(total / covered, rel=EXACT)
        else:
            assert np.isnan(count.loc[key, "value"])


def test_edges_bent_by_the_projection_are_followed(tmp_path):
    """One degree wide, an edge along a parallel bends by kilometres in a conic projection."""
    crs = "+proj=aea +lat_1=25 +lat_2=47 +lon_0=105 +datum=WGS84 +units=m"
    to_plane = pyproj.Transformer.from_crs("EPSG:4326", crs, always_xy=True)
    x, y = to_plane.transform(118.0, 40.5)
    values = np.ones((400, 400))
    path = write(tmp_path / "a.tif", values, Affine(2000, 0, x - 4e5, 0, -2000, y + 4e5), crs)
    region = shapely.box(116, 39, 120, 42)
    found = zonal(path, gpd.GeoDataFrame(geometry=[region], crs="EPSG:4326"), "count")
    dense = shapely.segmentize(region, 1e-3)
    moved = shapely.transform(dense, lambda xy: np.column_stack(to_plane.transform(*xy.T)))
    straight = shapely.transform(region, lambda xy: np.column_stack(to_plane.transform(*xy.T)))
    assert abs(straight.area / moved.area - 1) > 1e-4
    assert found["value"][0] == pytest.approx(moved.area / 2000**2, rel=EXACT)


def test_density_times_area(tmp_path):
    """10,000 people per km2 everywhere."""
    path = write(tmp_path / "a.tif", np.full((80, 80), 1e4), degrees(step=1 / 240))
    regions = square_grid(shapely.box(116.05, 39.72, 116.28, 39.95), 1000)
    expected = 1e4 * regions["area_m2"] / 1e6
    per_km2 = zonal(path, regions, "density")
    assert per_km2["value"].to_numpy() == pytest.approx(expected, rel=EXACT)
    per_m2 = zonal(path, regions, "density", area_unit="m2")
    assert per_m2["value"].to_numpy() == pytest.approx(expected * 1e6, rel=EXACT)
    mean = zonal(path, regions, "intensity")
    assert mean["value"].to_numpy() == pytest.approx(1e4, rel=EXACT)
    # a region half outside is extrapolated from the mean of its covered half
    west = gpd.GeoDataFrame(geometry=[shapely.box(115.9, 39.8, 116.1, 39.9)], crs="EPSG:4326")
    half = zonal(path, west, "density")
    area = abs(WGS84.geometry_area_perimeter(west.geometry[0])[0])
    assert half["coverage"][0] == pytest.approx(0.5)
    assert half["value"][0] == pytest.approx(1e4 * area / 1e6, rel=1e-6)


def test_partly_outside_nodata_and_beyond(tmp_path):
    values = np.ones((10, 10))
    values[:, 5:] = NODATA
    values[0, 0] = 0
    path = write(tmp_path / "a.tif", values, metres(step=1000, x=0.0, y=10_000.0), UTM)
    regions = gpd.GeoDataFrame(
        {
            "name": ["whole", "half out", "half nodata", "nodata", "out", "zero", "empty", "none"],
            "geometry": [
                shapely.box(1000, 1000, 3000, 3000),
                shapely.box(-1000, 1000, 1000, 3000),
                shapely.box(4000, 1000, 6000, 3000),
                shapely.box(7000, 1000, 8000, 3000),
                shapely.box(50_000, 0, 51_000, 1000),
                shapely.box(200, 9200, 800, 9800),
                shapely.Polygon(),
                None,
            ],
        },
        crs=UTM,
    ).set_index("name")
    found = zonal(path, regions, "count")
    assert found["value"].fillna(-1).tolist() == pytest.approx([4, 2, 2, -1, -1, 0, -1, -1])
    assert found["coverage"].tolist() == pytest.approx([1, 0.5, 0.5, 0, 0, 1, 0, 0])
    assert zonal(path, regions, "intensity")["value"].fillna(-1).tolist() == pytest.approx(
        [1, 1, 1, -1, -1, 0, -1, -1]
    )
    strict = zonal(path, regions, "count", min_coverage=0.6)
    assert np.flatnonzero(strict["value"].notna()).tolist() == [0, 5]
    assert strict["coverage"].tolist() == found["coverage"].tolist()
    filled = zonal(path, regions, "count", nodata_is_zero=True)
    assert filled["value"].fillna(-1).tolist() == pytest.approx([4, 2, 2, 0, -1, 0, -1, -1])
    assert filled["coverage"].tolist() == pytest.approx([1, 0.5, 1, 1, 0, 1, 0, 0])


def test_regions_that_only_touch_the_raster_have_no_value(tmp_path):
    path = write(tmp_path / "a.tif", np.ones((10, 10)), degrees(step=0.1))
    regions = gpd.GeoDataFrame(
        geometry=[shapely.box(117, 39, 117.5, 39.5), shapely.box(116, 39, 117, 40)],
        crs="EPSG:4326",
    )
    for frame in (regions, regions.to_crs(UTM)):
        found = zonal(path, frame.iloc[[0, 1]], "intensity")
        assert np.isnan(found["value"][0])
        assert found["coverage"][0] == 0
        assert found["value"][1] == pytest.approx(1)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32"])
def test_number_types_do_not_overflow(tmp_path, dtype):
    top = np.iinfo(dtype).max if dtype != "float32" else 16_000_000
    values = np.full((300, 300), top, dtype=dtype)
    nodata = 0 if dtype != "float32" else float("nan")
    values[:10] = nodata
    path = write(tmp_path / "a.tif", values, metres(), UTM, nodata=nodata)
    whole = tiling(raster_bounds(path), 1, 1, UTM)
    found = zonal(path, whole, "count")
    assert found["value"][0] == 290 * 300 * float(top)
    assert found["coverage"][0] == pytest.approx(290 / 300)


def test_scale_and_offset_are_applied(tmp_path):
    values = np.array([[10, 20], [30, 255]], dtype="uint8")
    path = write(tmp_path / "a.tif", values, metres(), UTM, nodata=255)
    with rasterio.open(path, "r+") as dataset:
        dataset.scales, dataset.offsets = (0.5,), (100.0,)
    found = zonal(path, tiling(raster_bounds(path), 1, 1, UTM), "count")
    assert found["value"][0] == 105 + 110 + 115


def test_what_has_no_value(tmp_path):
    """Nodata tag, NaN, infinity, and a mask."""
    values = np.ones((4, 4), dtype="float32")
    values[0, :2], values[1, 0], values[2, 0] = np.nan, -3.4028235e38, np.inf
    whole = tiling((440_000, 4_429_600, 440_400, 4_430_000), 1, 1, UTM)
    path = write(tmp_path / "tag.tif", values, metres(), UTM, nodata=-3.4028234663852886e38)
    found = zonal(path, whole, "count")
    assert found.loc[0].tolist() == pytest.approx([12, 12 / 16])
    path = write(tmp_path / "mask.tif", np.ones((4, 4)), metres(), UTM, nodata=None)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as dataset:
        dataset.write_mask(np.repeat([[0], [255], [255], [255]], 4, axis=1).astype("uint8"))
    assert zonal(path, whole, "count").loc[0].tolist() == pytest.approx([12, 0.75])


def test_bands_by_number_and_description(tmp_path):
    """As in VIIRS composites: radiance and number of cloud-free observations."""
    values = np.stack([np.ones((4, 4)), np.full((4, 4), 7.0)])
    path = write(tmp_path / "a.tif", values, metres(), UTM)
    with rasterio.open(path, "r+") as dataset:
        dataset.descriptions = ("avg_rad", "cf_cvg")
    whole = tiling(raster_bounds(path), 1, 1, UTM)
    for band in (2, "cf_cvg", "CF_CVG"):
        assert zonal(path, whole, "intensity", band=band)["value"][0] == 7
    with pytest.raises(DatasetError, match="2 bands; choose one with `band=`: 1 'avg_rad', 2 'cf_"):
        zonal(path, whole, "intensity")
    for band in (3, 0, "radiance"):
        with pytest.raises(DatasetError, match=f"bands 1 to 2, got {band}.*'avg_rad'"):
            zonal(path, whole, "intensity", band=band)


def test_the_result_does_not_depend_on_how_much_is_read_at_once(tmp_path, monkeypatch):
    path = write(tmp_path / "a.tif", people(90, 80), metres(), UTM)
    regions = tiling(raster_bounds(path), 12, 11, UTM)
    regions.loc[len(regions)] = [shapely.box(*raster_bounds(path)).buffer(100)]
    whole = zonal(path, regions, "count")
    monkeypatch.setattr(exact_cells, "CELLS_AT_ONCE", 150)
    monkeypatch.setattr(room, "REGIONS_AT_ONCE", 17)
    pd.testing.assert_frame_equal(zonal(path, regions, "count"), whole, rtol=EXACT)


def test_no_region_no_row(tmp_path):
    path = write(tmp_path / "a.tif", people(5, 5), metres(), UTM)
    found = zonal(path, gpd.GeoDataFrame(geometry=[], crs=UTM), "count")
    assert list(found.columns) == ["value", "coverage"]
    assert len(found) == 0


def good_raster(tmp_path, values=None, **profile):
    values = np.ones((10, 10)) if values is None else values
    return write(tmp_path / "a.tif", values, metres(), **{"crs": UTM} | profile)


def region(shape=None, crs=UTM):
    return gpd.GeoDataFrame(
        geometry=[shape or shapely.box(440_100, 4_429_300, 440_500, 4_429_900)], crs=crs
    )


NEGATIVE = np.ones((10, 10))
NEGATIVE[3, 3] = -0.5
BOWTIE = shapely.Polygon([(440_100, 4_429_300), (440_500, 4_429_900), (440_500, 4_429_300),
                          (440_100, 4_429_900)])  # fmt: skip


@pytest.mark.parametrize(
    ("profile", "regions", "options", "message"),
    [
        ({"crs": None}, region(), {}, "has no CRS"),
        ({"nodata": None}, region(), {}, "no nodata tag"),
        ({"values": NEGATIVE}, region(), {}, r"negative amounts, down to -0\.5"),
        ({"values": NEGATIVE}, region(), {"kind": "density"}, "negative amounts"),
        ({}, region(), {"kind": "sum"}, r"one of \('count', 'density', 'intensity'\)"),
        ({}, region(crs=None), {}, "regions have no CRS"),
        (
            {},
            region(crs="EPSG:32651"),
            {},
            r"No region intersects(.|\n)*spans \(440000, (.|\n)*51N",
        ),
        ({}, region(shapely.box(1, 1, 2, 2), "EPSG:4326"), {}, "Check the CRS of both"),
        ({}, region(crs="EPSG:4326"), {}, "look like metres"),
        ({}, region(shapely.Point(440_200, 4_429_500)), {}, "are not polygons: 0"),
        ({}, region(BOWTIE), {}, r"not valid \(Self-intersection.*: 0\. Repair"),
        ({}, [1, 2], {}, "be a GeoDataFrame, got list"),
        ({}, region(), {"nodata": "zero"}, '"none", got'),
        (
            {"values": np.ones((10, 10), "uint8"), "nodata": None},
            region(),
            {"nodata": -99},
            "cannot be the nodata",
        ),
        ({}, region(), {"min_coverage": 2}, r"lies in \[0, 1\]"),
        ({}, region(), {"area_unit": "ha"}, "one of"),
        (
            {"values": np.ones((10, 10), "complex64"), "nodata": None},
            region(),
            {},
            "not real numbers",
        ),
    ],
)
def test_bad_input_is_refused(tmp_path, profile, regions, options, message):
    path = good_raster(tmp_path, **profile)
    with pytest.raises(DatasetError, match=message):
        zonal(path, regions, **{"kind": "count"} | options)


def test_what_is_refused_can_be_said(tmp_path):
    path = good_raster(tmp_path, nodata=None)
    assert zonal(path, region(), "count", nodata="none")["value"][0] == 24
    assert zonal(path, region(), "count", nodata=-1)["value"][0] == 24
    path = good_raster(tmp_path, values=NEGATIVE)
    assert zonal(path, region(), "intensity")["value"][0] < 1
    path = good_raster(tmp_path, values=np.where(NEGATIVE < 0, -0.5, 1), nodata=-0.5)
    assert zonal(path, region(), "count")["value"][0] == 23


def test_no_raster(tmp_path):
    with pytest.raises(DatasetError, match="no raster at"):
        zonal(tmp_path / "none.tif", region(), "count")
    (tmp_path / "page.tif").write_text("<html/>")
    with pytest.raises(DatasetError, match="cannot be read as a raster"):
        zonal(tmp_path / "page.tif", region(), "count")


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_an_image_is_no_map(tmp_path):
    path = write(tmp_path / "a.tif", np.ones((4, 4)), Affine.identity(), UTM)
    with pytest.raises(DatasetError, match="no geotransform"):
        zonal(path, region(), "count")


@pytest.mark.parametrize("package", ["rasterio", "exactextract"])
def test_without_a_package_the_extra_is_named(monkeypatch, tmp_path, package):
    path = good_raster(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, "dataset_builders.exact_cells")
    with pytest.raises(MissingExtraError, match=rf"{package}.*\[geo\]"):
        zonal(path, region(), "count")
