"""Point tables from various sources, and counts per region."""

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely

from dataset_builders.coordinates import convert
from dataset_builders.errors import DatasetError, SourceError
from dataset_builders.points import (
    CATEGORIES,
    category_of_tags,
    count_points,
    read_points,
    read_pois_pbf,
)
from dataset_builders.regions import square_grid

BEIJING = shapely.box(116.2, 39.8, 116.5, 40.0)


def table(path, **columns):
    pd.DataFrame(columns).to_csv(path, index=False)
    return path


def test_rejects_are_listed_with_reasons(tmp_path):
    path = table(
        tmp_path / "poi.csv",
        uid=["a", "b", "c", "d", "e", "a", "g", "h"],
        Lon=["116.3", "", "0", "x", "200", "116.3", "116.4", "116.4"],
        LAT=["39.9", "39.9", "0", "39.9", "39.9", "39.9", "39.9", "39.9"],
        reviews=["5", "1", "1", "1", "1", "5", "-2", "oops"],
    )
    points = read_points(path, coord_system="wgs84", id_column="uid", count_column="reviews")
    assert (list(points.lon), list(points.weight)) == ([116.3], [5.0])
    assert [f"{item} {reason}" for _, item, reason, _ in points.rejects] == [
        "b no_place", "c zero_place", "d no_place", "e beyond_the_globe",
        "a duplicate", "g negative_count", "h no_count",
    ]  # fmt: skip


def test_converts_from_the_stated_system(tmp_path):
    lon, lat, path = np.array([116.404, 116.3]), np.array([39.915, 39.9]), tmp_path / "poi.csv"
    for system in ("gcj02", "bd09", "bd09mc"):
        x, y = convert(lon, lat, "wgs84", system)
        points = read_points(table(path, lon=x, lat=y), coord_system=system)
        assert points.lon == pytest.approx(lon, abs=1e-9)
        assert points.lat == pytest.approx(lat, abs=1e-9)
    with pytest.raises(DatasetError, match=r"'wgs84'.*got 'WGS-84'"):
        read_points(path, coord_system="WGS-84")
    table(path, lon=[116.4, 121.5, 2.35], lat=[39.9, 31.2, 48.85])
    points = read_points(path, coord_system="gcj02")
    assert [reason for _, _, reason, _ in points.rejects] == ["outside_china"]
    table(path, lon=[116.4, 2.3, 2.35], lat=[39.9, 48.8, 48.85])
    with pytest.raises(DatasetError, match=r"2 of 3 points .* outside China, where gcj02"):
        read_points(path, coord_system="gcj02")


def test_geometries_become_points(tmp_path):
    box, line = shapely.box(116.35, 39.9, 116.36, 39.91), [(116.4, 39.9), (116.41, 39.91)]
    frame = gpd.GeoDataFrame(
        {"amenity": ["cafe", None, "hospital", None], "leisure": [None, "pitch", None, None]},
        geometry=[shapely.Point(116.3, 39.9), box, shapely.LineString(line), None],
        crs="EPSG:4326",
    )
    frame.to_file(tmp_path / "poi.gpkg")
    for source in (frame.to_crs("EPSG:3857"), tmp_path / "poi.gpkg"):
        points = read_points(source, coord_system="wgs84")
        assert list(points.category) == ["dining_and_cuisine", "sports_and_fitness", "healthcare"]
        assert [reason for _, _, reason, _ in points.rejects] == ["no_place"]
        assert shapely.intersects_xy(box, points.lon[1], points.lat[1])
    with pytest.raises(DatasetError, match="no CRS"):
        read_points(frame.set_crs(None, allow_override=True), coord_system="wgs84")


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({"lng": [1.0], "lat": [1.0]}, {}, r"no column 'lon'.*Did you mean 'lng'"),
        ({"lon": [None], "lat": [1.0]}, {}, r"no usable point \(1 no_place\)"),
        ({"lon": [39.9, 39.8, 1], "lat": [116.3, 116.4, 1]}, {}, "2 of 3 points .*swapped"),
        ({"lon": [1.0], "lat": [1.0]}, {"year": 2020}, "`date_column`"),
    ],
)
def test_rejects_unusable_tables(tmp_path, columns, options, message):
    path = table(tmp_path / "a.csv", **columns)
    with pytest.raises((DatasetError, SourceError), match=message):
        read_points(path, coord_system="wgs84", **options)


def test_rejects_files_that_are_not_tables(tmp_path):
    (tmp_path / "a.xyz").write_text("nothing")
    (tmp_path / "latin.csv").write_bytes("lon,lat,caf\u00e9\n1,2,3".encode("latin-1"))
    for name, message in (
        ("none.csv", "no table of points"),
        ("a.xyz", "not a table of points"),
        ("latin.csv", "cannot be read as a CSV in UTF-8"),
    ):
        with pytest.raises(SourceError, match=message):
            read_points(tmp_path / name, coord_system="wgs84")


def test_counts_are_weighted_zero_where_covered_and_null_elsewhere(tmp_path):
    regions = square_grid(BEIJING, 5000)
    place = regions.iloc[0]
    path = table(tmp_path / "a.csv", lon=[place["lon"]] * 2, lat=[place["lat"]] * 2, reviews=[2, 3])
    points = read_points(path, coord_system="wgs84", count_column="reviews")
    everywhere = count_points(points, regions, "poi")
    assert everywhere.columns["poi"].tolist() == [5.0] + [0.0] * (len(regions) - 1)
    assert set(everywhere.columns["poi_source"]) == {"a.csv"}
    assert (everywhere.num_inside, everywhere.num_outside) == (2, 0)
    covered = shapely.union_all(regions.geometry.iloc[:2].to_numpy()).buffer(1e-6)
    some = count_points(points, regions, "poi", covered=covered).columns
    assert some["poi"].iloc[:2].tolist() == [5.0, 0.0]
    assert some["poi"].iloc[2:].isna().all()
    assert some["poi_source"].iloc[2:].isna().all()


def test_counts_by_category_and_outside(tmp_path):
    regions = square_grid(BEIJING, 5000)
    place = shapely.Point(regions["lon"][3], regions["lat"][3])
    places = [place] * 5 + [shapely.Point(73 + i, 18) for i in range(9)]
    tags = ["restaurant", "cafe", "hospital", "bench", None] + ["cafe"] * 9
    points = read_points(
        gpd.GeoDataFrame({"amenity": tags}, geometry=places, crs="EPSG:4326"), coord_system="wgs84"
    )
    with pytest.raises(DatasetError, match=r"36% of the 14 points of .*`min_inside`"):
        count_points(points, regions, "poi")
    counts = count_points(points, regions, "poi", by_category=True, min_inside=0)
    row = counts.columns.iloc[3]
    assert (row["poi"], row["poi_dining_and_cuisine"], counts.num_outside) == (5, 2, 9)
    assert sum(row[f"poi_{name}"] for name in CATEGORIES) == 3
    assert counts.unknown_categories == 2


def test_pois_of_a_real_extract(shared_data):
    points = read_pois_pbf(shared_data / "osm" / "monaco.osm.pbf")
    assert len(points) > 1000
    assert set(points.category) == set(CATEGORIES)
    assert points.source == "OpenStreetMap (monaco.osm.pbf)"
    regions = square_grid(shapely.box(7.40, 43.72, 7.44, 43.76), 250)
    counts = count_points(points, regions, "poi", by_category=True)
    assert counts.num_inside > 0.9 * len(points)
    parts = counts.columns[[f"poi_{name}" for name in CATEGORIES]].sum(axis=1)
    assert np.array_equal(parts, counts.columns["poi"])
    assert parts.sum() == counts.num_inside
    with pytest.raises(SourceError, match="No OpenStreetMap extract"):
        read_pois_pbf(shared_data / "osm" / "none.osm.pbf")


def test_selects_a_year_from_new_york_complaints(tmp_path):
    """Rows as from data.cityofnewyork.us; the API uses lower-case names."""
    path = table(
        tmp_path / "complaints.csv",
        cmplnt_num=["700381962", "642234217", "242465164", "242465164", "39468181", "1", "2"],
        rpt_dt=["05/28/2019"] * 4 + ["02/20/2008", "06/01/2019", "07/01/2019"],
        latitude=["40.828848", "40.697", "40.664239", "40.664239", "40.6", "", "0"],
        longitude=["-73.916661", "-73.784", "-73.908425", "-73.908425", "-73.9", "", "0"],
    )
    named = {"lon": "Longitude", "lat": "Latitude", "id_column": "CMPLNT_NUM"}
    named |= {"date_column": "RPT_DT", "coord_system": "wgs84"}
    points = read_points(path, year=2019, **named)
    assert points.lon == pytest.approx([-73.916661, -73.784, -73.908425])
    reasons = sorted(reason for _, _, reason, _ in points.rejects)
    assert reasons == ["duplicate", "no_place", "zero_place"]
    with pytest.raises(SourceError, match="no usable point"):
        read_points(path, year=1999, **named)


def test_categories_of_openstreetmap_tags():
    for tags, category in (
        ({"amenity": "restaurant"}, "dining_and_cuisine"),
        ({"amenity": "bench", "tourism": "viewpoint"}, "tourist_attractions"),
        ({"shop": "supermarket"}, "shopping_and_consumption"),
        ({"shop": "car_repair"}, "automobile_related"),
        ({"shop": "no", "railway": "rail"}, None),
    ):
        assert category_of_tags(tags) == category
