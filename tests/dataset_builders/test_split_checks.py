import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from dataset_builders.errors import SplitError
from dataset_builders.split_checks import (
    correlation_range,
    duplicate_groups,
    keep_together,
    nearest_train_distance,
    variogram,
)


def field(smoothing, n=60, seed=0):
    noise = np.random.default_rng(seed).standard_normal((3 * n, 3 * n))
    return gaussian_filter(noise, smoothing, mode="wrap")[:n, :n]


def grid(n=60):
    rows, columns = np.divmod(np.arange(n * n), n)
    return columns * 1000.0, rows * 1000.0


def test_a_smoother_label_reaches_further():
    x, y = grid()
    ranges = [correlation_range(x, y, field(s).ravel()) for s in (0.5, 2, 4)]
    assert ranges[0] < ranges[1] < ranges[2]
    # a Gaussian of s cells gives exp(-d2 / 4 s2), which is 5 % at 3.46 s
    assert ranges[1] == pytest.approx(3.46 * 2000, rel=0.5)


def test_variogram_of_a_label_without_order_is_flat():
    x, y = grid()
    noise = np.random.default_rng(1).standard_normal(3600)
    assert np.allclose(variogram(x, y, noise)[1], 1, atol=0.15)
    assert correlation_range(x, y, noise) < 3000


def test_semivariance_is_half_the_mean_squared_difference():
    x = np.arange(10) * 100.0
    distance, semivariance = variogram(x, np.zeros(10), np.arange(10.0))
    # pairs at a distance of d hundred metres differ by d
    assert np.allclose(semivariance, (distance / 100) ** 2 / 2, rtol=0.15)


def test_a_label_that_does_not_vary_has_no_range():
    x, y = grid(10)
    assert np.isnan(correlation_range(x, y, np.ones(100)))
    with pytest.raises(SplitError, match="10 regions with a value, got 3"):
        correlation_range(x, y, np.where(np.arange(100) < 3, 1.0, np.nan))


def test_groups_are_joined_by_way_of_others():
    keys = {"a": ["1"], "b": ["1", "2"], "c": ["2"], "d": ["3"], "e": ["4"], "f": ["4"]}
    assert duplicate_groups(keys) == [["a", "b", "c"], ["e", "f"]]


REGIONS = [f"r{i}" for i in range(8)]


@given(
    st.lists(st.sampled_from(["train", "validation", "test", None]), min_size=8, max_size=8),
    st.dictionaries(st.sampled_from(REGIONS), st.lists(st.integers(0, 5), max_size=3)),
)
def test_no_picture_is_in_two_parts(parts, keys):
    split = np.array(parts, dtype=object)
    groups = duplicate_groups(keys)
    out = keep_together(REGIONS, split, groups)
    part_of = dict(zip(REGIONS, out, strict=True))
    for group in groups:
        assert len({part_of[region] for region in group}) == 1
    grouped = {region for group in groups for region in group}
    for region, before, after in zip(REGIONS, split, out, strict=True):
        assert region in grouped or before == after


def test_training_wins_and_unknown_regions_are_refused():
    split = np.array(["test", "train", None], dtype=object)
    out = keep_together(["a", "b", "c"], split, [["a", "b", "c"]])
    assert list(out) == ["train"] * 3
    with pytest.raises(SplitError, match="z"):
        keep_together(["a", "b", "c"], split, [["a", "z"]])


def test_nearest_train_distance_is_that_of_the_nearest():
    x, y = np.array([0.0, 300, 1000]), np.array([0.0, 400, 0])
    split = np.array(["train", "test", "test"], dtype=object)
    assert nearest_train_distance(x, y, split) == pytest.approx([500, 1000])
    with pytest.raises(SplitError, match="0 regions to train on"):
        nearest_train_distance(x, y, np.array(["test"] * 3, dtype=object))
