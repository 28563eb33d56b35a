"""A region from above: 256 x 256 pixels of 3.9 m.

A tile is drawn from the lattice blocks and lines that touch it, in the order ground, streets,
water, buildings with their shadows, trees, main roads, rail. Blocks draw their own random numbers
(see streets.py), so what crosses the edge of a tile goes on in the next one. The light differs
between the strips in which a satellite takes pictures, so that the mean colour alone says little.
"""

from collections import Counter
from dataclasses import dataclass
from enum import IntEnum
from functools import cache

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from .canvas import Canvas, Rgb, finish, mix, shade
from .seeds import generator
from .streets import OPEN_LAND, Blocks, LandUse, blocks_in
from .styles import CityStyle
from .world import CELL_M, World

SIZE = 256
PX = SIZE / CELL_M  # pixels a metre
GROUND_RESOLUTION_M = CELL_M / SIZE
SUN = (-0.55, 0.42)  # shadow of a metre of height, metres east and north
STRIP_TILES = 3  # columns of tiles taken in one pass


class Surface(IntEnum):
    """What a pixel of the mask of a tile shows."""

    GROUND = 0
    STREET = 1
    HOUSE = 2
    TERRACED_HOUSE = 3
    APARTMENT_BLOCK = 4
    TOWER = 5
    SHOPPING_HALL = 6
    FACTORY_HALL = 7
    WAREHOUSE = 8
    CAR_PARK = 9
    TREE = 10
    GRASS = 11
    FIELD = 12
    WATER = 13
    RAILWAY = 14
    SPORTS_PITCH = 15
    SWIMMING_POOL = 16
    SQUARE = 17
    STORAGE_TANK = 18
    MOTORWAY = 19
    YARD = 20
    BOAT = 21
    FOREST = 22


TEXTURE = {
    Surface.FOREST: 0.30,
    Surface.TREE: 0.16,
    Surface.GRASS: 0.07,
    Surface.FIELD: 0.06,
    Surface.GROUND: 0.07,
    Surface.YARD: 0.08,
    Surface.WATER: 0.025,
}


@dataclass(frozen=True)
class Tile:
    """A rendered region.

    Attributes:
        image: 256 x 256 RGB.
        mask: `(256, 256)` uint8 of [`Surface`].
        counts: things drawn whose middle lies in the tile.
        roofs: commonest roof colour by kind of building.
        latents: none; what is seen is all there is.
    """

    image: Image.Image
    mask: np.ndarray
    counts: Counter[Surface]
    roofs: dict[Surface, Rgb]


def render_tile(world: World, row: int, column: int) -> Tile:
    """Draw the region in a row (from the south) and column (from the west) of the grid."""
    return _TilePainter(world, row, column).paint()


class _TilePainter:
    def __init__(self, world: World, row: int, column: int):
        self.world, self.style = world, world.style
        self.row, self.column = row, column
        self.west, self.north = column * CELL_M, (row + 1) * CELL_M
        self.box = (self.west, self.north - CELL_M, self.west + CELL_M, self.north)
        self.canvas = Canvas(SIZE, SIZE, self.style.ground["grass"])
        self.counts: Counter[Surface] = Counter()
        self.roof_counts: dict[Surface, Counter[Rgb]] = {}
        margin = 90.0  # shadows and trees reach in from outside
        west, south, east, north = self.box
        self.blocks = blocks_in(
            world, (west - margin, south - margin, east + margin, north + margin)
        )

    def paint(self) -> Tile:
        self._paint_ground()
        self._paint_streets()
        self._paint_water()
        self._paint_block_contents()
        self._paint_lines()
        mask = self.canvas.mask()
        return Tile(
            image=finish(self._light(self.canvas.pixels(), mask)),
            mask=mask,
            counts=self.counts,
            roofs={kind: seen.most_common(1)[0][0] for kind, seen in self.roof_counts.items()},
        )

    # coordinates

    def _to_px(self, points: np.ndarray) -> np.ndarray:
        """Metres to pixels, `(..., 2)`."""
        return (np.asarray(points) - (self.west, self.north)) * (PX, -PX)

    def _inside(self, points: np.ndarray) -> np.ndarray:
        return ((points >= 0) & (points < SIZE)).all(axis=-1)

    def _tag(self, surface: Surface) -> None:
        self.canvas.tag = int(surface)

    # ground

    def _paint_ground(self) -> None:
        blocks, ground = self.blocks, self.style.ground
        shapes = self._to_px(blocks.corners).reshape(len(blocks), 8).tolist()
        tone = self.world.uniform(blocks.i, blocks.j, 20)
        wealth, density = blocks.latents["wealth"], blocks.latents["density"]
        parcel = self.world.uniform(blocks.i // 2, blocks.j // 2, 21)
        crops = self.style.crops
        for k, use in enumerate(blocks.use.tolist()):
            light = 0.94 + 0.12 * float(tone[k])
            if use == LandUse.FIELD:
                self._tag(Surface.FIELD)
                rgb = shade(crops[int(parcel[k] * len(crops))], 0.94 + 0.1 * float(parcel[k]))
            elif use == LandUse.FOREST:
                self._tag(Surface.FOREST)
                rgb = shade(ground["forest"], light)
            elif use in (LandUse.PARK, LandUse.SPORT):
                self._tag(Surface.GRASS)
                rgb = shade(ground["lawn"], 1.0)
            elif use in (LandUse.FACTORY, LandUse.WAREHOUSE):
                self._tag(Surface.YARD)
                rgb = shade(ground["yard"], light)
            elif use in (LandUse.TOWER, LandUse.PLAZA, LandUse.PERIMETER):
                self._tag(Surface.SQUARE)
                rgb = shade(ground["paving"], light)
            elif use == LandUse.RETAIL:
                self._tag(Surface.CAR_PARK)
                rgb = shade((128, 128, 130), light)
            elif use == LandUse.WATER:
                self._tag(Surface.GRASS)
                rgb = mix(ground["grass"], ground["soil"], 0.4)
            else:
                # gardens: lawns where there is money, bare ground where there is none
                self._tag(Surface.GROUND)
                bare = min(1.0, max(0.0, 1.15 - 1.5 * float(wealth[k]) + 0.3 * float(density[k])))
                rgb = shade(mix(ground["lawn"], ground["soil"], bare), light)
            self.canvas.polygon(shapes[k], rgb)
        self._paint_furrows()

    def _paint_furrows(self) -> None:
        self._tag(Surface.FIELD)
        blocks = self.blocks
        for k in np.flatnonzero(blocks.use == LandUse.FIELD).tolist():
            parcel = (blocks.i[k] // 2, blocks.j[k] // 2)
            turn, colour = (float(self.world.uniform(*parcel, salt)) for salt in (22, 21))
            base = self.style.crops[int(colour * len(self.style.crops))]
            quad = self._to_px(blocks.corners[k])
            first = 0 if turn < 0.5 else 1
            a, b = quad[first], quad[(first + 1) % 4]
            d, c = quad[(first + 3) % 4], quad[(first + 2) % 4]
            rgb = shade(base, 0.9 if turn * 7 % 1 < 0.6 else 1.08)
            for t in np.linspace(0.06, 0.94, 8).tolist():
                self.canvas.line([*(a + (b - a) * t), *(d + (c - d) * t)], rgb, 0.5)

    def _paint_streets(self) -> None:
        blocks = self.blocks
        self._tag(Surface.STREET)
        street = self.style.ground["street"]
        lane = mix(self.style.ground["soil"], street, 0.3)
        quads = self._to_px(blocks.corners)
        order = np.argsort(blocks.street_m, axis=None, kind="stable")
        for index in order[blocks.street_m.ravel()[order] > 0].tolist():
            k, side = divmod(index, 4)
            width = float(blocks.street_m[k, side])
            a, b = quads[k, side], quads[k, (side + 1) % 4]
            rgb = lane if width < 10 else (street if width < 20 else shade(street, 1.1))
            self.canvas.line([*a, *b], rgb, width * PX)
            if width >= 10:
                self.canvas.ellipse(*a, width * PX / 2, width * PX / 2, rgb)
            if width >= 20:
                self.canvas.line([*a, *b], (214, 212, 200), 0.5)

    def _paint_water(self) -> None:
        self._tag(Surface.WATER)
        water = self.style.ground["water"]
        bank = mix(self.style.ground["soil"], (230, 222, 200), 0.35)
        if self.style.coast:
            y = np.linspace(self.box[1] - 30, self.box[3] + 30, 42)
            shore = self._to_px(np.column_stack([self.world.coast_x(y), y]))
            for shift, rgb in ((-4.0, bank), (0.0, mix(water, (150, 190, 190), 0.35)), (6.0, water)):
                self._tag(Surface.GROUND if rgb == bank else Surface.WATER)
                edge = shore + (shift, 0)
                right = max(SIZE + 9.0, float(edge[:, 0].max()) + 1)
                corners = [right, float(edge[-1, 1]), right, float(edge[0, 1])]
                if edge[:, 0].min() < SIZE + 8:
                    self.canvas.polygon([*edge.ravel().tolist(), *corners], rgb)
        for line in self.world.lines:
            if line.kind == "river":
                for run in line.runs(self.box, 250.0):
                    points = self._to_px(run).ravel().tolist()
                    self._tag(Surface.GROUND)
                    self.canvas.line(points, bank, line.width_m * PX + 4, joint=True)
                    self._tag(Surface.WATER)
                    self.canvas.line(points, water, line.width_m * PX, joint=True)
                    self.canvas.line(
                        points, mix(water, (200, 215, 215), 0.08), line.width_m * PX * 0.5, True
                    )
        self._paint_boats()

    def _paint_boats(self) -> None:
        blocks = self.blocks
        chosen = (blocks.use == LandUse.WATER) & (self.world.uniform(blocks.i, blocks.j, 30) < 0.16)
        for k in np.flatnonzero(chosen).tolist():
            if not self.world.is_water(*blocks.centre[k], -12.0):
                continue
            x, y = self._to_px(blocks.centre[k]).tolist()
            turn = float(self.world.uniform(blocks.i[k], blocks.j[k], 31)) * np.pi
            long = 3.0 + 4 * float(self.world.uniform(blocks.i[k], blocks.j[k], 32))
            dx, dy = float(np.cos(turn)) * long, float(np.sin(turn)) * long
            self._tag(Surface.BOAT)
            hull = [x - dx, y - dy, x - dy / 3, y + dx / 3, x + dx, y + dy, x + dy / 3, y - dx / 3]
            self.canvas.polygon(hull, (226, 226, 220))
            self._count(Surface.BOAT, np.array([[x, y]]))

    # what stands in the blocks

    def _paint_block_contents(self) -> None:
        roofs = _Roofs(self.world, self.blocks)
        for use, build in (
            (LandUse.VILLA, roofs.villas),
            (LandUse.TERRACE, roofs.terraces),
            (LandUse.SLAB, roofs.slabs),
            (LandUse.PERIMETER, roofs.perimeters),
            (LandUse.TOWER, roofs.towers),
            (LandUse.RETAIL, roofs.retail),
            (LandUse.FACTORY, roofs.factories),
            (LandUse.WAREHOUSE, roofs.warehouses),
        ):
            chosen = np.flatnonzero(self.blocks.use == use)
            if len(chosen):
                build(chosen)
        self._paint_courts()
        self._paint_parks()
        self._paint_sport()
        self._paint_squares()
        self._paint_parked_cars()
        self._paint_trees(shadow=True)
        self._paint_roofs(roofs)
        self._paint_trees(shadow=False)

    def _paint_roofs(self, roofs: "_Roofs") -> None:
        parts = roofs.collect()
        if parts is None:
            return
        corners, colours, heights, kinds = parts
        # what another picture draws, this one need not
        near = (corners.max(axis=1) > np.array(self.box[:2]) - 100).all(axis=1)
        near &= (corners.min(axis=1) < np.array(self.box[2:]) + 100).all(axis=1)
        corners, colours = corners[near], colours[near]
        heights, kinds = heights[near], kinds[near]
        footprint = self._to_px(corners)
        self._paint_shadows(footprint, heights)
        flat = footprint.reshape(len(footprint), 8).tolist()
        inks = [tuple(ink) for ink in colours.tolist()]
        order = np.argsort(heights, kind="stable").tolist()
        kind_list, height_list = kinds.tolist(), heights.tolist()
        for k in order:
            self.canvas.tag = kind_list[k]
            shape, ink = flat[k], inks[k]
            self.canvas.polygon(shape, ink)
            if height_list[k] < 12:
                # the half of a pitched roof that faces the sun
                x0, y0, x1, y1, x2, y2, x3, y3 = shape
                ridge = ((x1 + x2) / 2, (y1 + y2) / 2, (x0 + x3) / 2, (y0 + y3) / 2)
                self.canvas.polygon([x0, y0, x1, y1, *ridge], shade(ink, 1.16))
            elif height_list[k] > 30:
                self._paint_parapet(shape, ink)
        middle = footprint.mean(axis=1)
        for kind in np.unique(kinds):
            surface = Surface(int(kind))
            mine = kinds == kind
            self._count(surface, middle[mine])
            visible = colours[mine][self._inside(middle[mine])]
            seen = Counter(tuple(ink) for ink in visible.tolist())
            if seen:
                self.roof_counts[surface] = seen

    def _paint_shadows(self, footprint: np.ndarray, heights: np.ndarray) -> None:
        self._tag(Surface.GROUND)
        dark = mix(self.style.ground["street"], (20, 26, 40), 0.72)
        offset = np.array([SUN[0] * PX, -SUN[1] * PX])
        for share in (0.55, 1.0):
            shifted = footprint + (heights * share)[:, None, None] * offset
            chosen = np.flatnonzero(heights > (14 if share < 1 else 4))
            for shape in shifted[chosen].reshape(len(chosen), 8).tolist():
                self.canvas.polygon(shape, dark)

    def _paint_parapet(self, shape: list[float], ink: Rgb) -> None:
        x, y = np.mean(shape[::2]), np.mean(shape[1::2])
        inner = [(v - c) * 0.72 + c for v, c in zip(shape, [x, y] * 4, strict=True)]
        self.canvas.polygon(inner, shade(ink, 0.86))
        core = [(v - c) * 0.3 + c for v, c in zip(shape, [x, y] * 4, strict=True)]
        self.canvas.polygon(core, shade(ink, 1.12))

    def _paint_courts(self) -> None:
        """Green or paved courtyards of perimeter blocks, lawns between slabs, tanks of factories."""
        blocks = self.blocks
        greenness = blocks.latents["greenness"]
        for k in np.flatnonzero(np.isin(blocks.use, (LandUse.PERIMETER, LandUse.SLAB))).tolist():
            slab = blocks.use[k] == LandUse.SLAB
            green = float(self.world.uniform(blocks.i[k], blocks.j[k], 40)) < 0.25 + greenness[k]
            if slab or green:
                low, high = (0.06, 0.94) if slab else (0.34, 0.66)
                self._tag(Surface.GRASS if green else Surface.GROUND)
                rgb = self.style.ground["lawn" if green else "soil"]
                self.canvas.polygon(self._quad(k, low, low, high, high), shade(rgb, 0.96))
        for k in np.flatnonzero(blocks.use == LandUse.FACTORY).tolist():
            if self.world.uniform(blocks.i[k], blocks.j[k], 41) < 0.55:
                self._paint_tanks(k)

    def _paint_tanks(self, k: int) -> None:
        points = []
        for t in range(4):
            x, y = self._spot(k, 0.2 + 0.2 * t, 0.15)
            self._tag(Surface.GROUND)
            self.canvas.ellipse(x - 1.6, y - 1.2, 3.0, 3.0, (70, 70, 76))
            self._tag(Surface.STORAGE_TANK)
            self.canvas.ellipse(x, y, 3.0, 3.0, (222, 222, 218))
            self.canvas.ellipse(x + 0.4, y + 0.3, 1.8, 1.8, (196, 198, 198))
            points.append([x, y])
        self._count(Surface.STORAGE_TANK, np.array(points))

    def _paint_parks(self) -> None:
        blocks = self.blocks
        path = mix(self.style.ground["paving"], (226, 206, 170), 0.5)
        for k in np.flatnonzero(blocks.use == LandUse.PARK).tolist():
            turn, pond = (float(self.world.uniform(blocks.i[k], blocks.j[k], s)) for s in (42, 43))
            self._tag(Surface.GRASS)
            if turn < 0.6:
                ends = [self._spot(k, 0, 0.5), self._spot(k, 0.5, 0.35 + 0.3 * turn)]
                ends.append(self._spot(k, 1, 0.5) if turn < 0.4 else self._spot(k, 0.5, 1))
                self.canvas.line([v for point in ends for v in point], path, 1.4, joint=True)
            if pond < 0.14:
                x, y = self._spot(k, 0.5, 0.55)
                self._tag(Surface.WATER)
                self.canvas.ellipse(x, y, 8 + 30 * pond, 6 + 12 * pond, self.style.ground["water"])

    def _paint_sport(self) -> None:
        blocks = self.blocks
        chosen = np.flatnonzero(blocks.use == LandUse.SPORT)
        white = (232, 234, 228)
        for k in chosen.tolist():
            self._tag(Surface.SPORTS_PITCH)
            if self.world.uniform(blocks.i[k], blocks.j[k], 44) < 0.6:
                self.canvas.polygon(self._quad(k, 0.1, 0.14, 0.9, 0.86), (176, 92, 72))
                self.canvas.polygon(self._quad(k, 0.17, 0.22, 0.83, 0.78), (96, 156, 74))
            else:
                self.canvas.polygon(self._quad(k, 0.14, 0.2, 0.86, 0.8), (104, 164, 82))
            frame = self._quad(k, 0.2, 0.26, 0.8, 0.74)
            self.canvas.line([*frame, *frame[:2]], white, 0.6)
            self.canvas.line([*self._spot(k, 0.5, 0.26), *self._spot(k, 0.5, 0.74)], white, 0.6)
            x, y = self._spot(k, 0.5, 0.5)
            self.canvas.ellipse(x, y, 2.4, 2.4, white)
            self.canvas.ellipse(x, y, 1.8, 1.8, (104, 164, 82))
        if len(chosen):
            self._count(Surface.SPORTS_PITCH, self._to_px(blocks.centre[chosen]))

    def _paint_squares(self) -> None:
        chosen = np.flatnonzero(self.blocks.use == LandUse.PLAZA)
        for k in chosen.tolist():
            self._tag(Surface.SQUARE)
            self.canvas.polygon(self._quad(k, 0.1, 0.1, 0.9, 0.9), (212, 198, 176))
            self.canvas.polygon(self._quad(k, 0.3, 0.3, 0.7, 0.7), (196, 178, 152))
            x, y = self._spot(k, 0.5, 0.5)
            self._tag(Surface.WATER)
            self.canvas.ellipse(x, y, 3.2, 3.2, (120, 170, 190))
        if len(chosen):
            self._count(Surface.SQUARE, self._to_px(self.blocks.centre[chosen]))

    def _paint_parked_cars(self) -> None:
        """Rows of cars in car parks; the more night life, the fuller."""
        blocks = self.blocks
        self._tag(Surface.CAR_PARK)
        paints = ((214, 214, 214), (60, 62, 70), (160, 54, 48), (70, 92, 140), (180, 176, 166))
        chosen = np.flatnonzero(np.isin(blocks.use, (LandUse.RETAIL, LandUse.SLAB)))
        for k in chosen.tolist():
            retail = blocks.use[k] == LandUse.RETAIL
            full = 0.3 + 0.7 * float(blocks.latents["night_life"][k])
            slots = np.arange(11)
            for row, v in enumerate((0.1, 0.2, 0.3) if retail else (0.5,)):
                draw = self.world.uniform(blocks.i[k] * 64 + slots, blocks.j[k] * 8 + row, 45)
                for slot in slots[draw < full].tolist():
                    x, y = self._spot(k, 0.1 + 0.08 * slot, v)
                    paint = paints[int(draw[slot] * 997) % len(paints)]
                    self.canvas.rectangle(x - 0.6, y - 0.9, x + 0.6, y + 0.9, paint)
        retail = np.flatnonzero(blocks.use == LandUse.RETAIL)
        if len(retail):
            self._count(Surface.CAR_PARK, self._to_px(blocks.centre[retail]))

    def _paint_trees(self, shadow: bool) -> None:
        points, radii, shades = self._trees
        leaf = self.style.ground["tree"]
        if shadow:
            self._tag(Surface.GROUND)
            dark = mix(self.style.ground["grass"], (24, 32, 34), 0.6)
            for (x, y), r in zip(points.tolist(), radii.tolist(), strict=True):
                self.canvas.ellipse(x - r * 0.7, y - r * 0.5, r, r, dark)
            return
        self._tag(Surface.TREE)
        for (x, y), r, s in zip(points.tolist(), radii.tolist(), shades.tolist(), strict=True):
            self.canvas.ellipse(x, y, r, r, shade(leaf, s))
            self.canvas.ellipse(x + r * 0.25, y + r * 0.2, r * 0.55, r * 0.55, shade(leaf, s * 1.2))
        self._count(Surface.TREE, points)

    @property
    def _trees(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Middles `(n, 2)` and radii of trees, pixels, and how light they are."""
        blocks, world = self.blocks, self.world
        most = 18
        slot = np.arange(most)
        i, j = blocks.i[:, None] * 64 + slot, blocks.j[:, None]
        u, v, w = (world.uniform(i, j, salt) for salt in (50, 51, 52))
        green, wealth = blocks.latents["greenness"], blocks.latents["wealth"]
        share = np.select(
            [
                blocks.use == LandUse.PARK,
                np.isin(blocks.use, (LandUse.VILLA,)),
                np.isin(blocks.use, (LandUse.TERRACE, LandUse.SLAB)),
                np.isin(blocks.use, (LandUse.PLAZA, LandUse.PERIMETER, LandUse.TOWER)),
                blocks.use == LandUse.FIELD,
            ],
            [
                np.full(len(blocks), 0.9),
                0.12 + 0.75 * green * (0.4 + 0.6 * wealth),
                0.05 + 0.5 * green * (0.4 + 0.6 * wealth),
                0.03 + 0.4 * green,
                np.where(world.uniform(blocks.i, blocks.j, 53) < 0.25, 0.5, 0.02),
            ],
            default=0.02,
        )
        # along the streets, but anywhere in a park; hedgerows along one side of a field
        park = (blocks.use == LandUse.PARK)[:, None]
        field = (blocks.use == LandUse.FIELD)[:, None]
        side = slot % 4
        along, across = 0.06 + 0.88 * u, 0.075 + 0.03 * w
        s = np.select([side == 0, side == 1, side == 2], [along, 1 - across, along], across)
        t = np.select([side == 0, side == 1, side == 2], [across, along, 1 - across], along)
        s, t = np.where(park, 0.05 + 0.9 * u, s), np.where(park, 0.05 + 0.9 * v, t)
        s, t = np.where(field, slot / most, s), np.where(field, 0.01, t)
        present = world.uniform(i, j, 54) < share[:, None]
        k, which = np.nonzero(present)
        points = self._to_px(_bilinear(blocks.corners[k], s[k, which], t[k, which]))
        near = ((points > -6) & (points < SIZE + 6)).all(axis=1)
        k, which, points = k[near], which[near], points[near]
        radii = 1.3 + 1.1 * w[k, which] + 0.9 * park[k, 0]
        return points, radii, 0.85 + 0.35 * v[k, which]

    # lines over everything

    def _paint_lines(self) -> None:
        for kind, draw in (
            ("primary", self._paint_primary),
            ("rail", self._paint_rail),
            ("motorway", self._paint_motorway),
        ):
            for line in self.world.lines:
                if line.kind == kind:
                    for run in line.runs(self.box, 60.0):
                        draw(self._to_px(run), line.width_m * PX)
        self._paint_bridges()

    def _paint_primary(self, points: np.ndarray, width: float) -> None:
        self._tag(Surface.STREET)
        flat = points.ravel().tolist()
        street = self.style.ground["street"]
        self.canvas.line(flat, shade(self.style.ground["paving"], 0.95), width + 2, joint=True)
        self.canvas.line(flat, shade(street, 1.06), width, joint=True)
        self.canvas.line(flat, (222, 218, 204), 0.5)

    def _paint_motorway(self, points: np.ndarray, width: float) -> None:
        self._tag(Surface.MOTORWAY)
        flat = points.ravel().tolist()
        self.canvas.line(flat, shade(self.style.ground["grass"], 0.92), width + 4, joint=True)
        self.canvas.line(flat, (158, 158, 156), width, joint=True)
        self.canvas.line(flat, (118, 132, 92), 1.0, joint=True)
        self._paint_traffic(points, width * 0.27)

    def _paint_traffic(self, points: np.ndarray, lane: float) -> None:
        step = np.diff(points, axis=0)
        length = np.maximum(np.hypot(*step.T), 1e-6)
        normal = np.column_stack([-step[:, 1], step[:, 0]]) / length[:, None] * lane
        for k in range(0, len(step), 2):
            side = 1 if k % 4 else -1
            x, y = (points[k] + normal[k] * side).tolist()
            self.canvas.rectangle(x - 0.5, y - 0.5, x + 0.5, y + 0.5, (236, 236, 236))

    def _paint_rail(self, points: np.ndarray, width: float) -> None:
        self._tag(Surface.RAILWAY)
        flat = points.ravel().tolist()
        self.canvas.line(flat, (134, 120, 104), width + 1.5, joint=True)
        self.canvas.line(flat, (92, 84, 80), width * 0.62, joint=True)
        self.canvas.line(flat, (168, 160, 152), 0.5)

    def _paint_bridges(self) -> None:
        """Main streets of the lattice cross the river."""
        river = [line for line in self.world.lines if line.kind == "river"]
        if not river or not any(line.runs(self.box, 0.0) for line in river):
            return
        self._tag(Surface.STREET)
        blocks = self.blocks
        deck = shade(self.style.ground["street"], 1.2)
        quads = self._to_px(blocks.corners)
        for k in np.flatnonzero(blocks.use == LandUse.WATER).tolist():
            for side in (1, 3):
                line = blocks.i[k] + (side == 1)
                if line % 7 == 0 and not self._is_sea(blocks.corners[k]):
                    a, b = quads[k, side], quads[k, (side + 1) % 4]
                    self.canvas.line([*a, *b], (86, 90, 96), 7.6)
                    self.canvas.line([*a, *b], deck, 6.2)

    def _is_sea(self, corners: np.ndarray) -> bool:
        return bool((corners[:, 0] > self.world.coast_x(corners[:, 1]) - 20).any())

    # light

    def _light(self, pixels: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Texture of surfaces, and the colours of the pass in which the tile was taken."""
        fine, clumps = _noise_maps()
        rng = generator(self.world.seed, self.style.name, "tile", self.row, self.column)
        dx, dy = rng.integers(0, SIZE, 2)
        amplitude = _texture_table()[mask]
        noise = np.roll(clumps, (dx, dy), axis=(0, 1)) * amplitude
        noise += np.roll(fine, (dy, dx), axis=(0, 1)) * 0.022
        pixels = pixels * (1 + noise)[..., None]
        strip = self.column // STRIP_TILES
        pass_rng = generator(self.world.seed, self.style.name, "pass", strip)
        gain = pass_rng.uniform(0.84, 1.14) * rng.uniform(0.96, 1.04)
        tint = pass_rng.normal(1.0, 0.035, 3)
        contrast = pass_rng.uniform(0.88, 1.1)
        haze = pass_rng.uniform(0.0, 0.1)
        pixels = (pixels - 120) * contrast + 120
        pixels = pixels * (gain * tint).astype(np.float32)
        return pixels * (1 - haze) + np.array([196, 206, 216], dtype=np.float32) * haze

    # helpers

    def _count(self, surface: Surface, points: np.ndarray) -> None:
        self.counts[surface] += int(self._inside(points).sum())

    def _spot(self, k: int, u: float, v: float) -> tuple[float, float]:
        point = _bilinear(self.blocks.corners[k][None], np.array([u]), np.array([v]))[0]
        x, y = self._to_px(point).tolist()
        return x, y

    def _quad(self, k: int, u0: float, v0: float, u1: float, v1: float) -> list[float]:
        spots = ((u0, v0), (u1, v0), (u1, v1), (u0, v1))
        return [value for u, v in spots for value in self._spot(k, u, v)]


class _Roofs:
    """Footprints of buildings: collected block by block, in block coordinates."""

    def __init__(self, world: World, blocks: Blocks):
        self.world, self.blocks, self.style = world, blocks, world.style
        self._parts: list[tuple[np.ndarray, ...]] = []

    def collect(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray] | None:
        """Corners `(n, 4, 2)` in metres, colours `(n, 3)`, heights `(n,)` in metres, kinds."""
        if not self._parts:
            return None
        k, u0, v0, u1, v1, colour, height, kind = (
            np.concatenate(column) for column in zip(*self._parts, strict=True)
        )
        u = np.stack([u0, u1, u1, u0], axis=1)
        v = np.stack([v0, v0, v1, v1], axis=1)
        corners = _bilinear(self.blocks.corners[k][:, None], u, v)
        return corners, colour, height, kind

    def _rand(self, k: np.ndarray, count: int, salt: int) -> np.ndarray:
        """`(len(k), count)` uniform numbers."""
        i = self.blocks.i[k][:, None] * 64 + np.arange(count)
        return self.world.uniform(i, self.blocks.j[k][:, None], salt)

    def _add(
        self,
        k: np.ndarray,
        boxes: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
        roofs: str,
        height: np.ndarray | float,
        kind: Surface,
        chosen: np.ndarray | None = None,
        spread: float = 1.0,
    ) -> None:
        """Add buildings; all arrays broadcast to `(len(k), count)`."""
        shape = np.broadcast_shapes(*(np.shape(side) for side in boxes), (len(k), 1))
        u0, v0, u1, v1 = (np.broadcast_to(side, shape).ravel() for side in boxes)
        block = np.broadcast_to(k[:, None], shape).ravel()
        palette = np.array(self.style.roofs[roofs], dtype=np.float64)
        # one roof colour for most of a block where there is money, a patchwork where there is none
        pick = self._rand(k, shape[1], 60)
        common = self._rand(k, 1, 61)
        loose = np.broadcast_to(spread, (len(k),))[:, None]
        index = np.where(self._rand(k, shape[1], 62) < loose, pick, common) * len(palette)
        light = 0.9 + 0.2 * self._rand(k, shape[1], 63)
        colour = palette[index.astype(np.int64)] * light[..., None]
        colour = np.clip(colour, 0, 255).astype(np.uint8).reshape(-1, 3)
        tall = np.broadcast_to(height, shape).ravel().astype(np.float64)
        kinds = np.full(block.shape, int(kind))
        part = (block, u0, v0, u1, v1, colour, tall, kinds)
        if chosen is not None:
            keep = np.broadcast_to(chosen, shape).ravel()
            part = tuple(column[keep] for column in part)
        self._parts.append(part)

    def _latent(self, k: np.ndarray, name: str) -> np.ndarray:
        return self.blocks.latents[name][k]

    def villas(self, k: np.ndarray) -> None:
        """Detached houses along two streets; few and large where there is money."""
        wealth, density = self._latent(k, "wealth"), self._latent(k, "density")
        for rich in (True, False):
            mine = k[(wealth > 0.62) == rich]
            if not len(mine):
                continue
            w, d = self._latent(mine, "wealth"), self._latent(mine, "density")
            columns = 4 if rich else 6
            slot = np.arange(2 * columns)
            a, b = self._rand(mine, len(slot), 64), self._rand(mine, len(slot), 65)
            u = 0.13 + (slot % columns + 0.5) * 0.74 / columns + (a - 0.5) * 0.05
            v = np.where(slot < columns, 0.25, 0.75) + (b - 0.5) * 0.1
            half_u = (0.050 + 0.03 * w[:, None]) * (0.8 + 0.4 * b) if rich else 0.034 + 0.012 * a
            half_v = (0.065 + 0.03 * w[:, None]) * (0.8 + 0.4 * a) if rich else 0.045 + 0.015 * b
            present = self._rand(mine, len(slot), 66) < np.clip(0.25 + 3.4 * d, 0.3, 0.96)[:, None]
            poor = (w < 0.3) & ~np.full(len(mine), rich)
            for roofs, these in (("house", ~poor), ("poor", poor)):
                box = (u - half_u, v - half_v, u + half_u, v + half_v)
                box = tuple(np.broadcast_to(side, present.shape)[these] for side in box)
                self._add(
                    mine[these], box, roofs, 6.5, Surface.HOUSE, present[these],
                    np.clip(1.2 - 1.1 * w[these], 0.2, 1.0),
                )  # fmt: skip
            if rich:
                self._pools(mine, u, v, present)
        del density

    def _pools(self, k: np.ndarray, u: np.ndarray, v: np.ndarray, present: np.ndarray) -> None:
        has = self._rand(k, u.shape[1], 67) < 1.6 * (self._latent(k, "wealth")[:, None] - 0.55)
        v = v + np.where(v < 0.5, 0.13, -0.13)
        box = (u - 0.026, v - 0.02, u + 0.026, v + 0.02)
        self._add(k, box, "house", 0.5, Surface.SWIMMING_POOL, has & present)
        self._parts[-1][5][:] = (92, 186, 206)

    def terraces(self, k: np.ndarray) -> None:
        """Rows of narrow houses, back to back."""
        wealth = self._latent(k, "wealth")
        columns, rows = 9, 3
        slot = np.arange(columns * rows)
        u0 = 0.1 + (slot % columns) * 0.8 / columns
        v0 = 0.12 + (slot // columns) * 0.285
        deep = 0.11 + 0.06 * self._rand(k, 1, 68)
        gap = self._rand(k, len(slot), 69) < 0.94
        for roofs, these in (("house", wealth >= 0.35), ("poor", wealth < 0.35)):
            u = np.broadcast_to(u0, (int(these.sum()), len(slot)))
            box = (u, v0 + 0 * u, u + 0.8 / columns * 0.94, v0 + deep[these])
            self._add(
                k[these], box, roofs, 8.5, Surface.TERRACED_HOUSE, gap[these],
                np.clip(1.1 - wealth[these], 0.1, 1.0),
            )  # fmt: skip

    def slabs(self, k: np.ndarray) -> None:
        """Long apartment slabs in parallel."""
        slot = np.arange(3)
        v = 0.17 + slot * 0.29
        length = 0.6 + 0.2 * self._rand(k, 3, 70)
        start = 0.1 + (0.8 - length) * self._rand(k, 3, 71)
        height = 18 + 30 * self._latent(k, "density")[:, None] * (0.6 + 0.4 * length)
        poor = np.clip(1.2 - self._latent(k, "wealth"), 0.1, 1.0)
        box = (start, v + 0 * start, start + length, v + 0.115 + 0 * start)
        self._add(k, box, "block", height, Surface.APARTMENT_BLOCK, spread=poor)

    def perimeters(self, k: np.ndarray) -> None:
        """Closed blocks around a court."""
        deep = (0.15 + 0.05 * self._rand(k, 1, 72)) * np.ones((1, 8))
        low, high, half = 0.09, 0.91, 0.5
        u0 = np.array([low, half, low, half, low, low, 0, 0])
        u1 = np.array([half, high, half, high, 0, 0, high, high])
        v0 = np.array([low, low, 0, 0, low, half, low, half])
        v1 = np.array([0, 0, high, high, half, high, half, high])
        box = (
            np.where(u0 == 0, high - deep, u0),
            np.where(v0 == 0, high - deep, v0),
            np.where(u1 == 0, low + deep, u1),
            np.where(v1 == 0, low + deep, v1),
        )
        height = 15 + 12 * self._latent(k, "density")[:, None] + 4 * self._rand(k, 8, 73)
        present = self._rand(k, 8, 74) < 0.95
        spread = np.clip(1.1 - 0.8 * self._latent(k, "wealth"), 0.2, 1.0)
        self._add(k, box, "block", height, Surface.APARTMENT_BLOCK, present, spread)
        inner = self._rand(k, 1, 75) < 0.45
        self._add(
            k, (np.array([[0.42]]), np.array([[0.3]]), np.array([[0.56]]), np.array([[0.7]])),
            "block", 9.0, Surface.APARTMENT_BLOCK, inner, 1.0,
        )  # fmt: skip

    def towers(self, k: np.ndarray) -> None:
        """High-rises on their podiums; the denser, the more and the taller."""
        density = self._latent(k, "density")[:, None]
        storeys = self.style.storeys
        slot = np.arange(4)
        u = 0.29 + 0.42 * (slot % 2) + 0.04 * (self._rand(k, 4, 76) - 0.5)
        v = 0.29 + 0.42 * (slot // 2) + 0.04 * (self._rand(k, 4, 77) - 0.5)
        half = 0.1 + 0.06 * self._rand(k, 4, 78)
        low = self._rand(k, 4, 79) > np.clip(2.2 * (density - 0.55), 0.2, 0.85)
        height = np.where(
            low, 20 + 14 * self._rand(k, 4, 80), storeys * 3.2 * (0.4 + 0.6 * density**2)
        )
        height = height * (0.75 + 0.4 * self._rand(k, 4, 81))
        self._add(
            k, (u - 0.17, v - 0.17, u + 0.17, v + 0.17), "block", 13.0, Surface.APARTMENT_BLOCK,
            low, 0.5,
        )  # fmt: skip
        box = (u - half, v - half, u + half, v + half)
        self._add(k, box, "tower", height, Surface.TOWER, ~low)

    def retail(self, k: np.ndarray) -> None:
        """A flat hall at the back of a car park."""
        start = 0.12 + 0.15 * self._rand(k, 1, 82)
        v = np.array([[0.45]])
        self._add(k, (start, v, start + 0.6, v + 0.42), "retail", 12.0, Surface.SHOPPING_HALL)
        unit = np.array([[0.04]])
        for at in (0.12, 0.3, 0.46):
            box = (start + at, v + 0.1, start + at + unit, v + 0.18)
            self._add(k, box, "tower", 13.0, Surface.SHOPPING_HALL)

    def factories(self, k: np.ndarray) -> None:
        """Large halls with saw-tooth roofs, a chimney among them."""
        split = 0.42 + 0.2 * self._rand(k, 1, 83)
        teeth = 7
        slot = np.arange(teeth)
        width = (split - 0.1) / teeth
        u = 0.08 + slot * width
        for part, tint in ((0.5, 1.0), (1.0, 0.72)):
            box = (u, 0.3 + 0 * u, u + width * part, 0.92 + 0 * u)
            self._add(k, box, "hall", 13.0 if part == 1.0 else 13.5, Surface.FACTORY_HALL, spread=0)
            shades = self._parts[-1][5]
            shades[:] = (shades * tint).astype(np.uint8)
        box = (split + 0.04, 0.3 + 0 * split, 0.93 + 0 * split, 0.62 + 0.2 * self._rand(k, 1, 84))
        self._add(k, box, "hall", 16.0, Surface.FACTORY_HALL)
        box = (split + 0.1, 0.87 + 0 * split, split + 0.15, 0.92 + 0 * split)
        self._add(k, box, "block", 60.0, Surface.FACTORY_HALL, self._rand(k, 1, 85) < 0.6)

    def warehouses(self, k: np.ndarray) -> None:
        """Long sheds with lorries between them."""
        slot = np.arange(3)
        v = 0.1 + slot * 0.29
        length = 0.64 + 0.16 * self._rand(k, 3, 86)
        self._add(k, (0.09 + 0 * length, v, 0.09 + length, v + 0.2), "hall", 12.5, Surface.WAREHOUSE)
        lorry = np.arange(9)
        u = 0.12 + lorry * 0.08
        box = (u, 0.315 + 0 * u, u + 0.02, 0.365 + 0 * u)
        self._add(k, box, "retail", 3.0, Surface.YARD, self._rand(k, 9, 87) < 0.5)


def _bilinear(corners: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Points of quadrilaterals: corners `(..., 4, 2)`, u and v `(...)`, result `(..., 2)`."""
    u, v = np.asarray(u)[..., None], np.asarray(v)[..., None]
    south = corners[..., 0, :] * (1 - u) + corners[..., 1, :] * u
    north = corners[..., 3, :] * (1 - u) + corners[..., 2, :] * u
    return south * (1 - v) + north * v


@cache
def _noise_maps() -> tuple[np.ndarray, np.ndarray]:
    """Fine and clumpy noise, `(256, 256)`, of variance 1; wraps around."""
    rng = np.random.default_rng(20)
    fine = rng.standard_normal((SIZE, SIZE))
    clumps = gaussian_filter(rng.standard_normal((SIZE, SIZE)), 1.1, mode="wrap")
    clumps = clumps / clumps.std() + 0.35 * fine
    return fine.astype(np.float32), clumps.astype(np.float32)


@cache
def _texture_table() -> np.ndarray:
    table = np.full(256, 0.02, dtype=np.float32)
    for surface, amplitude in TEXTURE.items():
        table[int(surface)] = amplitude
    return table


__all__ = ["GROUND_RESOLUTION_M", "OPEN_LAND", "SIZE", "CityStyle", "Surface", "Tile", "render_tile"]
