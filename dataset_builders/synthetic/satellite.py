"""Rendering of satellite tiles; pixels depend only on their location, so tiles are seamless."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from .acquisition import Acquisition, Overpass, develop, draw_overpass, dressed
from .land_use import ASPHALT, PAINTERS, PAVEMENT, SHALLOW, Canvas, Land, Part, mixed
from .styles import Style
from .world import AVENUE_EVERY, CELL_KM, KINDS, RURAL_DENSITY, Blocks, Bools, Floats, World

TILE_PX = 256
SUPERSAMPLE = 2
INNER = TILE_PX * SUPERSAMPLE
PIXEL_KM = CELL_KM / INNER
PIXEL_M = 1000 * PIXEL_KM
STREET_M, AVENUE_M = 9.0, 24.0
PAVEMENT_M, MEDIAN_M, RAIL_M = 3.5, 1.2, 11.0
SHADOW, SHADING_M = 0.58, 60.0  # SHADING_M: maximum height that casts a complete shadow
COUNTED_M2 = {"pools": 32.0, "tanks": 450.0}  # area of one object
RIVER, AVENUE, MEDIAN = (52, 84, 104), (132, 130, 126), (210, 206, 190)
RAIL_BED, RAIL = (122, 112, 104), (84, 78, 76)
# in a tile's cover, the low four bits are the ground, the others the objects on it
COVERS = (*KINDS, "road", "water", "rail")
COVER_BITS = 0x0F
MARKS = {"trees": 0x10, "building": 0x20, "pools": 0x40, "tanks": 0x80}


class _Frame(NamedTuple):
    """Pixel grid of a tile with a margin toward the sun, from which shadows are cast."""

    east: int = 1  # eastward component of a step toward the sun: -1, 0 or 1
    south: int = 1  # southward component of a step toward the sun: -1, 0 or 1
    slope: float = 1.25  # building height in metres per metre of shadow, measured along one axis
    margin: int = 24  # width of the margin in pixels

    @classmethod
    def of(cls, overpass: Overpass) -> "_Frame":
        """Frame for an overpass, with the direction of the sun rounded to 45 degrees."""
        angle = np.radians(45 * round(overpass.azimuth / 45))
        east, south = round(np.sin(angle)), -round(np.cos(angle))
        slope = float(np.tan(np.radians(overpass.elevation)) * np.hypot(east, south))
        return cls(east, south, slope, math.ceil(SHADING_M / (slope * PIXEL_M)))

    def steps_km(self, direction: int) -> Floats:
        """Pixel centres relative to the tile's edge, for the direction `east` or `south`."""
        reach = direction * self.margin
        return (np.arange(min(0, reach), INNER + max(0, reach)) + 0.5) * PIXEL_KM

    def shaped(self, pixels: np.ndarray) -> np.ndarray:
        """Reshape pixels to rows from the north and columns from the west."""
        rows, columns = (INNER + self.margin * abs(way) for way in (self.south, self.east))
        return pixels.reshape(rows, columns, *pixels.shape[1:])

    def inner(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels of the tile without the margin, `(INNER, INNER, ...)`."""
        top, left = (self.margin * (way < 0) for way in (self.south, self.east))
        return self.shaped(pixels)[top : top + INNER, left : left + INNER]


@dataclass(frozen=True)
class Tile:
    """Rendered tile with its ground truth."""

    image: Image.Image  # RGB image of `TILE_PX` x `TILE_PX` pixels, north up
    # share of the area per class of `COVERS`, and of `trees` and `building`
    shares: dict[str, float]
    counts: dict[str, int]  # approximate number of `pools` and `tanks`
    cover: Image.Image  # class of each pixel: index into `COVERS`, plus `MARKS`


def render_tile(
    world: World, column: float, row: float, acquisition: Acquisition = "plain"
) -> Tile:
    """Render the tile of a region.

    Args:
        world: City.
        column: Column of the region, from the west; fractional for a tile between two regions.
        row: Row of the region, from the south.
        acquisition: "realistic" for varying sun, season, haze, sensor and roofs, or "plain".
    """
    frame, style, overpass = _Frame(), world.style, None
    if acquisition == "realistic":
        overpass = draw_overpass(world, column, row)
        frame, style = _Frame.of(overpass), dressed(style, overpass.day)
    x = (column * CELL_KM + frame.steps_km(frame.east)).astype(np.float32)[None, :]
    y = ((row + 1) * CELL_KM - frame.steps_km(frame.south)).astype(np.float32)[:, None]
    land = _land(world, style, x, y)
    canvas = Canvas(x.size * y.size)
    for kind in np.unique(land.kind).tolist():
        PAINTERS[kind](Part(land, kind, canvas))
    road, bridge = _paint_roads(land, canvas)
    water, rail = _paint_lines(world, x, y, bridge, canvas)
    image = Image.fromarray(frame.inner(_light(canvas, frame))).reduce(SUPERSAMPLE)
    if overpass:
        image = Image.fromarray(develop(np.asarray(image), overpass))
    cover = frame.inner(_cover(land, canvas, road & ~water, water, rail))
    shares = np.bincount((cover & COVER_BITS).ravel(), minlength=len(COVERS)) / INNER**2
    marked = {name: int(np.count_nonzero(cover & bit)) for name, bit in MARKS.items()}
    return Tile(
        image,
        dict(zip(COVERS, shares.tolist(), strict=True))
        | {name: marked[name] / INNER**2 for name in ("trees", "building")}
        # including rails below roads
        | {"rail": int(np.count_nonzero(frame.inner(rail))) / INNER**2},
        {name: round(marked[name] * PIXEL_M**2 / size) for name, size in COUNTED_M2.items()},
        Image.fromarray(cover[::SUPERSAMPLE, ::SUPERSAMPLE]),
    )


def _land(world: World, style: Style, x: Floats, y: Floats) -> Land:
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
    return Land(world, style, streets, numbers[key], column, row, kind, open_land, latents)


def _cover(land: Land, canvas: Canvas, road: Bools, water: Bools, rail: Bools) -> np.ndarray:
    cover = land.kind[land.block].astype(np.uint8)
    for name, mask in (("rail", rail), ("road", road), ("water", water)):  # later ones on top
        cover[mask] = COVERS.index(name)
    free = cover < len(KINDS)
    marks = (canvas.tree, canvas.height > 0, canvas.pool, canvas.tank)
    for bit, mask in zip(MARKS.values(), marks, strict=True):
        cover[mask & free] |= np.uint8(bit)
    return cover


def _paint_roads(land: Land, canvas: Canvas) -> tuple[Bools, Bools]:
    """Paint streets along the borders of blocks; return masks of roads and of possible bridges."""
    streets = land.streets
    street_m = np.where(land.open, 0.0, STREET_M / 2).astype(np.float32)[land.block]
    distances, avenues, gaps = [], [], []
    for index, place, size in (
        (streets.column, streets.across, streets.width_m),
        (streets.row, streets.along, streets.depth_m),
    ):
        border = index + (place > 0.5)  # index of the nearest street
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
    """Paint water and railways, with bridges over the river; return their masks."""
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


def _light(canvas: Canvas, frame: _Frame) -> np.ndarray:
    """Darken shadows, and convert the colours to 8 bits."""
    # flipped so that the sun is in the south-east, south or east
    turned = tuple(slice(None, None, -1 if way < 0 else 1) for way in (frame.south, frame.east))
    height = frame.shaped(canvas.height)[turned]
    highest, above = float(height.max()), height + 2
    shadow = np.zeros_like(height, dtype=bool)
    rows, columns = height.shape
    for step in range(1, frame.margin, 2):
        needed = step * PIXEL_M * frame.slope
        if needed > highest:
            break
        down, right = step * abs(frame.south), step * abs(frame.east)
        caster, near = height[down:, right:], np.s_[: rows - down, : columns - right]
        shadow[near] |= (caster > needed) & (caster > above[near])
    colour = canvas.colour
    colour[shadow[turned].ravel()] *= np.float32(SHADOW)
    return np.clip(colour, 0, 255, out=colour).astype(np.uint8)
