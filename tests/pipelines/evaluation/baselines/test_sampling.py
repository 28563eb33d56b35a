"""Sampling of pairs and triplets of regions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipelines.evaluation.baselines.base import RegionData
from pipelines.evaluation.baselines.musecl import draw_others
from pipelines.evaluation.baselines.sampling import (
    Images,
    Neighbourhood,
    Shuffled,
    most_alike,
    view_of,
)
from pipelines.evaluation.errors import InputError

from .tiny_recipes import quartered_city


def _grid(columns: int, rows: int, cell: float, angle: float = 0.0) -> RegionData:
    y, x = np.divmod(np.arange(columns * rows), columns)
    xy = cell * np.stack([x, y], axis=1).astype(float)
    return RegionData("grid", [str(i) for i in range(len(xy))], xy + 17.0, xy, cell, {})


@given(
    columns=st.integers(1, 12),
    rows=st.integers(2, 12),
    cell=st.floats(10, 5000),
    seed=st.integers(0, 99),
)
def test_near_are_the_eight_neighbours_and_far_lie_beyond_the_rings(columns, rows, cell, seed):
    data = _grid(columns, rows, cell)
    everyone = np.arange(columns * rows)
    rng = np.random.default_rng(seed)
    place = Neighbourhood(data, everyone)
    grid = np.stack([everyone % columns, everyone // columns], axis=1)
    rings = np.abs(grid[:, None] - grid[None]).max(axis=2)
    near, far = place.near(everyone, rng), place.far(everyone, rng)
    assert (rings[everyone, near] == 1).all()
    beyond = (rings > 3).any(axis=1)
    assert (rings[everyone, far][beyond] > 3).all()
    assert (rings[everyone, far] == rings.max(axis=1))[~beyond].all()


def test_all_neighbours_are_drawn_about_equally_often():
    data = _grid(3, 3, 800.0)
    place = Neighbourhood(data, np.arange(9))
    drawn = place.near(np.full(8000, 4), np.random.default_rng(0))
    counts = np.bincount(drawn, minlength=9)
    assert counts[4] == 0
    assert np.delete(counts, 4).min() > 850
    assert counts.max() < 1150


def test_a_lone_region_has_its_nearest_one_as_neighbour():
    data = _grid(5, 1, 1000.0)
    place = Neighbourhood(data, np.array([0, 3, 4]))
    rng = np.random.default_rng(0)
    assert place.near(np.array([0]), rng).tolist() == [3]
    assert place.far(np.array([3]), rng).tolist() == [0]


def test_regions_without_a_place_are_never_drawn():
    data = _grid(4, 4, 1000.0)
    data.xy[5] = np.nan
    place = Neighbourhood(data, np.arange(16))
    anchors = np.repeat(place.candidates, 50)
    rng = np.random.default_rng(1)
    assert 5 not in place.candidates
    assert 5 not in place.near(anchors, rng)
    assert 5 not in place.far(anchors, rng)


@given(
    vectors=arrays(np.float64, (9, 3), elements=st.integers(0, 4).map(float)),
    seed=st.integers(0, 9),
)
def test_most_alike_is_the_nearest_other_candidate(vectors, seed):
    candidates = np.array([0, 2, 3, 5, 6, 8])
    of = np.array([2, 8, 1])  # the last is no candidate
    found = most_alike(vectors, candidates, np.random.default_rng(seed), of=of)
    for region, other in zip(of, found, strict=True):
        distances = {
            int(one): np.linalg.norm(vectors[region] - vectors[one])
            for one in candidates
            if one != region
        }
        assert distances[int(other)] == pytest.approx(min(distances.values()))


def test_ties_of_most_alike_are_drawn():
    vectors = np.ones((5, 2))
    found = most_alike(vectors, np.arange(5), np.random.default_rng(0), of=np.zeros(2000, int))
    assert np.bincount(found, minlength=5)[0] == 0
    assert np.bincount(found)[1:].min() > 400


@given(seed=st.integers(0, 50), batch=st.integers(1, 9))
def test_batches_hold_every_row_once_before_any_twice(seed, batch):
    rows = np.array([3, 1, 4, 15, 9, 2])
    batches = Shuffled(rows, batch, np.random.default_rng(seed))
    whole = len(rows) // batches.batch_size
    drawn = np.concatenate([batches.take() for _ in range(whole)])
    assert len(set(drawn.tolist())) == len(drawn) == whole * batches.batch_size
    assert set(drawn.tolist()) <= set(rows.tolist())


def test_images_are_drawn_from_their_own_region():
    view = quartered_city().views["street_view"]
    images = Images(view, 64)
    assert images.regions.tolist() == list(range(1, 64))
    anchors = np.repeat(images.regions, 40)
    drawn = images.draw(anchors, np.random.default_rng(0))
    assert (view.region[drawn] == anchors).all()
    assert len(set(drawn.tolist())) == len(view)


@given(st.integers(0, 200))
def test_negatives_are_neither_anchor_nor_positive(seed):
    anchors, positives = np.array([0, 1, 2, 0]), np.array([1, 2, 0, 2])
    drawn = draw_others(np.arange(3), anchors, positives, np.random.default_rng(seed))
    assert drawn.tolist() == [2, 0, 1, 1]


def test_a_missing_view_is_told():
    data = quartered_city()
    with pytest.raises(InputError, match="needs thermal images, and quarters has none, only sat"):
        view_of(data, "thermal", "tile2vec")
