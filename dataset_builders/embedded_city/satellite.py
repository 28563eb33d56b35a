"""Satellite tiles: every pixel is computed from its place, so that tiles join without a seam."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from .districts import (
    CAR_PARK,
    FIELD,
    KINDS,
    PARK,
    ROWS,
    SLABS,
    SPORTS,
    TOWERS,
    VILLAS,
    WORKS,
    block_kinds,
    storeys,
)
from .noise import Floats, hash_uniform
from .world import CELL_KM, Blocks, Latents, World

TILE_PX = 256
SUPERSAMPLE = 2
MARGIN_PX = 12  # shadows fall in from beyond the tile
STREET_M, AVENUE_M, AVENUE_EVERY = 9.0, 24.0, 4
RIVER, SHALLOW = (52, 84, 104), (70, 104, 118)
ASPHALT, AVENUE, PAVEMENT, CONCRETE = (112, 112, 114), (132, 130, 126), (156, 152, 146), (170,) * 3
TREE, TREE_DARK = (52, 88, 46), (38, 68, 38)
RAIL_BED, RAIL = (122, 112, 104), (84, 78, 76)
CAR_COLOURS = np.array(
    [(210, 212, 214), (60, 62, 66), (150, 40, 38), (50, 80, 130), (180, 178, 170)]
)


@dataclass(frozen=True)
class Tile:
    """A tile and what is on it.

    Attributes:
        image: `TILE_PX` x `TILE_PX`, RGB, north up.
        shares: of the area by kind of block, and `water`, `road`, `rail`, `trees`, `building`.
        counts: of `buildings`, `pools`, `tanks`, about.
    """

    image: Image.Image
    shares: dict[str, float]
    counts: dict[str, int]


@dataclass
class _Canvas:
    """Colours and building heights of the pixels being painted."""

    colour: Floats  # (n, 3)
    height: Floats  # (n,) metres
    tree: np.ndarray  # (n,) bool
    pool: np.ndarray
    tank: np.ndarray


def render_tile(world: World, column: int, row: int) -> Tile:
    """The tile of a region: `CELL_KM` a side.

    Args:
        world: the city.
        column: of the region, from the west.
        row: of the region, from the south.
    """
    side = (TILE_PX + 2 * MARGIN_PX) * SUPERSAMPLE
    pixel_km = CELL_KM / (TILE_PX * SUPERSAMPLE)
    offset = MARGIN_PX * SUPERSAMPLE
    x = column * CELL_KM + (np.arange(side) + 0.5 - offset) * pixel_km
    y = (row + 1) * CELL_KM - (np.arange(side) + 0.5 - offset) * pixel_km
    xs, ys = x[None, :], y[:, None]
    exact = world.blocks(xs, ys)
    places = (exact.across, exact.along, exact.width_m, exact.depth_m)
    blocks = Blocks(exact.column, exact.row, *(place.astype(np.float32) for place in places))
    kind, latents = _by_block(world, blocks)
    canvas = _paint_blocks(world, blocks, kind, latents)
    road = _paint_roads(world, blocks, canvas, latents)
    water, rail = _paint_lines(world, xs, ys, canvas)
    image = _light(canvas, side)
    inner = slice(offset, side - offset)

    def share(mask: np.ndarray) -> float:
        return float(mask.reshape(side, side)[inner, inner].mean())

    free = ~water & ~road & ~rail
    shares = {name: share((kind == index) & free) for index, name in enumerate(KINDS)}
    shares |= {"water": share(water), "road": share(road & ~water), "rail": share(rail)}
    shares |= {"trees": share(canvas.tree & free), "building": share((canvas.height > 0) & free)}
    pixel_m2 = (1000 * pixel_km) ** 2
    area_px = (TILE_PX * SUPERSAMPLE) ** 2

    def count(mask: np.ndarray, size_m2: float) -> int:
        return round(share(mask) * area_px * pixel_m2 / size_m2)

    counts = {"pools": count(canvas.pool & free, 32.0), "tanks": count(canvas.tank & free, 450.0)}
    picture = Image.fromarray(image[inner, inner]).resize((TILE_PX, TILE_PX), Image.Resampling.BOX)
    return Tile(picture, shares, counts)


def _by_block(world: World, blocks: Blocks) -> tuple[np.ndarray, Latents]:
    """Kind and latents of each pixel's block, computed once a block."""
    key = (blocks.column.ravel() << 24) + (blocks.row.ravel() & 0xFFFFFF)
    _, first, inverse = np.unique(key, return_index=True, return_inverse=True)
    one = Blocks(*(value.ravel()[first] for value in vars(blocks).values()))
    kind, latents = block_kinds(world, one)
    inverse = inverse.ravel()
    fields = (value.astype(np.float32)[inverse] for value in vars(latents).values())
    return kind[inverse], Latents(*fields)


def _paint_blocks(world: World, blocks: Blocks, kind: np.ndarray, latents: Latents) -> _Canvas:
    n = kind.size
    canvas = _Canvas(
        np.zeros((n, 3), np.float32),
        np.zeros(n, np.float32),
        *(np.zeros(n, dtype=bool) for _ in range(3)),
    )
    flat = Blocks(*(value.ravel() for value in vars(blocks).values()))
    painters = {
        FIELD: _field,
        VILLAS: _houses,
        ROWS: _houses,
        SLABS: _slabs,
        TOWERS: _slabs,
        WORKS: _works,
        PARK: _park,
        SPORTS: _sports,
        CAR_PARK: _car_park,
    }
    for index, painter in painters.items():
        chosen = np.flatnonzero(kind == index)
        if len(chosen):
            part = Blocks(*(value[chosen] for value in vars(flat).values()))
            local = Latents(*(value[chosen] for value in vars(latents).values()))
            painter(world, index, part, local, chosen, canvas)
    return canvas


def _mix(one: object, other: object, weight: Floats) -> Floats:
    """Colour between two, by a weight for each pixel."""
    a, b = np.asarray(one, dtype=np.float32), np.asarray(other, dtype=np.float32)
    return a + (b - a) * weight.astype(np.float32)[:, None]


def _pick(colours: object, uniform: Floats) -> Floats:
    table = np.asarray(colours, dtype=np.float32)
    return table[np.minimum((uniform * len(table)).astype(int), len(table) - 1)]


def _lots(
    world: World, part: Blocks, width_m: float, depth_m: float, salt: int
) -> tuple[Floats, Floats, Floats]:
    """Deal blocks into lots: metres from each lot's middle, and a die of each lot."""
    across, along = part.across * part.width_m, part.along * part.depth_m
    nx = np.maximum(1, np.round(part.width_m / width_m))
    ny = np.maximum(1, np.round(part.depth_m / depth_m))
    wx, wy = part.width_m / nx, part.depth_m / ny
    ix, iy = np.floor(across / wx).astype(np.int64), np.floor(along / wy).astype(np.int64)
    die = hash_uniform(world.hash_seed + salt, part.column, part.row, ix, iy)
    return across - (ix + 0.5) * wx, along - (iy + 0.5) * wy, die


def _ground(world: World, latents: Latents, paved: float) -> Floats:
    grass = _mix(world.style.soil, world.style.grass, 0.35 + 0.65 * latents.greenness)
    return grass + (np.asarray(PAVEMENT, dtype=np.float32) - grass) * np.float32(paved)


def _plant(
    world: World, part: Blocks, chosen: np.ndarray, canvas: _Canvas, share: Floats, salt: int
) -> None:
    """Trees on a jittered lattice of 9 m, where nothing is built."""
    u, v, die = _lots(world, part, 9.0, 9.0, salt)
    shift = 4.0 * (hash_uniform(salt, (die * 1e9).astype(np.int64)) - 0.5)
    crown = np.hypot(u - shift, v + shift) < 2.6 + 2.2 * die
    tree = crown & (die < share) & (canvas.height[chosen] == 0) & ~canvas.pool[chosen]
    rows = chosen[tree]
    canvas.colour[rows] = _mix(TREE_DARK, TREE, die[tree] / np.maximum(share[tree], 1e-6))
    canvas.tree[rows] = True


def _field(world, kind, part, latents, chosen, canvas) -> None:  # type: ignore[no-untyped-def]
    die = world.block_uniform(part, 11)
    turned = np.where(die > 0.5, part.across * part.width_m, part.along * part.depth_m)
    furrow = 0.5 + 0.5 * np.sin(turned * 2 * np.pi / 14)
    crop = _pick([world.style.grass, (176, 164, 92), world.style.soil, (120, 140, 70)], die)
    canvas.colour[chosen] = crop * (0.90 + 0.12 * furrow[:, None])
    _plant(world, part, chosen, canvas, 0.10 * latents.greenness, 12)


def _houses(world, kind, part, latents, chosen, canvas) -> None:  # type: ignore[no-untyped-def]
    row = kind == ROWS
    u, v, die = _lots(world, part, *((13.0, 36.0) if row else (34.0, 40.0)), salt=21)
    half_u, half_v = (6.2, 6.0) if row else (7.5 + 3.5 * latents.wealth, 6.0)
    roof = (np.abs(u) < half_u) & (np.abs(v + 4) < half_v) & (die > (0.03 if row else 0.10))
    canvas.colour[chosen] = _ground(world, latents, 0.35 if row else 0.08)
    pool = (
        ~roof & (np.abs(u - 7) < 3.5) & (np.abs(v - 11) < 2.3) if not row else np.zeros_like(roof)
    )
    pool &= (latents.wealth > 0.6) & (die > 0.45)
    canvas.colour[chosen[pool]] = (84, 176, 196)
    canvas.pool[chosen[pool]] = True
    ridge = np.where(v[roof] + 4 > 0, 1.06, 0.86)
    tiles = _pick(world.style.roofs, die[roof] * 7 % 1)
    worn = 0.84 + 0.22 * latents.wealth[roof]
    canvas.colour[chosen[roof]] = tiles * (ridge * worn)[:, None]
    canvas.height[chosen[roof]] = 7.0 if row else 6.0
    share = (0.12 if row else 0.35) * (0.3 + latents.greenness + 0.4 * latents.wealth)
    _plant(world, part, chosen, canvas, share, 22)


def _slabs(world, kind, part, latents, chosen, canvas) -> None:  # type: ignore[no-untyped-def]
    tower = kind == TOWERS
    u, v, die = _lots(world, part, *((52.0, 52.0) if tower else (62.0, 34.0)), salt=31)
    half_u = 15 + 6 * (die * 13 % 1) if tower else 25.0
    half_v = 14 + 7 * (die * 29 % 1) if tower else 7.0
    roof = (np.abs(u) < half_u) & (np.abs(v) < half_v) & (die > 0.08)
    canvas.colour[chosen] = _ground(world, latents, 0.75 if tower else 0.5)
    top = _pick(world.style.flat_roofs, die * 7 % 1)
    rim = np.maximum(np.abs(u) - half_u, np.abs(v) - half_v) > -2.2
    hut = (np.abs(u) < 4) & (np.abs(v) < 4)
    shade = 0.86 + 0.18 * latents.wealth - 0.10 * rim - 0.22 * hut
    canvas.colour[chosen[roof]] = (top * shade[:, None])[roof]
    levels = storeys(world, np.full(len(chosen), kind), latents, die)
    canvas.height[chosen[roof]] = 3.2 * levels[roof]
    _plant(world, part, chosen, canvas, 0.45 * latents.greenness, 32)


def _works(world, kind, part, latents, chosen, canvas) -> None:  # type: ignore[no-untyped-def]
    u, v, die = _lots(world, part, 118.0, 84.0, salt=41)
    canvas.colour[chosen] = np.asarray(CONCRETE) * (0.86 + 0.14 * die[:, None])
    shed = (np.abs(u) < 48) & (np.abs(v) < 30) & (die > 0.22)
    sheet = _pick([(206, 208, 210), (120, 146, 176), (172, 170, 164), (150, 96, 80)], die * 5 % 1)
    seam = np.where(np.floor(v / 10) % 2 == 0, 1.0, 0.86)
    canvas.colour[chosen[shed]] = (sheet * seam[:, None])[shed]
    canvas.height[chosen[shed]] = 11.0
    tank = (die <= 0.22) & (np.hypot(np.abs(u) - 22, np.abs(v) - 18) < 12)
    canvas.colour[chosen[tank]] = (226, 226, 222)
    canvas.height[chosen[tank]] = 14.0
    canvas.tank[chosen[tank]] = True
    yard = ~shed & ~tank & (np.abs(v) > 33)
    cell = hash_uniform(
        world.hash_seed + 43, part.column, part.row,
        np.floor(part.across * part.width_m / 12).astype(np.int64),
        np.floor(part.along * part.depth_m / 4).astype(np.int64),
    )  # fmt: skip
    box = yard & (cell > 0.55)
    boxes = [(176, 72, 48), (62, 96, 140), (196, 160, 60), (110, 128, 96)]
    canvas.colour[chosen[box]] = _pick(boxes, cell[box] * 11 % 1)
    canvas.height[chosen[box]] = 3.0


def _park(world, kind, part, latents, chosen, canvas) -> None:  # type: ignore[no-untyped-def]
    across, along = part.across * part.width_m, part.along * part.depth_m
    mown = 0.95 + 0.05 * np.sign(np.sin(across / 8))
    canvas.colour[chosen] = (
        _mix(world.style.grass, (86, 128, 66), 0.5 * np.ones(len(chosen))) * (mown[:, None])
    )
    _plant(world, part, chosen, canvas, 0.35 + 0.45 * latents.greenness, 52)
    radius = np.hypot(across - part.width_m / 2, along - part.depth_m / 2)
    die = world.block_uniform(part, 53)
    path = np.abs(radius - (0.30 + 0.1 * die) * part.width_m) < 2.4
    path |= np.abs(across - along * part.width_m / part.depth_m) < 2.2
    pond = (radius < 0.17 * part.width_m) & (die > 0.55)
    for mask, colour in ((path, (198, 184, 150)), (pond, SHALLOW)):
        canvas.colour[chosen[mask]] = colour
        canvas.tree[chosen[mask]] = False


def _sports(world, kind, part, latents, chosen, canvas) -> None:  # type: ignore[no-untyped-def]
    u = (part.across - 0.5) * part.width_m
    v = (part.along - 0.5) * part.depth_m
    canvas.colour[chosen] = _ground(world, latents, 0.4)
    reach = np.hypot(np.maximum(np.abs(u) - 42, 0), v)
    track = (reach > 36) & (reach < 46)
    pitch = (np.abs(u) < 52) & (np.abs(v) < 32)
    line = pitch & ((np.abs(np.abs(u) - 50) < 1) | (np.abs(np.abs(v) - 30) < 1) | (np.abs(u) < 1))
    line |= pitch & (np.abs(np.hypot(u, v) - 10) < 1)
    stripe = np.where(np.floor(u / 9) % 2 == 0, 1.0, 0.9)
    canvas.colour[chosen[track]] = (178, 92, 66)
    canvas.colour[chosen[pitch]] = np.asarray((86, 142, 70)) * stripe[pitch][:, None]
    canvas.colour[chosen[line]] = (236, 238, 232)


def _car_park(world, kind, part, latents, chosen, canvas) -> None:  # type: ignore[no-untyped-def]
    across, along = part.across * part.width_m, part.along * part.depth_m
    canvas.colour[chosen] = np.asarray(ASPHALT) * 1.04
    aisle = np.floor(along / 6).astype(np.int64)
    slot = np.floor(across / 3).astype(np.int64)
    die = hash_uniform(world.hash_seed + 61, part.column, part.row, aisle, slot)
    inside = (across % 3 > 0.5) & (along % 6 > 0.8) & (aisle % 3 != 1)
    car = inside & (die < 0.25 + 0.55 * latents.night_life)
    canvas.colour[chosen[car]] = _pick(CAR_COLOURS, die[car] * 17 % 1)
    line = (across % 3 <= 0.5) & (aisle % 3 != 1)
    canvas.colour[chosen[line]] = (206, 206, 202)


def _paint_roads(world: World, blocks: Blocks, canvas: _Canvas, latents: Latents) -> np.ndarray:
    road = np.zeros(canvas.height.size, dtype=bool)
    rural = latents.density < 0.08
    for index, place, size in (
        (blocks.column.ravel(), blocks.across.ravel(), blocks.width_m.ravel()),
        (blocks.row.ravel(), blocks.along.ravel(), blocks.depth_m.ravel()),
    ):
        border = index + (place > 0.5)  # number of the nearest street
        distance = np.minimum(place, 1 - place) * size
        avenue = border % AVENUE_EVERY == 0
        half = np.where(avenue, AVENUE_M, np.where(rural, 0.0, STREET_M)) / 2
        kerb = ~rural & (distance < half + 3.5) & ~road
        canvas.colour[kerb] = PAVEMENT
        canvas.height[kerb] = 0
        on = distance < half
        canvas.colour[on] = np.where(avenue[on, None], AVENUE, ASPHALT)
        middle = avenue & (distance < 1.2)
        canvas.colour[middle] = (210, 206, 190)
        canvas.height[on | kerb] = 0
        canvas.tree[on | kerb] = False
        canvas.pool[on | kerb] = False
        canvas.tank[on | kerb] = False
        road |= on
    return road


def _paint_lines(
    world: World, x: Floats, y: Floats, canvas: _Canvas
) -> tuple[np.ndarray, np.ndarray]:
    """Water and rail; roads cross the river on bridges only where an avenue does."""
    water = world.is_water(x, y).ravel()
    depth = np.clip((0.11 - world.river_distance(x, y)) / 0.08, 0, 1).ravel()
    canvas.colour[water] = _mix(SHALLOW, RIVER, depth)[water]
    distance = 1000 * world.rail_distance(x, y).ravel()
    rail = distance < 11
    canvas.colour[rail] = RAIL_BED
    track = rail & (np.abs(distance % 7 - 3.5) < 0.9)
    canvas.colour[track] = RAIL
    for mask in (water, rail):
        canvas.height[mask] = 0
        canvas.tree[mask] = False
        canvas.pool[mask] = False
        canvas.tank[mask] = False
    return water & ~rail, rail


def _light(canvas: _Canvas, side: int) -> np.ndarray:
    """Shadows to the north-west, as long as the buildings are high, and a little grain."""
    height = canvas.height.reshape(side, side)
    pixel_m = 1000 * CELL_KM / (TILE_PX * SUPERSAMPLE)
    shadow = np.zeros_like(height, dtype=bool)
    for step in range(1, MARGIN_PX * SUPERSAMPLE, 2):
        needed = step * pixel_m * 1.25  # tangent of the sun's elevation, and the diagonal
        cast = np.zeros_like(shadow)
        cast[:-step, :-step] = height[step:, step:] > np.maximum(needed, height[:-step, :-step] + 2)
        shadow |= cast
    colour = canvas.colour.reshape(side, side, 3)
    colour = colour * np.where(shadow, 0.58, 1.0)[..., None]
    return np.clip(colour, 0, 255).astype(np.uint8)


__all__ = ["TILE_PX", "Tile", "render_tile"]
