"""Tiny settings of the systems, and a city whose images follow its layout."""

import dataclasses

import numpy as np

from pipelines.evaluation.baselines import musecl, pg_simclr, tile2vec
from pipelines.evaluation.baselines.base import RegionData

from .toy_pairs import toy_view

TRUNK = {"image_size": 32, "widths": (8, 16), "depths": (1, 1)}
TILE2VEC = tile2vec.Settings(**TRUNK, batch_size=12, epochs=3)
SIMCLR = pg_simclr.Settings(**TRUNK, batch_size=12, simclr_epochs=1, epochs=2, learning_rate=2e-3)
MUSECL = musecl.Settings(
    **TRUNK,
    dim=8,
    num_triplets=48,
    satellite_epochs=1,
    street_view_epochs=1,
    satellite_batch_size=12,
    street_view_batch_size=12,
    attention_dim=4,
    fusion_epochs=4,
    learning_rate=2e-3,
)
SYSTEMS = {
    "musecl-nomob": (musecl.SYSTEM, MUSECL),
    "pg-simclr": (pg_simclr.SYSTEM, SIMCLR),
    "simclr-adjacency": (
        pg_simclr.SYSTEM,
        dataclasses.replace(SIMCLR, positives=("adjacency",)),
    ),
    "tile2vec": (tile2vec.SYSTEM, TILE2VEC),
}


def quartered_city(side: int = 8, views: int = 2, poi: bool = True) -> RegionData:
    """Square grid in four quarters, each with its own colour and POI category.

    Region 0 has no street view.
    """
    rng = np.random.default_rng(0)
    row, column = np.divmod(np.arange(side * side), side)
    quarter = 2 * (row >= side // 2) + (column >= side // 2)
    names = [["red", "green", "blue", "grey"][number] for number in quarter]
    lonlat = np.stack([10 + 0.01 * column, 50 + 0.01 * row], axis=1)
    owner = np.repeat(np.arange(1, side * side), views)
    counts = np.eye(4)[quarter] * rng.integers(20, 40, (side * side, 1))
    return RegionData(
        city="quarters",
        region_ids=[f"r{number:03}" for number in range(side * side)],
        xy=np.stack([1000.0 * column, 1000.0 * row], axis=1),
        lonlat=lonlat,
        cell_m=1000.0,
        views={
            "satellite": toy_view(rng, names, np.arange(side * side), lonlat),
            "street_view": toy_view(rng, [names[i] for i in owner], owner, lonlat[owner]),
        },
        poi=counts if poi else None,
        poi_categories=("a", "b", "c", "d") if poi else (),
        synthetic=True,
        fingerprint="quarters",
    )
