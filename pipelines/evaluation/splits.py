"""Which regions train, validate and test, for every protocol and split seed.

Splits are drawn over all regions of the city by `dataset_builders.splits`, before any system is
looked at, so that they do not depend on who is compared. Seed 0 is the split stored in the dataset.
"""

from dataclasses import dataclass

import geopandas as gpd
import numpy as np
from numpy.typing import NDArray

from dataset_builders.splits import block_split, default_block_m, local_xy, random_split

from .errors import InputError

PROTOCOLS = {"random": "interpolation", "block": "new district"}
FRACTIONS = (0.6, 0.2, 0.2)
STORED_SEED = 0


@dataclass(frozen=True)
class Geography:
    """Where the regions lie, in local metres.

    Attributes:
        xy: `(N, 2)` of the regions' points.
        cell_m: side of a typical region, or the usual distance of neighbours for points.
        block_m: side of the blocks that are held out whole.
    """

    xy: NDArray[np.float64]
    cell_m: float
    block_m: float


def geography(regions: gpd.GeoDataFrame) -> Geography:
    """Local coordinates and typical sizes of a city's regions (`lon`, `lat` in EPSG:4326)."""
    x, y = local_xy(regions["lon"].to_numpy(float), regions["lat"].to_numpy(float))
    xy = np.stack([x, y], axis=1)
    cell_m = _cell_m(regions, xy)
    return Geography(xy, cell_m, float(default_block_m(x, y, cell_m)))


def _cell_m(regions: gpd.GeoDataFrame, xy: NDArray[np.float64]) -> float:
    from scipy.spatial import cKDTree

    if "area_m2" in regions and (regions["area_m2"] > 0).any():
        return float(np.sqrt(regions.loc[regions["area_m2"] > 0, "area_m2"].median()))
    if len(xy) < 2:
        return 1000.0
    distance, _ = cKDTree(xy).query(xy, k=2)
    return max(float(np.median(distance[:, 1])), 1.0)


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
    """
    if protocol not in PROTOCOLS:
        raise InputError(f"Unknown protocol {protocol!r}; known are {', '.join(PROTOCOLS)}.")
    stored = f"split_{protocol}"
    if seed == STORED_SEED and stored in regions and regions[stored].notna().any():
        values = regions[stored].astype(object)
        return values.where(values.notna(), None).to_numpy()
    if protocol == "random":
        return np.asarray(random_split(len(regions), seed, FRACTIONS), dtype=object)
    x, y = place.xy.T
    split, _ = block_split(x, y, place.block_m, seed, FRACTIONS, place.cell_m)
    return np.asarray(split, dtype=object)


__all__ = ["FRACTIONS", "PROTOCOLS", "Geography", "draw_split", "geography"]
