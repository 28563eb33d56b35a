"""Irregular polygons in a square of 30 km, small at its centre and large at its edges."""

import geopandas as gpd
import numpy as np
import shapely

SIDE_M = 30_000


def make_wards(seed: int, n: int = 400) -> gpd.GeoDataFrame:
    """Voronoi cells with `region_id`, `lon` and `lat` of an inner point, `area_m2`; EPSG:4326."""
    rng = np.random.default_rng(seed)
    places = SIDE_M / 2 + 4000 * rng.standard_t(2, (4 * n, 2))
    places = places[((places > 0) & (places < SIDE_M)).all(axis=1)][:n]
    cells = shapely.get_parts(shapely.voronoi_polygons(shapely.multipoints(places)))
    # away from the equator and the central meridian
    cells = shapely.intersection(cells, shapely.box(0, 0, SIDE_M, SIDE_M))
    cells = shapely.transform(cells, lambda xy: xy + np.array([430_000.0, 4_400_000.0]))
    frame = gpd.GeoDataFrame(geometry=list(cells), crs="EPSG:32650")
    area = frame.area.to_numpy()
    frame = frame.to_crs("EPSG:4326")
    inside = shapely.get_coordinates(shapely.point_on_surface(frame.geometry.to_numpy()))
    names = [f"w{index:04d}" for index in range(len(frame))]
    return frame.assign(region_id=names, lon=inside[:, 0], lat=inside[:, 1], area_m2=area)


def touching_pairs(regions: gpd.GeoDataFrame, split: np.ndarray, one: str, other: str) -> int:
    """Number of intersecting pairs of regions of two split parts."""
    shapes = regions.geometry.to_numpy()
    first, second = shapely.STRtree(shapes).query(shapes, predicate="intersects")
    return int(((split[first] == one) & (split[second] == other)).sum())
