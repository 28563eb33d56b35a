"""Nearest-neighbour search of regions by cosine similarity of their embeddings."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipelines.evaluation.search.nearest import plain_keys, top_k, unit

Vectors = NDArray[np.floating]


class Neighbour(NamedTuple):
    """Search result: row number of the region and its cosine similarity."""

    row: int
    cosine: float


class Neighbours:
    """Exact nearest-neighbour search over the regions of a city.

    Args:
        X: Region vectors of one view, `(N, D)`; rows with NaN are left out.
    """

    def __init__(self, X: Vectors):
        self.rows = np.flatnonzero(np.isfinite(X).all(1))
        self.keys = plain_keys(unit(X[self.rows]))

    def search(self, vector: Vectors, top: int, without: int = -1) -> list[Neighbour]:
        """Regions nearest to a vector `(D,)`, nearest first, excluding the row `without`."""
        if not len(self.keys):
            return []
        scores, numbers = top_k(unit(vector[None]), self.keys, top + 1)
        found = [
            Neighbour(int(self.rows[number]), float(score))
            for score, number in zip(scores[0], numbers[0], strict=True)
        ]
        return [one for one in found if one.row != without][:top]


def side_by_side(parts: Sequence[Vectors]) -> Vectors:
    """Concatenate unit vectors of views, `(N, sum of D)`: cosines are the mean over the views."""
    return np.concatenate([unit(part) for part in parts], axis=1)


__all__ = ["Neighbour", "Neighbours", "side_by_side"]
