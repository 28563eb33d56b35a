"""Regions whose pictures look alike, within a city and over cities, and how near is near."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.evaluation.nearest import plain_keys, top_k, unit

SAMPLED = 2_000
FAR = 0.95

Vectors = NDArray[np.floating]


@dataclass(frozen=True)
class Neighbour:
    """A region that was found: its row among the city's regions, and its cosine."""

    row: int
    cosine: float


class Neighbours:
    """Exact search over the regions of a city that have a vector.

    Args:
        X: `(N, D)` vectors of one view; rows of nan where a region has none.
    """

    def __init__(self, X: Vectors):
        self.rows = np.flatnonzero(np.isfinite(X).all(1))
        self.keys = plain_keys(unit(X[self.rows]))
        self.own_distances = self._own_distances()

    def search(self, vector: Vectors, top: int, without: int = -1) -> list[Neighbour]:
        """The regions nearest to a vector `(D,)`, nearest first, but for the row `without`."""
        if not len(self.keys):
            return []
        scores, numbers = top_k(unit(vector[None]), self.keys, top + 1)
        found = [
            Neighbour(int(self.rows[number]), float(score))
            for score, number in zip(scores[0], numbers[0], strict=True)
        ]
        return [one for one in found if one.row != without][:top]

    def strangeness(self, vector: Vectors) -> tuple[float, float]:
        """Cosine distance to the nearest region, and the share of regions with a nearer neighbour.

        A region's own distance is that to its nearest *other* region. A share above `FAR` is far.
        """
        nearest = self.search(vector, 1)
        if not nearest:
            return np.nan, np.nan
        distance = 1 - nearest[0].cosine
        return distance, float((self.own_distances < distance).mean())

    def _own_distances(self) -> NDArray[np.float32]:
        """Of all regions, or of an even sample of many: 1 - cosine of the nearest other one."""
        if len(self.keys) < 2:
            return np.zeros(0, np.float32)
        step = max(1, len(self.keys) // SAMPLED)
        scores, _ = top_k(self.keys.vectors[::step], self.keys, 2)
        return 1 - scores[:, 1]


def side_by_side(parts: Sequence[Vectors]) -> Vectors:
    """Vectors of several views as one whose cosine is the mean of theirs: `(N, sum of D)`."""
    return np.concatenate([unit(part) for part in parts], axis=1)


__all__ = ["FAR", "Neighbour", "Neighbours", "side_by_side"]
