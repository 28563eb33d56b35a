"""Spatial layout of regions: districts and neighbourhoods."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import geopandas as gpd
import numpy as np
from numpy.typing import NDArray

from dataset_builders.errors import SplitError
from dataset_builders.split_checks import correlation_range
from dataset_builders.splits import block_numbers, default_block_m, local_xy, region_neighbourhood

from .cross_fit import Near
from .labels import Indicator
from .models import Floats

DISTRICTS_IN_A_ROW = 4
"""Minimum number of default districts across the extent."""
Protocol = Literal["block", "random"]


@dataclass(frozen=True)
class Place:
    """Locations, districts and neighbourhoods of regions.

    Attributes:
        xy: Local coordinates in metres, `(N, 2)`.
        districts: Square block of each region, `(N,)`.
        groups: Groups to hold out together, `(N,)`: districts, or single regions.
        near: See [`pipelines.prediction.cross_fit.Folds`].
        protocol: "block" (complete districts are held out) or "random".
        block_m: Side of a district in metres.
    """

    xy: Floats
    districts: NDArray[np.int64]
    groups: NDArray[np.int64]
    near: Near
    protocol: str
    block_m: float


def make_place(
    regions: gpd.GeoDataFrame,
    indicators: Sequence[Indicator],
    protocol: Protocol = "block",
    block_m: float | None = None,
    seed: int = 0,
) -> Place:
    """Compute districts and neighbourhoods of regions.

    Args:
        regions: Regions with an image.
        indicators: Their indicators.
        protocol: See [`predict_regions`].
        block_m: Side of a district in metres. By default chosen from the extent and spatial
            correlation of the labels.
        seed: Seed of the folds of the random protocol.
    """
    x, y = local_xy(regions["lon"].to_numpy(float), regions["lat"].to_numpy(float))
    neighbourhood = region_neighbourhood(regions.geometry, regions["lon"], regions["lat"])
    if block_m is None:
        block_m = _default_block_m(x, y, neighbourhood.cell_m, indicators)
    districts = block_numbers(x, y, block_m, neighbourhood)
    xy = np.column_stack([x, y])
    if protocol == "random":
        groups = np.random.default_rng(seed).permutation(len(x))
        return Place(xy, districts, groups, _none_near, protocol, block_m)
    return Place(xy, districts, districts, neighbourhood.near, protocol, block_m)


def _default_block_m(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    cell_m: float,
    indicators: Sequence[Indicator],
) -> float:
    """Correlation range of the labels, limited so that enough districts remain."""
    labelled = np.logical_or.reduce([np.isfinite(one.y) for one in indicators])
    if not labelled.any():
        return cell_m
    x, y = x[labelled], y[labelled]
    usual = float(default_block_m(x, y, cell_m))
    widest = float(np.sqrt((np.ptp(x) + cell_m) * (np.ptp(y) + cell_m))) / DISTRICTS_IN_A_ROW
    reach = [usual]
    for one in indicators:
        try:
            reach.append(correlation_range(x, y, one.y[labelled]))
        except SplitError:  # too few labels
            continue
    return min(float(np.nanmax(reach)), max(usual, widest))


def _none_near(rows: NDArray[np.int64], others: NDArray[np.int64]) -> NDArray[np.bool_]:
    return np.zeros(len(rows), dtype=bool)


__all__ = ["Place", "Protocol", "make_place"]
