"""Exact nearest-neighbour search in blocks: no matrix of all queries by all keys is ever made.

What is searched for is an owner of keys: a region with its images is as near as the nearest of
them; where every key is its own owner, this is plain search. Working memory is that of one block
of scores, however many keys there are; keys mapped from disk are read block by block.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

BLOCK_KEYS = 16_384
BLOCK_QUERIES = 256
ROUNDING = 1e-6  # float32 scores of unit vectors that differ by less are equal

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Keys:
    """What is searched.

    Attributes:
        vectors: `(N, D)` float32, unit length; may be a memory map.
        starts: `(R + 1,)` first key of each owner, and N.
    """

    vectors: Floats
    starts: Ints

    def __post_init__(self) -> None:
        starts = self.starts
        if starts[0] != 0 or starts[-1] != len(self.vectors) or (np.diff(starts) < 1).any():
            raise ValueError(
                f"Each owner needs one key at least, and all {len(self.vectors)} keys an owner; "
                f"got starts {starts[:3]} to {starts[-1]}."
            )

    def __len__(self) -> int:
        return len(self.starts) - 1

    def blocks(self, size: int) -> Iterator[tuple[int, int]]:
        """First and last owner (not included) of blocks of about `size` keys, owners whole."""
        first = 0
        while first < len(self):
            last = int(np.searchsorted(self.starts, self.starts[first] + size, side="right")) - 1
            last = max(last, first + 1)  # an owner of more keys than a block is a block
            yield first, last
            first = last

    def scores(self, queries: Floats, first: int, last: int) -> Floats:
        """`(Q, last - first)` scores of the owners: the highest of their keys'."""
        begin, end = self.starts[first], self.starts[last]
        scores = queries @ np.asarray(self.vectors[begin:end]).T
        if end - begin == last - first:
            return scores
        return np.maximum.reduceat(scores, self.starts[first:last] - begin, axis=1)


@dataclass(frozen=True)
class Relevance:
    """Which owners are right for which query, in no more numbers than there are facts.

    Queries and owners that are alike (identical texts) share a row or column.

    Attributes:
        matrix: `(U, C)` bool.
        query_rows: `(Q,)` row of each query.
        key_columns: `(R,)` column of each owner.
    """

    matrix: csr_array
    query_rows: Ints
    key_columns: Ints

    def num_right(self) -> Ints:
        """How many owners are right for each query: `(Q,)`."""
        owners = np.bincount(self.key_columns, minlength=self.matrix.shape[1])
        return (self.matrix.astype(np.int64) @ owners)[self.query_rows]


def plain_keys(vectors: Floats) -> Keys:
    """Every key its own owner."""
    return Keys(vectors, np.arange(len(vectors) + 1))


def owned_keys(vectors: Floats, owners: Ints) -> tuple[Keys, Ints]:
    """Keys by owner.

    Args:
        vectors: `(N, D)`; copied only if keys of an owner do not lie together.
        owners: `(N,)` numbers, of which not all need occur.

    Returns:
        The keys, owners ascending, and the `(N,)` order in which the vectors now lie.
    """
    order = np.argsort(owners, kind="stable")
    if (np.diff(order) != 1).any():
        vectors = vectors[order]
    _, first = np.unique(owners[order], return_index=True)
    return Keys(vectors, np.append(first, len(owners))), order


def top_k(queries: Floats, keys: Keys, k: int, block_keys: int = BLOCK_KEYS) -> tuple[Floats, Ints]:
    """The k nearest owners of each query, nearest first; of equal scores the lower number first.

    Args:
        queries: `(Q, D)`.
        keys: R owners.
        k: at most R are returned.
        block_keys: keys compared at a time.

    Returns:
        Scores and numbers, `(Q, min(k, R))` each.

    Raises:
        ValueError: k below 1.
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
    """The k largest of each row in any order; of those equal to the smallest, the first ones."""
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
    """How many wrong owners come before the first right one, for each query: `(Q,)`.

    Of equal scores (within rounding) a wrong owner goes first: who maps everything to one point
    finds nothing.

    Args:
        queries: `(Q, D)`.
        keys: R owners.
        relevance: which owners are right for which query.
        block_keys: keys compared at a time.
        block_queries: queries compared at a time.

    Raises:
        ValueError: a query without any right owner.
    """
    lonely = int((relevance.num_right() == 0).sum())
    if lonely:
        raise ValueError(f"{lonely} queries have no right key: they cannot find one.")
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
    """Expected recall at k of a random order of `total` owners.

    Args:
        right: `(Q,)` how many of them are right for each query.
        total: owners.
        k: how many are looked at.
    """
    miss = np.ones(len(right))
    for drawn in range(min(k, total)):
        miss *= np.clip(total - right - drawn, 0, None) / (total - drawn)
    return float((1 - miss).mean())


def unit(vectors: NDArray[np.floating]) -> Floats:
    """Rows of length 1, float32; a row of zeros stays one."""
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
