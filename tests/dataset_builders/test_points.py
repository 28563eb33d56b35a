"""Point tables from various sources, and counts per region."""

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely

from dataset_builders.assignment import assign_points
from dataset_builders.coordinates import convert
from dataset_builders.errors import DatasetError, SourceError
from dataset_builders.poi import CATEGORIES, category_of_tags
from dataset_builders.points import count_points, read_points, read_pois_pbf
from dataset_builders.regions import square_grid

BEIJING = shapely.box(116.2, 39.8, 116.5, 40.0)


def table(path, **columns):
    pd.DataFrame(columns).to_csv(path, index=False)
    return path


def test_reading_points_lists_what_it_leaves_out(tmp_path):
    path = table(
        tmp_path / "poi.csv",
        uid=["a", "b", "c", "d", "e", "a", "g", "h"],
        Lon=["116.3", "", "0", "x", "200", "116.3", "116.4", "116.4"],
        LAT=["39.9", "39.9", "0", "39.9", "39.9", "39.9", "39.9", "39.9"],
        reviews=["5", "1", "1", "1", "1", "5", "-2", "oops"],
    )
    points = read_points(
        path, coord_system="wgs84", lon="lon", lat="lat", id_column="uid", count_column="reviews"
    )
    assert (list(points.lon), list(points.weight)) == ([116.3], [5.0])
    assert points.source == "poi.csv"
    assert {item: reason for _, item, reason, _ in points.rejects if item != "a"} == {
        "b": "no_place",
        "c": "zero_place",
        "d": "no_place",
        "e": "beyond_the_globe",
        "g": "negative_count",
        "h": "no_count",
    }
    assert [reason for _, item, reason, _ in points.rejects if item == "a"] == ["duplicate"]


def test_points_of_a_shifted_system_outside_china_are_listed_or_refused(tmp_path):
    path = tmp_path / "poi.csv"
    pd.DataFrame({"lon": [116.4, 121.5, 2.35], "lat": [39.9, 31.2, 48.85]}).to_csv(path)
    points = read_points(path, coord_system="gcj02")
    assert len(points.lon) == 2
    assert [reason for _, _, reason, _ in points.rejects] == ["outside_china"]
    pd.DataFrame({"lon": [116.4, 2.3, 2.35], "lat": [39.9, 48.8, 48.85]}).to_csv(path)
    with pytest.raises(DatasetError, match=r"2 of 3 points .* outside China, where gcj02"):
        read_points(path, coord_system="gcj02")


def test_points_are_converted_from_the_system_that_was_said(tmp_path):
    lon, lat = np.array([116.404, 116.3]), np.array([39.915, 39.9])
    for system in ("gcj02", "bd09", "bd09mc"):
        x, y = convert(lon, lat, "wgs84", system)
        path = table(tmp_path / f"{system}.csv", lon=x, lat=y)
        points = read_points(path, coord_system=system)
        assert points.lon == pytest.approx(lon, abs=1e-9)
        assert points.lat == pytest.approx(lat, abs=1e-9)
    with pytest.raises(TypeError, match="coord_system"):
        read_points(path)
    with pytest.raises(DatasetError, match=r"'wgs84'.*got 'WGS-84'"):
        read_points(path, coord_system="WGS-84")


def test_geometries_are_points_too(tmp_path):
    frame = gpd.GeoDataFrame(
        {"amenity": ["cafe", None, "hospital", None], "leisure": [None, "pitch", None, None]},
        geometry=[
            shapely.Point(116.3, 39.9),
            shapely.box(116.35, 39.9, 116.36, 39.91),
            shapely.LineString([(116.4, 39.9), (116.41, 39.91)]),
            None,
        ],
        crs="EPSG:4326",
    )
    expected = ["dining_and_cuisine", "sports_and_fitness", "healthcare"]
    one = read_points(frame.to_crs("EPSG:3857"), coord_system="wgs84", source="OpenStreetMap")
    assert list(one.category) == expected
    assert one.source == "OpenStreetMap"
    assert [reason for _, _, reason, _ in one.rejects] == ["no_place"]
    assert shapely.intersects_xy(frame.geometry[1], one.lon[1], one.lat[1])
    frame.to_file(tmp_path / "poi.gpkg")
    two = read_points(tmp_path / "poi.gpkg", coord_system="wgs84")
    assert two.lon[:2] == pytest.approx(one.lon[:2])
    assert list(two.category) == expected
    with pytest.raises(DatasetError, match="no CRS"):
        read_points(frame.set_crs(None, allow_override=True), coord_system="wgs84")


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({"lng": [1.0], "lat": [1.0]}, {}, r"no column 'lon'.*Did you mean 'lng'"),
        ({"lon": [1.0], "lat": [1.0]}, {"count_column": "review_count"}, "review_count"),
        ({"lon": [None], "lat": [1.0]}, {}, r"no usable point \(1 no_place\)"),
        ({"lon": [], "lat": []}, {}, "no usable point"),
    ],
)
def test_unusable_tables_are_refused(tmp_path, columns, options, message):
    path = table(tmp_path / "a.csv", **columns)
    with pytest.raises(SourceError, match=message):
        read_points(path, coord_system="wgs84", **options)


def test_other_bad_tables(tmp_path):
    with pytest.raises(SourceError, match="no table of points"):
        read_points(tmp_path / "none.csv", coord_system="wgs84")
    swapped = table(tmp_path / "a.csv", lon=[39.9, 39.8, 1], lat=[116.3, 116.4, 1])
    with pytest.raises(DatasetError, match=r"2 of 3 points .* lie beyond the globe.*swapped"):
        read_points(swapped, coord_system="wgs84")
    with pytest.raises(DatasetError, match="`date_column`"):
        read_points(swapped, coord_system="wgs84", year=2020)
    (tmp_path / "a.xyz").write_text("nothing")
    with pytest.raises(SourceError, match="not a table of points"):
        read_points(tmp_path / "a.xyz", coord_system="wgs84")
    for name, content in {
        "empty.csv": b"",
        "latin.csv": "lon,lat,caf\u00e9\n1,2,3".encode("latin-1"),
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(SourceError, match=rf"{name} cannot be read as a CSV in UTF-8"):
            read_points(tmp_path / name, coord_system="wgs84")


def test_counts_by_region_add_up(tmp_path):
    regions = square_grid(BEIJING, 2000)
    rng = np.random.default_rng(0)
    n = 5000
    path = table(
        tmp_path / "dianping.csv",
        lon=rng.uniform(116.2, 116.5, n),
        lat=rng.uniform(39.8, 40.0, n),
        review_count=rng.integers(0, 50, n),
    )
    points = read_points(path, coord_system="wgs84", count_column="review_count")
    counts = count_points(points, regions, "comments")
    assert counts.num_inside + counts.num_outside == n
    inside = assign_points(points.lon, points.lat, regions) >= 0
    assert counts.columns["comments"].sum() == points.weight[inside].sum()
    assert set(counts.columns["comments_source"]) == {"dianping.csv"}
    assert list(counts.columns.index) == list(regions.index)


def test_regions_without_points_are_zero_where_the_source_covers_and_null_elsewhere(tmp_path):
    regions = square_grid(BEIJING, 5000)
    place = regions.iloc[0]
    points = read_points(
        table(tmp_path / "a.csv", lon=[place["lon"]], lat=[place["lat"]]), coord_system="wgs84"
    )
    everywhere = count_points(points, regions, "poi").columns
    assert everywhere["poi"].tolist() == [1.0] + [0.0] * (len(regions) - 1)
    covered = shapely.union_all(regions.geometry.iloc[:2].to_numpy()).buffer(1e-6)
    some = count_points(points, regions, "poi", covered=covered).columns
    assert some["poi"].iloc[:2].tolist() == [1.0, 0.0]
    assert some["poi"].iloc[2:].isna().all()
    assert some["poi_source"].iloc[2:].isna().all()


def test_counts_by_category(tmp_path):
    regions = square_grid(BEIJING, 5000)
    place = shapely.Point(regions["lon"][3], regions["lat"][3])
    tags = ["restaurant", "cafe", "hospital", "bench", None]
    frame = gpd.GeoDataFrame({"amenity": tags}, geometry=[place] * 5, crs="EPSG:4326")
    points = read_points(frame, coord_system="wgs84")
    counts = count_points(points, regions, "poi", by_category=True)
    row = counts.columns.iloc[3]
    assert row["poi"] == 5
    assert row["poi_dining_and_cuisine"] == 2
    assert sum(row[f"poi_{name}"] for name in CATEGORIES) == 3
    assert counts.unknown_categories == 2
    without = read_points(frame[["geometry"]], coord_system="wgs84")
    with pytest.raises(DatasetError, match="no categories"):
        count_points(without, regions, "poi", by_category=True)


def test_a_table_of_elsewhere_is_refused_unless_it_is_said(tmp_path):
    regions = square_grid(BEIJING, 5000)
    rng = np.random.default_rng(0)
    path = table(tmp_path / "a.csv", lon=rng.uniform(73, 135, 99), lat=rng.uniform(18, 53, 99))
    points = read_points(path, coord_system="wgs84")
    with pytest.raises(DatasetError, match=r"0% of the 99 points of a\.csv.*`min_inside`"):
        count_points(points, regions, "poi")
    assert count_points(points, regions, "poi", min_inside=0).num_outside == 99


def test_pois_of_a_real_extract(shared_data):
    points = read_pois_pbf(shared_data / "osm" / "monaco.osm.pbf")
    assert len(points) > 1000
    assert set(points.category) == set(CATEGORIES)
    assert points.source == "OpenStreetMap (monaco.osm.pbf)"
    assert points.rejects == ()
    regions = square_grid(shapely.box(7.40, 43.72, 7.44, 43.76), 250)
    counts = count_points(points, regions, "poi", by_category=True)
    assert counts.num_inside > 0.9 * len(points)
    assert counts.unknown_categories == 0
    frame = counts.columns
    parts = frame[[f"poi_{name}" for name in CATEGORIES]].sum(axis=1)
    assert np.array_equal(parts, frame["poi"])
    assert frame["poi"].sum() == counts.num_inside
    assert frame["poi_dining_and_cuisine"].sum() > 100
    with pytest.raises(SourceError, match="No OpenStreetMap extract"):
        read_pois_pbf(shared_data / "osm" / "none.osm.pbf")


@pytest.mark.parametrize("lower", [False, True])
def test_complaints_of_new_york_are_points_of_a_year(tmp_path, lower):
    """Rows and columns as from data.cityofnewyork.us, whose API uses lower-case names."""
    columns = {
        "CMPLNT_NUM": ["700381962", "642234217", "242465164", "242465164", "39468181", "1", "2"],
        "RPT_DT": ["05/28/2019"] * 4 + ["02/20/2008", "06/01/2019", "07/01/2019"],
        "Latitude": ["40.828848", "40.697", "40.664239", "40.664239", "40.6", "", "0"],
        "Longitude": ["-73.916661", "-73.784", "-73.908425", "-73.908425", "-73.9", "", "0"],
    }
    rows = {name.lower() if lower else name: values for name, values in columns.items()}
    path = table(tmp_path / "complaints.csv", **rows)
    named = {"lon": "Longitude", "lat": "Latitude", "id_column": "CMPLNT_NUM"}
    named |= {"date_column": "RPT_DT", "coord_system": "wgs84"}
    points = read_points(path, year=2019, **named)
    assert points.lon == pytest.approx([-73.916661, -73.784, -73.908425])
    reasons = sorted(reason for _, _, reason, _ in points.rejects)
    assert reasons == ["duplicate", "no_place", "zero_place"]
    assert len(read_points(path, **named)) == 4
    with pytest.raises(SourceError, match="no usable point"):
        read_points(path, year=1999, **named)


@pytest.mark.parametrize(
    ("tags", "category"),
    [
        ({"amenity": "restaurant"}, "dining_and_cuisine"),
        ({"amenity": "bench"}, None),
        ({"amenity": "bench", "tourism": "viewpoint"}, "tourist_attractions"),
        ({"shop": "supermarket"}, "shopping_and_consumption"),
        ({"shop": "car_repair"}, "automobile_related"),
        ({"shop": "no"}, None),
        ({"tourism": "museum"}, "science_education_and_culture"),
        ({"leisure": "park"}, "tourist_attractions"),
        ({"office": "estate_agent"}, "business_and_residential"),
        ({"office": "it"}, "companies_and_enterprises"),
        ({"railway": "rail"}, None),
        ({"building": "yes"}, None),
        ({}, None),
    ],
)
def test_categories_of_openstreetmap(tags, category):
    assert category_of_tags(tags) == category
