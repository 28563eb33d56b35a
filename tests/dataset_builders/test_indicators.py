import json
from dataclasses import replace

import geopandas as gpd
import numpy as np
import pytest
import shapely

rasterio = pytest.importorskip("rasterio")
from affine import Affine  # noqa: E402

from dataset_builders.city.planning import read_targets  # noqa: E402
from dataset_builders.city.recipe import read_recipe  # noqa: E402
from dataset_builders.errors import DatasetError  # noqa: E402
from dataset_builders.indicators import (  # noqa: E402
    RASTERS,
    RasterSource,
    find_raster,
    raster_indicator,
)
from dataset_builders.regions import square_grid  # noqa: E402
from dataset_builders.schema import INDICATORS  # noqa: E402
from tests.dataset_builders.rasters import write_raster  # noqa: E402

PLACE = Affine(1 / 120, 0, 116.0, 0, -1 / 120, 40.5)
WHOLE = gpd.GeoDataFrame(
    {"region_id": ["west", "east"]},
    geometry=[shapely.box(116.0, 40.0, 116.25, 40.5), shapely.box(116.25, 40.0, 116.5, 40.5)],
    crs="EPSG:4326",
    index=[7, 3],
)


def write(path, values, nodata=-99999.0, crs="EPSG:4326", transform=PLACE):
    return write_raster(path, values, transform, crs, nodata)


def months(folder, year=21, without=(), nodata=None):
    """Twelve files; month m has m tonnes of carbon in every cell."""
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
    with pytest.raises(DatasetError, match=rf"{file} is not a known raster(.|\n)*{nearest}"):
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


CONSTRAINED = "chn_ppp_2020_UNadj_constrained.tif"


def test_unsettled_land_of_the_constrained_product_counts_nothing(tmp_path):
    values = np.ones((60, 60), "float32")
    values[:, 31:] = -99999
    one = write(tmp_path / CONSTRAINED, values)
    two = write(tmp_path / "chn_ppp_2020_UNadj.tif", values)
    found = raster_indicator(one, WHOLE, min_coverage=0.5)
    assert found["population"].tolist() == pytest.approx([1800, 60])
    assert found["population_coverage"].tolist() == pytest.approx([1, 1])
    other = raster_indicator(two, WHOLE, min_coverage=0.5)
    assert other["population"].isna().tolist() == [False, True]
    assert other["population_source"].isna().tolist() == [False, True]


def test_regions_without_any_data_are_null_unless_zero_is_asked_for(tmp_path):
    """The east has no data, and another region lies beyond the raster."""
    values = np.ones((60, 60), "float32")
    values[:, 30:] = -99999
    path = write(tmp_path / CONSTRAINED, values)
    regions = WHOLE.copy()
    regions.loc[9] = ["beyond", shapely.box(117, 40, 117.25, 40.5)]
    regions.loc[11] = ["half beyond", shapely.box(116.4, 40, 116.6, 40.5)]
    regions = regions.set_crs(WHOLE.crs)  # some versions of pandas drop it with a new row
    found = raster_indicator(path, regions, min_coverage=0.5)
    assert found["population"].fillna(-1).tolist() == pytest.approx([1800, -1, -1, -1])
    assert found["population_source"].isna().tolist() == [False, True, True, True]
    assert found["population_coverage"].tolist() == pytest.approx([1, 0, 0, 0])
    zero = raster_indicator(path, regions, min_coverage=0.6, zero_where_no_data=True)
    assert zero["population"].fillna(-1).tolist() == pytest.approx([1800, 0, -1, -1])
    assert zero["population_source"].isna().tolist() == [False, False, True, True]
    # coverage shows that the zero is not based on data
    assert zero["population_coverage"].tolist() == pytest.approx([1, 0, 0, 0])
    with pytest.raises(DatasetError, match="Missing cells of worldpop are unknown"):
        raster_indicator(path, regions, "worldpop", zero_where_no_data=True)


def population_recipe(folder, **fields):
    indicator = {"name": "population", "reader": "raster", "files": "*constrained.tif", **fields}
    recipe = {
        "city": "clipped",
        "boundary": {"bbox": [116, 40, 116.5, 40.5]},
        "indicators": [indicator],
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(recipe))
    return read_recipe(path)


def test_a_city_says_how_many_regions_have_no_data(tmp_path):
    values = np.ones((60, 60), "float32")
    values[:, 30:] = -99999
    write(tmp_path / CONSTRAINED, values)
    (found,) = read_targets(population_recipe(tmp_path), WHOLE)
    assert found.columns["population"].isna().tolist() == [False, True]
    (note,) = found.notes
    assert "1 of 2 regions contain no valid cell of worldpop_constrained" in note
    assert "`zero_where_no_data: true`" in note
    (asked,) = read_targets(population_recipe(tmp_path, zero_where_no_data=True), WHOLE)
    assert asked.columns["population"].tolist() == pytest.approx([1800, 0])
    assert "1 of 2 regions" in asked.notes[0]
    assert "1 of them are 0" in asked.notes[0]
    write(tmp_path / CONSTRAINED, np.ones((60, 60), "float32"))
    (found,) = read_targets(population_recipe(tmp_path), WHOLE)
    assert not found.notes


def test_a_real_raster_clipped_to_a_city_gives_no_zeros_beyond_it(shared_data):
    """WorldPop's constrained population of London, without values outside the city."""
    path = shared_data / "cityrep/labels/london.population.2024/labels.tif"
    if not path.is_file():
        pytest.skip(f"no raster at {path}")
    with rasterio.open(path) as dataset:
        values, bounds = dataset.read(1, masked=True), dataset.bounds
    source = replace(RASTERS["worldpop_constrained"], pattern=".*")
    regions = square_grid(shapely.box(*bounds), 2000, min_cover=1.0)
    found = raster_indicator(path, regions, source)
    unknown = found["population"].isna()
    assert 0.2 < unknown.mean() < 0.6
    assert (found["population"][~unknown] > 0).all()
    zeros = raster_indicator(path, regions, source, zero_where_no_data=True)["population"]
    assert (zeros[unknown] == 0).all()
    # known values are unchanged; only partial squares at the edge lose population
    assert (zeros[~unknown] == found["population"][~unknown]).all()
    assert found["population"].sum() == pytest.approx(float(values.sum()), rel=0.02)


def test_carbon_is_the_sum_of_twelve_months_as_carbon_dioxide(tmp_path):
    files = months(tmp_path)
    found = raster_indicator(files[::-1], WHOLE)
    assert found["carbon"].tolist() == pytest.approx([1800 * 78 * 44 / 12] * 2, rel=1e-6)
    assert set(found["carbon_source"]) == {"odiac 2021"}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (lambda f: months(f)[:1], r"1 file\(s\) of 2021, without the month\(s\) 02, 03"),
        (lambda f: months(f, without=(4, 9)), r"10 file\(s\) of 2021.* 04, 09\."),
        (lambda f: months(f) + months(f)[:1], r"13 file\(s\)"),
        (lambda f: months(f)[1:] + months(f, year=20)[:1], "of 2020, 2021"),
        (lambda f: [*months(f)[1:], write(f / "a.tif", np.ones((2, 2)))], "a.tif is not a file of"),
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
    assert found["gdp"].to_numpy() == pytest.approx(50 * regions["area_m2"] / 1e6, rel=1e-6)


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
    options = {"factor": 1.5, "period": "2020", "nodata": "gapless"}
    source = RasterSource("lst", "heat", "intensity", "degrees", "degrees", **options)
    found = raster_indicator(path, WHOLE, source)
    assert found["heat"].tolist() == pytest.approx([3, 3])
    assert set(found["heat_source"]) == {"lst 2020"}
    with pytest.raises(DatasetError, match="no nodata tag"):
        raster_indicator(path, WHOLE, replace(source, nodata="tag"))


@pytest.mark.parametrize("band", [2, "looks"])
def test_a_band_of_a_product_by_number_and_description(tmp_path, band):
    """Only the second band has values everywhere."""
    values = np.stack([np.full((60, 60), np.nan), np.full((60, 60), 5.0)])
    path = write(tmp_path / "viirs.tif", values)
    with rasterio.open(path, "r+") as dataset:
        dataset.descriptions = ("radiance", "looks")
    source = RasterSource("viirs", "looks", "intensity", "number", "number", band=band)
    assert raster_indicator(path, WHOLE, source)["looks"].tolist() == pytest.approx([5, 5])
    with pytest.raises(DatasetError, match="2 bands; choose one"):
        raster_indicator(path, WHOLE, replace(source, band=None))


def test_known_rasters_are_taken_as_they_were_published(tmp_path):
    place = Affine(1000, 0, 400_000, 0, -1000, 4_500_000)
    path = write(
        tmp_path / "chn_ppp_2020.tif", np.ones((100, 100)), crs="EPSG:32650", transform=place
    )
    with pytest.raises(DatasetError, match="resampled"):
        raster_indicator(path, WHOLE)
    other = write(tmp_path / "chn_2020.tif", np.ones((60, 60)))
    with pytest.raises(DatasetError, match="is not a file of worldpop"):
        raster_indicator(other, WHOLE, "worldpop")
    with pytest.raises(DatasetError, match="did you mean 'worldpop'"):
        raster_indicator(other, WHOLE, "worldpp")
    with pytest.raises(DatasetError, match="no raster at"):
        raster_indicator(tmp_path / "usa_ppp_2020.tif", WHOLE)
    with pytest.raises(DatasetError, match=r"needs 1 file\(s\), got 2"):
        raster_indicator([tmp_path / "chn_ppp_2020.tif"] * 2, WHOLE)
