"""Spatial layout of a city: boundary, regions, roads and sampling points."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import shapely

from ..assignment import assign_points
from ..boundaries import read_boundary, read_layer
from ..errors import SourceError
from ..files import atomic_path, digest, read_json
from ..parquet import is_whole
from ..regions import h3_regions, polygon_regions, square_grid, tile_regions
from ..roads import osmnx_with, read_roads_overpass, read_roads_pbf, sampling_points
from ..sources.street_view import Place
from ..splits import local_xy
from .recipe import BoundarySettings, CityRecipe

# margin around the regions, so that roads along their outer edges are included
ROAD_MARGIN_DEGREES = 0.001


@dataclass(frozen=True)
class Layout:
    """Spatial layout of a city.

    Attributes:
        boundary: Boundary of the city, EPSG:4326.
        regions: Regions as returned by [`square_grid`][dataset_builders.regions.square_grid].
        roads: Roads in and around the regions; None if the recipe has no `roads`.
        points: Sampling points along the roads, with `region_id`; None if there are no roads.
    """

    boundary: shapely.Geometry
    regions: gpd.GeoDataFrame
    roads: gpd.GeoDataFrame | None = None
    points: gpd.GeoDataFrame | None = None

    @property
    def places(self) -> list[Place]:
        """Sampling points in the format of street-view sources, sorted by region."""
        if self.points is None:
            return []
        columns = ("point_id", "lon", "lat", "heading")
        rows = zip(*(self.points[name] for name in columns), strict=True)
        return [Place(str(i), float(x), float(y), float(h)) for i, x, y, h in rows]


def lay_out(recipe: CityRecipe, cache: Path, limit: int | None = None) -> Layout:
    """Compute the layout of a city; roads are cached.

    Args:
        recipe: Recipe of the city.
        cache: Cache folder for downloads and roads.
        limit: Number of regions of a trial build, taken from the centre; all by default.

    Raises:
        DatasetError: The boundary is invalid or contains no region.
        SourceError: No roads were found.
    """
    boundary = city_boundary(recipe, cache)
    regions = city_regions(recipe, boundary)
    if limit is not None:
        regions = _middle(regions, limit)
    if recipe.roads is None:
        return Layout(boundary, regions)
    roads = _roads(recipe, regions, cache)
    return Layout(boundary, regions, roads, _points(recipe, roads, regions))


def _middle(regions: gpd.GeoDataFrame, count: int) -> gpd.GeoDataFrame:
    """The most central regions; the first ones lie in a corner, often without roads."""
    x, y = local_xy(regions["lon"].to_numpy(), regions["lat"].to_numpy())
    nearest = np.argsort(np.hypot(x - np.median(x), y - np.median(y)), kind="stable")[:count]
    return regions.iloc[np.sort(nearest)].reset_index(drop=True)


def city_boundary(recipe: CityRecipe, cache: Path) -> shapely.Geometry:
    """Boundary of a city, EPSG:4326."""
    settings = recipe.boundary
    if settings.file is not None:
        return read_boundary(recipe.path(settings.file))
    if settings.bbox is not None:
        return read_boundary(shapely.box(*settings.bbox))
    file = cache / f"boundary-{digest(settings.model_dump())}.geojson"
    if read_json(file) is None:
        with atomic_path(file) as temporary:
            _geocode(settings, cache).to_file(temporary, driver="GeoJSON")
    return read_boundary(file)


def city_regions(recipe: CityRecipe, boundary: shapely.Geometry) -> gpd.GeoDataFrame:
    """Regions of a city within its boundary."""
    settings, city = recipe.regions, recipe.city
    cover = settings.min_cover
    if settings.scheme == "tiles":
        zoom, scheme = int(settings.zoom or 0), settings.tile_scheme
        return tile_regions(boundary, zoom, scheme, min_cover=cover, city=city)
    if settings.scheme == "h3":
        return h3_regions(boundary, int(settings.resolution or 0), min_cover=cover, city=city)
    if settings.scheme == "polygons":
        frame = read_layer(recipe.path(str(settings.file)), "file of polygons (regions.file)")
        return polygon_regions(frame, str(settings.id_column), city=city)
    plane = settings.plane
    return square_grid(boundary, settings.side_m, min_cover=cover, plane=plane, city=city)


def _geocode(settings: BoundarySettings, cache: Path) -> gpd.GeoDataFrame:
    changes: dict[str, Any] = {"use_cache": True, "cache_folder": str(cache / "osm")}
    if settings.nominatim_url is not None:
        changes["nominatim_url"] = settings.nominatim_url
    with osmnx_with(**changes) as osmnx:
        try:
            return osmnx.geocode_to_gdf(str(settings.place))[["geometry"]]
        except (osmnx._errors.InsufficientResponseError, TypeError) as error:
            raise SourceError(
                f"Nominatim found no area named {settings.place!r} (boundary.place): {error}. "
                "Give a `file` or a `bbox`."
            ) from error
        except Exception as error:  # network errors and invalid responses
            raise SourceError(
                f"The request to Nominatim for {settings.place!r} failed: {type(error).__name__}. "
                "Try again later, or give a `file` or a `bbox`."
            ) from error


def _roads(recipe: CityRecipe, regions: gpd.GeoDataFrame, cache: Path) -> gpd.GeoDataFrame:
    settings = recipe.roads
    assert settings is not None
    around = shapely.box(*regions.total_bounds).buffer(ROAD_MARGIN_DEGREES, join_style="mitre")
    stamp: list[Any] = [list(settings.classes), around.bounds, settings.overpass_url]
    if settings.pbf is not None:
        pbf = recipe.path(settings.pbf)
        if not pbf.is_file():
            raise SourceError(
                f"There is no OpenStreetMap extract {pbf} (roads.pbf). Download one from "
                "download.geofabrik.de or download.bbbike.org, or omit `pbf` to use Overpass."
            )
        stamp += [pbf.name, pbf.stat().st_size, pbf.stat().st_mtime_ns]
    file = cache / f"roads-{digest(stamp)}.parquet"
    if is_whole(file):
        return gpd.read_parquet(file)
    if settings.pbf is not None:
        roads = read_roads_pbf(recipe.path(settings.pbf), settings.classes)
    else:
        roads = read_roads_overpass(around, cache / "osm", settings.classes, settings.overpass_url)
    roads = roads[roads.intersects(around)].reset_index(drop=True)
    if len(roads) == 0:
        west, south, east, north = around.bounds
        raise SourceError(
            f"No road intersects the regions, which span ({west:g}, {south:g}) to "
            f"({east:g}, {north:g}). Does the extract cover another area?"
        )
    with atomic_path(file) as temporary:
        roads.to_parquet(temporary, write_page_checksum=True)
    return roads


def _points(
    recipe: CityRecipe, roads: gpd.GeoDataFrame, regions: gpd.GeoDataFrame
) -> gpd.GeoDataFrame:
    assert recipe.roads is not None
    points = sampling_points(roads, recipe.roads.spacing_m, recipe.roads.thin_m)
    # roads extend beyond the regions, so many points may lie outside
    lon, lat = points["lon"].to_numpy(), points["lat"].to_numpy()
    found = assign_points(lon, lat, regions, check=False)
    inside = np.flatnonzero(found >= 0)
    points = points.iloc[inside].assign(
        region_id=regions["region_id"].to_numpy()[found[inside]], _row=found[inside]
    )
    points = points.sort_values(["_row", "point_id"]).drop(columns="_row")
    # IDs have a resolution of 0.1 m, so points closer than that are duplicates
    return points.drop_duplicates("point_id").reset_index(drop=True)


__all__ = ["Layout", "city_boundary", "city_regions", "lay_out"]
