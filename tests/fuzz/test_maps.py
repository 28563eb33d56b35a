import json
import math

import geopandas as gpd
import numpy as np
import pytest
import shapely
from hypothesis import example, given
from hypothesis import strategies as st

from dataset_builders.boundaries import read_boundary
from dataset_builders.points import read_points
from dataset_builders.regions import square_grid
from dataset_builders.roads import read_roads_pbf
from dataset_builders.zonal import zonal
from pipelines.prediction.regions import read_regions

from ..dataset_builders.rasters import write_raster
from .harness import altered, damaged, inputs, knock

SQUARES = [shapely.box(x, 39.9, x + 0.01, 39.91) for x in (116.30, 116.31, 116.32)]
LAYER = gpd.GeoDataFrame({"id": ["a", "b", "c"], "people": [1.0, 2.0, 3.0]}, geometry=SQUARES)
LAYER = LAYER.set_crs("EPSG:4326")
GEOJSON = json.loads(LAYER.to_json())
NUMBERS = st.floats(-1000, 1000) | st.sampled_from(
    (0.0, 180.0, -180.0, 90.0, 360.0, 1e6, 1e308, math.nan, math.inf, 5e-324)
)
RINGS = st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=6)
SHAPES = st.one_of(
    st.builds(
        lambda x, y, side: shapely.geometry.mapping(shapely.box(x, y, x + side, y + side)),
        st.floats(-181, 181),
        st.floats(-86, 86),
        st.floats(1e-6, 3),
    ),
    st.builds(lambda ring: {"type": "Polygon", "coordinates": [[*ring, ring[0]]]}, RINGS),
    st.builds(lambda ring: {"type": "LineString", "coordinates": ring}, RINGS),
    st.builds(lambda ring: {"type": "MultiPoint", "coordinates": ring}, RINGS),
    st.builds(
        lambda one, two: {
            "type": "MultiPolygon",
            "coordinates": [[[*one, one[0]]], [[*two, two[0]]]],
        },
        RINGS,
        RINGS,
    ),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("layers")


@pytest.fixture(scope="module")
def raster(folder):
    from affine import Affine

    cells = np.arange(48, dtype=np.float32).reshape(6, 8)
    place = Affine(0.005, 0, 116.295, 0, -0.005, 39.915)
    return write_raster(folder / "whole.tif", cells, place).read_bytes()


def read_all(path, door):
    knock(door, lambda: read_boundary(path))
    found = knock(door, lambda: read_regions(path, "id", None))
    if found is not None:
        assert found[0]["region_id"].is_unique
        assert found[0].geometry.is_valid.all()
        assert np.isfinite(found[0].geometry.bounds.to_numpy()).all()
    knock(door, lambda: read_points(path, coord_system="wgs84", count_column="people"))


EMPTY: dict = {"type": "FeatureCollection", "features": []}


@inputs(20)
@given(
    (altered(GEOJSON) | altered(GEOJSON, SHAPES)).map(lambda value: json.dumps(value).encode())
    | damaged(json.dumps(GEOJSON).encode())
)
@example(json.dumps(EMPTY).encode())
@example(json.dumps({**EMPTY, "features": [{**GEOJSON["features"][0], "geometry": None}]}).encode())
@example(b'{"type": "FeatureCollection", "features": ' + b"[" * 100_000)
def test_geojson(folder, content):
    path = folder / "layer.geojson"
    path.write_bytes(content)
    read_all(path, "polygons: GeoJSON")


@pytest.fixture(scope="module", params=["gpkg", "parquet"])
def layer(request, folder):
    path = folder / f"whole.{request.param}"
    LAYER.to_file(path) if request.param == "gpkg" else LAYER.to_parquet(path)
    return folder / f"layer.{request.param}", path.read_bytes()


@inputs(8)
@given(data=st.data())
def test_binary_layers(layer, data):
    path, whole = layer
    path.write_bytes(data.draw(damaged(whole)))
    door = {".gpkg": "GeoPackage", ".parquet": "GeoParquet"}[path.suffix]
    read_all(path, f"polygons: {door}")


# GEOS cannot repair it: "Overlay input is mixed-dimension"
BEYOND_FLOATS = {
    "type": "MultiPolygon",
    "coordinates": [
        [[(1e308, 73.9), (1e308, 73.9), (1e308, 73.9)]],
        [[(531.4, 90), (90, 0), (90, 90), (531.4, 90)]],
    ],
}


@inputs(20)
@given(SHAPES, st.floats(1, 1e6))
@example({"type": "Polygon", "coordinates": [[(-180, -85), (180, -85), (180, 85), (-180, -85)]]}, 1)
@example({"type": "Polygon", "coordinates": [[(7, 43), (7.1, 43), (7.1, 43.1), (7, 43)]]}, 1)
@example(BEYOND_FLOATS, 1)
def test_outlines(shape, side_m):
    try:
        shape = shapely.geometry.shape(shape)
    except (ValueError, shapely.errors.ShapelyError):
        return
    found = knock("outlines", lambda: square_grid(shape, max(side_m, 1000 * shape.length)))
    assert found is None or found["region_id"].is_unique


@inputs(20)
@given(data=st.data())
def test_rasters(folder, raster, data):
    path = folder / "damaged.tif"
    path.write_bytes(data.draw(damaged(raster)))
    for kind in ("count", "intensity"):
        found = knock("rasters", lambda kind=kind: zonal(path, LAYER, kind))
        if found is not None:
            assert found["coverage"].between(0, 1).all()
            assert (found["value"].isna() | (found["coverage"] > 0)).all()


@inputs(5)
@given(st.binary(max_size=60))
@example(b"\x00\x00\x00\x0e\x0a\x09OSMHeader\x18\x10")
def test_extracts(folder, content):
    path = folder / "cut.osm.pbf"
    path.write_bytes(content)
    knock("OpenStreetMap extracts", lambda: read_roads_pbf(path))
