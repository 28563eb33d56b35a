"""Roads from OpenStreetMap, and street-view sampling points along them.

Points are spaced along the cumulative length of the merged network. Spacing them along each edge
would make their density depend on junctions, where edges are cut.
"""

import hashlib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import shapely
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from .errors import DatasetError, MissingExtraError, SourceError

STREETS = (
    "primary",
    "primary_link",
    "secondary",
    "secondary_link",
    "tertiary",
    "tertiary_link",
    "residential",
    "unclassified",
    "living_street",
    "pedestrian",
)
"""Values of `highway` with street life and street views; no motorways, no paths."""
COLUMNS = ("osm_id", "highway", "name", "geometry")


def read_extract(path: str | Path, read: Callable[[Any], Any]) -> Any:
    """Read an OpenStreetMap extract (.osm.pbf) by a function of a pyrosm `OSM` object.

    Raises:
        SourceError: The file is missing, truncated or not an extract.
        MissingExtraError: pyrosm is not installed.
    """
    if not Path(path).is_file():
        raise SourceError(f"No OpenStreetMap extract at {path}: give the path of an .osm.pbf file.")
    try:
        from pyrosm import OSM
    except ImportError as error:
        raise MissingExtraError("pyrosm", "geo") from error
    try:
        return read(OSM(str(path)))
    except Exception as error:  # of any kind, for truncated files
        raise SourceError(f"{path} cannot be read as an .osm.pbf extract: {error!r}") from error


@contextmanager
def osmnx_with(**changes: Any) -> Iterator[Any]:
    """Import osmnx, with some of its global settings changed within the block.

    Raises:
        MissingExtraError: osmnx is not installed.
    """
    try:
        import osmnx
    except ImportError as error:
        raise MissingExtraError("osmnx", "geo") from error
    before = {name: getattr(osmnx.settings, name) for name in changes}
    vars(osmnx.settings).update(changes)
    try:
        yield osmnx
    finally:
        vars(osmnx.settings).update(before)


def read_roads_pbf(path: str | Path, classes: Collection[str] = STREETS) -> gpd.GeoDataFrame:
    """Read roads from an OpenStreetMap extract.

    Args:
        path: An .osm.pbf file.
        classes: Values of `highway` to keep.

    Returns:
        `osm_id, highway, name, geometry` (lines, EPSG:4326), sorted by `osm_id`.

    Raises:
        SourceError: Missing file, or no road in it.
        MissingExtraError: pyrosm is not installed.
    """
    found = read_extract(path, lambda extract: extract.get_network(network_type="all"))
    if found is None or len(found) == 0:
        raise SourceError(f"{path} contains no roads.")
    return _tidy(found.rename(columns={"id": "osm_id"}), classes, str(path))


def read_roads_overpass(
    boundary: shapely.Geometry,
    cache_dir: str | Path,
    classes: Collection[str] = STREETS,
    overpass_url: str | None = None,
) -> gpd.GeoDataFrame:
    """Read roads of an area from an Overpass server; responses are cached.

    For areas larger than a city, which time out, use an extract and [`read_roads_pbf`].

    Args:
        boundary: Polygon, EPSG:4326.
        cache_dir: Folder of cached responses.
        classes: Values of `highway` to keep.
        overpass_url: Server to use instead of the public one.

    Returns:
        As [`read_roads_pbf`].

    Raises:
        SourceError: No road in the area, or an unusable response.
        MissingExtraError: osmnx is not installed.
    """
    changes: dict[str, Any] = {"use_cache": True, "cache_folder": str(cache_dir)}
    if overpass_url is not None:
        changes |= {"overpass_url": overpass_url, "overpass_rate_limit": False}
    with osmnx_with(**changes) as osmnx:
        tags: dict[str, Any] = {"highway": sorted(classes)}
        try:
            found = osmnx.features_from_polygon(boundary, tags).reset_index()
        except osmnx._errors.InsufficientResponseError as error:
            raise SourceError(f"OpenStreetMap has no roads in the area: {error}") from error
        except OSError:  # network error
            raise
        except Exception as error:  # of any kind, for unusable responses
            raise SourceError(
                f"Unusable response of Overpass: {error!r}. Rerun the command later; if the error "
                f"persists, delete the cached responses in {cache_dir}."
            ) from error
    return _tidy(found.rename(columns={"id": "osm_id"}), classes, "the area")


def _tidy(found: gpd.GeoDataFrame, classes: Collection[str], source: str) -> gpd.GeoDataFrame:
    lines = found[found.geometry.geom_type.isin(["LineString", "MultiLineString"])].copy()
    if "name" not in lines:
        lines["name"] = None
    lines = lines[lines["highway"].isin(list(classes))]
    if len(lines) == 0:
        kinds = ", ".join(sorted(found["highway"].dropna().unique())) or "none"
        raise SourceError(f"{source} has no roads of the requested classes; it has {kinds}.")
    lines = lines.explode(index_parts=False)
    lines["_wkb"] = lines.geometry.to_wkb()
    lines = lines.sort_values(["osm_id", "_wkb"]).drop_duplicates("_wkb")
    return gpd.GeoDataFrame(
        lines[list(COLUMNS)].reset_index(drop=True), geometry="geometry", crs="EPSG:4326"
    )


def sampling_points(
    roads: gpd.GeoDataFrame, spacing_m: float = 500.0, thin_m: float = 50.0
) -> gpd.GeoDataFrame:
    """Points at regular spacing along a road network.

    Args:
        roads: Lines with a CRS, as from [`read_roads_pbf`].
        spacing_m: Distance between points along the roads, in metres.
        thin_m: Minimum distance between points in metres: of two closer ones (dual carriageways)
            the later is dropped. 0 keeps all `length / spacing_m` points, to within one.

    Returns:
        `point_id` (from the coordinates, hence reproducible), `highway`, `name`, `heading` (of the
        road in one direction, degrees clockwise from north), `lon`, `lat`, geometry (EPSG:4326),
        in a fixed order.

    Raises:
        DatasetError: Missing CRS, no road, or invalid distances.
    """
    if roads.crs is None:
        raise DatasetError("The roads have no CRS. Set it with `roads.set_crs(...)`.")
    if len(roads) == 0:
        raise DatasetError("There are no roads to place points on.")
    if not 0 <= thin_m < spacing_m:
        raise DatasetError(
            f"`spacing_m` must be above 0 and `thin_m` below it, got {spacing_m} and {thin_m}."
        )
    metric = roads.to_crs(roads.estimate_utm_crs())
    chains = _chains(metric.geometry.to_numpy())
    points, headings = _along(chains, spacing_m)
    xy = shapely.get_coordinates(points)
    kept = _thin(xy, thin_m)
    points, headings = points[kept], headings[kept]
    nearest = shapely.STRtree(metric.geometry.to_numpy()).nearest(points)
    placed = gpd.GeoSeries(points, crs=metric.crs).to_crs("EPSG:4326")
    lon, lat = placed.x.to_numpy(), placed.y.to_numpy()
    return gpd.GeoDataFrame(
        {
            "point_id": [
                hashlib.sha256(f"{x:.6f},{y:.6f}".encode()).hexdigest()[:16]
                for x, y in zip(lon, lat, strict=True)
            ],
            "highway": metric["highway"].to_numpy()[nearest] if "highway" in metric else None,
            "name": metric["name"].to_numpy()[nearest] if "name" in metric else None,
            "heading": headings,
            "lon": lon,
            "lat": lat,
        },
        geometry=placed.to_numpy(),
        crs="EPSG:4326",
    )


def network_length_m(roads: gpd.GeoDataFrame) -> float:
    """Total length of roads in metres, in the UTM zone of their centre."""
    return float(roads.to_crs(roads.estimate_utm_crs()).length.sum())


def _chains(lines: NDArray[Any]) -> NDArray[Any]:
    """Merge lines where two ends meet, in an order that does not depend on theirs."""
    merged = shapely.line_merge(shapely.multilinestrings(list(shapely.get_parts(lines))))
    # orient chains from west to east, or from south to north
    chains = shapely.get_parts(merged)
    first = shapely.get_coordinates(shapely.get_point(chains, 0))
    last = shapely.get_coordinates(shapely.get_point(chains, -1))
    turn = (first[:, 0] > last[:, 0]) | ((first[:, 0] == last[:, 0]) & (first[:, 1] > last[:, 1]))
    chains = np.where(turn, shapely.reverse(chains), chains)
    keys = np.array([shapely.to_wkb(chain) for chain in chains], dtype=object)
    centres = shapely.get_coordinates(shapely.centroid(chains)).round(3)
    order = sorted(range(len(chains)), key=lambda i: (*centres[i], keys[i]))
    return chains[order]


def _along(chains: NDArray[Any], spacing_m: float) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Points every `spacing_m` along the concatenated chains, and headings in degrees."""
    ends = np.concatenate([[0.0], np.cumsum(shapely.length(chains))])
    # centred: half a spacing remains at the start
    distances = np.arange(spacing_m / 2, ends[-1], spacing_m)
    if len(distances) == 0:
        distances = np.array([ends[-1] / 2])
    owner = np.minimum(np.searchsorted(ends, distances, side="right") - 1, len(chains) - 1)
    within = distances - ends[owner]
    step = 1.0  # metres before and after a point, to compute its heading
    before = shapely.get_coordinates(
        shapely.line_interpolate_point(chains[owner], np.maximum(within - step, 0))
    )
    after = shapely.get_coordinates(shapely.line_interpolate_point(chains[owner], within + step))
    east, north = (after - before).T
    headings = np.degrees(np.arctan2(east, north)) % 360
    return shapely.line_interpolate_point(chains[owner], within), headings


def _thin(xy: NDArray[np.float64], thin_m: float) -> NDArray[np.int64]:
    """Indices of the points kept after dropping the later of every close pair."""
    keep = np.ones(len(xy), dtype=bool)
    if thin_m > 0:
        pairs = cKDTree(xy).query_pairs(thin_m, output_type="ndarray")
        for earlier, later in pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))].tolist():
            if keep[earlier]:
                keep[later] = False
    return np.flatnonzero(keep)


__all__ = [
    "STREETS",
    "network_length_m",
    "osmnx_with",
    "read_extract",
    "read_roads_overpass",
    "read_roads_pbf",
    "sampling_points",
]
