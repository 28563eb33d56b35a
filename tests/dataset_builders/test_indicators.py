from dataclasses import replace

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine

from dataset_builders.errors import DatasetError
from dataset_builders.indicators import (
    RASTERS,
    RasterSource,
    find_raster,
    raster_indicator,
)
from dataset_builders.regions import square_grid
from dataset_builders.schema import INDICATORS
from tests.dataset_builders.rasters import write_raster

PLACE = Affine(1 / 120, 0, 116.0, 0, -1 / 120, 40.5)
WHOLE = gpd.GeoDataFrame(
    {"region_id": ["west", "east"]},
    geometry=[shapely.box(116.0, 40.0, 116.25, 40.5), shapely.box(116.25, 40.0, 116.5, 40.5)],
    crs="EPSG:4326",
    index=[7, 3],
)


def write(path, values, nodata=-99999.0, crs="EPSG:4326", transform=PLACE):
    return write_raster(path, values, transform, crs, nodata)


def months(folder, year=21, without=()):
    """Twelve files; month m has m tonnes of carbon in every cell."""
    names = {m: folder / f"odiac2022_1km_excl_intl_{year}{m:02d}.tif" for m in range(1, 13)}
    return [
        write(path, np.full((60, 60), float(month), "float32"), None)
        for month, path in names.items()
        if month not in without
    ]


def test_products_are_recognised_by_file_name():
    for name, source in RASTERS.items():
        assert name == source.name
        assert find_raster(f"/some/where/{source.example}") is source
        assert source.unit == INDICATORS[source.indicator].unit
        described = source.describe("Residents.")
        assert described.kind == INDICATORS[source.indicator].kind
        assert source.cell_unit in described.description
    assert find_raster("CHN_PPP_2015.TIF").name == "worldpop"
    assert find_raster("usa_pop_2020_CN_100m_R2024B_v1.tif").name == "worldpop_constrained"
    assert find_raster("VNL_v2_npp_2016_global_vcmslcfg_c202101211500.average.tif").name == "vnl"


CONSTRAINED = "chn_ppp_2020_UNadj_constrained.tif"


def test_missing_cells_are_zero_for_the_constrained_product_only(tmp_path):
    values = np.ones((60, 60), "float32")
    values[:, 31:] = -99999
    one = write(tmp_path / CONSTRAINED, values)
    two = write(tmp_path / "chn_ppp_2020_UNadj.tif", values)
    found = raster_indicator(one, WHOLE, min_coverage=0.5)
    assert list(found.columns) == ["population", "population_source", "population_coverage"]
    assert found["population"].tolist() == pytest.approx([1800, 60])
    assert found["population_coverage"].tolist() == pytest.approx([1, 1])
    other = raster_indicator(two, WHOLE, min_coverage=0.5)
    assert other["population"].isna().tolist() == [False, True]
    assert other["population_source"].fillna("").tolist() == ["worldpop 2020", ""]
    assert list(other.index) == [7, 3]


def test_regions_without_data_are_null_unless_zero_is_requested(tmp_path):
    """The east has no data, and the other regions lie at least half beyond the raster."""
    values = np.ones((60, 60), "float32")
    values[:, 30:] = -99999
    path = write(tmp_path / CONSTRAINED, values)
    shapes = [
        *WHOLE.geometry,
        shapely.box(117, 40, 117.25, 40.5),
        shapely.box(116.4, 40, 116.6, 40.5),
    ]
    regions = gpd.GeoDataFrame(geometry=shapes, crs="EPSG:4326")
    found = raster_indicator(path, regions, min_coverage=0.5)
    assert found["population"].fillna(-1).tolist() == pytest.approx([1800, -1, -1, -1])
    assert found["population_source"].isna().tolist() == [False, True, True, True]
    zero = raster_indicator(path, regions, min_coverage=0.6, zero_where_no_data=True)
    assert zero["population"].fillna(-1).tolist() == pytest.approx([1800, 0, -1, -1])
    # coverage shows that the zero is not based on data
    assert zero["population_coverage"].tolist() == pytest.approx([1, 0, 0, 0])
    with pytest.raises(DatasetError, match="Missing cells of worldpop are unknown"):
        raster_indicator(path, regions, "worldpop", zero_where_no_data=True)


def test_clipped_worldpop_has_no_zeros_beyond_the_city(shared_data):
    """Constrained population of London, without values outside the city."""
    path = shared_data / "cityrep/labels/london.population.2024/labels.tif"
    if not path.is_file():
        pytest.skip(f"no raster at {path}")
    with rasterio.open(path) as dataset:
        values, bounds = dataset.read(1, masked=True), dataset.bounds
    source = replace(RASTERS["worldpop_constrained"], pattern=".*")
    regions = square_grid(shapely.box(*bounds), 2000, min_cover=1.0)
    found = raster_indicator(path, regions, source)["population"]
    assert 0.2 < found.isna().mean() < 0.6
    assert (found.dropna() > 0).all()
    assert found.sum() == pytest.approx(float(values.sum()), rel=0.02)
    zeros = raster_indicator(path, regions, source, zero_where_no_data=True)["population"]
    assert zeros.equals(found.fillna(0))


def test_carbon_is_the_sum_of_twelve_months_as_co2(tmp_path):
    files = months(tmp_path)
    found = raster_indicator(files[::-1], WHOLE)
    assert found["carbon"].tolist() == pytest.approx([1800 * 78 * 44 / 12] * 2, rel=1e-6)
    assert set(found["carbon_source"]) == {"odiac 2021"}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (lambda f: months(f, without=(4, 9)), r"10 file\(s\) of 2021.* 04, 09\."),
        (lambda f: months(f)[1:] + months(f, year=20)[:1], "of 2020, 2021"),
        (lambda f: [*months(f)[1:], write(f / "a.tif", np.ones((2, 2)))], "a.tif is not a file of"),
    ],
)
def test_rejects_an_incomplete_year(tmp_path, files, message):
    with pytest.raises(DatasetError, match=message):
        raster_indicator(files(tmp_path), WHOLE, "odiac")


def test_density_becomes_an_amount(tmp_path):
    """50 million CNY per km2, in 10,000 CNY."""
    albers = "+proj=aea +lat_1=25 +lat_2=47 +lon_0=105 +ellps=krass +units=m"
    regions = square_grid(shapely.box(116.2, 39.8, 116.4, 39.95), 1000)
    x, y = gpd.GeoSeries([shapely.Point(116.3, 39.9)], crs="EPSG:4326").to_crs(albers).iloc[0].xy
    place = Affine(1000, 0, x[0] - 50_000, 0, -1000, y[0] + 50_000)
    path = write(
        tmp_path / "cngdp2010.tif", np.full((100, 100), 5000.0), crs=albers, transform=place
    )
    found = raster_indicator(path, regions)
    assert found["gdp"].to_numpy() == pytest.approx(50 * regions["area_m2"] / 1e6, rel=1e-6)


def test_nodata_of_the_file_or_of_the_described_product(tmp_path):
    values = np.full((60, 60), 2.0, "float32")
    values[:, :15] = -999.5
    options = {"factor": 1.5, "period": "2020"}
    source = RasterSource("lst", "heat", "intensity", "degrees", "degrees", **options)
    tagged = raster_indicator(write(tmp_path / "a.tif", values, -999.5), WHOLE, source)
    bare = write(tmp_path / "b.tif", values, None)
    with pytest.raises(DatasetError, match="no nodata tag"):
        raster_indicator(bare, WHOLE, source)
    for found in (tagged, raster_indicator(bare, WHOLE, replace(source, nodata=-999.5))):
        assert found["heat"].tolist() == pytest.approx([3, 3])
        assert found["heat_coverage"].tolist() == pytest.approx([0.5, 1])
        assert set(found["heat_source"]) == {"lst 2020"}
    with pytest.raises(DatasetError, match=r"b.tif is not a known raster(.|\n)*all are worldpop"):
        raster_indicator(bare, WHOLE)


def test_rejects_resampled_and_wrong_files(tmp_path):
    place = Affine(1000, 0, 400_000, 0, -1000, 4_500_000)
    path = tmp_path / "chn_ppp_2020.tif"
    write(path, np.ones((100, 100)), crs="EPSG:32650", transform=place)
    other = write(tmp_path / "chn_2020.tif", np.ones((60, 60)))
    for files, source, message in (
        (path, None, "resampled"),
        (other, "worldpop", "is not a file of worldpop"),
        (other, "worldpp", "did you mean 'worldpop'"),
        (tmp_path / "usa_ppp_2020.tif", None, "no raster at"),
        ([path] * 2, None, r"needs 1 file\(s\), got 2"),
    ):
        with pytest.raises(DatasetError, match=message):
            raster_indicator(files, WHOLE, source)
