"""Toy city of coloured squares whose captions name the colour."""

import numpy as np

from pipelines.evaluation.baselines.base import RegionData, View

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 40, 220), "grey": (90,) * 3}
SIZE = 32


def toy_city(num_regions: int = 24, views: int = 3, seed: int = 0) -> RegionData:
    """Toy city with one satellite image per region and street views close to its centre."""
    rng = np.random.default_rng(seed)
    names = [list(COLOURS)[number] for number in rng.integers(0, len(COLOURS), num_regions)]
    lonlat = np.stack([116 + 0.01 * np.arange(num_regions), np.full(num_regions, 39.9)], axis=1)
    lonlat[:, 1] += 0.05 * rng.random(num_regions)
    owner = np.repeat(np.arange(num_regions), views)
    return RegionData(
        city="toyville",
        region_ids=[f"r{number:03}" for number in range(num_regions)],
        xy=lonlat * 1e5,
        lonlat=lonlat,
        cell_m=1000.0,
        views={
            "satellite": toy_view(rng, names, np.arange(num_regions), lonlat),
            "street_view": toy_view(rng, [names[i] for i in owner], owner, lonlat[owner]),
        },
        synthetic=True,
        fingerprint=f"toy-{num_regions}-{views}-{seed}",
    )


def toy_view(rng, names, region, lonlat) -> View:
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
