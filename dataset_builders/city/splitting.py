"""Random and spatial block splits of a city's regions.

The side of a block is at least the correlation range of the labels, and regions with a duplicate
image never lie in different parts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import geopandas as gpd
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..errors import SplitError
from ..schema import Indicator
from ..split_checks import correlation_range, keep_together
from ..splits import default_block_m, local_xy, region_splits
from .recipe import SplitSettings

BLOCKS_IN_A_ROW = 3
"""Minimum number of blocks per row, whatever the correlation ranges."""
PARTS = ("train", "test", "validation")
"""Order of precedence: a group that straddles parts keeps the regions of the first of these."""


@dataclass(frozen=True)
class Splits:
    """Splits of a city's regions.

    Attributes:
        columns: Columns `split_random`, `split_block` and `fold_block`, each `(n_regions,)`.
        block_m: Side of a block in metres.
        ranges_m: Correlation range of each label in metres, where it could be estimated.
        notes: Caveats, one sentence each.
    """

    columns: dict[str, NDArray[np.object_]]
    block_m: float
    ranges_m: dict[str, float]
    notes: tuple[str, ...]


def split_regions(
    regions: gpd.GeoDataFrame,
    targets: pd.DataFrame,
    indicators: Sequence[Indicator],
    settings: SplitSettings,
    groups: Sequence[Sequence[str]] = (),
) -> Splits:
    """Split a city's regions; the result does not depend on their order.

    Args:
        regions: Regions with `region_id`, `lon`, `lat`, `area_m2` and geometry (EPSG:4326).
        targets: Labels, with the index of `regions`.
        indicators: Indicators of the columns of `targets`.
        settings: Seed, block size and buffer width.
        groups: IDs of regions that share an image. The random split moves a group into one part.
            The block split keeps the regions of one part and drops the others, since moving them
            would place them next to another part.
    """
    order = np.argsort(regions["region_id"].to_numpy(dtype=str), kind="stable")
    lon, lat = (regions[name].to_numpy(dtype=float)[order] for name in ("lon", "lat"))
    cell_m = float(np.sqrt(regions["area_m2"].median()))
    x, y = local_xy(lon, lat)
    ranges = correlation_ranges(x, y, targets.iloc[order], indicators)
    block_m, notes = _block_m(x, y, cell_m, ranges, settings)
    buffer_m = max(settings.buffer_cells - 1, 0) * cell_m if settings.buffer_cells > 0 else None
    geometry = regions.geometry.to_numpy()[order]
    columns, problems = region_splits(geometry, lon, lat, cell_m, settings.seed, block_m, buffer_m)
    names = regions["region_id"].to_numpy(dtype=str)[order].tolist()
    if columns["split_random"][0] is not None:
        columns["split_random"] = keep_together(names, columns["split_random"], groups)
    for name in ("split_block", "fold_block"):
        columns[name] = _part(names, columns[name], groups)
    back = np.argsort(order)
    columns = {name: values[back] for name, values in columns.items()}
    return Splits(columns, block_m, ranges, (*notes, *problems))


def correlation_ranges(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    targets: pd.DataFrame,
    indicators: Sequence[Indicator],
) -> dict[str, float]:
    """Spatial correlation range of each label in metres, on the scale that is predicted.

    Args:
        x: Eastings in metres, `(n,)`.
        y: Northings in metres, `(n,)`.
        targets: Raw labels, `n` rows.
        indicators: Indicators of the columns of `targets`; those without an estimable range are
            left out of the result.
    """
    found = {}
    for one in indicators:
        values = targets[one.name].to_numpy(dtype=float)
        values = np.log1p(values) if one.transform == "ln1p" else values
        try:
            range_m = correlation_range(x, y, values)
        except SplitError:  # too few labelled regions
            continue
        if np.isfinite(range_m):
            found[one.name] = range_m
    return found


def _block_m(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    cell_m: float,
    ranges: Mapping[str, float],
    settings: SplitSettings,
) -> tuple[float, list[str]]:
    """Side of a block, and a note for each label whose correlation range is longer."""
    usual = float(default_block_m(x, y, cell_m))
    widest = max(float(np.sqrt((np.ptp(x) + cell_m) * (np.ptp(y) + cell_m))) / BLOCKS_IN_A_ROW, 0)
    wanted = max([usual, *ranges.values()])
    block_m = settings.block_m or min(wanted, max(usual, widest))
    beyond = {name: range_m for name, range_m in ranges.items() if range_m > block_m * (1 + 1e-9)}
    return block_m, [
        f"Blocks of {block_m:,.0f} m are narrower than the correlation range of `{name}` "
        f"({range_m:,.0f} m), so scores of the block split may be optimistic."
        for name, range_m in sorted(beyond.items())
    ]


def _part(
    names: Sequence[str], split: NDArray[np.object_], groups: Sequence[Sequence[str]]
) -> NDArray[np.object_]:
    """Restrict each group to one part; its regions in other parts get None."""
    number = {name: index for index, name in enumerate(names)}
    out = split.copy()
    for group in groups:
        members = [number[name] for name in group]
        parts = {split[index] for index in members} - {None}
        if len(parts) > 1:
            kept = next((part for part in PARTS if part in parts), min(parts, key=str))
            out[[index for index in members if split[index] != kept]] = None
    return out


__all__ = ["Splits", "correlation_ranges", "split_regions"]
