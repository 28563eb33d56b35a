import itertools

import geopandas as gpd
import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset_builders.errors import DatasetError, SourceError
from dataset_builders.roads import (
    network_length_m,
    read_roads_pbf,
    sampling_points,
)

UTM = "EPSG:32650"


def roads(*lines, crs=UTM):
    frame = gpd.GeoDataFrame(
        {"highway": ["primary"] * len(lines), "name": [f"road {i}" for i in range(len(lines))]},
        geometry=[shapely.LineString(line) for line in lines],
        crs=crs,
    )
    return frame.to_crs("EPSG:4326")


def grid_of_streets(blocks=6, side=80.0):
    """Network whose edges are all much shorter than the spacing."""
    ticks = np.arange(blocks + 1) * side
    edges = []
    for at in ticks:
        for start, stop in itertools.pairwise(ticks):
            edges += [[(start, at), (stop, at)], [(at, start), (at, stop)]]
    base = np.array([448_000.0, 4_417_000.0])
    return roads(*[np.array(edge) + base for edge in edges])


@settings(max_examples=6)
@given(
    st.lists(
        st.tuples(st.floats(0, 5000), st.floats(0, 5000), st.floats(10, 3000), st.floats(0, 6)),
        min_size=1,
        max_size=12,
    ),
    st.floats(50, 900),
)
def test_number_of_points_is_length_over_spacing(segments, spacing):
    base = np.array([448_000.0, 4_417_000.0])
    lines = [
        [base + np.array([x, y]), base + np.array([x + length * np.cos(a), y + length * np.sin(a)])]
        for x, y, length, a in segments
    ]
    net = roads(*lines)
    points = sampling_points(net, spacing, thin_m=0)
    assert abs(len(points) - network_length_m(net) / spacing) <= 1


def test_points_do_not_depend_on_order_or_direction():
    net = grid_of_streets()
    shuffled = net.sample(frac=1, random_state=3)
    shuffled.geometry = [shapely.reverse(line) for line in shuffled.geometry]
    one, two = sampling_points(net, 100), sampling_points(shuffled, 100)
    assert list(one["point_id"]) == list(two["point_id"])


def test_dual_carriageways_are_thinned():
    base = np.array([448_000.0, 4_417_000.0])
    lanes = [[base + np.array([0, y]), base + np.array([5000, y])] for y in (0, 20)]
    net = roads(*lanes)
    assert len(sampling_points(net, 500, thin_m=0)) == 20
    thinned = sampling_points(net, 500, thin_m=50).to_crs(UTM)
    xy = shapely.get_coordinates(thinned.geometry)
    distance = np.linalg.norm(xy[:, None] - xy[None], axis=-1) + np.eye(len(xy)) * 1e9
    assert distance.min() >= 50
    assert 10 <= len(thinned) < 20


def test_heading_follows_the_road():
    # on the central meridian, where grid north is true north
    base = np.array([500_000.0, 4_417_000.0])
    east = sampling_points(roads([base, base + np.array([2000, 0])]), 500)
    north = sampling_points(roads([base, base + np.array([0, 2000])]), 500)
    assert np.allclose(east["heading"], 90, atol=0.1)
    assert np.allclose(np.minimum(north["heading"], 360 - north["heading"]), 0, atol=0.1)


def test_rejects_invalid_roads_and_distances():
    net = grid_of_streets(2)
    for roads, spacing, thin, message in (
        (net.set_crs(None, allow_override=True), 500, 50, "no CRS"),
        (net.iloc[:0], 500, 50, "no road"),
        (net, 100, 100, "below it"),
    ):
        with pytest.raises(DatasetError, match=message):
            sampling_points(roads, spacing, thin)


def test_reads_and_samples_a_real_extract(shared_data, tmp_path):
    path = shared_data / "osm" / "monaco.osm.pbf"
    net = read_roads_pbf(path)
    assert len(net) > 700
    assert set(net["highway"]) >= {"primary", "secondary", "tertiary", "residential"}
    points = sampling_points(net, 500, thin_m=0)
    assert abs(len(points) - network_length_m(net) / 500) <= 1
    assert points["point_id"].is_unique
    metric = net.to_crs(net.estimate_utm_crs())
    assert points.to_crs(metric.crs).distance(metric.union_all()).max() < 0.01
    again = sampling_points(net.sample(frac=1, random_state=0), 500, thin_m=0)
    assert list(again["point_id"]) == list(points["point_id"])
    with pytest.raises(SourceError, match=r"it has .*residential"):
        read_roads_pbf(path, classes=["motorway_hyperloop"])
    with pytest.raises(SourceError, match="No OpenStreetMap extract"):
        read_roads_pbf(tmp_path / "none.osm.pbf")
