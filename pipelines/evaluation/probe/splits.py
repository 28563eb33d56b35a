"""Which regions train, validate and test, for every protocol and split seed.

Splits are drawn over all regions of the city by `dataset_builders.splits`, before any system is
looked at, so that they do not depend on who is compared. Seed 0 is the split stored in the dataset.
"""

from dataclasses import dataclass

import geopandas as gpd
import numpy as np
from numpy.typing import NDArray

from dataset_builders.splits import (
    Neighbourhood,
    apply_buffer,
    block_numbers,
    block_split,
    default_block_m,
    local_xy,
    random_split,
    region_neighbourhood,
    spacing_m,
)

from ..errors import InputError

PROTOCOLS = {"random": "interpolation", "block": "new district"}
FRACTIONS = (0.6, 0.2, 0.2)
STORED_SEED = 0
SPLIT_RULE = "touching or near centres"
"""What keeps blocks apart, for the hashes of what was scored under it."""
LONE_CELL_M = 1000.0  # of a single point, which nothing can be measured on


@dataclass(frozen=True)
class Geography:
    """Where the regions lie, in local metres, and which of them are neighbours.

    Attributes:
        xy: `(N, 2)` of the regions' points; nan where a region has no place.
        cell_m: side of a typical region, or the usual distance of neighbours for points.
        block_m: side of the blocks that are held out whole; nan without places.
        neighbourhood: which regions are too near to be in two parts of a split.
    """

    xy: NDArray[np.float64]
    cell_m: float
    block_m: float
    neighbourhood: Neighbourhood

    @property
    def buffer_m(self) -> float:
        """Distance of centres up to which regions of two parts are too near, touching or not."""
        return self.neighbourhood.centre_distance_m

    def complete(self, rows: NDArray[np.int64]) -> bool:
        """Whether all these regions have a place."""
        return bool(np.isfinite(self.xy[rows]).all())


def geography(regions: gpd.GeoDataFrame, block_m: float | None = None) -> Geography:
    """Local coordinates and typical sizes of a city's regions.

    Args:
        regions: with `lon`, `lat` and geometry in EPSG:4326; without a geometry they are points.
        block_m: side of the blocks of the stored split, so that the drawn ones are like it;
            chosen from the extent where the dataset names none.
    """
    x, y = local_xy(regions["lon"].to_numpy(float), regions["lat"].to_numpy(float))
    xy = np.stack([x, y], axis=1)
    placed = xy[np.isfinite(xy).all(1)]
    if not len(placed):
        nowhere = np.full(len(regions), None, dtype=object)
        return Geography(xy, np.nan, np.nan, Neighbourhood(nowhere, 0.0))
    cell_m = _cell_m(regions, placed)
    if block_m is None:
        block_m = float(default_block_m(placed[:, 0], placed[:, 1], cell_m))
    near = region_neighbourhood(regions.geometry, regions["lon"], regions["lat"], cell_m=cell_m)
    return Geography(xy, cell_m, block_m, near)


def _cell_m(regions: gpd.GeoDataFrame, xy: NDArray[np.float64]) -> float:
    if "area_m2" in regions and (regions["area_m2"] > 0).any():
        return float(np.sqrt(regions.loc[regions["area_m2"] > 0, "area_m2"].median()))
    if len(xy) < 2:
        return LONE_CELL_M
    return max(spacing_m(xy), 1.0)


def block_ids(place: Geography) -> NDArray[np.int64]:
    """`(N,)` number of the block of each region, on the grid of the block protocol.

    Regions without a place are blocks of their own.
    """
    blocks = np.arange(len(place.xy))
    placed = np.isfinite(place.xy).all(1)
    if placed.any():
        x, y = place.xy[placed].T
        members = block_numbers(x, y, place.block_m, place.neighbourhood)
        blocks[placed] = len(place.xy) + members
    return np.unique(blocks, return_inverse=True)[1]


def draw_split(
    regions: gpd.GeoDataFrame, place: Geography, protocol: str, seed: int
) -> NDArray[np.object_]:
    """One split of all regions.

    Args:
        regions: of a city.
        place: from [`geography`].
        protocol: one of `PROTOCOLS`.
        seed: 0 takes the split stored in the dataset, where there is one. Of a stored block split
            the regions that are too near to another part are left out.

    Returns:
        `(N,)` of "train", "validation", "test" or None (too near to another block's regions).

    Raises:
        InputError: the protocol is unknown.
        SplitError: too few regions or blocks, or regions without a place.
    """
    if protocol not in PROTOCOLS:
        raise InputError(f"Unknown protocol {protocol!r}; known are {', '.join(PROTOCOLS)}.")
    stored = _stored(regions, protocol) if seed == STORED_SEED else None
    if stored is not None:
        return stored if protocol == "random" else apply_buffer(stored, place.neighbourhood)
    # by region_id, so that the order of rows in the dataset does not matter
    order = np.argsort(regions["region_id"].to_numpy(str), kind="stable")
    split = np.full(len(regions), None, dtype=object)
    if protocol == "random":
        split[order] = random_split(len(regions), seed)
    else:
        x, y = place.xy[order].T
        near = place.neighbourhood.take(order)
        split[order] = block_split(x, y, place.block_m, seed, near)[0]
    return split


def stored_neighbours(regions: gpd.GeoDataFrame, place: Geography) -> dict[str, int]:
    """Regions of the stored block split that [`draw_split`] leaves out, counted by stored part.

    Empty where the stored parts keep their distance.
    """
    stored = _stored(regions, "block")
    if stored is None:
        return {}
    lost = stored[apply_buffer(stored, place.neighbourhood) != stored]
    return {str(part): int((lost == part).sum()) for part in sorted(set(lost))}


def _stored(regions: gpd.GeoDataFrame, protocol: str) -> NDArray[np.object_] | None:
    column = f"split_{protocol}"
    if column not in regions or not regions[column].notna().any():
        return None
    values = regions[column].astype(object)
    return values.where(values.notna(), None).to_numpy()


__all__ = [
    "FRACTIONS",
    "PROTOCOLS",
    "SPLIT_RULE",
    "Geography",
    "block_ids",
    "draw_split",
    "geography",
    "stored_neighbours",
]
