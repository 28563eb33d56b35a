from dataclasses import replace

import geopandas as gpd
import numpy as np
import pytest
import shapely

rasterio = pytest.importorskip("rasterio")
from affine import Affine  # noqa: E402

from dataset_builders.errors import DatasetError  # noqa: E402
from dataset_builders.indicators import (  # noqa: E402
    RASTERS,
    RasterSource,
    find_raster,
    raster_indicator,
)
from dataset_builders.regions import square_grid  # noqa: E402
from dataset_builders.schema import INDICATORS  # noqa: E402

PLACE = Affine(1 / 120, 0, 116.0, 0, -1 / 120, 40.5)
WHOLE = gpd.GeoDataFrame(
    {"region_id": ["west", "east"]},
    geometry=[shapely.box(116.0, 40.0, 116.25, 40.5), shapely.box(116.25, 40.0, 116.5, 40.5)],
    crs="EPSG:4326",
    index=[7, 3],
)


def write(path, values, nodata=-99999.0, crs="EPSG:4326", transform=PLACE):
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=1,
        height=values.shape[0],
        width=values.shape[1],
        dtype=values.dtype,
        crs=crs,
        transform=transform,
        nodata=nodata,
    ) as dataset:
        dataset.write(values, 1)
    return path


def months(folder, year=21, without=(), nodata=None):
    """Month m holds m tonnes of carbon in every cell."""
    return [
        write(
            folder / f"odiac2022_1km_excl_intl_{year:02d}{month:02d}.tif",
            np.full((60, 60), float(month), "float32"),
            nodata,
        )
        for month in range(1, 13)
        if month not in without
    ]


def test_every_known_raster_is_found_by_its_name():
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


@pytest.mark.parametrize(
    ("file", "nearest"),
    [
        ("chn_pop_2020.tif", "worldpop"),
        ("odiac_2021.tif", "odiac"),
        ("cngdp_2010_v2.tif", "cngdp"),
        ("something.tif", "all are worldpop"),
    ],
)
def test_unknown_rasters_are_refused_with_the_nearest_names(file, nearest):
    with pytest.raises(DatasetError, match=rf"{file} is no raster(.|\n)*{nearest}"):
        find_raster(file)


def test_population(tmp_path):
    values = np.ones((60, 60), "float32")
    values[:, 45:] = -99999
    path = write(tmp_path / "chn_ppp_2020_UNadj.tif", values)
    found = raster_indicator(path, WHOLE)
    assert list(found.columns) == ["population", "population_source", "population_coverage"]
    assert found["population"].tolist() == pytest.approx([1800, 900])
    assert found["population_coverage"].tolist() == pytest.approx([1, 0.5])
    assert found["population_source"].tolist() == ["worldpop 2020"] * 2
    assert list(found.index) == [7, 3]


def test_unsettled_land_of_the_constrained_product_counts_nothing(tmp_path):
    values = np.ones((60, 60), "float32")
    values[:, 30:] = -99999
    one = write(tmp_path / "chn_ppp_2020_UNadj_constrained.tif", values)
    two = write(tmp_path / "chn_ppp_2020_UNadj.tif", values)
    assert raster_indicator(one, WHOLE)["population"].tolist() == pytest.approx([1800, 0])
    other = raster_indicator(two, WHOLE)
    assert other["population"].isna().tolist() == [False, True]
    assert other["population_source"].isna().tolist() == [False, True]


def test_carbon_is_the_sum_of_twelve_months_as_carbon_dioxide(tmp_path):
    files = months(tmp_path)
    found = raster_indicator(files[::-1], WHOLE)
    assert found["carbon"].tolist() == pytest.approx([1800 * 78 * 44 / 12] * 2, rel=1e-12)
    assert set(found["carbon_source"]) == {"odiac 2021"}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (lambda f: months(f)[:1], r"1 file\(s\) of 2021, without the month\(s\) 02, 03"),
        (lambda f: months(f, without=(4, 9)), r"10 file\(s\) of 2021.* 04, 09\."),
        (lambda f: months(f) + months(f)[:1], r"13 file\(s\)"),
        (lambda f: months(f)[1:] + months(f, year=20)[:1], "of 2020, 2021"),
        (lambda f: [*months(f)[1:], write(f / "a.tif", np.ones((2, 2)))], "a.tif is no file of"),
        (lambda f: [], "no raster file"),
    ],
)
def test_other_files_than_the_months_of_a_year_are_refused(tmp_path, files, message):
    with pytest.raises(DatasetError, match=message):
        raster_indicator(files(tmp_path), WHOLE, None if not files(tmp_path) else "odiac")


def test_a_density_becomes_an_amount(tmp_path):
    """50 million CNY per km2, in 10,000 CNY."""
    albers = "+proj=aea +lat_1=25 +lat_2=47 +lon_0=105 +ellps=krass +units=m"
    regions = square_grid(shapely.box(116.2, 39.8, 116.4, 39.95), 1000)
    x, y = gpd.GeoSeries([shapely.Point(116.3, 39.9)], crs="EPSG:4326").to_crs(albers).iloc[0].xy
    place = Affine(1000, 0, x[0] - 50_000, 0, -1000, y[0] + 50_000)
    path = write(
        tmp_path / "cngdp2010.tif", np.full((100, 100), 5000.0), crs=albers, transform=place
    )
    found = raster_indicator(path, regions)
    assert found["gdp"].to_numpy() == pytest.approx(50 * regions["area_m2"] / 1e6, rel=1e-9)


def test_night_lights_are_a_mean_and_may_be_negative(tmp_path):
    values = np.full((60, 60), 3.0, "float32")
    values[:, :30] = -0.1
    name = "VNL_v21_npp_2020_global_vcmslcfg_c202205302300.average_masked.dat.tif"
    found = raster_indicator(write(tmp_path / name, values, None), WHOLE)
    assert found["night_light"].tolist() == pytest.approx([-0.1, 3.0])


def test_a_tag_is_heeded_where_there_is_one(tmp_path):
    values = np.full((60, 60), 3.0, "float32")
    values[:, :15] = -999.3
    name = "VNL_v21_npp_2020_global_vcmslcfg_c202205302300.average_masked.dat.tif"
    found = raster_indicator(write(tmp_path / name, values, -999.3), WHOLE)
    assert found["night_light"].tolist() == pytest.approx([3.0, 3.0])
    assert found["night_light_coverage"].tolist() == pytest.approx([0.5, 1.0])
    source = replace(RASTERS["vnl"], nodata=-999.3)
    again = raster_indicator(write(tmp_path / name, values, None), WHOLE, source)
    assert again["night_light"].tolist() == pytest.approx([3.0, 3.0])


def test_a_raster_that_the_caller_describes(tmp_path):
    path = write(tmp_path / "heat.tif", np.full((60, 60), 2.0), None)
    source = RasterSource(
        "lst",
        "heat",
        "intensity",
        "degrees",
        "degrees",
        factor=1.5,
        period="2020",
        nodata="gapless",
    )
    found = raster_indicator(path, WHOLE, source)
    assert found["heat"].tolist() == pytest.approx([3, 3])
    assert set(found["heat_source"]) == {"lst 2020"}
    with pytest.raises(DatasetError, match="no nodata tag"):
        raster_indicator(path, WHOLE, replace(source, nodata="tag"))


def test_known_rasters_are_taken_as_they_were_published(tmp_path):
    place = Affine(1000, 0, 400_000, 0, -1000, 4_500_000)
    path = write(
        tmp_path / "chn_ppp_2020.tif", np.ones((100, 100)), crs="EPSG:32650", transform=place
    )
    with pytest.raises(DatasetError, match="resampled"):
        raster_indicator(path, WHOLE)
    other = write(tmp_path / "chn_2020.tif", np.ones((60, 60)))
    with pytest.raises(DatasetError, match="is no file of worldpop"):
        raster_indicator(other, WHOLE, "worldpop")
    with pytest.raises(DatasetError, match="did you mean 'worldpop'"):
        raster_indicator(other, WHOLE, "worldpp")
    with pytest.raises(DatasetError, match="no raster at"):
        raster_indicator(tmp_path / "usa_ppp_2020.tif", WHOLE)
    with pytest.raises(DatasetError, match=r"made of 1 file\(s\), got 2"):
        raster_indicator([tmp_path / "chn_ppp_2020.tif"] * 2, WHOLE)
