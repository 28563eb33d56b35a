"""GeoPackage read by GDAL and SQLite."""

import sqlite3
from xml.etree import ElementTree as ET

import geopandas as gpd
import numpy as np
import pytest
import shapely

from pipelines.prediction.geopackage import class_breaks, write_geopackage


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    n = 40
    rng = np.random.default_rng(0)
    predicted = rng.uniform(0, 9, n)
    predicted[:3] = np.nan
    table = gpd.GeoDataFrame(
        {
            "region_id": [f"r{k}" for k in range(n)],
            "rent": np.where(np.arange(n) % 3 == 0, np.nan, rng.uniform(0, 9, n)),
            "rent_predicted": predicted,
            "rent_low": predicted - 1,
            "rent_high": predicted + rng.uniform(1, 2, n),
            "rent_status": "held_out",
        },
        geometry=shapely.box(np.arange(n), 0, np.arange(n) + 1, 1),
        crs="EPSG:4326",
    )
    path = tmp_path_factory.mktemp("gpkg") / "predictions.gpkg"
    write_geopackage(table, path, {"rent": "$/m2"})
    return path, table


def test_gdal_reads_the_table_and_styles_have_a_class_for_every_value(package):
    path, table = package
    read = gpd.read_file(path, layer="predictions")
    np.testing.assert_allclose(read["rent_high"], table["rent_high"])
    assert read.geometry.geom_equals(table.geometry).all()
    assert not list(path.parent.glob(".*"))
    with sqlite3.connect(path) as connection:
        rows = connection.execute(
            "SELECT f_table_name, f_geometry_column, styleName, styleQML, useAsDefault "
            "FROM layer_styles ORDER BY id"
        ).fetchall()
        geometry = connection.execute(
            "SELECT column_name FROM gpkg_geometry_columns WHERE table_name = 'predictions'"
        ).fetchone()[0]
    assert [row[4] for row in rows] == [1, 0, 0]
    assert {row[:2] for row in rows} == {("predictions", geometry)}
    assert [row[2] for row in rows] == [
        "rent, estimate ($/m2)",
        "rent, width of the 90 % interval",
        "rent, estimate - measured",
    ]
    values = {
        '"rent_predicted"': table["rent_predicted"],
        '"rent_high" - "rent_low"': table["rent_high"] - table["rent_low"],
        '"rent_predicted" - "rent"': table["rent_predicted"] - table["rent"],
    }
    for row in rows:
        renderer = ET.fromstring(row[3].split("\n", 1)[1]).find("renderer-v2")
        shown = values[renderer.get("attr")].dropna()
        ranges = [(float(one.get("lower")), float(one.get("upper"))) for one in renderer[0]]
        assert all(any(low <= value <= high for low, high in ranges) for value in shown)
        symbols = {symbol.get("name") for symbol in renderer.find("symbols")}
        assert {one.get("symbol") for one in renderer[0]} == symbols
        assert len(ranges) == 7


def test_class_breaks_are_quantiles_or_symmetric():
    values = np.array([0.0] * 10 + list(range(1, 61)), float)
    breaks = class_breaks(values)
    assert breaks == sorted(set(breaks))
    assert (breaks[0], breaks[-1]) == (0.0, 60.0)
    signed = class_breaks(np.array([-1.0, 0.5, 4.0]), symmetric=True)
    np.testing.assert_allclose(signed, -np.array(signed[::-1]))
    assert class_breaks(np.array([np.nan])) == []
    assert len(class_breaks(np.full(5, 2.0))) == 2
