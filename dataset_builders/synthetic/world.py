"""The world of a synthetic city: latent fields from which pictures, captions and labels follow.

Everything is a function of place in kilometres (x east, y north, from the grid's south-west
corner), so neighbouring pictures fit together and nothing has to be kept in memory.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .noise import Bools, Floats, Ints, SmoothField, hash_uniform
from .styles import STYLES, Style

CELL_KM = 1.0
AVENUE_EVERY = 4  # streets
RURAL_DENSITY = 0.08  # below it there are only avenues
SAMPLES_PER_SIDE = 5  # of the latents within a region
SUB_CENTRE_REACH_KM, PARK_REACH_KM = 5.0, 1.5  # beyond, they add less than 1e-5
PARK_BUILT = 0.08  # of the land of a park
LATENTS = ("density", "wealth", "greenness", "industry", "night_life")


@dataclass(frozen=True)
class Latents:
    """Latent fields, each in [0, 1], at the same points."""

    density: Floats
    wealth: Floats
    greenness: Floats
    industry: Floats
    night_life: Floats


@dataclass(frozen=True)
class Blocks:
    """Which block of the street network points lie in, and where in it.

    Attributes:
        column: whole number of the block along the first street direction.
        row: along the second.
        across: place in the block along the first direction, 0 to 1.
        along: along the second, 0 to 1.
        width_m: side of the block along the first direction.
        depth_m: along the second.
    """

    column: Ints
    row: Ints
    across: Floats
    along: Floats
    width_m: Floats
    depth_m: Floats


def _within(places: Floats, x: Floats, y: Floats, reach_km: float) -> Bools:
    """Which places are so near to any of the points that they matter, `(places,)`."""
    low = np.array([np.min(x), np.min(y)]) - reach_km
    high = np.array([np.max(x), np.max(y)]) + reach_km
    return np.all((places > low) & (places < high), axis=1)


def _sigmoid(value: Floats) -> Floats:
    return 1 / (1 + np.exp(-value))


class World:
    """A synthetic city.

    Args:
        city: one of `STYLES`.
        grid_size: regions a side; the city grows with it.
        seed: of everything.

    Raises:
        ValueError: an unknown city, or a grid below 3.
    """

    def __init__(self, city: str, grid_size: int, seed: int = 0):
        if city not in STYLES:
            raise ValueError(f"`city` must be one of {sorted(STYLES)}, got {city!r}.")
        if grid_size < 3:
            raise ValueError(f"`grid_size` must be 3 at least, got {grid_size}.")
        self.style: Style = STYLES[city]
        self.city, self.grid_size, self.seed = city, grid_size, seed
        self.extent_km = grid_size * CELL_KM
        index = sorted(STYLES).index(city)
        rng = np.random.default_rng([seed, index])
        self.hash_seed = int(rng.integers(2**40))
        # fields that no coordinate predicts beyond a few kilometres
        self._fields = {
            name: SmoothField(rng, length)
            for name, length in (
                ("density", 2.2),
                ("wealth", 2.6),
                ("greenness", 1.6),
                ("industry", 2.0),
                ("night_life", 1.4),
                ("bend", 3.5),
                ("warp_x", 1.2),
                ("warp_y", 1.2),
                ("shore", 0.35),
            )
        }
        self.centre = (self.extent_km * rng.uniform(0.42, 0.58, size=2)).tolist()
        self.reach = self.style.spread * self.extent_km
        count = max(2, round(grid_size**2 / 90))
        self.sub_centres = self.extent_km * rng.uniform(0.1, 0.9, size=(count, 2))
        self.sub_weights = rng.uniform(0.35, 0.75, size=count)
        self.river_at = self.extent_km * rng.uniform(0.3, 0.7)
        self.river_phase = rng.uniform(0, 2 * np.pi, 2).tolist()
        self.rail_at = self.extent_km * rng.uniform(0.25, 0.75)
        self.rail_slope = rng.uniform(-0.35, 0.35)
        self.parks, self.park_radii = self._lay_parks(rng)

    def _lay_parks(self, rng: np.random.Generator) -> tuple[Floats, Floats]:
        """Middles and radii in km of the large parks: of some places, those least industrial."""
        count = max(2, round(self.grid_size**2 / 45))
        places = self.extent_km * rng.uniform(0.04, 0.96, size=(3 * count, 2))
        industry = self.latents(places[:, 0], places[:, 1]).industry
        chosen = np.argsort(industry, kind="stable")[:count]
        return places[chosen], rng.uniform(0.35, 0.85, size=count)

    # ---- water, rail, parks --------------------------------------------------------------

    def river_distance(self, x: Floats, y: Floats) -> Floats:
        """Distance in km from the middle of the river, about."""
        bend = 1.3 * np.sin(2 * np.pi * x / 9 + self.river_phase[0])
        bend = bend + 0.5 * np.sin(2 * np.pi * x / 3.7 + self.river_phase[1])
        return np.abs(y - self.river_at - bend)

    def is_water(self, x: Floats, y: Floats) -> Bools:
        """Whether points lie in the river or the sea."""
        wobble = 0.03 * self._fields["shore"](x, y)
        river = self.river_distance(x, y) < 0.11 + wobble
        if not self.style.sea:
            return river
        shore = 0.05 * self.extent_km + 0.35 * self._fields["bend"](x, np.zeros((1, 1)))
        return river | (y < shore + wobble)

    def rail_distance(self, x: Floats, y: Floats) -> Floats:
        """Distance in km from the railway line."""
        line = self.rail_at + self.rail_slope * (y - self.extent_km / 2)
        line = line + 0.4 * np.sin(2 * np.pi * y / 11)
        return np.abs(x - line)

    def is_park(self, x: Floats, y: Floats) -> Bools:
        """Whether points lie in one of the large parks."""
        wobble = 0.06 * self._fields["shore"](x, y)
        inside = np.zeros(np.broadcast_shapes(np.shape(x), np.shape(y)), dtype=bool)
        near = _within(self.parks, x, y, PARK_REACH_KM)
        for (px, py), radius in zip(self.parks[near], self.park_radii[near], strict=True):
            inside |= np.hypot(x - px, y - py) < radius + wobble
        return inside

    # ---- latents -------------------------------------------------------------------------

    def latents(self, x: Floats, y: Floats) -> Latents:
        """The latent fields at points in km."""
        field = {name: self._fields[name](x, y) for name in LATENTS}
        core = np.exp(-np.hypot(x - self.centre[0], y - self.centre[1]) / self.reach)
        bumps = np.zeros_like(core)
        near = _within(self.sub_centres, x, y, SUB_CENTRE_REACH_KM)
        for (sx, sy), weight in zip(self.sub_centres[near], self.sub_weights[near], strict=True):
            bumps = np.maximum(bumps, weight * np.exp(-(((x - sx) ** 2 + (y - sy) ** 2) / 1.6)))
        rail = np.exp(-self.rail_distance(x, y) / 0.9)
        river = np.exp(-self.river_distance(x, y) / 0.8)
        industry = _sigmoid(
            3.2
            * (
                field["industry"]
                + 1.1 * rail
                + 0.5 * river
                - 1.7 * core
                - 1.0
                + self.style.industry
            )
        )
        density = 0.85 * core + 0.6 * bumps + 0.16 * field["density"]
        density = np.clip(density * (1 - 0.55 * industry), 0.0, 1.0)
        wealth = _sigmoid(1.4 * field["wealth"] + 0.9 * river - 2.2 * industry + 0.2)
        green = 0.55 - 0.5 * density + 0.22 * field["greenness"] + 0.15 * wealth - 0.25 * industry
        night = _sigmoid(
            4.5 * density + 1.0 * field["night_life"] + 0.8 * wealth - 2.0 * industry - 2.6
        )
        return Latents(
            density=density,
            wealth=wealth,
            greenness=np.clip(green, 0, 1),
            industry=industry,
            night_life=night,
        )

    @cached_property
    def region_latents(self) -> dict[str, Floats]:
        """Means over each region's land, `(grid_size, grid_size)` by row and column.

        And shares of its area: `water`, `park`, and `built`, land with parks counted little.
        """
        rows = [self._latents_of_row(row) for row in range(self.grid_size)]
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}

    def _latents_of_row(self, row: int) -> dict[str, Floats]:
        """The same of one row of regions: `(grid_size,)` each."""
        offsets = (np.arange(SAMPLES_PER_SIDE) + 0.5) / SAMPLES_PER_SIDE * CELL_KM
        columns = np.arange(self.grid_size)[:, None] * CELL_KM
        x, y = (columns + offsets).reshape(1, -1), (row * CELL_KM + offsets)[:, None]
        latents = self.latents(x, y)
        water, park = self.is_water(x, y), self.is_park(x, y)
        land = (~water).astype(float)

        def mean(values: Floats, weights: Floats) -> Floats:
            shape = (SAMPLES_PER_SIDE, self.grid_size, SAMPLES_PER_SIDE)
            total = (values * weights).reshape(shape).sum(axis=(0, 2))
            return total / weights.reshape(shape).sum(axis=(0, 2))

        # a region without land takes the mean over its water
        fields = {name: mean(getattr(latents, name), land + 1e-9) for name in LATENTS}
        whole = np.ones_like(land)
        built = land * np.where(park, PARK_BUILT, 1.0)
        shares = {"water": water, "park": park, "built": built}
        return {**fields, **{name: mean(value, whole) for name, value in shares.items()}}

    # ---- streets -------------------------------------------------------------------------

    def blocks(self, x: Floats, y: Floats) -> Blocks:
        """The block of each point. Streets run along the blocks' borders."""
        u, v, width, depth = self._street_plane(x, y)
        column, row = np.floor(u), np.floor(v)
        return Blocks(
            column=column.astype(np.int32),
            row=row.astype(np.int32),
            across=u - column,
            along=v - row,
            width_m=width,
            depth_m=depth,
        )

    def block_centres(self, column: Ints, row: Ints) -> tuple[Floats, Floats]:
        """Middle of each block in km."""
        u, v = column + 0.5, row + 0.5
        size = self.style.block_km
        if self.style.streets == "radial":
            radius, angle = np.abs(u) * size, 2 * np.pi * v / self._sectors(column)
            return self.centre[0] + radius * np.cos(angle), self.centre[1] + radius * np.sin(angle)
        x, y = u * size, v * size
        warp = self._warp_km
        return x - warp * self._fields["warp_x"](x, y), y - warp * self._fields["warp_y"](x, y)

    def block_size_m(self, column: Ints) -> tuple[Floats, Floats]:
        """Sides of blocks in metres along both street directions, at their middle."""
        width = np.full(column.shape, 1000 * self.style.block_km)
        if self.style.streets != "radial":
            return width, width
        return width, 2 * np.pi * (column + 0.5) * width / self._sectors(column)

    @property
    def _warp_km(self) -> float:
        return 0.16 if self.style.streets == "organic" else 0.02

    def _street_plane(self, x: Floats, y: Floats) -> tuple[Floats, Floats, Floats, Floats]:
        size = self.style.block_km
        if self.style.streets == "radial":
            dx, dy = x - self.centre[0], y - self.centre[1]
            ring = np.hypot(dx, dy) / size
            sectors = self._sectors(ring.astype(np.int32)).astype(ring.dtype)
            turn = np.arctan2(dy, dx) / (2 * np.pi) % 1
            depth = 2000 * np.pi * size * ring / sectors
            return ring, turn * sectors, np.full_like(ring, 1000 * size), depth
        warp = self._warp_km
        u = (x + warp * self._fields["warp_x"](x, y)) / size
        v = (y + warp * self._fields["warp_y"](x, y)) / size
        side = np.full_like(u, 1000 * size)
        return u, v, side, side

    def _sectors(self, ring: Ints) -> Ints:
        """Sectors of a ring: four about the centre, then they double with the radius."""
        last = int(np.max(ring, initial=0))
        doublings = np.floor(np.log2(np.maximum(np.arange(last + 1) + 0.5, 2) / 2))
        table = np.where(np.arange(last + 1) == 0, 4, 12 * 2 ** np.minimum(doublings, 8))
        return table.astype(np.int32)[ring]

    def block_uniform(self, column: Ints, row: Ints, salt: int) -> Floats:
        """A random number of each block, in [0, 1)."""
        return hash_uniform(self.hash_seed + salt, column, row)


__all__ = [
    "AVENUE_EVERY",
    "CELL_KM",
    "LATENTS",
    "RURAL_DENSITY",
    "Blocks",
    "Latents",
    "World",
]
