"""Exact nearest-neighbour search in blocks, with constant memory.

Keys are grouped by owner, for example images by region; the score of an owner is the maximum over
its keys. Keys may be memory-mapped.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.stats import hypergeom

BLOCK_KEYS = 16_384
BLOCK_QUERIES = 256
ROUNDING = 1e-6  # float32 scores of unit vectors that differ by less are equal

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Keys:
    """Key vectors, grouped by owner.

    Attributes:
        vectors: L2-normalised vectors, `(N, D)`, float32; may be a memory map.
        starts: Index of the first key of each owner, followed by N, `(R + 1,)`.
    """

    vectors: Floats
    starts: Ints

    def __post_init__(self) -> None:
        starts = self.starts
        if starts[0] != 0 or starts[-1] != len(self.vectors) or (np.diff(starts) < 1).any():
            raise ValueError(
                f"Each owner needs at least one key, and each of the {len(self.vectors)} keys an "
                f"owner; got starts {starts[:3]} to {starts[-1]}."
            )

    def __len__(self) -> int:
        return len(self.starts) - 1

    def blocks(self, size: int) -> Iterator[tuple[int, int]]:
        """Yield half-open ranges of owners with about `size` keys in total, at least one owner."""
        first = 0
        while first < len(self):
            last = int(np.searchsorted(self.starts, self.starts[first] + size, side="right")) - 1
            last = max(last, first + 1)
            yield first, last
            first = last

    def scores(self, queries: Floats, first: int, last: int) -> Floats:
        """Score each owner by its best key, `(Q, last - first)`."""
        begin, end = self.starts[first], self.starts[last]
        scores = queries @ np.asarray(self.vectors[begin:end]).T
        if end - begin == last - first:
            return scores
        return np.maximum.reduceat(scores, self.starts[first:last] - begin, axis=1)


@dataclass(frozen=True)
class Relevance:
    """Sparse relevance of owners to queries. Identical texts share a row or column.

    Attributes:
        matrix: Relevance matrix, `(U, C)`, bool.
        query_rows: Row of each query, `(Q,)`.
        key_columns: Column of each owner, `(R,)`.
    """

    matrix: csr_array
    query_rows: Ints
    key_columns: Ints

    def num_right(self) -> Ints:
        """Number of relevant owners of each query, `(Q,)`."""
        owners = np.bincount(self.key_columns, minlength=self.matrix.shape[1])
        return (self.matrix.astype(np.int64) @ owners)[self.query_rows]


def plain_keys(vectors: Floats) -> Keys:
    """Keys without grouping: every key is its own owner."""
    return Keys(vectors, np.arange(len(vectors) + 1))


def owned_keys(vectors: Floats, owners: Ints) -> tuple[Keys, Ints]:
    """Group keys by owner.

    Args:
        vectors: Key vectors, `(N, D)`; copied only if not sorted by owner.
        owners: Owner number of each key, `(N,)`.

    Returns:
        Keys in ascending order of owners, and the permutation of the vectors, `(N,)`.
    """
    order = np.argsort(owners, kind="stable")
    if (np.diff(order) != 1).any():
        vectors = vectors[order]
    _, first = np.unique(owners[order], return_index=True)
    return Keys(vectors, np.append(first, len(owners))), order


def top_k(queries: Floats, keys: Keys, k: int, block_keys: int = BLOCK_KEYS) -> tuple[Floats, Ints]:
    """Find the k nearest owners of each query, in descending order of score.

    Args:
        queries: L2-normalised query vectors, `(Q, D)`.
        keys: Keys of R owners.
        k: Number of owners.
        block_keys: Keys compared at a time.

    Returns:
        Scores and owner numbers, `(Q, min(k, R))` each; ties are sorted by owner number.

    Raises:
        ValueError: `k` is less than 1.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}.")
    k = min(k, len(keys))
    best = np.full((len(queries), 0), 0, np.float32)
    found = np.zeros((len(queries), 0), np.int64)
    for first, last in keys.blocks(block_keys):
        scores, numbers = _largest(keys.scores(queries, first, last), k)
        best = np.concatenate([best, scores], axis=1)
        found = np.concatenate([found, numbers + first], axis=1)
        order = np.lexsort((found, -best))[:, :k]
        best, found = np.take_along_axis(best, order, 1), np.take_along_axis(found, order, 1)
    return best, found


def _largest(scores: Floats, k: int) -> tuple[Floats, Ints]:
    """The k largest scores of each row, unordered; ties are resolved by position."""
    rows, width = scores.shape
    if width <= k:
        return scores, np.broadcast_to(np.arange(width), (rows, width))
    kept = np.argpartition(scores, width - k, axis=1)[:, width - k :]
    least = np.take_along_axis(scores, kept, 1).min(1, keepdims=True)
    for row in np.flatnonzero((scores == least).sum(1) > 1):
        above = np.flatnonzero(scores[row] > least[row])
        equal = np.flatnonzero(scores[row] == least[row])
        kept[row] = np.concatenate([above, equal])[:k]
    return np.take_along_axis(scores, kept, 1), kept


def first_hits(
    queries: Floats,
    keys: Keys,
    relevance: Relevance,
    block_keys: int = BLOCK_KEYS,
    block_queries: int = BLOCK_QUERIES,
) -> Ints:
    """Rank, from 0, of the first relevant owner of each query, `(Q,)`.

    Ties (within rounding) are resolved against the relevant owner, so that a collapsed encoder
    scores worst.

    Args:
        queries: L2-normalised query vectors, `(Q, D)`.
        keys: Keys of R owners.
        relevance: Relevance of owners to queries.
        block_keys: Keys compared at a time.
        block_queries: Queries compared at a time.

    Raises:
        ValueError: A query has no relevant owner.
    """
    lonely = int((relevance.num_right() == 0).sum())
    if lonely:
        raise ValueError(f"{lonely} queries have no relevant key.")
    hits = np.empty(len(queries), np.int64)
    for start in range(0, len(queries), block_queries):
        part = slice(start, start + block_queries)
        rows = relevance.matrix[relevance.query_rows[part]]
        best = np.full((len(queries[part]), 1), -np.inf, np.float32)
        for first, last in keys.blocks(block_keys):
            right = _dense(rows, relevance.key_columns[first:last])
            if right.any():
                scores = np.where(right, keys.scores(queries[part], first, last), -np.inf)
                best = np.maximum(best, scores.max(1, keepdims=True))
        before = np.zeros(len(best), np.int64)
        for first, last in keys.blocks(block_keys):
            right = _dense(rows, relevance.key_columns[first:last])
            near = keys.scores(queries[part], first, last) >= best - np.float32(ROUNDING)
            before += (near & ~right).sum(1)
        hits[part] = before
    return hits


def _dense(rows: csr_array, columns: Ints) -> NDArray[np.bool_]:
    return rows[:, columns].toarray()


def chance_recall(right: Ints, total: int, k: int) -> float:
    """Expected recall at k of a random ranking of `total` owners.

    Args:
        right: Number of relevant owners of each query, `(Q,)`.
        total: Number of owners.
        k: Number of retrieved owners.
    """
    return float(1 - hypergeom.pmf(0, total, right, min(k, total)).mean())


def unit(vectors: NDArray[np.floating]) -> Floats:
    """L2-normalise rows to float32; rows of zeros stay zero."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.maximum(length, 1e-12)).astype(np.float32)


__all__ = [
    "Keys",
    "Relevance",
    "chance_recall",
    "first_hits",
    "owned_keys",
    "plain_keys",
    "top_k",
    "unit",
]
