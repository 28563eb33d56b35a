"""Areal interpolation: attributes of a polygon layer, allocated to regions.

Census zones, postcodes and population grid cells rarely nest in regions. Values are assumed to be
spread evenly over each polygon (areal weighting; Goodchild and Lam, Areal interpolation,
Geo-Processing 1, 1980), which matters less the smaller the polygons are.
"""

from pathlib import Path
from typing import Literal, get_args

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray

from .boundaries import read_layer
from .errors import DatasetError, SourceError
from .globe import check_polygons, refuse, to_degrees

LayerKind = Literal["count", "intensity"]
ROUNDING = 1e-9
OVERLAP = 1e-3
"""Largest share of a region that polygons may cover twice, such as slivers between neighbours."""


def allocate(
    layer: str | Path | gpd.GeoDataFrame,
    regions: gpd.GeoDataFrame,
    column: str,
    kind: LayerKind,
    *,
    min_coverage: float = 0.0,
) -> pd.DataFrame:
    """Allocate an attribute of a polygon layer to regions by area.

    Args:
        layer: Non-overlapping polygons with a CRS, or a file that geopandas reads. A null attribute
            is an unknown value.
        regions: Polygons with a CRS.
        column: Name of the attribute.
        kind: "count" for an amount per polygon (people): it is divided in proportion to area, which
            preserves totals where the regions cover the layer. "intensity" for a measurement
            (median income): the area-weighted mean over the region.
        min_coverage: Minimum coverage, in [0, 1]; regions below it have no value.

    Returns:
        Indexed like `regions`: `value`, NaN where no polygon has a value, and `coverage`, the share
        of the region's area on polygons with a value.

    Raises:
        SourceError: The layer cannot be read, or has no numeric column of this name.
        DatasetError: Missing CRS, invalid or overlapping polygons, negative counts, or no overlap
            with the regions.
    """
    if kind not in get_args(LayerKind):
        raise DatasetError(f"The kind of a layer is one of {get_args(LayerKind)}, got {kind!r}.")
    is_frame = isinstance(layer, gpd.GeoDataFrame)
    name = "the layer" if is_frame else Path(layer).name
    frame = layer if is_frame else read_layer(layer, "layer of polygons")
    values = _numbers(frame, column, name)
    zones, targets = _plane_shapes(frame, name), _plane_shapes(regions, "the table of regions")
    if kind == "count" and (values < 0).any():
        raise DatasetError(
            f"{name} has negative amounts in {column!r}, down to {np.nanmin(values):g}. If that "
            "marks missing values, make them null; for a measurement, use kind intensity."
        )
    zone, target = shapely.STRtree(targets).query(zones, predicate="intersects")
    area = shapely.area(shapely.intersection(zones[zone], targets[target]))
    total = np.bincount(target, area, len(targets))
    size = shapely.area(targets)
    refuse(
        regions.index.to_numpy(),
        total > size * (1 + OVERLAP),
        f"lie on overlapping polygons of {name}",
        "Remove the overlaps, which would be counted twice.",
    )
    if len(targets) and not total.any():
        raise DatasetError(f"No polygon of {name} intersects a region. Check the CRS of both.")
    known = np.isfinite(values[zone])
    zone, target, area = zone[known], target[known], area[known]
    covered = np.bincount(target, area, len(targets))
    weight = area / shapely.area(zones[zone]) if kind == "count" else area
    with np.errstate(invalid="ignore", divide="ignore"):
        amount = np.bincount(target, weight * values[zone], len(targets))
        found = amount if kind == "count" else amount / covered
        coverage = np.minimum(np.nan_to_num(covered / size), 1.0)
    coverage[coverage > 1 - ROUNDING] = 1.0
    valued = (coverage > ROUNDING) & (coverage >= min_coverage)
    columns = {"value": np.where(valued, found, np.nan), "coverage": coverage}
    return pd.DataFrame(columns, index=regions.index)


def _numbers(frame: gpd.GeoDataFrame, column: str, name: str) -> NDArray[np.float64]:
    if column not in frame:
        others = ", ".join(str(other) for other in frame.columns if other != frame.geometry.name)
        raise SourceError(f"{name} has no attribute {column!r}; it has {others}.")
    found = pd.to_numeric(frame[column], errors="coerce")
    text = frame[column].notna() & found.isna()
    if text.any():
        example = frame.loc[text, column].iloc[0]
        raise SourceError(f"{column!r} of {name} holds {example!r}, which is not a number.")
    return np.asarray(found.to_numpy(dtype=np.float64, na_value=np.nan))


def _plane_shapes(frame: gpd.GeoDataFrame, name: str) -> NDArray[np.object_]:
    """Polygons in an equal-area projection (EPSG:6933); null geometries become empty."""
    if frame.crs is None:
        raise DatasetError(f"{name} has no CRS. Set it with `frame.set_crs(...)`.")
    shapes, names = frame.geometry.to_numpy(), frame.index.to_numpy()
    check_polygons(shapes, names)
    there = ~(shapely.is_missing(shapes) | shapely.is_empty(shapes))
    plane = np.full(len(shapes), shapely.Polygon(), dtype=object)
    degrees = gpd.GeoSeries(to_degrees(shapes[there], frame.crs, names[there]), crs="EPSG:4326")
    plane[there] = degrees.to_crs("EPSG:6933").to_numpy()
    return plane


__all__ = ["LayerKind", "allocate"]
