"""Areal interpolation of polygon attributes, against cases worked by hand."""

import geopandas as gpd
import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset_builders.allocation import allocate
from dataset_builders.errors import DatasetError, SourceError

PLANE = "EPSG:6933"  # metres, equal-area


def frame(shapes, crs=PLANE, **columns):
    return gpd.GeoDataFrame(columns, geometry=list(shapes), crs=crs)


ZONES = frame(
    [shapely.box(0, 0, 1000, 1000), shapely.box(1000, 0, 3000, 1000)],
    people=[100.0, 600.0],
    income=[10.0, 40.0],
)


def test_amounts_are_divided_and_measurements_averaged_by_area():
    """A quarter of the first zone and half of the second; the third region lies outside."""
    bounds = [(750, 1000), (750, 2000), (5000, 6000)]
    regions = frame([shapely.box(west, 0, east, 1000) for west, east in bounds])
    found = allocate(ZONES, regions, "people", "count")
    assert found["value"].tolist() == pytest.approx([25, 25 + 300, np.nan], nan_ok=True)
    assert found["coverage"].tolist() == pytest.approx([1, 1, 0])
    # a fifth of the second region lies in the first zone
    assert allocate(ZONES, regions, "income", "intensity")["value"][1] == pytest.approx(34)


def test_coverage_is_the_share_with_a_value():
    layer = ZONES.assign(people=[100.0, None])
    regions = frame([shapely.box(500, 0, 1500, 1000), shapely.box(0, -1000, 1000, 1000)])
    found = allocate(layer, regions, "people", "count")
    assert found["value"].tolist() == pytest.approx([50, 100])
    assert found["coverage"].tolist() == pytest.approx([0.5, 0.5])
    assert allocate(layer, regions, "people", "count", min_coverage=0.6)["value"].isna().all()


@settings(max_examples=15)
@given(st.integers(0, 10**6))
def test_totals_are_preserved(seed):
    """For any two partitions of an area, also in another CRS."""
    rng = np.random.default_rng(seed)
    area = shapely.box(116.0, 39.5, 116.5, 40.0)

    def partition(count):
        points = shapely.MultiPoint(rng.uniform(area.bounds[:2], area.bounds[2:], (count, 2)))
        cells = shapely.get_parts(shapely.voronoi_polygons(points, extend_to=area))
        return frame(shapely.intersection(cells, area), "EPSG:4326")

    layer = partition(12).assign(people=rng.uniform(0, 100, 12))
    regions = partition(9)
    dense = layer.set_geometry(layer.geometry.segmentize(0.002)).to_crs("EPSG:32650")
    found = allocate(dense, regions, "people", "count")
    assert found["value"].sum() == pytest.approx(layer["people"].sum(), rel=1e-6)
    mean = allocate(layer, regions, "people", "intensity")["value"]
    assert mean.between(layer["people"].min() - 1e-9, layer["people"].max() + 1e-9).all()


def test_reads_a_geopackage(tmp_path):
    ZONES.to_file(tmp_path / "grid.gpkg")
    found = allocate(tmp_path / "grid.gpkg", ZONES.iloc[[1]], "people", "count")
    assert found["value"].to_dict() == {1: pytest.approx(600)}
    with pytest.raises(SourceError, match="no layer of polygons at"):
        allocate(tmp_path / "none.gpkg", ZONES, "people", "count")


@pytest.mark.parametrize(
    ("layer", "options", "error", "message"),
    [
        (ZONES, {"column": "age"}, SourceError, "no attribute 'age'; it has people, income"),
        (ZONES.assign(people="many"), {}, SourceError, "'many', which is not a number"),
        (ZONES.assign(people=[1, -5]), {}, DatasetError, r"negative amounts in 'people', down to"),
        (ZONES.set_crs(None, allow_override=True), {}, DatasetError, "no CRS"),
        (ZONES.iloc[[0, 0, 1]], {}, DatasetError, "lie on overlapping polygons of the layer"),
        (ZONES.set_geometry(ZONES.translate(1e5)), {}, DatasetError, "intersects"),
    ],
)
def test_rejects_invalid_layers(layer, options, error, message):
    regions = frame([shapely.box(100, 100, 900, 900)])
    with pytest.raises(error, match=message):
        allocate(layer, regions, **{"column": "people", "kind": "count"} | options)
