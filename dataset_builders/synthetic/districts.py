"""What stands on a block: from the latents at its middle, and a die of its own."""

import numpy as np

from .noise import Floats, Ints
from .world import Latents, World

KINDS = (
    "field",
    "villas",
    "rows",
    "slabs",
    "towers",
    "works",
    "park",
    "sports",
    "car_park",
)
FIELD, VILLAS, ROWS, SLABS, TOWERS, WORKS, PARK, SPORTS, CAR_PARK = range(len(KINDS))
# of ordinary buildings, by kind
STOREYS = (1, 1.6, 2.4, 5.5, 11, 1.5, 1, 1, 1)
# densities at which one kind of building gives way to the next
STEPS = (0.10, 0.24, 0.42, 0.62)


def block_kinds(world: World, column: Ints, row: Ints) -> tuple[Ints, Latents]:
    """Kind of each block (index into `KINDS`), and the latents at its middle."""
    x, y = world.block_centres(column, row)
    latents = world.latents(x, y)
    jitter = 0.14 * (world.block_uniform(column, row, 1) - 0.5)
    kind = np.digitize(latents.density + jitter, STEPS)  # field, villas, rows, slabs, towers
    die = world.block_uniform(column, row, 2)
    urban = latents.density > 0.16
    kind = np.where(urban & (die < 0.05), CAR_PARK, kind)
    kind = np.where(urban & (die > 0.975), SPORTS, kind)
    small_park = (latents.density > 0.12) & (die > 0.55) & (die < 0.55 + 0.28 * latents.greenness)
    kind = np.where(small_park, PARK, kind)
    works = latents.industry + 0.25 * (world.block_uniform(column, row, 3) - 0.5) > 0.55
    kind = np.where(works & (die < 0.93), WORKS, kind)
    return np.where(world.is_park(x, y), PARK, kind), latents


def storeys(world: World, kind: int, density: Floats, die: Floats) -> Floats:
    """Storeys of buildings on blocks of a kind, by density and a die of each building."""
    tall = 1 + 1.3 * np.clip(density - 0.45, 0, 1) * die * (kind == TOWERS)
    return np.maximum(1, np.round(STOREYS[kind] * tall * (0.75 + 0.5 * die) * world.style.height))


__all__ = [
    "CAR_PARK",
    "FIELD",
    "KINDS",
    "PARK",
    "ROWS",
    "SLABS",
    "SPORTS",
    "TOWERS",
    "VILLAS",
    "WORKS",
    "block_kinds",
    "storeys",
]
