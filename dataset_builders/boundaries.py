"""Vector layers, and the boundary of a city, validated and in EPSG:4326."""

import os
import warnings
from pathlib import Path
from typing import Any, TypeAlias

import geopandas as gpd
import numpy as np
import shapely
from pyproj.exceptions import ProjError

from .errors import DatasetError, SourceError

Boundary: TypeAlias = shapely.Geometry | gpd.GeoSeries | gpd.GeoDataFrame | str | os.PathLike[str]
MAX_LATITUDE = 85.0
# largest relative change of area by a repair
REPAIR_TOLERANCE = 1e-3


def read_layer(path: str | Path, what: str = "layer") -> gpd.GeoDataFrame:
    """Read a vector layer.

    Args:
        path: GeoPackage, GeoJSON, Shapefile, GeoParquet, ...
        what: Description of the layer, for messages.

    Raises:
        SourceError: The file is missing, unreadable or without geometry.
    """
    path = Path(path)
    if not path.exists():
        raise SourceError(f"There is no {what} at {path}.")
    try:
        is_parquet = path.suffix.lower() in (".parquet", ".geoparquet")
        frame = gpd.read_parquet(path) if is_parquet else gpd.read_file(path)
    except Exception as error:  # GDAL's drivers have their own exceptions
        raise SourceError(f"{path} is not a {what} that geopandas can read: {error}") from error
    if not isinstance(frame, gpd.GeoDataFrame) or frame.active_geometry_name is None:
        raise SourceError(f"{path} is a table without geometry, not a {what}.")
    return frame


def read_boundary(boundary: Boundary) -> shapely.Geometry:
    """Read a boundary as one valid polygon or multipolygon in EPSG:4326.

    A boundary across the antimeridian is returned in one piece, with longitudes beyond 180.

    Args:
        boundary: A shapely polygon or multipolygon in EPSG:4326; a GeoSeries or GeoDataFrame in
            any CRS, whose rows are merged; or the path of a file that geopandas reads.

    Raises:
        SourceError: The file does not exist, or geopandas cannot read it.
        DatasetError: The boundary is empty, not a polygon, self-intersecting, without a CRS, beyond
            85 degrees of latitude, or has coordinates that do not match its CRS.
    """
    if isinstance(boundary, str | os.PathLike):
        boundary = read_layer(Path(boundary), "boundary")
    if isinstance(boundary, gpd.GeoDataFrame | gpd.GeoSeries):
        shape = _merged(boundary.geometry)
    elif isinstance(boundary, shapely.Geometry):
        shape = _repaired(_polygons(boundary))
    else:
        raise DatasetError(
            "A boundary must be a shapely polygon in EPSG:4326, a GeoDataFrame, a GeoSeries or the "
            f"path of a file, got {type(boundary).__name__}."
        )
    _check_degrees(shape)
    return _across_antimeridian(shape)


def _merged(series: gpd.GeoSeries) -> shapely.Geometry:
    if series.crs is None:
        raise DatasetError(
            'The boundary has no CRS. Set it, for example with `boundary.set_crs("EPSG:4326")`.'
        )
    parts = [_repaired(_polygons(one)) for one in series if one is not None and not one.is_empty]
    if not parts:
        raise DatasetError("The boundary is empty: it has no row with a polygon.")
    if series.crs.is_projected:
        bounds = shapely.total_bounds(parts)
        if np.abs(bounds).max() <= 360:
            raise DatasetError(
                f"The CRS of the boundary is {series.crs.name}, in metres, but its bounds "
                f"{_text(bounds)} look like degrees. Set the CRS with "
                '`boundary.set_crs("EPSG:4326", allow_override=True)`.'
            )
        # straight edges of the projection are curved in degrees
        step = max(np.ptp(bounds[[0, 2]]), np.ptp(bounds[[1, 3]])) / 256
        parts = list(shapely.segmentize(parts, step))
    else:
        _check_degrees(shapely.geometrycollections(parts))
    try:
        moved = gpd.GeoSeries(parts, crs=series.crs).to_crs("EPSG:4326")
    except ProjError as error:
        raise DatasetError(f"The boundary cannot be transformed from {series.crs.name}.") from error
    whole = shapely.multipolygons(list(shapely.get_parts(moved.to_numpy())))
    _check_degrees(whole)
    # parts on both sides of the antimeridian must touch before the union
    parts = shapely.get_parts(_across_antimeridian(whole))
    return _polygons(shapely.union_all(shapely.make_valid(parts)))


def _polygons(shape: shapely.Geometry) -> shapely.Geometry:
    """Reduce a geometry to a polygon or multipolygon."""
    if shape.is_empty:
        raise DatasetError("The boundary is empty.")
    if shape.geom_type == "GeometryCollection":
        parts = shapely.get_parts(shapely.get_parts(shape))
        flat = parts[shapely.get_type_id(parts) == 3]
        shape = shapely.multipolygons(flat) if len(flat) else shape
    if shape.geom_type not in ("Polygon", "MultiPolygon"):
        raise DatasetError(
            f"A boundary must be a polygon or multipolygon, got a {shape.geom_type}."
        )
    return shape


def _repaired(shape: shapely.Geometry) -> shapely.Geometry:
    """Make a shape valid, with a warning, where the repair is unambiguous."""
    if not np.isfinite(shapely.get_coordinates(shape)).all():
        raise DatasetError("The boundary has coordinates that are not finite.")
    if shape.is_valid:
        if shape.area == 0:
            raise DatasetError("The boundary has no area.")
        return shape
    why = shapely.is_valid_reason(shape)
    parts = shapely.get_parts(shape)
    overlap = len(parts) > 1 and shapely.is_valid(parts).all()
    try:
        repaired = shapely.union_all(parts) if overlap else shapely.make_valid(shape)
    except shapely.errors.GEOSException:  # such as coordinates near the largest float
        repaired = shapely.Polygon()
    # shapely counts the area of reversed loops as negative
    change = 0.0 if overlap else abs(shape.area - repaired.area)
    if repaired.area == 0 or change > REPAIR_TOLERANCE * repaired.area:
        what = "crosses itself" if "intersection" in why else "is not a valid polygon"
        raise DatasetError(
            f"The boundary {what} ({why}), so its interior is ambiguous. Repair it, for example "
            "with `shapely.make_valid`, and check the result."
        )
    warnings.warn(f"The boundary is not valid ({why}); it was made valid.", stacklevel=2)
    return _polygons(repaired)


def _check_degrees(shape: shapely.Geometry) -> None:
    bounds = shapely.total_bounds(shape)
    west, south, east, north = bounds
    if not np.isfinite(bounds).all():
        raise DatasetError("The boundary cannot be transformed to degrees. Check its CRS.")
    if min(west, south) < -360 or max(east, north) > 360 or max(-south, north) > 90:
        raise DatasetError(
            f"A boundary in EPSG:4326 must be in degrees, but this one spans {_text(bounds)}. Are "
            "lon and lat swapped? If it is in metres, give a GeoSeries with its CRS."
        )
    if max(-south, north) > MAX_LATITUDE:
        raise DatasetError(
            f"The boundary extends to {max(-south, north):g} degrees of latitude; beyond "
            f"{MAX_LATITUDE:g} degrees, near a pole, grids of regions are not supported."
        )


def _across_antimeridian(shape: shapely.Geometry) -> shapely.Geometry:
    """Join a shape across the antimeridian; its west end lies in [-180, 180)."""
    west, _, east, _ = shape.bounds
    if east - west > 180:
        shape = shapely.transform(shape, lambda xy: np.column_stack([xy[:, 0] % 360.0, xy[:, 1]]))
        if shape.bounds[2] - shape.bounds[0] > 90 or shape.area == 0:
            raise DatasetError(
                f"The boundary spans {east - west:g} degrees of longitude, more than half of the "
                "globe."
            )
        shape = _polygons(shapely.union_all(shapely.make_valid(shapely.get_parts(shape))))
        west = shape.bounds[0]
    turn = -360.0 * np.floor((west + 180.0) / 360.0)
    return shapely.transform(shape, lambda xy: xy + np.array([turn, 0.0])) if turn else shape


def _text(bounds: Any) -> str:
    west, south, east, north = bounds
    return f"({west:g}, {south:g}) to ({east:g}, {north:g})"


__all__ = ["Boundary", "read_boundary", "read_layer"]
