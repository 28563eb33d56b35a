import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array

from pipelines.evaluation.search.nearest import (
    Keys,
    Relevance,
    chance_recall,
    first_hits,
    owned_keys,
    plain_keys,
    top_k,
    unit,
)


@st.composite
def searches(draw):
    """Integer vectors, with exact products and many ties."""
    num_queries, num_keys, dim = (draw(st.integers(1, n)) for n in (7, 25, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    queries = rng.integers(-2, 3, (num_queries, dim)).astype(np.float32)
    vectors = rng.integers(-2, 3, (num_keys, dim)).astype(np.float32)
    owners = rng.integers(0, draw(st.integers(1, num_keys)), num_keys)
    return queries, vectors, owners, rng


def full_scores(queries, vectors, owners):
    """Score of every owner for every query, from the full matrix."""
    whole = queries @ vectors.T
    names = np.unique(owners)
    return np.stack([whole[:, owners == name].max(1) for name in names], axis=1)


@given(searches(), st.integers(1, 30), st.integers(1, 40))
def test_top_k_is_that_of_the_full_matrix(search, k, block):
    queries, vectors, owners, _ = search
    whole = full_scores(queries, vectors, owners)
    keys, _ = owned_keys(vectors, owners)
    scores, found = top_k(queries, keys, k, block)
    wanted = np.argsort(-whole, axis=1, kind="stable")[:, :k]
    assert np.array_equal(found, wanted)
    assert np.array_equal(scores, np.take_along_axis(whole, wanted, 1))


@given(searches(), st.integers(1, 40), st.integers(1, 8))
def test_first_hits_are_those_of_the_full_matrix(search, block_keys, block_queries):
    queries, vectors, owners, rng = search
    whole = full_scores(queries, vectors, owners)
    right = rng.random(whole.shape) < 0.3
    right[np.arange(len(right)), rng.integers(0, whole.shape[1], len(right))] = True
    rows, columns = rng.permutation(len(right)), rng.permutation(whole.shape[1])
    matrix = csr_array(right[np.argsort(rows)][:, np.argsort(columns)])
    relevance = Relevance(matrix, rows, columns)
    keys, _ = owned_keys(vectors, owners)
    hits = first_hits(queries, keys, relevance, block_keys, block_queries)
    best = np.where(right, whole, -np.inf).max(1, keepdims=True)
    assert np.array_equal(hits, (~right & (whole >= best)).sum(1))
    assert np.array_equal(relevance.num_right(), right.sum(1))


def test_first_hits_of_one_point_are_the_worst_for_any_block_size():
    # scores in different blocks differ by rounding and must count as ties
    vectors = np.repeat(unit(np.random.default_rng(0).normal(size=(1, 100))), 200, axis=0)
    alone = Relevance(csr_array(np.eye(200, dtype=bool)), np.arange(200), np.arange(200))
    for block in (7, 13, 199):
        assert (first_hits(vectors, plain_keys(vectors), alone, block, 17) == 199).all()


def test_what_cannot_be_searched_is_an_error():
    queries = np.ones((2, 1), np.float32)
    relevance = Relevance(csr_array(np.array([[True], [False]])), np.arange(2), np.zeros(2, int))
    with pytest.raises(ValueError, match="1 queries have no relevant key"):
        first_hits(queries, plain_keys(queries), relevance)
    with pytest.raises(ValueError, match="Each owner needs at least one key"):
        Keys(np.ones((3, 1), np.float32), np.array([0, 2, 2, 3]))
    with pytest.raises(ValueError, match="k must be at least 1"):
        top_k(queries, plain_keys(queries), 0)


def test_chance_recall_is_that_of_random_orders():
    rng = np.random.default_rng(0)
    right = np.array([1, 3, 10])
    drawn = [[rng.permutation(10)[:4].min() < r for r in right] for _ in range(20_000)]
    assert chance_recall(right, 10, 4) == pytest.approx(np.mean(drawn), abs=0.005)
    assert chance_recall(right, 10, 10) == 1


def peak_bytes(work) -> int:
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_memory_does_not_grow_with_the_keys(tmp_path):
    peaks = {}
    for count in (20_000, 200_000):
        path = tmp_path / f"{count}.npy"
        np.save(path, np.random.default_rng(0).normal(size=(count, 16)).astype(np.float32))
        keys = plain_keys(np.load(path, mmap_mode="r"))
        queries = np.ones((64, 16), np.float32)
        peaks[count] = peak_bytes(lambda k=keys, q=queries: top_k(q, k, 10, 2048))
    assert peaks[200_000] < 1.2 * peaks[20_000]
    assert peaks[200_000] < 64 * 200_000 * 4 / 5  # the full matrix
