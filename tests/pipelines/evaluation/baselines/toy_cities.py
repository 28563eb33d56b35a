"""A toy city of coloured squares whose captions name the colour; tiny settings of the systems."""

from dataclasses import replace

import numpy as np

from pipelines.evaluation.baselines import musecl, pg_simclr, tile2vec, urbanclip, urbanvlp
from pipelines.evaluation.baselines.base import RegionData, View

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 40, 220), "grey": (90,) * 3}
SIZE = 32
TRUNK = {"image_size": 32, "widths": (8, 16), "depths": (1, 1)}
SIMCLR = pg_simclr.Settings(**TRUNK, batch_size=12, simclr_epochs=1, epochs=12, learning_rate=2e-3)
TOWERS = {
    "image_size": 16, "patch_size": 8, "vision_width": 32, "vision_layers": 1, "text_width": 32,
    "text_layers": 1, "head_width": 16, "projection_dim": 24, "batch_size": 8,
    "learning_rate": 2e-3,
}  # fmt: skip
URBANCLIP = urbanclip.Settings(
    **TOWERS, num_queries=5, pooler_heads=2, decoder_layers=1, decoder_heads=2, epochs=12
)
URBANVLP = urbanvlp.Settings(**TOWERS, location_width=16, max_views=3, epochs=10)
MUSECL = musecl.Settings(
    **TRUNK, dim=8, num_triplets=48, satellite_epochs=6, street_view_epochs=6,
    satellite_batch_size=12, street_view_batch_size=12, attention_dim=4, fusion_epochs=30,
    learning_rate=2e-3,
)  # fmt: skip
SYSTEMS = {
    "musecl-nomob": (musecl.SYSTEM, MUSECL),
    "pg-simclr": (pg_simclr.SYSTEM, SIMCLR),
    "tile2vec": (tile2vec.SYSTEM, tile2vec.Settings(**TRUNK, batch_size=12, epochs=8)),
    "urbanclip-full": (urbanclip.SYSTEM, replace(URBANCLIP, text="full")),
    "urbanclip-sentence": (urbanclip.SYSTEM, URBANCLIP),
    "urbanvlp": (urbanvlp.SYSTEM, URBANVLP),
    "urbanvlp-nocoord": (urbanvlp.SYSTEM, replace(URBANVLP, coordinates=False)),
}


def toy_city(side: int = 8, views: int = 2, poi: bool = True, gap: bool = False) -> RegionData:
    """Square grid in four quarters, each with its own colour and POI category.

    Every region has a satellite image and `views` street views; region 0 has none with a `gap`.
    """
    rng = np.random.default_rng(0)
    row, column = np.divmod(np.arange(side * side), side)
    quarter = 2 * (row >= side // 2) + (column >= side // 2)
    names = [list(COLOURS)[number] for number in quarter]
    counts = np.eye(4)[quarter] * rng.integers(20, 40, (side * side, 1))
    owner = np.repeat(np.arange(int(gap), side * side), views)
    lonlat = np.stack([10 + 0.01 * column, 50 + 0.01 * row], axis=1)
    return RegionData(
        city="quarters",
        region_ids=[f"r{number:03}" for number in range(side * side)],
        xy=np.stack([1000.0 * column, 1000.0 * row], axis=1),
        lonlat=lonlat,
        cell_m=1000.0,
        views={
            "satellite": _view(rng, names, np.arange(side * side), lonlat),
            "street_view": _view(rng, [names[i] for i in owner], owner, lonlat[owner]),
        },
        poi=counts if poi else None,
        poi_categories=("a", "b", "c", "d") if poi else (),
        synthetic=True,
        fingerprint="quarters",
    )


def _view(rng, names, region, lonlat) -> View:
    noise = rng.integers(-25, 26, (len(names), SIZE, SIZE, 3))
    base = np.array([COLOURS[name] for name in names]).reshape(-1, 1, 1, 3)
    return View(
        image_ids=[f"i{number:04}" for number in range(len(names))],
        region=np.asarray(region, dtype=np.int64),
        pixels=np.clip(base + noise, 0, 255).astype(np.uint8),
        captions=[f"A {name} square. Nothing stands on it. It is all {name}." for name in names],
        lonlat=lonlat + 1e-4 * rng.standard_normal((len(names), 2)),
        heading=np.full(len(names), np.nan),
    )
