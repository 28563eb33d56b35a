"""Zonal statistics of GeoTIFFs, against exactextract and against sums by hand."""

import exactextract
import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset_builders import exact_cells
from dataset_builders import zonal as room
from dataset_builders.errors import DatasetError
from dataset_builders.globe import geodesic_areas
from dataset_builders.indicators import zonal
from dataset_builders.regions import square_grid
from tests.dataset_builders.rasters import write_raster as write

NODATA = -99999.0
UTM = "EPSG:32650"
# exactextract computes shares in single precision
EXACT = 1e-6


def degrees(lon=116.0, lat=40.0, step=1 / 120):
    return Affine(step, 0, lon, 0, -step, lat)


def metres(x=440_000.0, y=4_430_000.0, step=100.0):
    return Affine(step, 0, x, 0, -step, y)


def people(height, width, seed=0, gaps=0.1):
    rng = np.random.default_rng(seed)
    values = np.exp(rng.normal(0, 2, (height, width)))
    return np.where(rng.random(values.shape) < gaps, NODATA, values)


def whole(path):
    """One region, which covers the raster."""
    with rasterio.open(path) as dataset:
        return gpd.GeoDataFrame(geometry=[shapely.box(*dataset.bounds)], crs=dataset.crs)


def by_hand(values, transform, shape):
    """Sum, and covered cells with a value, computed cell by cell with shapely."""
    total = covered = 0.0
    for (row, column), value in np.ndenumerate(values):
        corners = ((0, 0), (1, 0), (1, 1), (0, 1))
        cell = shapely.Polygon([transform * (column + i, row + j) for i, j in corners])
        share = cell.intersection(shape).area / cell.area if value != NODATA else 0.0
        total, covered = total + value * share, covered + share
    return total, covered


def tiles(path, rng, count=12):
    """Voronoi cells that cover a raster."""
    box = whole(path).geometry[0]
    points = shapely.MultiPoint(rng.uniform(box.bounds[:2], box.bounds[2:], (count, 2)))
    cells = shapely.get_parts(shapely.voronoi_polygons(points, extend_to=box.buffer(1)))
    return gpd.GeoDataFrame(geometry=cells, crs=whole(path).crs)


@settings(max_examples=15)
@given(st.integers(0, 10**6))
def test_sums_over_a_tiling_add_up_to_the_raster_total(tmp_path_factory, seed):
    values = people(7, 9, seed)
    path = write(tmp_path_factory.mktemp("raster") / "a.tif", values, degrees())
    regions = tiles(path, np.random.default_rng(seed))
    found = zonal(path, regions, "count")
    assert found["value"].sum() == pytest.approx(values[values != NODATA].sum(), rel=EXACT)
    shuffled = regions.sample(frac=1, random_state=seed % 1000)
    again = zonal(path, shuffled, "count").loc[regions.index]
    pd.testing.assert_frame_equal(again, found, rtol=EXACT)


def test_total_is_conserved_across_projections(tmp_path):
    """Squares of a UTM grid tile a raster in degrees."""
    values = people(60, 60, gaps=0)
    path = write(tmp_path / "a.tif", values, degrees(step=1 / 1200))
    squares = square_grid(whole(path).geometry[0].buffer(0.02), 700, min_cover=0.0)
    found = zonal(path, squares, "count")
    assert found["value"].sum() == pytest.approx(values.sum(), rel=EXACT)
    assert found["value"].isna().any()


@pytest.mark.parametrize(("kind", "statistic"), [("count", "sum"), ("intensity", "mean")])
def test_equals_exactextract(tmp_path, kind, statistic):
    path = write(tmp_path / "a.tif", people(120, 130), metres(), UTM)
    box = whole(path).geometry[0].buffer(500).bounds
    places = np.random.default_rng(0).uniform((*box[:2], 30), (*box[2:], 3000), (60, 3))
    circles = [shapely.Point(x, y).buffer(radius) for x, y, radius in places]
    regions = gpd.GeoDataFrame(geometry=circles, crs=UTM)
    found = zonal(path, regions, kind)
    statistics = [statistic, "count"]
    expected = exactextract.exact_extract(str(path), regions, statistics, output="pandas")
    known = expected["count"].to_numpy() > 0
    assert known.sum() > 30
    assert found["value"][known].to_numpy() == pytest.approx(expected[statistic][known], rel=EXACT)
    assert found["value"][~known].isna().all()
    areas = shapely.area(regions.geometry) / 100**2
    assert found["coverage"].to_numpy() == pytest.approx(expected["count"] / areas, rel=EXACT)


COS, SIN = np.cos(np.radians(31)), np.sin(np.radians(31))
TRANSFORMS = {
    "south-up": Affine(500, 0, 440_000, 0, 500, 4_420_000),
    "rotated": Affine(500 * COS, 500 * SIN, 440_000, 500 * SIN, -500 * COS, 4_430_000),
    "sheared": Affine(500, 120, 440_000, -60, -400, 4_430_000),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_rotated_and_flipped_rasters(tmp_path, name):
    transform = TRANSFORMS[name]
    values = people(11, 13, gaps=0.2)
    path = write(tmp_path / "a.tif", values, transform, UTM)
    x, y = transform * (6.5, 5.5)
    shapes = [
        shapely.Point(x, y).buffer(1400),
        shapely.box(x - 3000, y - 500, x + 50, y + 2500),
        shapely.Point(transform * (0.2, 0.3)).buffer(900),  # partly outside
    ]
    regions = gpd.GeoDataFrame(geometry=shapes, crs=UTM)
    count, mean = (zonal(path, regions, kind) for kind in ("count", "intensity"))
    total, covered = np.array([by_hand(values, transform, shape) for shape in shapes]).T
    cells = shapely.area(shapes) / abs(transform.determinant)
    np.testing.assert_allclose(count["value"], total, rtol=EXACT)
    np.testing.assert_allclose(mean["value"], total / covered, rtol=EXACT)
    np.testing.assert_allclose(count["coverage"], covered / cells, rtol=EXACT)


def test_density_times_area(tmp_path):
    """10,000 people per km2 everywhere."""
    path = write(tmp_path / "a.tif", np.full((80, 80), 1e4), degrees(step=1 / 240))
    regions = square_grid(shapely.box(116.05, 39.72, 116.28, 39.95), 2000)
    found = zonal(path, regions, "density")["value"]
    assert found.to_numpy() == pytest.approx(regions["area_m2"] / 100, rel=EXACT)
    # a region half outside is extrapolated from the mean of its covered half
    west = gpd.GeoDataFrame(geometry=[shapely.box(115.9, 39.8, 116.1, 39.9)], crs="EPSG:4326")
    half = zonal(path, west, "density")
    assert half["coverage"][0] == pytest.approx(0.5)
    area = geodesic_areas(west.geometry)[0]
    assert half["value"][0] == pytest.approx(area / 100, rel=1e-6)


def test_partial_coverage_and_nodata(tmp_path):
    values = np.ones((10, 10))
    values[:, 5:], values[0, 0] = NODATA, 0
    path = write(tmp_path / "a.tif", values, metres(step=1000, x=0.0, y=10_000.0), UTM)
    shapes = [
        shapely.box(1000, 1000, 3000, 3000),
        shapely.box(-1000, 1000, 1000, 3000),  # half outside
        shapely.box(4000, 1000, 6000, 3000),  # half without data
        shapely.box(7000, 1000, 8000, 3000),  # without data
        shapely.box(50_000, 0, 51_000, 1000),  # outside
        shapely.box(200, 9200, 800, 9800),  # zero
        shapely.Polygon(),
        None,
    ]
    regions = gpd.GeoDataFrame(geometry=shapes, crs=UTM)

    def check(value, coverage, kind="count", **options):
        found = zonal(path, regions, kind, **options).fillna(-1).to_numpy()
        np.testing.assert_allclose(found.T, [value, coverage], rtol=EXACT)

    coverage = [1, 0.5, 0.5, 0, 0, 1, 0, 0]
    check([4, 2, 2, -1, -1, 0, -1, -1], coverage)
    check([1, 1, 1, -1, -1, 0, -1, -1], coverage, "intensity")
    check([4, -1, -1, -1, -1, 0, -1, -1], coverage, min_coverage=0.6)
    check([4, 2, 2, 0, -1, 0, -1, -1], [1, 0.5, 1, 1, 0, 1, 0, 0], nodata_is_zero=True)


@pytest.mark.parametrize(("dtype", "top", "nodata"), [("uint8", 255, 0), ("float32", 16e6, np.nan)])
def test_sums_do_not_overflow_and_scale_and_offset_apply(tmp_path, dtype, top, nodata):
    values = np.full((300, 300), top, dtype=dtype)
    values[:10] = nodata
    path = write(tmp_path / "a.tif", values, metres(), UTM, nodata=nodata)
    found = zonal(path, whole(path), "count")
    assert found["value"][0] == 290 * 300 * float(top)
    assert found["coverage"][0] == pytest.approx(290 / 300)
    with rasterio.open(path, "r+") as dataset:
        dataset.scales, dataset.offsets = (0.5,), (100.0,)
    assert zonal(path, whole(path), "intensity")["value"][0] == pytest.approx(top / 2 + 100)


def test_missing_values_by_tag_mask_and_argument(tmp_path):
    values = np.ones((4, 4), dtype="float32")
    values[0, :2], values[1, 0], values[2, 0] = np.nan, -3.4028235e38, np.inf
    path = write(tmp_path / "tag.tif", values, metres(), UTM, nodata=-3.4028234663852886e38)
    assert zonal(path, whole(path), "count").loc[0].tolist() == pytest.approx([12, 12 / 16])
    path = write(tmp_path / "mask.tif", np.ones((4, 4)), metres(), UTM, nodata=None)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as dataset:
        dataset.write_mask(np.repeat([[0], [255], [255], [255]], 4, axis=1).astype("uint8"))
    assert zonal(path, whole(path), "count").loc[0].tolist() == pytest.approx([12, 0.75])
    values = np.where(np.eye(4) > 0, -1.0, 1.0)
    path = write(tmp_path / "none.tif", values, metres(), UTM, nodata=None)
    assert zonal(path, whole(path), "count", nodata=-1)["value"][0] == 12
    assert zonal(path, whole(path), "intensity", nodata="none")["value"][0] == 0.5


def test_selects_bands_by_number_and_description(tmp_path):
    """As in VIIRS composites: radiance and number of cloud-free observations."""
    values = np.stack([np.ones((4, 4)), np.full((4, 4), 7.0)])
    path = write(tmp_path / "a.tif", values, metres(), UTM)
    with rasterio.open(path, "r+") as dataset:
        dataset.descriptions = ("avg_rad", "cf_cvg")
    for band in (2, "CF_CVG"):
        assert zonal(path, whole(path), "intensity", band=band)["value"][0] == 7
    with pytest.raises(DatasetError, match="2 bands; choose one with `band=`: 1 'avg_rad', 2 'cf_"):
        zonal(path, whole(path), "intensity")
    with pytest.raises(DatasetError, match=r"bands 1 to 2, got radiance.*'avg_rad'"):
        zonal(path, whole(path), "intensity", band="radiance")


def test_result_does_not_depend_on_chunk_size(tmp_path, monkeypatch):
    path = write(tmp_path / "a.tif", people(60, 50), metres(), UTM)
    regions = pd.concat([tiles(path, np.random.default_rng(0), 60), whole(path)])
    expected = zonal(path, regions, "count")
    monkeypatch.setattr(exact_cells, "CELLS_AT_ONCE", 150)
    monkeypatch.setattr(room, "REGIONS_AT_ONCE", 17)
    pd.testing.assert_frame_equal(zonal(path, regions, "count"), expected, rtol=EXACT)


def region(shape=None, crs=UTM):
    return gpd.GeoDataFrame(
        geometry=[shape or shapely.box(440_100, 4_429_300, 440_500, 4_429_900)], crs=crs
    )


NEGATIVE = np.where(np.eye(10) > 0, -0.5, 1.0)
NEGATIVE[3, 3] = -0.5
BOWTIE = shapely.Polygon([(440_100, 4_429_300), (440_500, 4_429_900), (440_500, 4_429_300),
                          (440_100, 4_429_900)])  # fmt: skip


@pytest.mark.parametrize(
    ("profile", "regions", "options", "message"),
    [
        ({"crs": None}, region(), {}, "has no CRS"),
        ({"nodata": None}, region(), {}, "no nodata tag"),
        ({"values": NEGATIVE}, region(), {}, r"negative amounts, down to -0\.5"),
        ({}, region(), {"kind": "sum"}, r"one of \('count', 'density', 'intensity'\)"),
        ({}, region(crs=None), {}, "regions have no CRS"),
        ({}, region(crs="EPSG:32651"), {}, r"No region intersects(.|\n)*51N"),
        ({}, region(crs="EPSG:4326"), {}, "look like metres"),
        ({}, region(BOWTIE), {}, r"not valid \(Self-intersection.*: 0\. Repair"),
        ({"values": np.ones((10, 10), "uint8")}, region(), {"nodata": -99}, "cannot be the nodata"),
    ],
)
def test_rejects_invalid_input(tmp_path, profile, regions, options, message):
    profile = {
        "values": np.ones((10, 10)),
        "transform": metres(),
        "crs": UTM,
        "nodata": 0,
    } | profile
    path = write(tmp_path / "a.tif", **profile)
    with pytest.raises(DatasetError, match=message):
        zonal(path, regions, **{"kind": "count"} | options)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_rejects_files_that_are_not_maps(tmp_path):
    (tmp_path / "page.tif").write_text("<html/>")
    write(tmp_path / "image.tif", np.ones((4, 4)), Affine.identity(), UTM)
    for name, message in (
        ("none", "no raster at"),
        ("page", "cannot be read as a raster"),
        ("image", "no geotransform"),
    ):
        with pytest.raises(DatasetError, match=message):
            zonal(tmp_path / f"{name}.tif", region(), "count")
