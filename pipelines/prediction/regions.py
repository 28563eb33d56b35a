"""Regions to predict: polygons of a file, or a grid over the images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely

from dataset_builders.assignment import assign_points
from dataset_builders.boundaries import read_layer
from dataset_builders.errors import DatasetError, SourceError
from dataset_builders.regions import h3_regions, polygon_regions, square_grid
from pipelines.common.errors import InputError

PARQUETS = (".parquet", ".geoparquet")
AROUND_M = 1.0
METRES_PER_DEGREE = 111_320.0


def read_regions(
    regions: str | Path | gpd.GeoDataFrame | None,
    region_id: str | None,
    photos: pd.DataFrame,
    *,
    side_m: float | None = None,
    h3_resolution: int | None = None,
) -> tuple[gpd.GeoDataFrame, pd.DataFrame]:
    """Read polygons, or create a grid over the photos.

    Args:
        regions: Polygon file, or frame with a CRS.
        region_id: Column of unique region ids.
        photos: `lon` and `lat` of the photos (EPSG:4326), for a grid.
        side_m: Side of grid squares in metres, instead of `regions`.
        h3_resolution: Resolution of H3 cells, instead of `regions`.

    Returns:
        Regions sorted by id with `region_id`, `lon` and `lat` (of a point within), `area_m2` and
        geometry (EPSG:4326); and the other columns of the file, in the same order. A grid has only
        cells with a photo.

    Raises:
        InputError: If not exactly one of the three is given, or the polygons are invalid.
    """
    given = [value is not None for value in (regions, side_m, h3_resolution)]
    if sum(given) != 1:
        raise InputError(
            "Define regions by one of --regions FILE (polygons), --side_m METRES (grid squares) "
            f"and --h3_resolution R; got {sum(given)} of them."
        )
    try:
        if regions is not None:
            frame = read_polygons(regions)
            return _polygons(frame, region_id)
        return _cells(photos, side_m, h3_resolution)
    except DatasetError as error:
        raise InputError(f"The regions are invalid: {error}") from error


def id_text(ids: pd.Series) -> pd.Series:
    """Convert ids to strings, so that 7, 7.0 and " 7 " are equal; missing ids stay missing."""

    def text(value: Any) -> str | None:
        if pd.isna(value):
            return None
        whole = isinstance(value, float | np.floating) and float(value).is_integer()
        return str(int(value)) if whole else str(value).strip()

    return pd.Series([text(value) or None for value in ids], index=ids.index, dtype=object)


def refuse_twins(frame: pd.DataFrame, names: Sequence[str], where: str) -> None:
    """Raise InputError if a required column occurs more than once."""
    if twins := [name for name in names if (frame.columns == name).sum() > 1]:
        raise InputError(f"{where} has several columns {', '.join(twins)}: rename all but one.")


def read_polygons(source: str | Path | gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    """Read a vector file; a frame is returned unchanged.

    Raises:
        InputError: If there is no such file, GDAL cannot read it, or it has no geometry.
    """
    if isinstance(source, gpd.GeoDataFrame):
        if source.active_geometry_name is None:
            raise InputError("The frame of polygons has no geometry. Set it by `set_geometry`.")
        return source
    if not isinstance(source, str | Path):
        raise InputError(
            f"Polygons must be a file or a GeoDataFrame, got a {type(source).__name__}. Create one "
            "by `geopandas.GeoDataFrame(frame, geometry=..., crs=...)`."
        )
    try:
        return read_layer(source, "file of polygons")
    except SourceError as error:
        raise InputError(str(error)) from error


def _polygons(
    frame: gpd.GeoDataFrame, region_id: str | None
) -> tuple[gpd.GeoDataFrame, pd.DataFrame]:
    columns = [name for name in frame.columns if name != frame.geometry.name]
    if region_id is None or region_id not in frame:
        unique = [str(name) for name in columns if _is_unique(frame[name])] or ["none"]
        got = "it is missing" if region_id is None else f"got {region_id!r}"
        raise InputError(
            f"--region_id must be a column of the regions; {got}. Columns with unique values: "
            f"{', '.join(unique)}."
        )
    refuse_twins(frame, [region_id], "The table of regions")
    frame = frame.assign(**{region_id: id_text(frame[region_id])})
    if frame.geometry.has_z.any():
        frame = frame.set_geometry(shapely.force_2d(frame.geometry.to_numpy()), crs=frame.crs)
    found = polygon_regions(frame, region_id)
    own = pd.DataFrame(frame[columns]).set_axis(frame[region_id], axis=0)
    return found, own.loc[found["region_id"]].reset_index(drop=True)


def _is_unique(column: pd.Series | pd.DataFrame) -> bool:
    return isinstance(column, pd.Series) and column.is_unique


def _cells(
    photos: pd.DataFrame, side_m: float | None, h3_resolution: int | None
) -> tuple[gpd.GeoDataFrame, pd.DataFrame]:
    lon, lat = photos["lon"].to_numpy(float), photos["lat"].to_numpy(float)
    around = _around(lon, lat)
    if side_m is not None:
        cells = square_grid(around, side_m, min_cover=0.0)
    else:
        cells = h3_regions(around, int(h3_resolution or 0), min_cover=0.0)
    rows = assign_points(lon, lat, cells, check=False)
    cells = cells.iloc[np.unique(rows[rows >= 0])].sort_values("region_id", ignore_index=True)
    kept = ["region_id", "lon", "lat", "area_m2", "geometry"]
    return cells[kept], pd.DataFrame(index=cells.index)


def _around(lon: Any, lat: Any) -> shapely.Geometry:
    """Area within a metre of the photos."""
    high = AROUND_M / METRES_PER_DEGREE
    wide = high / np.cos(np.radians(np.clip(lat, -89, 89)))
    return shapely.union_all(shapely.box(lon - wide, lat - high, lon + wide, lat + high))


__all__ = ["PARQUETS", "id_text", "read_polygons", "read_regions", "refuse_twins"]
