"""Latent world of a synthetic city, which determines its images, captions and indicators.

All fields are functions of coordinates in kilometres (x east, y north, from the grid's south-west
corner), so neighbouring images are consistent and no map is kept in memory.
"""

from enum import IntEnum
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import DatasetError
from .styles import STYLES, Style, parse_city

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]
Bools = NDArray[np.bool_]
Latents = dict[str, Floats]
"""Values of the fields `LATENTS`, each in [0, 1]."""

CELL_KM = 1.0
AVENUE_EVERY = 4  # streets
RURAL_DENSITY = 0.08  # density below which there are no streets except avenues
SAMPLES_PER_SIDE = 5  # sampling of the latents within a region
SUB_CENTRE_REACH_KM, PARK_REACH_KM = 5.0, 1.5  # contributions beyond are below 1e-5
PARK_BUILT = 0.08  # share of a park's land that counts as built
WAVES = 40
LATENTS = ("density", "wealth", "greenness", "industry", "night_life")
LENGTHS_KM = {
    **dict(zip(LATENTS, (2.2, 2.6, 1.6, 2.0, 1.4), strict=True)),
    **{"bend": 3.5, "warp_x": 1.2, "warp_y": 1.2, "shore": 0.35},
}
"""Correlation lengths of the random fields, short enough that coordinates alone predict little."""


class Kind(IntEnum):
    """Land use of a block."""

    FIELD, VILLAS, ROWS, SLABS, TOWERS, WORKS, PARK, SPORTS, CAR_PARK = range(9)


KINDS = tuple(kind.name.lower() for kind in Kind)
STOREYS = (1, 1.6, 2.4, 5.5, 11, 1.5, 1, 1, 1)  # typical number per kind
BUILDING_STEPS = (0.10, 0.24, 0.42, 0.62)  # thresholds of density between building kinds


class SmoothField:
    """Smooth random field on the plane with mean 0 and variance of about 1.

    A sum of cosines with normal wave vectors and random phases, which approximates a Gaussian
    process with a Gaussian covariance (random Fourier features, Rahimi and Recht 2007).

    Args:
        rng: Random generator.
        length_km: Correlation length in km.
    """

    def __init__(self, rng: np.random.Generator, length_km: float):
        self.vectors = rng.normal(size=(2, WAVES)) / length_km
        self.phases = rng.uniform(0, 2 * np.pi, WAVES)

    def __call__(self, x: Floats, y: Floats) -> Floats:
        """Values at points in km; x and y broadcast.

        Open grids, x `(1, W)` and y `(H, 1)`, use a faster method with float32 results.
        """
        if x.ndim == y.ndim == 2 and x.shape[0] == 1 and y.shape[1] == 1:
            # cos(a + b) = cos a cos b - sin a sin b: a matrix product for the grid
            a = x[0] * self.vectors[0][:, None] + self.phases[:, None]
            b = y * self.vectors[1]
            left = np.concatenate([np.cos(b), -np.sin(b)], axis=1) * np.sqrt(2 / WAVES)
            right = np.concatenate([np.cos(a), np.sin(a)])
            return left.astype(np.float32) @ right.astype(np.float32)
        x, y = np.broadcast_arrays(np.asarray(x, float), np.asarray(y, float))
        points = np.stack([x.ravel(), y.ravel()], axis=1)
        values = np.cos(points @ self.vectors + self.phases).sum(axis=1)
        return (values * np.sqrt(2 / WAVES)).reshape(x.shape)


def hash_uniform(seed: int, *keys: Ints | int) -> NDArray[np.float64]:
    """Hash a seed and integer keys to uniform numbers in [0, 1) with SplitMix64's finaliser.

    Steele et al. 2014, doi:10.1145/2660193.2660195.
    """
    arrays = np.broadcast_arrays(*(np.asarray(key, dtype=np.int64) for key in keys))
    state = np.full(arrays[0].shape, seed & 0xFFFFFFFFFFFF, dtype=np.uint64)
    with np.errstate(over="ignore"):
        for array in arrays:
            state = (state ^ array.view(np.uint64)) + np.uint64(0x9E3779B97F4A7C15)
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state ^= state >> np.uint64(31)
    return (state >> np.uint64(11)).astype(np.float64) / 2**53


class Blocks(NamedTuple):
    """Block of each point in the street network.

    For the first and second street direction: index of the block (`column`, `row`), position within
    it from 0 to 1 (`across`, `along`), and its sides in metres.
    """

    column: Ints
    row: Ints
    across: Floats
    along: Floats
    width_m: Floats
    depth_m: Floats


class World:
    """Synthetic city.

    Args:
        city: City name: key of `STYLES`, or `<style>-<seed>` for a city with its own seed.
        grid_size: Number of regions per side, at least 3; the city scales with it.
        seed: Random seed of cities without their own.

    Raises:
        DatasetError: The city is unknown, or the grid is too small.
    """

    def __init__(self, city: str, grid_size: int, seed: int = 0):
        style, own_seed = parse_city(city)
        if grid_size < 3:
            raise DatasetError(f"`grid_size` must be at least 3, got {grid_size}.")
        seed = seed if own_seed is None else own_seed
        self.style: Style = style
        self.city, self.grid_size, self.seed = city, grid_size, seed
        self.extent_km = grid_size * CELL_KM
        self._warp_km = 0.16 if self.style.streets == "organic" else 0.02
        # changing the order of random draws changes the city
        rng = np.random.default_rng([seed, sorted(STYLES).index(style.name)])
        self.hash_seed = int(rng.integers(2**40))
        self._fields = {name: SmoothField(rng, length) for name, length in LENGTHS_KM.items()}
        self.centre = (self.extent_km * rng.uniform(0.42, 0.58, size=2)).tolist()
        self.reach = self.style.spread * self.extent_km
        count = max(2, round(grid_size**2 / 90))
        self.sub_centres = self.extent_km * rng.uniform(0.1, 0.9, size=(count, 2))
        self.sub_weights = rng.uniform(0.35, 0.75, size=count)
        self.river_at = self.extent_km * rng.uniform(0.3, 0.7)
        self.river_phase = rng.uniform(0, 2 * np.pi, 2).tolist()
        self.rail_at = self.extent_km * rng.uniform(0.25, 0.75)
        self.rail_slope = rng.uniform(-0.35, 0.35)
        # centres and radii of large parks, at the least industrial of random locations
        count = max(2, round(grid_size**2 / 45))
        places = self.extent_km * rng.uniform(0.04, 0.96, size=(3 * count, 2))
        industry = self.latents(places[:, 0], places[:, 1])["industry"]
        self.parks = places[np.argsort(industry, kind="stable")[:count]]
        self.park_radii = rng.uniform(0.35, 0.85, size=count)

    def river_distance(self, x: Floats, y: Floats) -> Floats:
        """Approximate distance from the centre line of the river in km."""
        bend = 1.3 * np.sin(2 * np.pi * x / 9 + self.river_phase[0])
        bend = bend + 0.5 * np.sin(2 * np.pi * x / 3.7 + self.river_phase[1])
        return np.abs(y - self.river_at - bend)

    def is_water(self, x: Floats, y: Floats) -> Bools:
        """Whether points are in the river or the sea."""
        wobble = 0.03 * self._fields["shore"](x, y)
        river = self.river_distance(x, y) < 0.11 + wobble
        if not self.style.sea:
            return river
        shore = 0.05 * self.extent_km + 0.35 * self._fields["bend"](x, np.zeros((1, 1)))
        return river | (y < shore + wobble)

    def rail_distance(self, x: Floats, y: Floats) -> Floats:
        """Approximate distance from the railway line in km."""
        line = self.rail_at + self.rail_slope * (y - self.extent_km / 2)
        line = line + 0.4 * np.sin(2 * np.pi * y / 11)
        return np.abs(x - line)

    def is_park(self, x: Floats, y: Floats) -> Bools:
        """Whether points are in a large park."""
        wobble = 0.06 * self._fields["shore"](x, y)
        inside = np.zeros(np.broadcast_shapes(np.shape(x), np.shape(y)), dtype=bool)
        near = _within(self.parks, x, y, PARK_REACH_KM)
        for (px, py), radius in zip(self.parks[near], self.park_radii[near], strict=True):
            inside |= np.hypot(x - px, y - py) < radius + wobble
        return inside

    def latents(self, x: Floats, y: Floats) -> Latents:
        """Latent fields at points in km."""
        field = {name: self._fields[name](x, y) for name in LATENTS}
        core = np.exp(-np.hypot(x - self.centre[0], y - self.centre[1]) / self.reach)
        bumps = np.zeros_like(core)
        near = _within(self.sub_centres, x, y, SUB_CENTRE_REACH_KM)
        for (sx, sy), weight in zip(self.sub_centres[near], self.sub_weights[near], strict=True):
            bumps = np.maximum(bumps, weight * np.exp(-(((x - sx) ** 2 + (y - sy) ** 2) / 1.6)))
        rail = np.exp(-self.rail_distance(x, y) / 0.9)
        river = np.exp(-self.river_distance(x, y) / 0.8)
        works = field["industry"] + 1.1 * rail + 0.5 * river - 1.7 * core - 1.0
        industry = _sigmoid(3.2 * (works + self.style.industry))
        density = 0.85 * core + 0.6 * bumps + 0.16 * field["density"]
        density = np.clip(density * (1 - 0.55 * industry), 0.0, 1.0)
        wealth = _sigmoid(1.4 * field["wealth"] + 0.9 * river - 2.2 * industry + 0.2)
        green = 0.55 - 0.5 * density + 0.22 * field["greenness"] + 0.15 * wealth - 0.25 * industry
        night = 4.5 * density + 1.0 * field["night_life"] + 0.8 * wealth - 2.0 * industry - 2.6
        fields = (density, wealth, np.clip(green, 0, 1), industry, _sigmoid(night))
        return dict(zip(LATENTS, fields, strict=True))

    @cached_property
    def region_latents(self) -> dict[str, Floats]:
        """Means of the latents over the land of each region, `(grid_size, grid_size)`.

        Also includes shares of the area: `water`, `park` and `built` (land, with parks weighted by
        `PARK_BUILT`).
        """
        rows = [self._latents_of_row(row) for row in range(self.grid_size)]
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}

    def _latents_of_row(self, row: int) -> dict[str, Floats]:
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

        # regions without land use the mean over water
        fields = {name: mean(latents[name], land + 1e-9) for name in LATENTS}
        shares = {"water": water, "park": park, "built": land * np.where(park, PARK_BUILT, 1.0)}
        whole = np.ones_like(land)
        return {**fields, **{name: mean(value, whole) for name, value in shares.items()}}

    def blocks(self, x: Floats, y: Floats) -> Blocks:
        """Block of each point; streets are the borders of blocks."""
        u, v, width, depth = self._street_plane(x, y)
        column, row = np.floor(u), np.floor(v)
        column_number, row_number = column.astype(np.int32), row.astype(np.int32)
        return Blocks(column_number, row_number, u - column, v - row, width, depth)

    def block_centres(self, column: Ints, row: Ints) -> tuple[Floats, Floats]:
        """Centre of each block in km."""
        u, v = column + 0.5, row + 0.5
        size = self.style.block_km
        if self.style.streets == "radial":
            radius, angle = np.abs(u) * size, 2 * np.pi * v / _sectors(column)
            return self.centre[0] + radius * np.cos(angle), self.centre[1] + radius * np.sin(angle)
        x, y = u * size, v * size
        warp = self._warp_km
        return x - warp * self._fields["warp_x"](x, y), y - warp * self._fields["warp_y"](x, y)

    def block_size_m(self, column: Ints) -> tuple[Floats, Floats]:
        """Sides of blocks in metres along both street directions, at the centre."""
        width = np.full(column.shape, 1000 * self.style.block_km)
        if self.style.streets != "radial":
            return width, width
        return width, 2 * np.pi * (column + 0.5) * width / _sectors(column)

    def block_kinds(self, column: Ints, row: Ints) -> tuple[Ints, Latents]:
        """`Kind` of each block, random given the latents at its centre; and these latents."""
        x, y = self.block_centres(column, row)
        latents = self.latents(x, y)
        density = latents["density"]
        jitter, die, works_die = (
            hash_uniform(self.hash_seed + salt, column, row) for salt in (1, 2, 3)
        )
        # field, villas, rows, slabs, towers
        kind = np.digitize(density + 0.14 * (jitter - 0.5), BUILDING_STEPS)
        urban = density > 0.16
        kind = np.where(urban & (die < 0.05), Kind.CAR_PARK, kind)
        kind = np.where(urban & (die > 0.975), Kind.SPORTS, kind)
        small_park = (die > 0.55) & (die < 0.55 + 0.28 * latents["greenness"])
        kind = np.where((density > 0.12) & small_park, Kind.PARK, kind)
        works = latents["industry"] + 0.25 * (works_die - 0.5) > 0.55
        kind = np.where(works & (die < 0.93), Kind.WORKS, kind)
        return np.where(self.is_park(x, y), Kind.PARK, kind), latents

    def storeys(self, kind: int, density: Floats, die: Floats) -> Floats:
        """Number of storeys by kind of block, density, and a random number per building."""
        tall = 1 + 1.3 * np.clip(density - 0.45, 0, 1) * die * (kind == Kind.TOWERS)
        levels = STOREYS[kind] * tall * (0.75 + 0.5 * die) * self.style.height
        return np.maximum(1, np.round(levels))

    def _street_plane(self, x: Floats, y: Floats) -> tuple[Floats, Floats, Floats, Floats]:
        """Coordinates in which blocks are unit squares, and sides of the blocks in metres."""
        size = self.style.block_km
        if self.style.streets == "radial":
            dx, dy = x - self.centre[0], y - self.centre[1]
            ring = np.hypot(dx, dy) / size
            sectors = _sectors(ring.astype(np.int32)).astype(ring.dtype)
            turn = np.arctan2(dy, dx) / (2 * np.pi) % 1
            depth = 2000 * np.pi * size * ring / sectors
            return ring, turn * sectors, np.full_like(ring, 1000 * size), depth
        warp = self._warp_km
        u = (x + warp * self._fields["warp_x"](x, y)) / size
        v = (y + warp * self._fields["warp_y"](x, y)) / size
        side = np.full_like(u, 1000 * size)
        return u, v, side, side


def _sectors(ring: Ints) -> Ints:
    """Number of sectors of a ring of radial streets, doubling with the radius."""
    numbers = np.arange(int(np.max(ring, initial=0)) + 1)
    doublings = np.floor(np.log2(np.maximum(numbers + 0.5, 2) / 2))
    table = np.where(numbers == 0, 4, 12 * 2 ** np.minimum(doublings, 8))
    return table.astype(np.int32)[ring]


def _within(places: Floats, x: Floats, y: Floats, reach_km: float) -> Bools:
    """Whether places are within reach of the bounding box of the points, `(places,)`."""
    low = np.array([np.min(x), np.min(y)]) - reach_km
    high = np.array([np.max(x), np.max(y)]) + reach_km
    return np.all((places > low) & (places < high), axis=1)


def _sigmoid(value: Floats) -> Floats:
    return 1 / (1 + np.exp(-value))
