"""Reader of vector layers, including GeoParquet."""

from pathlib import Path

import geopandas as gpd

from .errors import SourceError


def read_layer(path: str | Path, what: str = "layer") -> gpd.GeoDataFrame:
    """Read a GeoPackage, GeoJSON, Shapefile, GeoParquet...; messages name it by `what`.

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


__all__ = ["read_layer"]
