"""Satellite tiles: every pixel is computed from its place, so that tiles join without a seam."""

from collections.abc import Callable, Sequence
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
from .noise import Bools, Floats, Ints, hash_uniform
from .styles import Colour
from .world import AVENUE_EVERY, CELL_KM, RURAL_DENSITY, Blocks, Latents, World

TILE_PX = 256
SUPERSAMPLE = 2
MARGIN_PX = 12  # to the east and south: shadows fall in from beyond the tile
SIDE = (TILE_PX + MARGIN_PX) * SUPERSAMPLE
PIXEL_KM = CELL_KM / (TILE_PX * SUPERSAMPLE)
PIXEL_M = 1000 * PIXEL_KM
STREET_M, AVENUE_M = 9.0, 24.0
PAVEMENT_M, MEDIAN_M, RAIL_M = 3.5, 1.2, 11.0
SUN_SLOPE = 1.25  # metres of height for each metre of shadow along a diagonal step
SHADOW = 0.58
POOL_M2, TANK_M2 = 32.0, 450.0
RIVER, SHALLOW = (52, 84, 104), (70, 104, 118)
ASPHALT, AVENUE, MEDIAN = (112, 112, 114), (132, 130, 126), (210, 206, 190)
PAVEMENT, CONCRETE, PATH = (156, 152, 146), (170, 170, 170), (198, 184, 150)
# in a tile's cover: what the ground is in the low four bits, what stands on it in the others
COVERS = (*KINDS, "road", "water", "rail")
COVER_BITS = 0x0F
MARKS = {"trees": 0x10, "building": 0x20, "pools": 0x40, "tanks": 0x80}
TREE, TREE_DARK, LAWN = (52, 88, 46), (38, 68, 38), (86, 128, 66)
RAIL_BED, RAIL = (122, 112, 104), (84, 78, 76)
CARS = ((210, 212, 214), (60, 62, 66), (150, 40, 38), (50, 80, 130), (180, 178, 170))
SHEETS = ((206, 208, 210), (120, 146, 176), (172, 170, 164), (150, 96, 80))
BOXES = ((176, 72, 48), (62, 96, 140), (196, 160, 60), (110, 128, 96))


@dataclass(frozen=True)
class Tile:
    """A tile and what is on it.

    Attributes:
        image: `TILE_PX` x `TILE_PX`, RGB, north up.
        shares: of the area by kind of block, and `water`, `road`, `rail`, `trees`, `building`.
        counts: of `pools` and `tanks`, about.
        cover: what each pixel of the image shows: index into `COVERS`, plus `MARKS`.
    """

    image: Image.Image
    shares: dict[str, float]
    counts: dict[str, int]
    cover: Image.Image


@dataclass(frozen=True)
class _Land:
    """The blocks of a tile, and the block of each of its pixels.

    Attributes:
        world: the city.
        streets: place of each pixel in the street network, all `(pixels,)`.
        block: number of each pixel's block, `(pixels,)`; what follows is by block.
        column: of the street network.
        row: of the street network.
        kind: index into `KINDS`.
        open: no streets but avenues: fields and large parks.
        latents: at the middle.
    """

    world: World
    streets: Blocks
    block: Ints
    column: Ints
    row: Ints
    kind: Ints
    open: Bools
    latents: Latents


class _Canvas:
    """What lies on each pixel: colour `(pixels, 3)`, height in metres, and marks."""

    def __init__(self, count: int):
        self.colour = np.zeros((count, 3), np.float32)
        self.height = np.zeros(count, np.float32)
        self.tree, self.pool, self.tank = (np.zeros(count, dtype=bool) for _ in range(3))

    def clear(self, chosen: Bools) -> None:
        """Take away what stands there."""
        self.height[chosen] = 0
        for mark in (self.tree, self.pool, self.tank):
            mark[chosen] = False


class _Part:
    """The pixels of all blocks of one kind in a tile.

    Attributes:
        kind: of the blocks.
        pixels: their numbers, `(n,)`.
        x_m: metres from the block's border along the first street direction, `(n,)`.
        y_m: along the second.
        width_m: of the pixel's block along the first direction, `(n,)`.
        depth_m: along the second, at the block's middle.
    """

    def __init__(self, land: _Land, kind: int):
        self.world, self.kind = land.world, kind
        blocks = np.flatnonzero(land.kind == kind)
        self.pixels = np.flatnonzero((land.kind == kind)[land.block])
        numbers = np.zeros(land.kind.size, np.int32)
        numbers[blocks] = np.arange(len(blocks), dtype=np.int32)
        self._block = numbers[land.block[self.pixels]]
        self._column, self._row = land.column[blocks], land.row[blocks]
        self._open = land.open[blocks]
        self._latents = {name: value[blocks] for name, value in vars(land.latents).items()}
        size = self.world.block_size_m(self._column)
        self._sizes = tuple(side.astype(np.float32) for side in size)
        self.width_m, self.depth_m = (side[self._block] for side in self._sizes)
        self.x_m = land.streets.across[self.pixels] * self.width_m
        self.y_m = land.streets.along[self.pixels] * self.depth_m

    def latent(self, name: str) -> Floats:
        """A latent of each pixel's block."""
        return self._latents[name].astype(np.float32)[self._block]

    def is_open(self) -> Bools:
        """Whether each pixel's block is part of a large park (or a field)."""
        return self._open[self._block]

    def die(self, salt: int) -> Floats:
        """A random number of each pixel's block, in [0, 1)."""
        seed = self.world.hash_seed + salt
        return hash_uniform(seed, self._column, self._row).astype(np.float32)[self._block]

    def cells(self, width_m: float, depth_m: float, salt: int) -> tuple[Floats, Floats, Floats]:
        """Deal the blocks into cells of about a size.

        Returns:
            Metres from the middle of each pixel's cell in both directions, and a die of the cell.
        """
        counts = [
            np.maximum(1, np.round(side / size)).astype(np.int32)
            for side, size in zip(self._sizes, (width_m, depth_m), strict=True)
        ]
        offsets, indices = [], []
        for place, side, count in zip((self.x_m, self.y_m), self._sizes, counts, strict=True):
            size = (side / count)[self._block]
            index = np.minimum((place / size).astype(np.int32), count[self._block] - 1)
            offsets.append(place - (index + np.float32(0.5)) * size)
            indices.append(index)
        table = self._dice(int(counts[0].max()), int(counts[1].max()), salt)
        return offsets[0], offsets[1], table[self._block, indices[0], indices[1]]

    def _dice(self, nx: int, ny: int, salt: int) -> Floats:
        # a table of all cells: far fewer than pixels
        seed = self.world.hash_seed + salt
        column, row = self._column[:, None, None], self._row[:, None, None]
        table = hash_uniform(seed, column, row, np.arange(nx)[:, None], np.arange(ny))
        return table.astype(np.float32)


def render_tile(world: World, column: float, row: float) -> Tile:
    """The tile of a region: `CELL_KM` a side.

    Args:
        world: the city.
        column: of the region, from the west; a fraction is a tile between two regions.
        row: of the region, from the south.
    """
    steps = (np.arange(SIDE) + 0.5) * PIXEL_KM
    x = (column * CELL_KM + steps).astype(np.float32)[None, :]
    y = ((row + 1) * CELL_KM - steps).astype(np.float32)[:, None]
    land = _land(world, x, y)
    canvas = _Canvas(SIDE * SIDE)
    for kind in np.unique(land.kind).tolist():
        PAINTERS[kind](_Part(land, kind), canvas)
    road, bridge = _paint_roads(land, canvas)
    water, rail = _paint_lines(world, x, y, bridge, canvas)
    image = Image.fromarray(_light(canvas)[: TILE_PX * SUPERSAMPLE, : TILE_PX * SUPERSAMPLE])
    shares, counts = _measure(land, canvas, road, water, rail)
    cover = _cover(land, canvas, road, water, rail)
    return Tile(image.reduce(SUPERSAMPLE), shares, counts, cover)


def _land(world: World, x: Floats, y: Floats) -> _Land:
    grid = world.blocks(x, y)
    streets = Blocks(**{name: value.ravel() for name, value in vars(grid).items()})
    west, south = int(streets.column.min()), int(streets.row.min())
    depth = int(streets.row.max()) - south + 1
    key = (streets.column - west) * depth + (streets.row - south)
    present = np.zeros(int(key.max()) + 1, dtype=bool)
    present[key] = True
    keys = np.flatnonzero(present)
    numbers = np.cumsum(present, dtype=np.int32) - 1
    column, row = (keys // depth + west).astype(np.int32), (keys % depth + south).astype(np.int32)
    kind, latents = block_kinds(world, column, row)
    park = world.is_park(*world.block_centres(column, row))
    open_land = park | (latents.density < RURAL_DENSITY)
    return _Land(world, streets, numbers[key], column, row, kind, open_land, latents)


def _measure(
    land: _Land, canvas: _Canvas, road: Bools, water: Bools, rail: Bools
) -> tuple[dict[str, float], dict[str, int]]:
    """Shares of the tile's area, and counts, by what is on its pixels."""
    inner = TILE_PX * SUPERSAMPLE
    area_px = inner**2

    def area(mask: Bools) -> int:
        return int(np.count_nonzero(mask.reshape(SIDE, SIDE)[:inner, :inner]))

    free = ~(water | road | rail)
    blocks = np.where(free, land.block, len(land.kind)).reshape(SIDE, SIDE)[:inner, :inner]
    by_block = np.bincount(blocks.ravel(), minlength=len(land.kind) + 1)[:-1]
    by_kind = np.bincount(land.kind, weights=by_block, minlength=len(KINDS)) / area_px
    shares = dict(zip(KINDS, by_kind.tolist(), strict=True))
    for name, mask in {
        "water": water,
        "road": road & ~water,
        "rail": rail,
        "trees": canvas.tree & free,
        "building": (canvas.height > 0) & free,
    }.items():
        shares[name] = area(mask) / area_px
    sizes = {"pools": (canvas.pool, POOL_M2), "tanks": (canvas.tank, TANK_M2)}
    counts = {
        name: round(area(mask & free) * PIXEL_M**2 / size_m2)
        for name, (mask, size_m2) in sizes.items()
    }
    return shares, counts


def _cover(land: _Land, canvas: _Canvas, road: Bools, water: Bools, rail: Bools) -> Image.Image:
    """What each pixel of the image shows, by one of the pixels it is reduced from."""
    cover = land.kind[land.block].astype(np.uint8)
    # later ones lie over earlier ones
    for name, mask in (("rail", rail), ("road", road & ~water), ("water", water)):
        cover[mask] = COVERS.index(name)
    free = ~(water | road | rail)
    marks = (canvas.tree, canvas.height > 0, canvas.pool, canvas.tank)
    for bit, mask in zip(MARKS.values(), marks, strict=True):
        cover[mask & free] |= np.uint8(bit)
    inner = TILE_PX * SUPERSAMPLE
    return Image.fromarray(cover.reshape(SIDE, SIDE)[:inner:SUPERSAMPLE, :inner:SUPERSAMPLE])


# ---- blocks -----------------------------------------------------------------------------------


def _mix(one: Colour, other: Colour, weight: Floats) -> Floats:
    """Colour between two, by a weight for each pixel."""
    a, b = np.asarray(one, np.float32), np.asarray(other, np.float32)
    return a + (b - a) * weight.astype(np.float32)[:, None]


def _pick(colours: Sequence[Colour], uniform: Floats) -> Floats:
    table = np.asarray(colours, np.float32)
    return table[np.minimum((uniform * len(table)).astype(np.intp), len(table) - 1)]


def _ground(part: _Part, paved: float) -> Floats:
    style = part.world.style
    grass = _mix(style.soil, style.grass, 0.35 + 0.65 * part.latent("greenness"))
    return grass + (np.asarray(PAVEMENT, np.float32) - grass) * np.float32(paved)


def _plant(part: _Part, canvas: _Canvas, share: Floats, salt: int) -> None:
    """Trees on a jittered lattice of 9 m, where nothing is built; `share` is by pixel."""
    u, v, die = part.cells(9.0, 9.0, salt)
    share = share * np.float32(part.world.style.trees)
    likely = np.flatnonzero(die < share)
    u, v, die, share = u[likely], v[likely], die[likely], share[likely]
    shift = 4.0 * (die * 977 % 1 - 0.5)
    crown = np.hypot(u - shift, v + shift) < 2.6 + 2.2 * die
    pixels = part.pixels[likely]
    tree = crown & (canvas.height[pixels] == 0) & ~canvas.pool[pixels]
    canvas.colour[pixels[tree]] = _mix(TREE_DARK, TREE, die[tree] / np.maximum(share[tree], 1e-6))
    canvas.tree[pixels[tree]] = True


def _field(part: _Part, canvas: _Canvas) -> None:
    die, style = part.die(11), part.world.style
    furrow = 0.5 + 0.5 * np.sin(np.where(die > 0.5, part.x_m, part.y_m) * (2 * np.pi / 14))
    dark = tuple(int(0.85 * value) for value in style.grass)
    colours = [style.grass, style.crop, style.soil, (dark[0], dark[1], dark[2])]
    canvas.colour[part.pixels] = _pick(colours, die) * (0.90 + 0.12 * furrow[:, None])
    _plant(part, canvas, 0.10 * part.latent("greenness"), 12)


def _villas(part: _Part, canvas: _Canvas) -> None:
    wealth = part.latent("wealth")
    u, v, die = part.cells(34.0, 40.0, 21)
    canvas.colour[part.pixels] = _ground(part, 0.08)
    roof = (np.abs(u) < 7.5 + 3.5 * wealth) & (np.abs(v + 4) < 6.0) & (die > 0.10)
    pool = ~roof & (np.abs(u - 7) < 3.5) & (np.abs(v - 11) < 2.3)
    pool &= (wealth > 0.6) & (die > 0.45)
    canvas.colour[part.pixels[pool]] = (84, 176, 196)
    canvas.pool[part.pixels[pool]] = True
    _pitched_roofs(part, canvas, roof, v, die)
    _plant(part, canvas, 0.35 * (0.3 + part.latent("greenness") + 0.4 * wealth), 22)


def _rows(part: _Part, canvas: _Canvas) -> None:
    u, v, die = part.cells(13.0, 36.0, 21)
    canvas.colour[part.pixels] = _ground(part, 0.35)
    roof = (np.abs(u) < 6.2) & (np.abs(v + 4) < 6.0) & (die > 0.03)
    _pitched_roofs(part, canvas, roof, v, die)
    share = 0.12 * (0.3 + part.latent("greenness") + 0.4 * part.latent("wealth"))
    _plant(part, canvas, share, 22)


def _pitched_roofs(part: _Part, canvas: _Canvas, roof: Bools, v: Floats, die: Floats) -> None:
    chosen = np.flatnonzero(roof)
    slope = np.where(v[chosen] + 4 > 0, np.float32(1.06), np.float32(0.86))
    worn = 0.84 + 0.22 * part.latent("wealth")[chosen]
    tiles = _pick(part.world.style.roofs, die[chosen] * 7 % 1)
    canvas.colour[part.pixels[chosen]] = tiles * (slope * worn)[:, None]
    canvas.height[part.pixels[chosen]] = 6.5


def _slabs(part: _Part, canvas: _Canvas) -> None:
    u, v, die = part.cells(62.0, 34.0, 31)
    canvas.colour[part.pixels] = _ground(part, 0.5)
    half = np.full(len(u), 25.0, np.float32), np.full(len(u), 7.0, np.float32)
    _flat_roofs(part, canvas, (np.abs(u), np.abs(v)), half, die)


def _towers(part: _Part, canvas: _Canvas) -> None:
    u, v, die = part.cells(52.0, 52.0, 31)
    canvas.colour[part.pixels] = _ground(part, 0.75)
    half = 15 + 6 * (die * 13 % 1), 14 + 7 * (die * 29 % 1)
    _flat_roofs(part, canvas, (np.abs(u), np.abs(v)), half, die)


def _flat_roofs(
    part: _Part,
    canvas: _Canvas,
    place: tuple[Floats, Floats],
    half: tuple[Floats, Floats],
    die: Floats,
) -> None:
    """Roofs with a dark rim and a hut for the lift; then trees between."""
    chosen = np.flatnonzero((place[0] < half[0]) & (place[1] < half[1]) & (die > 0.08))
    (u, v), (half_u, half_v) = ((pair[0][chosen], pair[1][chosen]) for pair in (place, half))
    rim = np.maximum(u - half_u, v - half_v) > -2.2
    hut = (u < 4) & (v < 4)
    shade = 0.86 + 0.18 * part.latent("wealth")[chosen] - 0.10 * rim - 0.22 * hut
    top = _pick(part.world.style.flat_roofs, die[chosen] * 7 % 1)
    canvas.colour[part.pixels[chosen]] = top * shade.astype(np.float32)[:, None]
    density = part.latent("density")[chosen]
    levels = storeys(part.world, part.kind, density, die[chosen])
    canvas.height[part.pixels[chosen]] = 3.2 * levels
    _plant(part, canvas, 0.45 * part.latent("greenness"), 32)


def _works(part: _Part, canvas: _Canvas) -> None:
    u, v, die = part.cells(118.0, 84.0, 41)
    concrete = np.asarray(CONCRETE, np.float32)
    canvas.colour[part.pixels] = concrete * (0.86 + 0.14 * die[:, None])
    u, v = np.abs(u), np.abs(v)
    shed = np.flatnonzero((u < 48) & (v < 30) & (die > 0.22))
    seam = np.where(np.floor(v[shed] / 10) % 2 == 0, np.float32(1.0), np.float32(0.86))
    canvas.colour[part.pixels[shed]] = _pick(SHEETS, die[shed] * 5 % 1) * seam[:, None]
    canvas.height[part.pixels[shed]] = 11.0
    tank = part.pixels[(die <= 0.22) & (np.hypot(u - 22, v - 18) < 12)]
    canvas.colour[tank] = (226, 226, 222)
    canvas.height[tank] = 14.0
    canvas.tank[tank] = True
    _, _, box = part.cells(12.0, 4.0, 43)
    stacked = (v > 33) & (box > 0.55)
    canvas.colour[part.pixels[stacked]] = _pick(BOXES, box[stacked] * 11 % 1)
    canvas.height[part.pixels[stacked]] = 3.0


def _park(part: _Part, canvas: _Canvas) -> None:
    """Small parks have a round path; in large ones groves, meadows and ponds take turns."""
    die, large = part.die(53), part.is_open()
    mown = 0.95 + 0.05 * np.sign(np.sin(part.x_m / 8))
    lawn = _mix(part.world.style.grass, LAWN, np.full(len(die), 0.5, np.float32))
    canvas.colour[part.pixels] = lawn * mown[:, None]
    share = np.where(large, 1.1 * die, 0.35 + 0.45 * part.latent("greenness"))
    _plant(part, canvas, share, 52)
    radius = np.hypot(part.x_m - part.width_m / 2, part.y_m - part.depth_m / 2)
    path = np.abs(radius - (0.30 + 0.1 * die) * part.width_m) < 2.4
    path = np.where(large, np.abs(part.x_m - part.width_m / 2) < 1.6, path)
    path |= np.abs(part.x_m - part.y_m * part.width_m / part.depth_m) < 2.2
    pond = (radius < np.where(large, 0.34, 0.17) * part.width_m) & (
        die > np.where(large, 0.8, 0.55)
    )
    for mask, colour in ((path, PATH), (pond, SHALLOW)):
        canvas.colour[part.pixels[mask]] = colour
        canvas.tree[part.pixels[mask]] = False


def _sports(part: _Part, canvas: _Canvas) -> None:
    u, v = part.x_m - part.width_m / 2, part.y_m - part.depth_m / 2
    canvas.colour[part.pixels] = _ground(part, 0.4)
    reach = np.hypot(np.maximum(np.abs(u) - 42, 0), v)
    pitch = (np.abs(u) < 52) & (np.abs(v) < 32)
    line = (np.abs(np.abs(u) - 50) < 1) | (np.abs(np.abs(v) - 30) < 1) | (np.abs(u) < 1)
    line |= np.abs(np.hypot(u, v) - 10) < 1
    stripe = np.where(np.floor(u / 9) % 2 == 0, np.float32(1.0), np.float32(0.9))
    turf = np.asarray((86, 142, 70), np.float32) * stripe[:, None]
    canvas.colour[part.pixels[(reach > 36) & (reach < 46)]] = (178, 92, 66)
    canvas.colour[part.pixels[pitch]] = turf[pitch]
    canvas.colour[part.pixels[pitch & line]] = (236, 238, 232)


def _car_park(part: _Part, canvas: _Canvas) -> None:
    canvas.colour[part.pixels] = np.asarray(ASPHALT, np.float32) * np.float32(1.04)
    u, v, die = part.cells(3.0, 6.0, 61)
    parked = np.floor(part.y_m / 6).astype(np.int32) % 3 != 1  # every third row is an aisle
    slot = parked & (np.abs(u) < 1.2) & (np.abs(v) < 2.6)
    car = slot & (die < 0.25 + 0.55 * part.latent("night_life"))
    canvas.colour[part.pixels[car]] = _pick(CARS, die[car] * 17 % 1)
    canvas.colour[part.pixels[parked & (np.abs(u) >= 1.25)]] = (206, 206, 202)


PAINTERS: dict[int, Callable[[_Part, _Canvas], None]] = {
    FIELD: _field,
    VILLAS: _villas,
    ROWS: _rows,
    SLABS: _slabs,
    TOWERS: _towers,
    WORKS: _works,
    PARK: _park,
    SPORTS: _sports,
    CAR_PARK: _car_park,
}


# ---- roads, water, rail, light ----------------------------------------------------------------


def _paint_roads(land: _Land, canvas: _Canvas) -> tuple[Bools, Bools]:
    """Streets along the borders of blocks; returns all roads, and avenues that may bridge."""
    streets = land.streets
    street_m = np.where(land.open, 0.0, STREET_M / 2).astype(np.float32)[land.block]
    families = (
        (streets.column, streets.across, streets.width_m),
        (streets.row, streets.along, streets.depth_m),
    )
    distances, avenues = [], []
    for index, place, size in families:
        border = index + (place > 0.5)  # number of the nearest street
        avenues.append(border % AVENUE_EVERY == 0)
        distances.append(np.minimum(place, 1 - place) * size)
    halves = [np.where(avenue, np.float32(AVENUE_M / 2), street_m) for avenue in avenues]
    gaps = [distance - half for distance, half in zip(distances, halves, strict=True)]
    nearest = np.minimum(*gaps)
    urban = street_m > 0
    kerb = np.flatnonzero((nearest < PAVEMENT_M) & urban & (nearest >= 0))
    canvas.colour[kerb] = PAVEMENT
    road = nearest < 0
    canvas.clear(road)
    canvas.height[kerb] = 0
    canvas.tree[kerb] = False
    canvas.colour[road] = ASPHALT
    for distance, avenue, gap in zip(distances, avenues, gaps, strict=True):
        canvas.colour[avenue & (gap < 0)] = AVENUE
        canvas.colour[avenue & (distance < MEDIAN_M)] = MEDIAN
    return road, avenues[0] & (gaps[0] < 0)


def _paint_lines(
    world: World, x: Floats, y: Floats, bridge: Bools, canvas: _Canvas
) -> tuple[Bools, Bools]:
    """Water and rail; roads cross the river on bridges where an avenue of one direction does."""
    river = world.river_distance(x, y)
    water = world.is_water(x, y).ravel() & ~(bridge & (river.ravel() < 0.3))
    depth = np.clip((0.11 - river.ravel()[water]) / 0.08, 0, 1)
    canvas.colour[water] = _mix(SHALLOW, RIVER, depth)
    distance = 1000 * world.rail_distance(x, y).ravel()
    rail = distance < RAIL_M
    canvas.colour[rail] = RAIL_BED
    canvas.colour[rail & (np.abs(distance % 7 - 3.5) < 0.9)] = RAIL
    canvas.clear(water | rail)
    return water & ~rail, rail


def _light(canvas: _Canvas) -> np.ndarray:
    """Colours with shadows to the north-west, as long as the buildings are high."""
    height = canvas.height.reshape(SIDE, SIDE)
    highest, above = float(height.max()), height + 2
    shadow = np.zeros_like(height, dtype=bool)
    for step in range(1, MARGIN_PX * SUPERSAMPLE, 2):
        needed = step * PIXEL_M * SUN_SLOPE
        if needed > highest:
            break
        caster = height[step:, step:]
        shadow[:-step, :-step] |= (caster > needed) & (caster > above[:-step, :-step])
    colour = canvas.colour.reshape(SIDE, SIDE, 3)
    colour[shadow] *= np.float32(SHADOW)
    return np.clip(colour, 0, 255, out=colour).astype(np.uint8)


__all__ = ["TILE_PX", "Tile", "render_tile"]
