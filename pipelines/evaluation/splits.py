"""Which regions train, validate and test, for every protocol and split seed.

Splits are drawn over all regions of the city by `dataset_builders.splits`, before any system is
looked at, so that they do not depend on who is compared. Seed 0 is the split stored in the dataset.
"""

from dataclasses import dataclass

import geopandas as gpd
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from dataset_builders.splits import block_split, default_block_m, local_xy, random_split

from .errors import InputError

PROTOCOLS = {"random": "interpolation", "block": "new district"}
FRACTIONS = (0.6, 0.2, 0.2)
STORED_SEED = 0
BUFFER_CELLS = 1.5
LONE_CELL_M = 1000.0  # of a single point, which nothing can be measured on


@dataclass(frozen=True)
class Geography:
    """Where the regions lie, in local metres.

    Attributes:
        xy: `(N, 2)` of the regions' points; nan where a region has no place.
        cell_m: side of a typical region, or the usual distance of neighbours for points.
        block_m: side of the blocks that are held out whole; nan without places.
    """

    xy: NDArray[np.float64]
    cell_m: float
    block_m: float

    @property
    def buffer_m(self) -> float:
        """Distance up to which regions of two splits are too near: the eight neighbours."""
        return BUFFER_CELLS * self.cell_m

    def complete(self, rows: NDArray[np.int64]) -> bool:
        """Whether all these regions have a place."""
        return bool(np.isfinite(self.xy[rows]).all())


def geography(regions: gpd.GeoDataFrame, block_m: float | None = None) -> Geography:
    """Local coordinates and typical sizes of a city's regions.

    Args:
        regions: with `lon`, `lat` in EPSG:4326.
        block_m: side of the blocks of the stored split, so that the drawn ones are like it;
            chosen from the extent where the dataset names none.
    """
    x, y = local_xy(regions["lon"].to_numpy(float), regions["lat"].to_numpy(float))
    xy = np.stack([x, y], axis=1)
    placed = xy[np.isfinite(xy).all(1)]
    if not len(placed):
        return Geography(xy, np.nan, np.nan)
    cell_m = _cell_m(regions, placed)
    if block_m is None:
        block_m = float(default_block_m(placed[:, 0], placed[:, 1], cell_m))
    return Geography(xy, cell_m, block_m)


def _cell_m(regions: gpd.GeoDataFrame, xy: NDArray[np.float64]) -> float:
    if "area_m2" in regions and (regions["area_m2"] > 0).any():
        return float(np.sqrt(regions.loc[regions["area_m2"] > 0, "area_m2"].median()))
    if len(xy) < 2:
        return LONE_CELL_M
    distance, _ = cKDTree(xy).query(xy, k=[2])  # the first is the point itself
    return max(float(np.median(distance)), 1.0)


def block_ids(place: Geography) -> NDArray[np.int64]:
    """`(N,)` number of the block of each region, on the grid of the block protocol.

    Regions without a place are blocks of their own.
    """
    blocks = np.arange(len(place.xy))
    placed = np.isfinite(place.xy).all(1)
    if placed.any():
        xy = place.xy[placed]
        # the grid of dataset_builders.splits.block_split
        index = np.floor((xy - xy.min(0) + place.buffer_m / 2) / place.block_m)
        _, members = np.unique(index, axis=0, return_inverse=True)
        blocks[placed] = len(place.xy) + members.ravel()
    return np.unique(blocks, return_inverse=True)[1]


def draw_split(
    regions: gpd.GeoDataFrame, place: Geography, protocol: str, seed: int
) -> NDArray[np.object_]:
    """One split of all regions.

    Args:
        regions: of a city.
        place: from [`geography`].
        protocol: one of `PROTOCOLS`.
        seed: 0 takes the split stored in the dataset, where there is one.

    Returns:
        `(N,)` of "train", "validation", "test" or None (within the buffer between blocks).

    Raises:
        InputError: the protocol is unknown.
        SplitError: too few regions or blocks, or regions without a place.
    """
    if protocol not in PROTOCOLS:
        raise InputError(f"Unknown protocol {protocol!r}; known are {', '.join(PROTOCOLS)}.")
    stored = f"split_{protocol}"
    if seed == STORED_SEED and stored in regions and regions[stored].notna().any():
        values = regions[stored].astype(object)
        return values.where(values.notna(), None).to_numpy()
    # by region_id, so that the order of rows in the dataset does not matter
    order = np.argsort(regions["region_id"].to_numpy(str), kind="stable")
    split = np.full(len(regions), None, dtype=object)
    if protocol == "random":
        split[order] = random_split(len(regions), seed, FRACTIONS)
    else:
        x, y = place.xy[order].T
        split[order] = block_split(x, y, place.block_m, seed, FRACTIONS, place.buffer_m)[0]
    return split


__all__ = ["FRACTIONS", "PROTOCOLS", "Geography", "block_ids", "draw_split", "geography"]
