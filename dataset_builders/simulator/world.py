"""The latent world of a synthetic city: smooth maps, water, rail, main roads and parks.

Everything a user sees (pictures, roads, indicators) is read off these maps, so that a picture
tells something of the indicators, and only as much as it shows. Short-range noise is part of every
map: a region cannot be read off its coordinates when the blocks around it are held out.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree

from .seeds import generator, lattice_uniform, name_key
from .styles import CityStyle

CELL_M = 1000.0  # side of a region
NODES = 4  # latent nodes along the side of a region
NODE_M = CELL_M / NODES
LATENTS = ("density", "wealth", "greenness", "industry", "night_life")
LINE_STEP_M = 40.0
LineKind = Literal["motorway", "primary", "rail", "river"]


@dataclass(frozen=True)
class Line:
    """A road, railway or river through the whole city.

    Attributes:
        kind: what it is.
        points: `(n, 2)` metres, about [`LINE_STEP_M`] apart.
        width_m: drawn width.
        name: for people.
    """

    kind: LineKind
    points: np.ndarray
    width_m: float
    name: str

    def runs(self, box: tuple[float, float, float, float], margin_m: float) -> list[np.ndarray]:
        """The stretches within a box (west, south, east, north), a point longer at both ends."""
        west, south, east, north = box
        x, y = self.points.T
        inside = (x > west - margin_m) & (x < east + margin_m)
        inside &= (y > south - margin_m) & (y < north + margin_m)
        if not inside.any():
            return []
        edges = np.flatnonzero(np.diff(np.concatenate([[0], inside.view(np.int8), [0]])))
        return [
            self.points[max(0, start - 1) : stop + 1]
            for start, stop in zip(edges[::2], edges[1::2], strict=True)
        ]


class World:
    """A city before it is looked at.

    Args:
        style: which city.
        grid_size: regions along a side.
        seed: of the dataset.

    Attributes:
        maps: `{latent: (4 * grid_size, 4 * grid_size)}` in [0, 1], row 0 in the south.
        lines: roads, rail and rivers.
        parks: `(n, 5)` of x, y, half axes in metres and angle in radians.
    """

    def __init__(self, style: CityStyle, grid_size: int, seed: int):
        if grid_size < 3:
            raise ValueError(f"A city needs a grid of 3 x 3 regions at least, got {grid_size}.")
        self.style, self.grid_size, self.seed = style, grid_size, seed
        self.side_m = grid_size * CELL_M
        self.key = name_key(style.name) + (seed << 32)
        self._rng = generator(seed, style.name, "world", grid_size)
        self._coast_phase = self._rng.uniform(0, 2 * np.pi, 4)
        self.centre = self._place_centre()
        self.subcentres = self._place_subcentres()
        self.lines = [*self._rivers(), *self._rails(), *self._roads()]
        self.parks = self._place_parks()
        self.maps = self._draw_maps()

    def region_latents(self) -> dict[str, np.ndarray]:
        """Means over each region, `(grid_size, grid_size)`, with "water", the share of it."""
        maps = {**self.maps, "water": self._water_map.astype(np.float64)}
        shape = (self.grid_size, NODES, self.grid_size, NODES)
        return {name: values.reshape(shape).mean(axis=(1, 3)) for name, values in maps.items()}

    def latents_at(self, x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
        """Latents at points, interpolated between nodes; the outermost hold beyond the grid."""
        u, v = np.asarray(x) / NODE_M - 0.5, np.asarray(y) / NODE_M - 0.5
        top = self.grid_size * NODES - 1
        u, v = np.clip(u, 0, top - 1e-9), np.clip(v, 0, top - 1e-9)
        i, j = u.astype(np.int64), v.astype(np.int64)
        a, b = u - i, v - j
        return {
            name: (grid[j, i] * (1 - a) + grid[j, i + 1] * a) * (1 - b)
            + (grid[j + 1, i] * (1 - a) + grid[j + 1, i + 1] * a) * b
            for name, grid in self.maps.items()
        }

    def coast_x(self, y: np.ndarray) -> np.ndarray:
        """Where the sea begins at each y; beyond the world for a city inland."""
        y = np.asarray(y, dtype=np.float64)
        if not self.style.coast:
            return np.full_like(y, np.inf)
        a, b, c, d = self._coast_phase
        km = y / CELL_M
        wave = 0.9 * np.sin(km / 3.1 + a) + 0.45 * np.sin(km / 1.3 + b) + 0.1 * np.sin(km * 2.9 + c)
        bay = 0.04 * self.grid_size * np.sin(2 * np.pi * y / self.side_m + d)
        # small grids keep some land in front of the sea
        scale = min(1.0, self.grid_size / 10)
        return self.side_m * 0.91 + CELL_M * scale * (wave + bay)

    def is_water(self, x: np.ndarray, y: np.ndarray, margin_m: float = 0.0) -> np.ndarray:
        """Whether points lie in the sea or the river, or within a margin of it."""
        x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
        wet = x > self.coast_x(y) - margin_m
        if self._river_tree is not None:
            distance = self.distance(self._river_tree, x, y)
            wet |= distance < self.style.river_width_m / 2 + margin_m
        return wet

    def in_park(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Whether points lie in one of the parks."""
        x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
        inside = np.zeros(x.shape, dtype=bool)
        if x.size == 0:
            return inside
        reach = 1.5 * self.parks[:, 2:4].max(axis=1)
        near = (self.parks[:, 0] > x.min() - reach) & (self.parks[:, 0] < x.max() + reach)
        near &= (self.parks[:, 1] > y.min() - reach) & (self.parks[:, 1] < y.max() + reach)
        for px, py, a, b, angle in self.parks[near]:
            dx, dy = x - px, y - py
            u = (dx * np.cos(angle) + dy * np.sin(angle)) / a
            v = (dy * np.cos(angle) - dx * np.sin(angle)) / b
            u, v = u * u, v * v
            inside |= u * u + v * v < 1
        return inside

    @staticmethod
    def distance(tree: cKDTree | None, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Metres to the nearest point of a tree; infinite where there is none within 6 km."""
        if tree is None:
            return np.full(np.shape(x), np.inf)
        points = np.stack([np.ravel(x), np.ravel(y)], axis=1)
        return tree.query(points, distance_upper_bound=6000.0)[0].reshape(np.shape(x))

    def tree_of(self, kind: LineKind) -> cKDTree | None:
        """The points of all lines of a kind, for [`distance`]."""
        points = [line.points for line in self.lines if line.kind == kind]
        return cKDTree(np.concatenate(points)) if points else None

    @cached_property
    def _river_tree(self) -> cKDTree | None:
        return self.tree_of("river")

    @cached_property
    def _nodes(self) -> tuple[np.ndarray, np.ndarray]:
        line = (np.arange(self.grid_size * NODES) + 0.5) * NODE_M
        x, y = np.meshgrid(line, line)
        return x, y

    def _window(self, x: float, y: float, reach_m: float) -> tuple[slice, slice]:
        """Rows and columns of the nodes within reach of a point."""
        low = [max(0, int((value - reach_m) / NODE_M)) for value in (y, x)]
        high = [max(0, int((value + reach_m) / NODE_M) + 2) for value in (y, x)]
        return slice(low[0], high[0]), slice(low[1], high[1])

    @cached_property
    def _park_map(self) -> np.ndarray:
        x, y = self._nodes
        inside = np.zeros(x.shape, dtype=bool)
        for px, py, a, b, _ in self.parks:
            window = self._window(px, py, 1.5 * max(a, b))
            inside[window] |= self.in_park(x[window], y[window])
        return inside

    @cached_property
    def _water_map(self) -> np.ndarray:
        return self.is_water(*self._nodes)

    def _place_centre(self) -> np.ndarray:
        share = self._rng.uniform(0.42, 0.58, 2)
        if self.style.coast:
            share[0] += 0.1
        return share * self.side_m

    def _place_subcentres(self) -> np.ndarray:
        """`(n, 4)` of x, y, radius in metres and weight; more of them in larger cities."""
        count = 2 + self.grid_size**2 // 90
        rng = self._rng
        xy = rng.uniform(0.08, 0.92, (count, 2)) * self.side_m
        radius = rng.uniform(0.8, 2.0, count) * CELL_M * min(1.0, self.grid_size / 16)
        return np.column_stack([xy, radius, rng.uniform(0.35, 0.9, count)])

    def _meander(self, angle: float, through: np.ndarray, bends: float) -> np.ndarray:
        """A smooth line right across the world through a point, `(n, 2)`."""
        half = self.side_m * 0.9 + 2 * CELL_M
        t = np.arange(-half, half, LINE_STEP_M)
        phase = self._rng.uniform(0, 2 * np.pi, 3)
        waves = (1.0, 2.6), (0.45, 1.1), (0.18, 0.55)
        km = t / CELL_M
        off = sum(a * np.sin(km / w + p) for (a, w), p in zip(waves, phase, strict=True))
        off = np.asarray(off) * bends * CELL_M
        off = off - off[len(t) // 2]
        direction = np.array([np.cos(angle), np.sin(angle)])
        normal = np.array([-direction[1], direction[0]])
        return through + t[:, None] * direction + off[:, None] * normal

    def _rivers(self) -> list[Line]:
        width = self.style.river_width_m
        if width <= 0:
            return []
        shift = self._rng.uniform(0.08, 0.13, 2) * self.side_m * self._rng.choice([-1, 1], 2)
        angle = np.deg2rad(self.style.street_angle_deg) + self._rng.uniform(-0.35, 0.35)
        points = self._meander(angle, self.centre + shift, 0.55 * min(1.0, self.grid_size / 12))
        return [Line("river", points, width, "River")]

    def _rails(self) -> list[Line]:
        rng = self._rng
        angle = np.deg2rad(self.style.street_angle_deg + 90) + rng.uniform(-0.4, 0.4)
        shift = rng.uniform(-0.09, 0.09, 2) * self.side_m
        lines = [Line("rail", self._meander(angle, self.centre + shift, 0.25), 14.0, "Main Line")]
        if self.style.industry_bias > 0.5 or self.grid_size > 40:
            second = self._meander(angle + 1.2, self.centre - shift * 2, 0.2)
            lines.append(Line("rail", second, 12.0, "Works Line"))
        return lines

    def _roads(self) -> list[Line]:
        """Motorways every 14 km, and what the street lattice has not: rings and spokes."""
        rng, lines = self._rng, []
        count = max(1, self.grid_size // 14)
        for number in range(count):
            angle = rng.uniform(0, np.pi)
            shift = (
                rng.uniform(0.14, 0.32) * self.side_m * np.array([np.sin(angle), -np.cos(angle)])
            )
            shift = shift * rng.choice([-1, 1])
            points = self._meander(angle, self.centre + shift, 0.5)
            lines.append(Line("motorway", points, 30.0, f"Motorway {number + 1}"))
        if self.style.pattern == "radial":
            lines += self._spokes_and_rings()
        return lines

    def _spokes_and_rings(self) -> list[Line]:
        lines = []
        reach = self.side_m * 0.95
        for number, angle in enumerate(np.arange(9) * 2 * np.pi / 9 + self._rng.uniform(0, 0.7)):
            radius = np.arange(150.0, reach, LINE_STEP_M)
            bend = angle + 0.16 * np.sin(radius / 2600 + number)
            points = self.centre + np.column_stack([np.cos(bend), np.sin(bend)]) * radius[:, None]
            lines.append(Line("primary", points, 20.0, f"Spoke {number + 1}"))
        for number, radius_m in enumerate(np.array([0.09, 0.19, 0.33]) * self.side_m):
            turn = np.arange(0, 2 * np.pi + 0.02, LINE_STEP_M / radius_m)
            wobble = radius_m * (1 + 0.06 * np.sin(3 * turn + number))
            points = self.centre + np.column_stack([np.cos(turn), np.sin(turn)]) * wobble[:, None]
            lines.append(Line("primary", points, 20.0, f"Ring {number + 1}"))
        return lines

    def _place_parks(self) -> np.ndarray:
        count = 3 + self.grid_size**2 // 40
        rng = self._rng
        xy = rng.uniform(0.04, 0.96, (count, 2)) * self.side_m
        axes = rng.uniform(0.22, 0.75, (count, 2)) * CELL_M * min(1.0, self.grid_size / 9)
        # the first is the central park, a few hundred metres off the centre
        turn = rng.uniform(0, 2 * np.pi)
        xy[0] = self.centre + 0.07 * self.side_m * np.array([np.cos(turn), np.sin(turn)])
        axes[0] = np.array([0.85, 0.5]) * CELL_M * min(1.0, self.grid_size / 12)
        angle = np.deg2rad(self.style.street_angle_deg) + rng.normal(0, 0.15, count)
        return np.column_stack([xy, axes, angle])

    def _noise(self, sd_cells: float) -> np.ndarray:
        """A smooth random map of mean 0 and variance 1; `sd_cells` of its Gaussian kernel."""
        size = self.grid_size * NODES
        rough = self._rng.standard_normal((size, size))
        smooth = gaussian_filter(rough, sd_cells * NODES, mode="reflect")
        return (smooth - smooth.mean()) / max(smooth.std(), 1e-12)

    def _draw_maps(self) -> dict[str, np.ndarray]:
        x, y = self._nodes
        style, cells = self.style, min(self.grid_size, 30)
        to_centre = np.hypot(x - self.centre[0], y - self.centre[1]) / CELL_M
        core = np.exp(-((to_centre / (style.core_radius * cells)) ** 1.5))
        sub = np.zeros_like(core)
        for sx, sy, radius, weight in self.subcentres:
            near = self._window(sx, sy, 3.5 * radius)
            squared = (x[near] - sx) ** 2 + (y[near] - sy) ** 2
            sub[near] = np.maximum(sub[near], weight * np.exp(-squared / radius**2))
        rail = np.exp(-self.distance(self.tree_of("rail"), x, y) / 700)
        river = np.exp(-self.distance(self._river_tree, x, y) / 800)
        coast = np.exp(-np.clip(self.coast_x(y) - x, 0, None) / 900) if style.coast else 0.0
        park = gaussian_filter(self._park_map.astype(np.float64), 1.0)

        pull = rail + 0.5 * river + 0.6 * coast * (np.sin(y / 2300) > 0.2)
        industry = _sigmoid(
            3.0 * (pull - 0.85)
            - 3.0 * np.clip(core - 0.4, 0, None)
            + 1.3 * self._noise(1.1)
            + style.industry_bias
        )
        density = _sigmoid(
            5.2 * core + 4.4 * sub - 1.75 + 0.95 * self._noise(1.5) + 0.45 * self._noise(0.6)
            - 1.6 * park - 1.2 * industry + style.density_bias
        )  # fmt: skip
        east = (x - self.centre[0]) / self.side_m * np.cos(self._coast_phase[0])
        north = (y - self.centre[1]) / self.side_m * np.sin(self._coast_phase[0])
        wealth = _sigmoid(
            1.35 * self._noise(1.6) + 0.5 * self._noise(0.7) + 1.6 * (east + north)
            + 0.9 * park + 0.8 * coast - 2.2 * industry + 0.35
        )  # fmt: skip
        night_life = _sigmoid(
            4.6 * (density - 0.55) + 1.5 * self._noise(1.0) + 1.5 * sub + 1.0 * coast
            - 1.6 * industry - 0.7
        )  # fmt: skip
        greenness = _sigmoid(
            2.6 * park - 2.4 * (density - 0.45) - 1.4 * industry + 1.0 * self._noise(1.1)
            + 0.8 * (wealth - 0.5)
        )  # fmt: skip
        return {
            "density": density,
            "wealth": wealth,
            "greenness": greenness,
            "industry": industry,
            "night_life": night_life,
        }

    def uniform(self, i: np.ndarray, j: np.ndarray, salt: int) -> np.ndarray:
        """Uniform numbers of lattice points of this world."""
        return lattice_uniform(self.key, i, j, salt)


def _sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))


__all__ = ["CELL_M", "LATENTS", "NODE_M", "Line", "World"]
