"""Painters of blocks in satellite tiles, one per kind of block."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .styles import Colour, Style
from .world import Blocks, Bools, Floats, Ints, Latents, World, hash_uniform

POOL, SHALLOW, LAWN = (84, 176, 196), (70, 104, 118), (86, 128, 66)
TURF, TRACK, LINE, SLOT = (86, 142, 70), (178, 92, 66), (236, 238, 232), (206, 206, 202)
PATH, TANK = (198, 184, 150), (226, 226, 222)
PAVEMENT, CONCRETE, ASPHALT = (156, 152, 146), (170, 170, 170), (112, 112, 114)
CARS = ((210, 212, 214), (60, 62, 66), (150, 40, 38), (50, 80, 130), (180, 178, 170))
SHEETS = ((206, 208, 210), (120, 146, 176), (172, 170, 164), (150, 96, 80))
BOXES = ((176, 72, 48), (62, 96, 140), (196, 160, 60), (110, 128, 96))
OWN_ROOFS = 0.3  # share of roofs that differ from those of the block, unless roofs_by_wealth


@dataclass(frozen=True)
class Land:
    """Blocks of a tile, and the block of each pixel."""

    world: World
    style: Style  # palette on the day of the image
    streets: Blocks  # position of each pixel in the street network, arrays of `(pixels,)`
    block: Ints  # index of each pixel's block, `(pixels,)`
    column: Ints  # column of each block in the street network, `(blocks,)`
    row: Ints  # row of each block in the street network, `(blocks,)`
    kind: Ints  # `Kind` of each block, `(blocks,)`
    # whether a block is a field or large park with no streets except avenues, `(blocks,)`
    open: Bools
    latents: Latents  # latents at the centre of each block, arrays of `(blocks,)`


class Canvas:
    """Colour `(pixels, 3)`, height in metres and marks of each pixel."""

    def __init__(self, count: int):
        self.colour = np.zeros((count, 3), np.float32)
        self.height = np.zeros(count, np.float32)
        self.tree, self.pool, self.tank = (np.zeros(count, dtype=bool) for _ in range(3))

    def clear(self, chosen: Bools) -> None:
        """Remove objects from the chosen pixels, keeping their colour."""
        self.height[chosen] = 0
        for mark in (self.tree, self.pool, self.tank):
            mark[chosen] = False


class Part:
    """Pixels of all blocks of one kind in a tile: their indices, `(n,)`.

    `x_m` and `y_m` are their distances from the block's border along the street directions, and
    `width_m` and `depth_m` the sides of their block, at its centre.
    """

    def __init__(self, land: Land, kind: int, canvas: Canvas):
        self.style, self.kind, self.canvas = land.style, kind, canvas
        self.storeys, self._seed = land.world.storeys, land.world.hash_seed
        blocks = np.flatnonzero(land.kind == kind)
        self.pixels = np.flatnonzero((land.kind == kind)[land.block])
        numbers = np.zeros(land.kind.size, np.int32)
        numbers[blocks] = np.arange(len(blocks), dtype=np.int32)
        self._block = numbers[land.block[self.pixels]]
        self._column, self._row = land.column[blocks], land.row[blocks]
        self._latents = {name: value[blocks] for name, value in land.latents.items()}
        size = land.world.block_size_m(self._column)
        self._sizes = tuple(side.astype(np.float32) for side in size)
        self.is_open = land.open[blocks][self._block]
        self.width_m, self.depth_m = (side[self._block] for side in self._sizes)
        self.x_m = land.streets.across[self.pixels] * self.width_m
        self.y_m = land.streets.along[self.pixels] * self.depth_m

    def latent(self, name: str) -> Floats:
        """Latent of each pixel's block."""
        return self._latents[name].astype(np.float32)[self._block]

    def die(self, salt: int) -> Floats:
        """Random number of each pixel's block, in [0, 1)."""
        return self._dice(salt)[self._block]

    def cells(self, width_m: float, depth_m: float, salt: int) -> tuple[Floats, Floats, Floats]:
        """Divide the blocks into cells of approximately the given size.

        Returns:
            Offsets in metres from the centre of each pixel's cell in both directions, and a random
            number of the cell in [0, 1).
        """
        counts, offsets, indices = [], [], []
        for place, side, wanted in (
            (self.x_m, self._sizes[0], width_m),
            (self.y_m, self._sizes[1], depth_m),
        ):
            count = np.maximum(1, np.round(side / wanted)).astype(np.int32)
            size = (side / count)[self._block]
            index = np.minimum((place / size).astype(np.int32), count[self._block] - 1)
            offsets.append(place - (index + np.float32(0.5)) * size)
            indices.append(index)
            counts.append(np.arange(int(count.max())))
        # hash cells instead of pixels, since there are far fewer
        table = self._dice(salt, counts[0][:, None], counts[1])
        return offsets[0], offsets[1], table[self._block, indices[0], indices[1]]

    def paint(
        self,
        colour: Floats | Colour,
        where: Bools | Ints | slice = slice(None),
        height_m: Floats | float | None = None,
    ) -> Ints:
        """Set the colour, and optionally the height, of pixels; return their indices."""
        pixels = self.pixels[where]
        self.canvas.colour[pixels] = colour
        if height_m is not None:
            self.canvas.height[pixels] = height_m
        return pixels

    def _dice(self, salt: int, *cells: Ints) -> Floats:
        shape = (-1, *[1] * len(cells))
        column, row = self._column.reshape(shape), self._row.reshape(shape)
        return hash_uniform(self._seed + salt, column, row, *cells).astype(np.float32)


def mixed(one: Colour, other: Colour, weight: Floats) -> Floats:
    """Interpolate between two colours by a weight per pixel."""
    a, b = np.asarray(one, np.float32), np.asarray(other, np.float32)
    return a + (b - a) * weight.astype(np.float32)[:, None]


def _pick(colours: Sequence[Colour], uniform: Floats) -> Floats:
    table = np.asarray(colours, np.float32)
    return table[np.minimum((uniform * len(table)).astype(np.intp), len(table) - 1)]


def _ground(part: Part, paved: float) -> Floats:
    grass = mixed(part.style.soil, part.style.grass, 0.35 + 0.65 * part.latent("greenness"))
    return grass + (np.asarray(PAVEMENT, np.float32) - grass) * np.float32(paved)


def _plant(part: Part, share: Floats, salt: int) -> None:
    """Plant trees on a jittered 9-m lattice outside buildings; `share` is the density per pixel."""
    u, v, die = part.cells(9.0, 9.0, salt)
    share = share * np.float32(part.style.trees)
    likely = np.flatnonzero(die < share)
    u, v, die, share = u[likely], v[likely], die[likely], share[likely]
    shift = 4.0 * (die * 977 % 1 - 0.5)
    crown = np.hypot(u - shift, v + shift) < 2.6 + 2.2 * die
    pixels = part.pixels[likely]
    tree = crown & (part.canvas.height[pixels] == 0) & ~part.canvas.pool[pixels]
    shade = mixed(*part.style.crowns, die[tree] / np.maximum(share[tree], 1e-6))
    if part.style.crown_cover < 1:
        ground = part.canvas.colour[pixels[tree]]
        shade = ground + np.float32(part.style.crown_cover) * (shade - ground)
    part.canvas.tree[part.paint(shade, likely[tree])] = True


def _field(part: Part) -> None:
    die, grass = part.die(11), part.style.grass
    furrow = 0.5 + 0.5 * np.sin(np.where(die > 0.5, part.x_m, part.y_m) * (2 * np.pi / 14))
    red, green, blue = (int(0.85 * value) for value in grass)
    colours = [grass, part.style.crop, part.style.soil, (red, green, blue)]
    part.paint(_pick(colours, die) * (0.90 + 0.12 * furrow[:, None]))
    _plant(part, 0.10 * part.latent("greenness"), 12)


def _villas(part: Part) -> None:
    wealth = part.latent("wealth")
    u, v, die = part.cells(34.0, 40.0, 21)
    part.paint(_ground(part, 0.08))
    roof = (np.abs(u) < 7.5 + 3.5 * wealth) & (np.abs(v + 4) < 6.0) & (die > 0.10)
    pool = ~roof & (np.abs(u - 7) < 3.5) & (np.abs(v - 11) < 2.3)
    pool &= (wealth > 0.6) & (die > 0.45)
    part.canvas.pool[part.paint(POOL, pool)] = True
    _pitched_roofs(part, roof, v, die)
    _plant(part, 0.35 * (0.3 + part.latent("greenness") + 0.4 * wealth), 22)


def _rows(part: Part) -> None:
    u, v, die = part.cells(13.0, 36.0, 21)
    part.paint(_ground(part, 0.35))
    _pitched_roofs(part, (np.abs(u) < 6.2) & (np.abs(v + 4) < 6.0) & (die > 0.03), v, die)
    _plant(part, 0.12 * (0.3 + part.latent("greenness") + 0.4 * part.latent("wealth")), 22)


def _pitched_roofs(part: Part, roof: Bools, v: Floats, die: Floats) -> None:
    chosen = np.flatnonzero(roof)
    slope = np.where(v[chosen] + 4 > 0, np.float32(1.06), np.float32(0.86))
    tiles, lightness = _roofing(part, part.style.roofs, chosen, die[chosen])
    part.paint(tiles * (slope * (0.84 + 0.22 * lightness))[:, None], chosen, 6.5)


def _roofing(
    part: Part, colours: Sequence[Colour], chosen: Ints, die: Floats
) -> tuple[Floats, Floats]:
    """Colours of roofs, and their lightness from 0 to 1; `die` is a random number per building."""
    if part.style.roofs_by_wealth:
        return _pick(colours, die * 7 % 1), part.latent("wealth")[chosen]
    own = die * 31 % 1 < OWN_ROOFS
    return _pick(colours, np.where(own, die * 7 % 1, part.die(24)[chosen])), die * 53 % 1


def _slabs(part: Part) -> None:
    u, v, die = part.cells(62.0, 34.0, 31)
    part.paint(_ground(part, 0.5))
    half = np.full(len(u), 25.0, np.float32), np.full(len(u), 7.0, np.float32)
    _flat_roofs(part, np.stack([u, v]), np.stack(half), die)


def _towers(part: Part) -> None:
    u, v, die = part.cells(52.0, 52.0, 31)
    part.paint(_ground(part, 0.75))
    half = 15 + 6 * (die * 13 % 1), 14 + 7 * (die * 29 % 1)
    _flat_roofs(part, np.stack([u, v]), np.stack(half), die)


def _flat_roofs(part: Part, place: Floats, half: Floats, die: Floats) -> None:
    """Paint roofs with a dark rim and a lift housing, and trees between them.

    `place` is the offset from the centre of the cell, `half` half the sides of the roof, both
    `(2, pixels)` in metres.
    """
    place = np.abs(place)
    chosen = np.flatnonzero(np.all(place < half, axis=0) & (die > 0.08))
    place, half = place[:, chosen], half[:, chosen]
    rim = np.max(place - half, axis=0) > -2.2
    hut = np.all(place < 4, axis=0)
    top, lightness = _roofing(part, part.style.flat_roofs, chosen, die[chosen])
    shade = 0.86 + 0.18 * lightness - 0.10 * rim - 0.22 * hut
    levels = part.storeys(part.kind, part.latent("density")[chosen], die[chosen])
    part.paint(top * shade.astype(np.float32)[:, None], chosen, 3.2 * levels)
    _plant(part, 0.45 * part.latent("greenness"), 32)


def _works(part: Part) -> None:
    u, v, die = part.cells(118.0, 84.0, 41)
    part.paint(np.asarray(CONCRETE, np.float32) * (0.86 + 0.14 * die[:, None]))
    u, v = np.abs(u), np.abs(v)
    shed = np.flatnonzero((u < 48) & (v < 30) & (die > 0.22))
    seam = np.where(np.floor(v[shed] / 10) % 2 == 0, np.float32(1.0), np.float32(0.86))
    part.paint(_pick(SHEETS, die[shed] * 5 % 1) * seam[:, None], shed, 11.0)
    tank = (die <= 0.22) & (np.hypot(u - 22, v - 18) < 12)
    part.canvas.tank[part.paint(TANK, tank, 14.0)] = True
    _, _, box = part.cells(12.0, 4.0, 43)
    stacked = (v > 33) & (box > 0.55)
    part.paint(_pick(BOXES, box[stacked] * 11 % 1), stacked, 3.0)


def _park(part: Part) -> None:
    """Paint small parks with a circular path, large ones with groves, meadows and ponds."""
    die, large = part.die(53), part.is_open
    mown = 0.95 + 0.05 * np.sign(np.sin(part.x_m / 8))
    lawn = mixed(part.style.grass, LAWN, np.full(len(die), 0.5, np.float32))
    part.paint(lawn * mown[:, None])
    _plant(part, np.where(large, 1.1 * die, 0.35 + 0.45 * part.latent("greenness")), 52)
    radius = np.hypot(part.x_m - part.width_m / 2, part.y_m - part.depth_m / 2)
    path = np.abs(radius - (0.30 + 0.1 * die) * part.width_m) < 2.4
    path = np.where(large, np.abs(part.x_m - part.width_m / 2) < 1.6, path)
    path |= np.abs(part.x_m - part.y_m * part.width_m / part.depth_m) < 2.2
    pond = radius < np.where(large, 0.34, 0.17) * part.width_m
    pond &= die > np.where(large, 0.8, 0.55)
    for mask, colour in ((path, PATH), (pond, SHALLOW)):
        part.canvas.tree[part.paint(colour, mask)] = False


def _sports(part: Part) -> None:
    u, v = part.x_m - part.width_m / 2, part.y_m - part.depth_m / 2
    part.paint(_ground(part, 0.4))
    reach = np.hypot(np.maximum(np.abs(u) - 42, 0), v)
    pitch = (np.abs(u) < 52) & (np.abs(v) < 32)
    line = (np.abs(np.abs(u) - 50) < 1) | (np.abs(np.abs(v) - 30) < 1) | (np.abs(u) < 1)
    line |= np.abs(np.hypot(u, v) - 10) < 1
    stripe = np.where(np.floor(u[pitch] / 9) % 2 == 0, np.float32(1.0), np.float32(0.9))
    part.paint(TRACK, (reach > 36) & (reach < 46))
    part.paint(np.asarray(TURF, np.float32) * stripe[:, None], pitch)
    part.paint(LINE, pitch & line)


def _car_park(part: Part) -> None:
    part.paint(np.asarray(ASPHALT, np.float32) * np.float32(1.04))
    u, v, die = part.cells(3.0, 6.0, 61)
    parked = np.floor(part.y_m / 6).astype(np.int32) % 3 != 1  # every third row is an aisle
    slot = parked & (np.abs(u) < 1.2) & (np.abs(v) < 2.6)
    car = slot & (die < 0.25 + 0.55 * part.latent("night_life"))
    part.paint(_pick(CARS, die[car] * 17 % 1), car)
    part.paint(SLOT, parked & (np.abs(u) >= 1.25))


# indexed by Kind
PAINTERS = (_field, _villas, _rows, _slabs, _towers, _works, _park, _sports, _car_park)
