"""Sampling of regions and images: spatial neighbours, similar POI counts, batches."""

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .base import RegionData, View

Rows = NDArray[np.int64]


def view_of(data: RegionData, view: str, name: str) -> View:
    """Images of a view.

    Raises:
        InputError: The city has no images of the view.
    """
    if view not in data.views:
        raise InputError(
            f"{name} needs {view} images, and {data.city} has none, only "
            f"{', '.join(sorted(data.views)) or 'no images'}."
        )
    return data.views[view]


def poi_of(data: RegionData, name: str, instead: str = "") -> NDArray[np.float64]:
    """POI counts, `(N, categories)`.

    Args:
        data: Data of the city.
        name: Name of the system, for the error message.
        instead: Remedy, for the error message.

    Raises:
        InputError: The city has no POI counts, or all of them leak indicators.
    """
    if data.poi is not None:
        return data.poi
    has = (
        f"those of {data.city} would leak indicators: {', '.join(data.poi_left_out)}."
        if data.poi_left_out
        else f"{data.city} has none."
    )
    raise InputError(
        f"{name} needs counts of points of interest (region columns poi_<category>), and "
        f"{has} {instead}".rstrip()
    )


class Images:
    """Sampler of images of a view by region.

    Args:
        view: Images of the view.
        num_regions: Number of regions.

    Attributes:
        regions: Row indices of regions with images, ascending.
    """

    def __init__(self, view: View, num_regions: int):
        self._order = np.argsort(view.region, kind="stable")
        self._counts = np.bincount(view.region, minlength=num_regions)
        self._starts = np.concatenate([[0], np.cumsum(self._counts)[:-1]])
        self.regions: Rows = np.flatnonzero(self._counts)

    def draw(self, regions: Rows, rng: np.random.Generator) -> Rows:
        """Draw one image of each region; every region must have one."""
        within = (rng.random(len(regions)) * self._counts[regions]).astype(np.int64)
        return self._order[self._starts[regions] + within]


class Neighbourhood:
    """Sampler of spatially near and far regions.

    Distances are Chebyshev distances in cells ("rings"): on a square grid, ring 1 holds the eight
    neighbours.

    Args:
        data: Data of the city.
        candidates: Row indices of regions to draw from.
        far_rings: Far regions are beyond this ring.

    Attributes:
        candidates: Candidates with coordinates.
    """

    def __init__(self, data: RegionData, candidates: Rows, far_rings: int = 3):
        self.candidates = candidates[np.isfinite(data.xy[candidates]).all(axis=1)]
        self._xy, self._cell_m, self.far_rings = data.xy, data.cell_m, far_rings

    def near(self, anchors: Rows, rng: np.random.Generator) -> Rows:
        """Draw a region in ring 1 of each anchor, or the nearest one if that ring is empty."""
        rings = self._rings(anchors)
        rings[self.candidates[None, :] == anchors[:, None]] = np.inf
        ring = np.rint(rings) <= 1
        nearest = rings == rings.min(axis=1, keepdims=True)
        return self._draw(np.where(ring.any(axis=1, keepdims=True), ring, nearest), rng)

    def far(self, anchors: Rows, rng: np.random.Generator) -> Rows:
        """Draw a region beyond `far_rings` of each anchor, or the farthest one if there is none."""
        rings = self._rings(anchors)
        beyond = np.rint(rings) > self.far_rings
        farthest = rings == rings.max(axis=1, keepdims=True)
        return self._draw(np.where(beyond.any(axis=1, keepdims=True), beyond, farthest), rng)

    def _rings(self, anchors: Rows) -> NDArray[np.float64]:
        apart = self._xy[anchors][:, None, :] - self._xy[self.candidates][None, :, :]
        return np.abs(apart).max(axis=2) / self._cell_m

    def _draw(self, allowed: NDArray[np.bool_], rng: np.random.Generator) -> Rows:
        keys = np.where(allowed, rng.random(allowed.shape), -1.0)
        return self.candidates[keys.argmax(axis=1)]


def most_alike(
    vectors: NDArray[np.float64], candidates: Rows, rng: np.random.Generator, of: Rows
) -> Rows:
    """Nearest other region of each query region by Euclidean distance; ties are drawn at random.

    Args:
        vectors: Vectors of all regions, `(N, D)`.
        candidates: Row indices of candidate regions, at least two.
        rng: Random generator for ties.
        of: Row indices of query regions, `(B,)`.

    Returns:
        Row indices of the nearest candidates, `(B,)`.
    """
    squared = np.zeros((len(of), len(candidates)))
    # by column, which is exact for counts and so preserves ties
    for column in vectors.T:
        squared += np.square(column[of][:, None] - column[candidates][None, :])
    squared[of[:, None] == candidates[None, :]] = np.inf
    nearest = squared == squared.min(axis=1, keepdims=True)
    return candidates[np.where(nearest, rng.random(nearest.shape), -1.0).argmax(axis=1)]


class Shuffled:
    """Endless shuffled batches, with a new permutation per epoch.

    Args:
        rows: Rows to batch.
        batch_size: Rows per batch; all rows if there are fewer.
        rng: Random generator of the permutations.
    """

    def __init__(self, rows: Rows, batch_size: int, rng: np.random.Generator):
        self._rows, self._rng = rows, rng
        self.batch_size = min(batch_size, len(rows))
        self._left: Rows = rows[:0]

    def take(self) -> Rows:
        """Return the next batch, without duplicates."""
        if len(self._left) < self.batch_size:
            self._left = self._rng.permutation(self._rows)
        batch, self._left = self._left[: self.batch_size], self._left[self.batch_size :]
        return batch


__all__ = ["Images", "Neighbourhood", "Shuffled", "most_alike", "poi_of", "view_of"]
