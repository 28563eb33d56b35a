"""Indicators of a synthetic city as functions of the latents.

The functions are non-linear and shared by all cities. Labels have multiplicative log-normal noise,
and counts also Poisson noise; neither is visible in the images, so R2 stays below 1. Value ranges
follow those of 1-km cells in published datasets.
"""

import numpy as np

from .world import Floats, World

NOISE = {
    "population": 0.18,
    "gdp": 0.25,
    "night_light": 0.12,
    "comments": 0.35,
    "carbon": 0.22,
    "crime": 0.30,
    "poi": 0.20,
}
"""Standard deviation of the log-normal noise of each indicator."""
COUNTED = ("comments", "crime", "poi", "population")
POI_KINDS = ("shop", "restaurant", "school", "clinic", "office", "workshop", "playground")
POI_SHARES = (0.28, 0.24, 0.08, 0.07, 0.17, 0.10, 0.06)


def indicators(world: World) -> dict[str, Floats]:
    """The seven indicators of every region in raw units, each `(rows, columns)`.

    Units: population (people), gdp (million CNY), night_light (nW/cm2/sr), comments (count),
    carbon (t CO2 per year), crime (count), poi (count).
    """
    z = world.region_latents
    d, w, i, n = z["density"], z["wealth"], z["industry"], z["night_life"]
    built = z["built"]
    homes = np.clip(1 - 0.85 * i, 0, 1)
    expected = {
        "population": 60 + 26_000 * built * d**1.5 * homes * (1.25 - 0.5 * w),
        "gdp": 3 + 5_200 * built * d**1.3 * (0.25 + w) ** 2 + 1_400 * built * i**1.5,
        "night_light": 0.6 + 46 * built * (0.55 * d + 0.6 * n * d + 0.28 * i) ** 1.2,
        "comments": 9_000 * built * (n * d) ** 1.6 * (0.3 + w),
        "carbon": 250 + 42_000 * built * i**2 + 9_000 * built * d**1.2 * (1.3 - 0.4 * w),
        "crime": 140 * built * d**0.8 * n * (1.25 - w) ** 1.7,
        "poi": 2 + 620 * built * (d**1.1 * (0.35 + n)) + 40 * built * i,
    }
    rng = np.random.default_rng([world.hash_seed, 7])
    raw: dict[str, Floats] = {}
    for name, mean in expected.items():
        sigma = NOISE[name]
        noisy = mean * np.exp(rng.normal(-(sigma**2) / 2, sigma, size=mean.shape))
        raw[name] = rng.poisson(noisy).astype(float) if name in COUNTED else noisy
    return raw


def poi_kinds(world: World, column: int, row: int, count: int) -> list[str]:
    """Kinds of the `count` points of interest of a region."""
    rng = np.random.default_rng([world.hash_seed, 11, column, row])
    rng.uniform(size=(count, 2))  # positions, unused; kept for the state of the generator
    kinds = rng.choice(len(POI_KINDS), size=count, p=POI_SHARES)
    return [POI_KINDS[kind] for kind in kinds.tolist()]
