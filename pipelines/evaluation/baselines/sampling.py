"""Which region and which image goes with which: neighbours on the map, likeness of points."""

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .base import RegionData, View

Rows = NDArray[np.int64]


def view_of(data: RegionData, view: str, name: str) -> View:
    """The images of a view.

    Raises:
        InputError: the city has none.
    """
    if view not in data.views:
        raise InputError(
            f"{name} sees {view} images, and {data.city} has none, only "
            f"{', '.join(sorted(data.views)) or 'no view'}."
        )
    return data.views[view]


def poi_of(data: RegionData, name: str, instead: str = "") -> NDArray[np.float64]:
    """The counts of points of interest, `(N, categories)`.

    Args:
        data: the city.
        name: of the system that needs them.
        instead: what to do without them.

    Raises:
        InputError: the city has none, or none that does not give an indicator away.
    """
    if data.poi is not None:
        return data.poi
    has = (
        f"those of {data.city} would give away what is predicted: {', '.join(data.poi_left_out)}."
        if data.poi_left_out
        else f"{data.city} has none."
    )
    raise InputError(
        f"{name} needs counts of points of interest (columns poi_<category> of the regions), and "
        f"{has} {instead}".rstrip()
    )


class Images:
    """The images of each region of a view, to draw one from.

    Args:
        view: M images.
        num_regions: N.

    Attributes:
        regions: rows of the regions that have an image, ascending.
    """

    def __init__(self, view: View, num_regions: int):
        self._order = np.argsort(view.region, kind="stable")
        self._counts = np.bincount(view.region, minlength=num_regions)
        self._starts = np.concatenate([[0], np.cumsum(self._counts)[:-1]])
        self.regions: Rows = np.flatnonzero(self._counts)

    def draw(self, regions: Rows, rng: np.random.Generator) -> Rows:
        """An image of each of these regions, which must have one."""
        within = (rng.random(len(regions)) * self._counts[regions]).astype(np.int64)
        return self._order[self._starts[regions] + within]


class Neighbourhood:
    """Near and far regions on the map, among those that may be drawn.

    A ring is the larger of the distances east and north, in cells: on a grid of squares ring 1 are
    the eight neighbours.

    Args:
        data: N regions.
        candidates: rows of the regions that may be drawn; those with no place are left out.
        far_rings: a far region lies in a ring beyond this one.

    Attributes:
        candidates: those with a place.
    """

    def __init__(self, data: RegionData, candidates: Rows, far_rings: int = 3):
        self.candidates = candidates[np.isfinite(data.xy[candidates]).all(axis=1)]
        self._xy, self._cell_m, self.far_rings = data.xy, data.cell_m, far_rings

    def near(self, anchors: Rows, rng: np.random.Generator) -> Rows:
        """A region of ring 1 of each anchor; the nearest one where that ring is empty."""
        rings = self._rings(anchors)
        rings[self.candidates[None, :] == anchors[:, None]] = np.inf
        ring = np.rint(rings) <= 1
        nearest = rings == rings.min(axis=1, keepdims=True)
        return self._draw(np.where(ring.any(axis=1, keepdims=True), ring, nearest), rng)

    def far(self, anchors: Rows, rng: np.random.Generator) -> Rows:
        """A region beyond `far_rings` of each anchor; the farthest one where there is none."""
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
    """The other region with the nearest vector; ties are drawn.

    Args:
        vectors: `(N, D)`; distance is Euclidean.
        candidates: regions to look among, two or more.
        rng: of the ties.
        of: `(B,)` regions whose likes are looked for.

    Returns:
        `(B,)` regions, never one itself.
    """
    squared = np.zeros((len(of), len(candidates)))
    # a column at a time: exact for counts, where the expanded square would not keep ties
    for column in vectors.T:
        squared += np.square(column[of][:, None] - column[candidates][None, :])
    squared[of[:, None] == candidates[None, :]] = np.inf
    nearest = squared == squared.min(axis=1, keepdims=True)
    return candidates[np.where(nearest, rng.random(nearest.shape), -1.0).argmax(axis=1)]


class Shuffled:
    """Batches of rows without end: every row once before any a second time.

    Args:
        rows: to go through.
        batch_size: of a batch; all rows if there are fewer.
        rng: of the order.
    """

    def __init__(self, rows: Rows, batch_size: int, rng: np.random.Generator):
        self._rows, self._rng = rows, rng
        self.batch_size = min(batch_size, len(rows))
        self._left: Rows = rows[:0]

    def take(self) -> Rows:
        """The next batch; within one no row is twice."""
        if len(self._left) < self.batch_size:
            self._left = self._rng.permutation(self._rows)
        batch, self._left = self._left[: self.batch_size], self._left[self.batch_size :]
        return batch


__all__ = ["Images", "Neighbourhood", "Shuffled", "most_alike", "poi_of", "view_of"]
