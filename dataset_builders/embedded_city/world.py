"""The world of a synthetic city: latent fields from which pictures, captions and labels follow.

Everything is a function of place in kilometres (x east, y north, from the grid's south-west
corner), so neighbouring pictures fit together and nothing has to be kept in memory.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .noise import Floats, SmoothField, hash_uniform
from .styles import STYLES, Style

CELL_KM = 1.0
SAMPLES_PER_SIDE = 5  # of the latents within a region
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

    column: np.ndarray
    row: np.ndarray
    across: Floats
    along: Floats
    width_m: Floats
    depth_m: Floats


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
        self.centre = self.extent_km * rng.uniform(0.42, 0.58, size=2)
        self.reach = self.style.spread * self.extent_km
        count = max(2, round(grid_size**2 / 90))
        self.sub_centres = self.extent_km * rng.uniform(0.1, 0.9, size=(count, 2))
        self.sub_weights = rng.uniform(0.35, 0.75, size=count)
        parks = max(2, round(grid_size**2 / 45))
        self.parks = self.extent_km * rng.uniform(0.04, 0.96, size=(parks, 2))
        self.park_radii = rng.uniform(0.35, 0.85, size=parks)
        self.river_at = self.extent_km * rng.uniform(0.3, 0.7)
        self.river_phase = rng.uniform(0, 2 * np.pi, 2)
        self.rail_at = self.extent_km * rng.uniform(0.25, 0.75)
        self.rail_slope = rng.uniform(-0.35, 0.35)

    # ---- water, rail, parks --------------------------------------------------------------

    def river_distance(self, x: Floats, y: Floats) -> Floats:
        """Distance in km from the middle of the river, about."""
        bend = 1.3 * np.sin(2 * np.pi * x / 9 + self.river_phase[0])
        bend = bend + 0.5 * np.sin(2 * np.pi * x / 3.7 + self.river_phase[1])
        return np.abs(y - self.river_at - bend)

    def is_water(self, x: Floats, y: Floats) -> np.ndarray:
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

    def is_park(self, x: Floats, y: Floats) -> np.ndarray:
        """Whether points lie in one of the large parks."""
        wobble = 0.06 * self._fields["shore"](x, y)
        inside = np.zeros(np.broadcast_shapes(np.shape(x), np.shape(y)), dtype=bool)
        for (px, py), radius in zip(self.parks, self.park_radii, strict=True):
            inside |= np.hypot(x - px, y - py) < radius + wobble
        return inside

    # ---- latents -------------------------------------------------------------------------

    def latents(self, x: Floats, y: Floats) -> Latents:
        """The latent fields at points in km."""
        field = {name: self._fields[name](x, y) for name in LATENTS}
        core = np.exp(-np.hypot(x - self.centre[0], y - self.centre[1]) / self.reach)
        bumps = np.zeros_like(core)
        for (sx, sy), weight in zip(self.sub_centres, self.sub_weights, strict=True):
            bumps = np.maximum(bumps, weight * np.exp(-(((x - sx) ** 2 + (y - sy) ** 2) / 1.6)))
        rail = np.exp(-self.rail_distance(x, y) / 0.9)
        river = np.exp(-self.river_distance(x, y) / 0.8)
        industry = _sigmoid(3.2 * (field["industry"] + 1.1 * rail + 0.5 * river - 1.1 * core - 1.0))
        density = 0.75 * core + 0.6 * bumps + 0.16 * field["density"]
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
        offsets = (np.arange(SAMPLES_PER_SIDE) + 0.5) / SAMPLES_PER_SIDE * CELL_KM
        steps = np.arange(self.grid_size) * CELL_KM
        axis = (steps[:, None] + offsets).ravel()
        x, y = np.meshgrid(axis, axis)
        latents = self.latents(x, y)
        water, park = self.is_water(x, y), self.is_park(x, y)
        land = (~water).astype(float)
        built = land * np.where(park, 0.08, 1.0)

        def mean(values: Floats, weights: Floats | None = None) -> Floats:
            n, s = self.grid_size, SAMPLES_PER_SIDE
            weights = np.ones_like(values) if weights is None else weights
            total = (values * weights).reshape(n, s, n, s).sum(axis=(1, 3))
            return total / np.maximum(weights.reshape(n, s, n, s).sum(axis=(1, 3)), 1e-9)

        shares = {"water": mean(water.astype(float)), "park": mean(park.astype(float))}
        fields = {name: mean(getattr(latents, name), land + 1e-9) for name in LATENTS}
        return {**fields, **shares, "built": mean(built)}

    # ---- streets -------------------------------------------------------------------------

    def blocks(self, x: Floats, y: Floats) -> Blocks:
        """The block of each point. Streets run along the blocks' borders."""
        u, v, width, depth = self._street_plane(x, y)
        column, row = np.floor(u), np.floor(v)
        return Blocks(
            column=column.astype(np.int64),
            row=row.astype(np.int64),
            across=u - column,
            along=v - row,
            width_m=width,
            depth_m=depth,
        )

    def block_centres(self, blocks: Blocks) -> tuple[Floats, Floats]:
        """Middle of each block in km: the same for all points of a block."""
        u, v = blocks.column + 0.5, blocks.row + 0.5
        size = self.style.block_km
        if self.style.streets == "radial":
            radius = np.abs(u) * size
            angle = 2 * np.pi * v / self._sectors(radius)
            return self.centre[0] + radius * np.cos(angle), self.centre[1] + radius * np.sin(angle)
        x, y = u * size, v * size
        warp = self._warp_km
        return x - warp * self._fields["warp_x"](x, y), y - warp * self._fields["warp_y"](x, y)

    @property
    def _warp_km(self) -> float:
        return 0.16 if self.style.streets == "organic" else 0.02

    def _street_plane(self, x: Floats, y: Floats) -> tuple[Floats, Floats, Floats, Floats]:
        size = self.style.block_km
        if self.style.streets == "radial":
            dx, dy = x - self.centre[0], y - self.centre[1]
            radius = np.hypot(dx, dy)
            sectors = self._sectors(radius)
            angle = np.arctan2(dy, dx) % (2 * np.pi)
            width = np.full_like(radius, 1000 * size)
            return (
                radius / size,
                angle / (2 * np.pi) * sectors,
                width,
                (2000 * np.pi * np.maximum(radius, 0.2) / sectors),
            )
        warp = self._warp_km
        u = (x + warp * self._fields["warp_x"](x, y)) / size
        v = (y + warp * self._fields["warp_y"](x, y)) / size
        side = np.full_like(u, 1000 * size)
        return u, v, side, side

    def _sectors(self, radius: Floats) -> Floats:
        """Sectors of a ring: they double with the radius, at a ring road."""
        size = self.style.block_km
        ring = np.floor(np.log2(np.maximum(np.floor(radius / size) + 0.5, 2) / 2))
        return 12 * 2 ** np.minimum(ring, 8)

    def block_uniform(self, blocks: Blocks, salt: int) -> Floats:
        """A random number of each block, in [0, 1)."""
        return hash_uniform(self.hash_seed + salt, blocks.column, blocks.row)


__all__ = ["CELL_KM", "LATENTS", "Blocks", "Latents", "World"]
