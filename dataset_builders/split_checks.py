"""Checks of a split: correlation range of labels, distance to training regions, shared images."""

from collections.abc import Hashable, Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree
from scipy.spatial.distance import pdist

from .errors import SplitError

MAX_PAIRS_FROM = 2000
"""Maximum number of regions to form pairs of; more are sampled."""
BINS = 20
SILL = 0.95


def correlation_range(
    x_m: NDArray[np.float64], y_m: NDArray[np.float64], values: NDArray[np.float64]
) -> float:
    """Distance in metres at which the variogram of labels reaches 95 % of its sill.

    Blocks should be at least that wide. The sill is the mean of the upper half of the bins of the
    [`variogram`].

    Args:
        x_m: `(n,)` x coordinates in metres.
        y_m: `(n,)` y coordinates in metres.
        values: `(n,)` labels; NaN is ignored.

    Returns:
        Distance in metres; NaN if the label does not vary.

    Raises:
        SplitError: Fewer than 10 regions with a value.
    """
    distance, semivariance = variogram(x_m, y_m, values)
    sill = float(semivariance[len(semivariance) // 2 :].mean()) if len(semivariance) else 0.0
    reached = np.flatnonzero(semivariance >= SILL * sill)
    return float(distance[reached[0]]) if sill > 0 and len(reached) else float("nan")


def variogram(
    x_m: NDArray[np.float64], y_m: NDArray[np.float64], values: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Empirical variogram by Matheron's estimator, of pairs up to half the extent.

    Cressie, Statistics for Spatial Data, 1993, section 2.4. Arguments as in [`correlation_range`].

    Returns:
        `(bins,)` mean distance of the pairs in each bin of equal width, and `(bins,)` half the mean
        squared difference of their labels.
    """
    known = np.flatnonzero(np.isfinite(values))
    if len(known) < 10:
        raise SplitError(f"A correlation range needs 10 regions with a value, got {len(known)}.")
    if len(known) > MAX_PAIRS_FROM:
        known = np.sort(np.random.default_rng(0).choice(known, MAX_PAIRS_FROM, replace=False))
    xy = np.column_stack([x_m[known], y_m[known]])
    half = pdist(values[known][:, None], "sqeuclidean") / 2
    pairs = pd.DataFrame({"distance": pdist(xy), "half": half})
    edges = np.linspace(0, np.linalg.norm(np.ptp(xy, axis=0)) / 2, BINS + 1)
    means = pairs.groupby(np.digitize(pairs["distance"], edges)).mean().query(f"index <= {BINS}")
    return means["distance"].to_numpy(), means["half"].to_numpy()


def duplicate_groups(keys: Mapping[str, Sequence[Hashable]]) -> list[list[str]]:
    """Groups of two or more regions that share images, directly or through others; sorted.

    Args:
        keys: Identifiers of the images of each region: hashes of their bytes, panorama ids.
    """
    regions = sorted(keys)
    pairs = [(row, key) for row, region in enumerate(regions) for key in keys[region]]
    if not pairs:
        return []
    numbers = {key: number for number, key in enumerate({key for _, key in pairs})}
    rows, columns = [row for row, _ in pairs], [numbers[key] for _, key in pairs]
    size = len(regions) + len(numbers)  # a graph of regions and images
    edges = coo_array((np.ones(len(pairs)), (rows, np.add(columns, len(regions)))), (size, size))
    group = connected_components(edges, directed=False)[1][: len(regions)]
    named = pd.Series(regions).groupby(group).agg(list)
    return sorted(one for one in named if len(one) > 1)


def keep_together(
    region_ids: Sequence[str], split: NDArray[np.object_], groups: Sequence[Sequence[str]]
) -> NDArray[np.object_]:
    """Assign each group of regions to one part of a split.

    The part is "train" if the group has a training region, and otherwise that of its first region
    in any part. Groups entirely in no part (the buffer) stay there.

    Args:
        region_ids: Ids in the order of `split`.
        split: `(n,)` of "train", "validation", "test" or None.
        groups: Groups from [`duplicate_groups`].

    Returns:
        A new `(n,)` array.

    Raises:
        SplitError: A group names an unknown region.
    """
    number = {region: index for index, region in enumerate(region_ids)}
    out = split.copy()
    for group in groups:
        if missing := [region for region in group if region not in number]:
            raise SplitError(f"The groups name regions that the split does not have: {missing}.")
        members = [number[region] for region in group]
        parts = [split[index] for index in members if split[index] is not None]
        if parts:
            out[members] = "train" if "train" in parts else parts[0]
    return out


def nearest_train_distance(
    x_m: NDArray[np.float64], y_m: NDArray[np.float64], split: NDArray[np.object_]
) -> NDArray[np.float64]:
    """Distance in metres from each test region to the nearest training region, `(n_test,)`.

    Raises:
        SplitError: The training or test part is empty.
    """
    xy = np.column_stack([x_m, y_m])
    train, test = xy[split == "train"], xy[split == "test"]
    if len(train) == 0 or len(test) == 0:
        raise SplitError(f"The split has {len(train)} regions to train on and {len(test)} to test.")
    return np.asarray(cKDTree(train).query(test)[0])


__all__ = [
    "correlation_range",
    "duplicate_groups",
    "keep_together",
    "nearest_train_distance",
    "variogram",
]
