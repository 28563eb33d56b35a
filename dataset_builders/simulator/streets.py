"""The street lattice: blocks, what they are used for, and the streets between them.

Blocks are the cells of a lattice that runs through the whole city (turned, bent and jittered as
the style says). All that is drawn of a block is decided by its lattice index, so that pictures of
neighbouring regions, which draw a shared block each, agree along their edge.
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from .world import World

ARTERIAL_EVERY = 7  # lattice lines that are main roads
STREET_M, ARTERIAL_M, LANE_M = 14.0, 26.0, 6.0


class LandUse(IntEnum):
    """What a block is used for."""

    WATER = 0
    FOREST = 1
    FIELD = 2
    PARK = 3
    VILLA = 4
    TERRACE = 5
    SLAB = 6
    PERIMETER = 7
    TOWER = 8
    RETAIL = 9
    PLAZA = 10
    FACTORY = 11
    WAREHOUSE = 12
    SPORT = 13


OPEN_LAND = (LandUse.WATER, LandUse.FOREST, LandUse.FIELD, LandUse.PARK)


@dataclass(frozen=True)
class Blocks:
    """Blocks of a piece of the city, `n` of them.

    Attributes:
        i: lattice columns.
        j: lattice rows.
        corners: `(n, 4, 2)` metres, counter-clockwise.
        centre: `(n, 2)`.
        use: `(n,)` of [`LandUse`].
        latents: at the centre, `{name: (n,)}`.
        street_m: `(n, 4)` widths of the streets along the four sides (south, east, north, west); 0
            for none.
    """

    i: np.ndarray
    j: np.ndarray
    corners: np.ndarray
    centre: np.ndarray
    use: np.ndarray
    latents: dict[str, np.ndarray]
    street_m: np.ndarray

    def __len__(self) -> int:
        return len(self.i)


def blocks_in(world: World, box: tuple[float, float, float, float]) -> Blocks:
    """All blocks that may touch a box (west, south, east, north)."""
    west, south, east, north = box
    style = world.style
    corners = np.array([(west, south), (east, south), (east, north), (west, north)])
    index = _to_lattice(world, corners)
    slack = 2.0 + style.wobble_m / min(style.block_m)
    low = np.floor(index.min(axis=0) - slack).astype(np.int64)
    high = np.ceil(index.max(axis=0) + slack).astype(np.int64)
    node_i, node_j = np.meshgrid(np.arange(low[0], high[0] + 2), np.arange(low[1], high[1] + 2))
    nodes = nodes_at(world, node_i, node_j)
    quads = np.stack([nodes[:-1, :-1], nodes[:-1, 1:], nodes[1:, 1:], nodes[1:, :-1]], axis=2)
    i, j = node_i[:-1, :-1], node_j[:-1, :-1]
    use = land_use(world, i, j, quads.mean(axis=2))
    street = _street_widths(i, j, use)
    touches = (quads.max(axis=2) > (west, south)).all(axis=-1)
    touches &= (quads.min(axis=2) < (east, north)).all(axis=-1)
    # the outer ring lacks neighbours, so its streets are unknown; slack keeps it off the box
    touches[[0, -1]] = touches[:, [0, -1]] = False
    centre = quads.mean(axis=2)[touches]
    return Blocks(
        i=i[touches],
        j=j[touches],
        corners=quads[touches],
        centre=centre,
        use=use[touches],
        latents=world.latents_at(centre[:, 0], centre[:, 1]),
        street_m=street[touches],
    )


def nodes_at(world: World, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """Where lattice points lie: `(..., 2)` metres."""
    style = world.style
    steps = np.stack([i * style.block_m[0], j * style.block_m[1]], axis=-1).astype(np.float64)
    bend = np.stack(
        [
            np.sin(j / 5.3 + 0.6 * np.sin(i / 6.1)) + 0.6 * np.sin(i / 3.7 + j / 7.9),
            np.sin(i / 4.9 + 0.5 * np.sin(j / 6.7)) + 0.6 * np.sin(j / 3.9 - i / 8.3),
        ],
        axis=-1,
    )
    jitter = np.stack([world.uniform(i, j, 1) - 0.5, world.uniform(i, j, 2) - 0.5], axis=-1)
    local = steps + style.wobble_m / 1.6 * bend + 2 * style.jitter * jitter * min(style.block_m)
    return local @ _rotation(world).T


def land_use(world: World, i: np.ndarray, j: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """What blocks are used for: drawn by chance, with odds from the latents at their centres."""
    x, y = centre[..., 0], centre[..., 1]
    latents = world.latents_at(x, y)
    d, w, g = latents["density"], latents["wealth"], latents["greenness"]
    n, l = latents["industry"], latents["night_life"]  # noqa: E741
    u, v, r = (world.uniform(i, j, salt) for salt in (3, 4, 5))
    # open land comes in patches of 3 x 3 blocks
    patch = world.uniform(i // 3, j // 3, 6)
    dense = d + 0.16 * (r - 0.5)

    use = np.full(x.shape, LandUse.TERRACE, dtype=np.int64)
    use[dense < 0.30] = LandUse.VILLA
    use[(w > 0.62) & (dense < 0.42) & (v < 0.75)] = LandUse.VILLA
    use[dense > 0.46] = np.where(v < _perimeter_share(world), LandUse.PERIMETER, LandUse.SLAB)[
        dense > 0.46
    ]
    use[dense > 0.74] = np.where(v < 0.75, LandUse.TOWER, LandUse.PERIMETER)[dense > 0.74]
    use[u < 0.025 + 0.16 * g**2] = LandUse.PARK
    use[(u > 0.975) & (d < 0.75)] = LandUse.SPORT
    use[(r < 0.03 + 0.26 * l**1.3) & (d < 0.8) & (d > 0.12)] = LandUse.RETAIL
    use[(r > 0.93) & (l > 0.45)] = LandUse.PLAZA

    open_land = (d < 0.16) & (u > (d - 0.02) / 0.14)
    wooded = patch < np.clip(1.5 * g - 0.55, 0.05, 0.9)
    use[open_land] = np.where(wooded, LandUse.FOREST, LandUse.FIELD)[open_land]
    works = v < 1 / (1 + np.exp(-(n - 0.42) / 0.09))
    use[works] = np.where(u < 0.35 + 0.4 * n, LandUse.FACTORY, LandUse.WAREHOUSE)[works]
    use[world.in_park(x, y)] = LandUse.PARK
    use[world.is_water(x, y, 22.0)] = LandUse.WATER
    return use


def _perimeter_share(world: World) -> float:
    return {"radial": 0.9, "grid": 0.5, "river": 0.45, "sprawl": 0.15}[world.style.pattern]


def _street_widths(i: np.ndarray, j: np.ndarray, use: np.ndarray) -> np.ndarray:
    """Streets run along every side with a built block; main roads run on through open land."""
    built = ~np.isin(use, OPEN_LAND)
    widths = np.zeros((*use.shape, 4))
    for side, (axis, shift) in enumerate(((0, 1), (1, -1), (0, -1), (1, 1))):
        other = np.roll(built, shift, axis=axis)
        line = (i + (side == 1)) if axis == 1 else (j + (side == 2))
        arterial = line % ARTERIAL_EVERY == 0
        # in open land a main road is a country road, and every third lattice line a lane
        country = np.where(arterial, STREET_M, np.where(line % 3 == 0, LANE_M, 0.0))
        town = np.where(arterial, ARTERIAL_M, STREET_M)
        widths[..., side] = np.where(built | other, town, country)
    return widths


def _rotation(world: World) -> np.ndarray:
    angle = np.deg2rad(world.style.street_angle_deg)
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def _to_lattice(world: World, points: np.ndarray) -> np.ndarray:
    return points @ _rotation(world) / np.asarray(world.style.block_m)


__all__ = ["ARTERIAL_M", "OPEN_LAND", "STREET_M", "Blocks", "LandUse", "blocks_in", "nodes_at"]
