"""Satellite tiles: every pixel is computed from its place, so that tiles join without a seam."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from .land_use import ASPHALT, PAINTERS, PAVEMENT, SHALLOW, Canvas, Land, Part, mixed
from .world import AVENUE_EVERY, CELL_KM, KINDS, RURAL_DENSITY, Blocks, Bools, Floats, World

TILE_PX = 256
SUPERSAMPLE = 2
MARGIN_PX = 12  # to the east and south: shadows fall in from beyond the tile
INNER = TILE_PX * SUPERSAMPLE
SIDE = (TILE_PX + MARGIN_PX) * SUPERSAMPLE
PIXEL_KM = CELL_KM / INNER
PIXEL_M = 1000 * PIXEL_KM
STREET_M, AVENUE_M = 9.0, 24.0
PAVEMENT_M, MEDIAN_M, RAIL_M = 3.5, 1.2, 11.0
SUN_SLOPE = 1.25  # metres of height per metre of shadow along a diagonal step
SHADOW = 0.58
COUNTED_M2 = {"pools": 32.0, "tanks": 450.0}  # area of one
RIVER, AVENUE, MEDIAN = (52, 84, 104), (132, 130, 126), (210, 206, 190)
RAIL_BED, RAIL = (122, 112, 104), (84, 78, 76)
# in a tile's cover: what the ground is in the low four bits, what stands on it in the others
COVERS = (*KINDS, "road", "water", "rail")
COVER_BITS = 0x0F
MARKS = {"trees": 0x10, "building": 0x20, "pools": 0x40, "tanks": 0x80}


@dataclass(frozen=True)
class Tile:
    """A tile and what is on it.

    Attributes:
        image: `TILE_PX` x `TILE_PX`, RGB, north up.
        shares: Shares of the area by `COVERS`, and of `trees` and `building`.
        counts: Approximate numbers of `pools` and `tanks`.
        cover: What each pixel of the image shows: index into `COVERS`, plus `MARKS`.
    """

    image: Image.Image
    shares: dict[str, float]
    counts: dict[str, int]
    cover: Image.Image


def render_tile(world: World, column: float, row: float) -> Tile:
    """The tile of a region: `CELL_KM` a side.

    Args:
        world: The city.
        column: Column of the region, from the west; a fraction is a tile between two regions.
        row: Row of the region, from the south.
    """
    steps = (np.arange(SIDE) + 0.5) * PIXEL_KM
    x = (column * CELL_KM + steps).astype(np.float32)[None, :]
    y = ((row + 1) * CELL_KM - steps).astype(np.float32)[:, None]
    land = _land(world, x, y)
    canvas = Canvas(SIDE * SIDE)
    for kind in np.unique(land.kind).tolist():
        PAINTERS[kind](Part(land, kind, canvas))
    road, bridge = _paint_roads(land, canvas)
    water, rail = _paint_lines(world, x, y, bridge, canvas)
    image = Image.fromarray(_inner(_light(canvas))).reduce(SUPERSAMPLE)
    cover = _cover(land, canvas, road & ~water, water, rail)
    shares = np.bincount((cover & COVER_BITS).ravel(), minlength=len(COVERS)) / INNER**2
    marked = {name: int(np.count_nonzero(cover & bit)) for name, bit in MARKS.items()}
    return Tile(
        image,
        dict(zip(COVERS, shares.tolist(), strict=True))
        | {name: marked[name] / INNER**2 for name in ("trees", "building")}
        # with what roads hide of it
        | {"rail": int(np.count_nonzero(_inner(rail))) / INNER**2},
        {name: round(marked[name] * PIXEL_M**2 / size) for name, size in COUNTED_M2.items()},
        Image.fromarray(cover[::SUPERSAMPLE, ::SUPERSAMPLE]),
    )


def _land(world: World, x: Floats, y: Floats) -> Land:
    flat: Any = (value.ravel() for value in world.blocks(x, y))
    streets = Blocks(*flat)
    west, south = int(streets.column.min()), int(streets.row.min())
    depth = int(streets.row.max()) - south + 1
    key = (streets.column - west) * depth + (streets.row - south)
    present = np.zeros(int(key.max()) + 1, dtype=bool)
    present[key] = True
    keys = np.flatnonzero(present)
    numbers = np.cumsum(present, dtype=np.int32) - 1
    column, row = (keys // depth + west).astype(np.int32), (keys % depth + south).astype(np.int32)
    kind, latents = world.block_kinds(column, row)
    park = world.is_park(*world.block_centres(column, row))
    open_land = park | (latents["density"] < RURAL_DENSITY)
    return Land(world, streets, numbers[key], column, row, kind, open_land, latents)


def _inner(pixels: np.ndarray) -> np.ndarray:
    """The tile itself, `(INNER, INNER, ...)`, without its margin."""
    return pixels.reshape(SIDE, SIDE, *pixels.shape[1:])[:INNER, :INNER]


def _cover(land: Land, canvas: Canvas, road: Bools, water: Bools, rail: Bools) -> np.ndarray:
    """What each pixel of the tile shows, `(INNER, INNER)`: index into `COVERS`, plus `MARKS`."""
    cover = land.kind[land.block].astype(np.uint8)
    for name, mask in (("rail", rail), ("road", road), ("water", water)):  # over one another
        cover[mask] = COVERS.index(name)
    free = cover < len(KINDS)
    marks = (canvas.tree, canvas.height > 0, canvas.pool, canvas.tank)
    for bit, mask in zip(MARKS.values(), marks, strict=True):
        cover[mask & free] |= np.uint8(bit)
    return _inner(cover)


def _paint_roads(land: Land, canvas: Canvas) -> tuple[Bools, Bools]:
    """Streets along the borders of blocks; returns all roads, and avenues that may bridge."""
    streets = land.streets
    street_m = np.where(land.open, 0.0, STREET_M / 2).astype(np.float32)[land.block]
    distances, avenues, gaps = [], [], []
    for index, place, size in (
        (streets.column, streets.across, streets.width_m),
        (streets.row, streets.along, streets.depth_m),
    ):
        border = index + (place > 0.5)  # number of the nearest street
        avenues.append(border % AVENUE_EVERY == 0)
        distances.append(np.minimum(place, 1 - place) * size)
        gaps.append(distances[-1] - np.where(avenues[-1], np.float32(AVENUE_M / 2), street_m))
    nearest = np.minimum(*gaps)
    kerb = np.flatnonzero((nearest < PAVEMENT_M) & (street_m > 0) & (nearest >= 0))
    canvas.colour[kerb], canvas.height[kerb], canvas.tree[kerb] = PAVEMENT, 0, False
    road = nearest < 0
    canvas.clear(road)
    canvas.colour[road] = ASPHALT
    for distance, avenue, gap in zip(distances, avenues, gaps, strict=True):
        canvas.colour[avenue & (gap < 0)] = AVENUE
        canvas.colour[avenue & (distance < MEDIAN_M)] = MEDIAN
    return road, avenues[0] & (gaps[0] < 0)


def _paint_lines(
    world: World, x: Floats, y: Floats, bridge: Bools, canvas: Canvas
) -> tuple[Bools, Bools]:
    """Water and rail; roads cross the river on bridges where an avenue of one direction does."""
    river = world.river_distance(x, y)
    water = world.is_water(x, y).ravel() & ~(bridge & (river.ravel() < 0.3))
    depth = np.clip((0.11 - river.ravel()[water]) / 0.08, 0, 1)
    canvas.colour[water] = mixed(SHALLOW, RIVER, depth)
    distance = 1000 * world.rail_distance(x, y).ravel()
    rail = distance < RAIL_M
    canvas.colour[rail] = RAIL_BED
    canvas.colour[rail & (np.abs(distance % 7 - 3.5) < 0.9)] = RAIL
    canvas.clear(water | rail)
    return water & ~rail, rail


def _light(canvas: Canvas) -> np.ndarray:
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
    colour = canvas.colour
    colour[shadow.ravel()] *= np.float32(SHADOW)
    return np.clip(colour, 0, 255, out=colour).astype(np.uint8)
