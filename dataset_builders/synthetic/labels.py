"""Indicators, roads and points of interest of a city: how the latents determine the numbers.

The laws are non-linear and shared by all cities; each label carries multiplicative noise that no
image shows (log-normal, or the Poisson noise of a count), so that no encoder can be perfect.
Ranges follow those of 1-km cells in the public tables of this line of work.
"""

from typing import NamedTuple

import numpy as np

from .world import AVENUE_EVERY, CELL_KM, RURAL_DENSITY, Floats, World

NOISE = {
    "population": 0.18,
    "gdp": 0.25,
    "night_light": 0.12,
    "comments": 0.35,
    "carbon": 0.22,
    "crime": 0.30,
    "poi": 0.20,
}
"""Standard deviation of the logarithm of each indicator; counts have Poisson noise as well."""
COUNTED = ("comments", "crime", "poi", "population")
POI_KINDS = ("shop", "restaurant", "school", "clinic", "office", "workshop", "playground")
POI_SHARES = (0.28, 0.24, 0.08, 0.07, 0.17, 0.10, 0.06)
BRIDGE_KM = 0.3


def indicators(world: World) -> dict[str, Floats]:
    """The seven indicators of every region in raw units, each `(rows, columns)`.

    population (people), gdp (million CNY), night_light (nW/cm2/sr), comments (count), carbon
    (t CO2 a year), crime (count), poi (count).
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


class Road(NamedTuple):
    """A stretch of road: its class, "primary" or "residential", and its line, `(n, 2)` in km."""

    highway: str
    points: Floats


def roads(world: World, column: int, row: int, step_km: float = 0.02) -> list[Road]:
    """Roads within a region: where the block number changes along rows and columns of points.

    Streets of fields and large parks, and what lies under water, are left out; avenues cross
    the river.
    """
    steps = np.arange(0, CELL_KM + step_km / 2, step_km)
    x, y = (column * CELL_KM + steps)[None, :], (row * CELL_KM + steps)[:, None]
    blocks = world.blocks(x, y)
    dry = ~world.is_water(x, y)
    street = dry & ~world.is_park(x, y) & (world.latents(x, y)["density"] >= RURAL_DENSITY)
    avenue = dry | (world.river_distance(x, y) < BRIDGE_KM)
    points = np.stack(np.broadcast_arrays(x, y), axis=-1)
    found = []
    for index, place in ((blocks.column, blocks.across), (blocks.row, blocks.along)):
        border = index + (place > 0.5)
        near = np.zeros(index.shape, dtype=bool)
        near[:, :-1] |= np.diff(index, axis=1) != 0
        near[:-1, :] |= np.diff(index, axis=0) != 0
        for number in np.unique(border[near]).tolist():
            primary = number % AVENUE_EVERY == 0
            chosen = near & (border == number) & (avenue if primary else street)
            highway = "primary" if primary else "residential"
            found += [Road(highway, line) for line in _lines(points[chosen], 4 * step_km)]
    return found


def _lines(points: Floats, gap_km: float) -> list[Floats]:
    """Points ordered along their main direction, split where there is a gap."""
    if len(points) == 0:
        return []
    along = int(np.argmax(np.ptp(points, axis=0)))
    points = points[np.argsort(points[:, along], kind="stable")]
    gaps = np.flatnonzero(np.hypot(*np.diff(points, axis=0).T) > gap_km) + 1
    return [line for line in np.split(points, gaps) if len(line) >= 3]


def points_of_interest(world: World, column: int, row: int, count: int) -> tuple[Floats, list[str]]:
    """As many points as a region's `poi` says, uniformly placed: km `(count, 2)`, and kinds."""
    rng = np.random.default_rng([world.hash_seed, 11, column, row])
    places = (np.array([column, row]) + rng.uniform(size=(count, 2))) * CELL_KM
    kinds = rng.choice(len(POI_KINDS), size=count, p=POI_SHARES)
    return places, [POI_KINDS[kind] for kind in kinds.tolist()]
