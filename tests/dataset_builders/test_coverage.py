import numpy as np
import pyproj
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset_builders.areas import geodesic_areas, ring_coordinates
from dataset_builders.coverage import cell_cover, make_edges

WGS84 = pyproj.Geod(ellps="WGS84")


def cover_table(shapes, width, height):
    """`(n, height, width)` shares of cells, and the areas of the shapes."""
    edges = make_edges(*ring_coordinates(np.array(shapes, dtype=object)))
    cover = cell_cover(edges, width, height)
    table = np.zeros((len(shapes), height, width))
    table[cover.owner, cover.row, cover.column] = cover.share
    runs = (cover.run_owner, cover.run_row, cover.run_start, cover.run_stop, cover.run_share)
    for owner, row, start, stop, share in zip(*runs, strict=True):
        assert (table[owner, row, start:stop] == 0).all()
        table[owner, row, start:stop] = share
    return table, edges.areas(len(shapes))


def cover_by_shapely(shape, width, height):
    return np.array(
        [
            [shape.intersection(shapely.box(c, r, c + 1, r + 1)).area for c in range(width)]
            for r in range(height)
        ]
    )


@settings(max_examples=60)
@given(st.integers(0, 10**6))
def test_cover_is_that_of_shapely(seed):
    rng = np.random.default_rng(seed)
    shape = shapely.concave_hull(shapely.MultiPoint(rng.uniform(-3, 11, (12, 2))), 0.2)
    shape = shape.difference(shapely.Point(rng.uniform(0, 8, 2)).buffer(rng.uniform(0.1, 2)))
    table, areas = cover_table([shape], 8, 7)
    assert np.abs(table[0] - cover_by_shapely(shape, 8, 7)).max() < 1e-12
    assert areas[0] == pytest.approx(shape.area, rel=1e-12)


@pytest.mark.parametrize(
    "shape",
    [
        shapely.box(2, 1, 5, 4),  # on the lines of the grid
        shapely.box(2, 1, 5, 4).reverse(),
        shapely.box(-5, -5, 20, 20),
        shapely.box(0.25, 0.5, 0.5, 0.75),  # within one cell
        shapely.box(0.25, -4, 0.5, 20),
        shapely.box(-4, 2.25, 20, 2.5),
        shapely.Polygon([(0, 0), (7, 7), (0, 7)]),  # through the corners of cells
        shapely.MultiPolygon([shapely.box(0, 0, 2.5, 2), shapely.box(4.5, 0.5, 7, 6)]),
        shapely.Polygon(shapely.box(0, 0, 6, 6).exterior, [shapely.box(1, 1, 4.5, 5).exterior]),
        shapely.GeometryCollection(
            [shapely.Point(1, 1), shapely.MultiPolygon([shapely.box(0, 0, 1.5, 1)])]
        ),
    ],
)
def test_cover_of_special_shapes(shape):
    table, _ = cover_table([shape], 8, 7)
    polygons = shapely.union_all(shapely.get_parts(shape))
    assert np.abs(table[0] - cover_by_shapely(polygons, 8, 7)).max() < 1e-12


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.integers(3, 30))
def test_neighbours_cover_every_cell_once(seed, count):
    rng = np.random.default_rng(seed)
    cells = shapely.get_parts(
        shapely.voronoi_polygons(
            shapely.MultiPoint(rng.uniform(-1, 9, (count, 2))),
            extend_to=shapely.box(-5, -5, 15, 15),
        )
    )
    table, _ = cover_table(list(cells), 8, 7)
    assert np.abs(table.sum(axis=0) - 1).max() < 1e-12


def test_no_polygon_covers_nothing():
    table, areas = cover_table([], 3, 3)
    assert table.size == areas.size == 0
    table, areas = cover_table([shapely.Polygon(), None, shapely.box(50, 50, 60, 60)], 3, 3)
    assert table.sum() == 0
    assert list(areas) == [0, 0, 100]


@settings(max_examples=60)
@given(st.floats(-180, 180), st.floats(-84, 84), st.floats(1e-4, 1), st.floats(0, 6.3))
def test_areas_are_those_of_the_ellipsoid(lon, lat, size, turn):
    angles = turn + np.array([0.0, 1.1, 2.9, 4.0])
    ring = np.array([lon, lat]) + size * np.column_stack([np.cos(angles), np.sin(angles)])
    shape = shapely.Polygon(ring)
    expected, _ = WGS84.geometry_area_perimeter(shape)
    # great circles and geodesics part with the length of the edges
    tolerance = 3e-5 * size
    # GeographicLib itself rounds to some hundredths of a square metre
    assert geodesic_areas([shape])[0] == pytest.approx(abs(expected), rel=tolerance, abs=0.05)


def test_areas_of_holes_parts_and_none():
    whole = shapely.box(0, 0, 0.3, 0.3)
    hole = shapely.box(0.1, 0.1, 0.2, 0.2)
    far = shapely.box(5, 5, 5.1, 5.1)
    pierced = shapely.Polygon(whole.exterior, [hole.exterior])
    one, two, three, both, empty, none = geodesic_areas(
        [whole, hole, pierced, shapely.MultiPolygon([whole, far]), shapely.Polygon(), None]
    )
    assert three == pytest.approx(one - two, rel=1e-9)
    assert both == pytest.approx(one + geodesic_areas([far])[0], rel=1e-12)
    assert empty == 0
    assert np.isnan(none)


def test_area_across_the_antimeridian_takes_the_short_way():
    across = shapely.Polygon([(179.9, 0), (-179.9, 0), (-179.9, 0.2), (179.9, 0.2)])
    assert geodesic_areas([across])[0] == pytest.approx(
        geodesic_areas([shapely.box(0, 0, 0.2, 0.2)])[0], rel=1e-9
    )
