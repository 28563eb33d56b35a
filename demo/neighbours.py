"""Regions whose images look alike, within a city and across cities."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.evaluation.search.nearest import plain_keys, top_k, unit

Vectors = NDArray[np.floating]


@dataclass(frozen=True)
class Neighbour:
    """A region that was found: its row among the city's regions, and its cosine similarity."""

    row: int
    cosine: float


class Neighbours:
    """Exact search over the regions of a city that have a vector.

    Args:
        X: `(N, D)` vectors of one view; rows of NaN where a region has none.
    """

    def __init__(self, X: Vectors):
        self.rows = np.flatnonzero(np.isfinite(X).all(1))
        self.keys = plain_keys(unit(X[self.rows]))

    def search(self, vector: Vectors, top: int, without: int = -1) -> list[Neighbour]:
        """The regions nearest to a vector `(D,)`, nearest first, except the row `without`."""
        if not len(self.keys):
            return []
        scores, numbers = top_k(unit(vector[None]), self.keys, top + 1)
        found = [
            Neighbour(int(self.rows[number]), float(score))
            for score, number in zip(scores[0], numbers[0], strict=True)
        ]
        return [one for one in found if one.row != without][:top]

    def best(self, vectors: Vectors) -> NDArray[np.float32]:
        """`(M,)` cosine similarity of each vector `(M, D)` to its nearest region."""
        return top_k(unit(vectors), self.keys, 1)[0][:, 0]


def side_by_side(parts: Sequence[Vectors]) -> Vectors:
    """Vectors of several views as one whose cosine is the mean of theirs: `(N, sum of D)`."""
    return np.concatenate([unit(part) for part in parts], axis=1)


__all__ = ["Neighbour", "Neighbours", "side_by_side"]
