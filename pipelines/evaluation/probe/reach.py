"""Coverage of the embeddings: regions without images, and regions unlike the training data.

Stored in `probe.json`, so that reports need neither the embeddings nor the dataset.
"""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..embed.tables import EmbeddingTable
from .city import City
from .splits import Split
from .systems import System

Floats = NDArray[np.float64]
DECILES = 10
MOST_REGIONS = 1000
"""Maximum number of training and of test regions compared; larger sets are sampled."""


def covered_by_decile(labels: Floats, has_image: NDArray[np.bool_]) -> tuple[float, ...]:
    """Share of regions with an image in each decile of a label, lowest decile first.

    Equal labels share the decile of their mean rank; empty deciles are NaN.

    Args:
        labels: `(N,)` labels; NaN where missing.
        has_image: `(N,)` whether a region has a usable image.
    """
    from scipy.stats import rankdata

    known = np.isfinite(labels)
    if not known.any():
        return (float("nan"),) * DECILES
    rank = (rankdata(labels[known]) - 0.5) / known.sum()
    decile = np.minimum((rank * DECILES).astype(int), DECILES - 1)
    count = np.bincount(decile, minlength=DECILES)
    seen = np.bincount(decile, weights=has_image[known], minlength=DECILES)
    with np.errstate(invalid="ignore"):
        return tuple((seen / count).tolist())


def unlike(
    X: NDArray[np.floating], folds: NDArray[np.int64], rows: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Whether rows lie outside the area of applicability of the labelled rows.

    Distances are Euclidean between standardised embeddings. The threshold is the upper whisker
    (third quartile plus 1.5 interquartile ranges) of the labelled rows' distances to the nearest
    labelled row of another fold, as in Meyer and Pebesma (2021, doi:10.1111/2041-210X.13650), but
    without feature weights.

    Args:
        X: `(N, D)` embeddings; NaN in the columns of a missing view.
        folds: `(N,)` fold of each labelled row; negative without a label.
        rows: `(M,)` query rows.
    """
    if not len(rows):
        return np.zeros(0, dtype=bool)
    labelled = np.flatnonzero(folds >= 0)
    mean = np.nanmean(X[labelled], axis=0)
    scale = np.nanstd(X[labelled], axis=0)
    Z = np.nan_to_num((X - mean) / np.where(scale > 0, scale, 1.0))
    own = np.concatenate(
        [
            _nearest(Z[labelled[folds[labelled] == name]], Z[others])
            for name in np.unique(folds[labelled])
            if len(others := labelled[folds[labelled] != name])
        ]
        or [np.zeros(1)]
    )
    low, high = np.quantile(own, [0.25, 0.75])
    found: NDArray[np.bool_] = _nearest(Z[rows], Z[labelled]) > high + 1.5 * (high - low)
    return found


def _nearest(rows: Floats, others: Floats) -> Floats:
    from sklearn.neighbors import NearestNeighbors

    distance, _ = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(others).kneighbors(rows)
    found: Floats = distance[:, 0]
    return found


def measure_reach(
    city: City,
    table: EmbeddingTable,
    system: System,
    kept: NDArray[np.int64],
    split: Split | None,
    blocks: NDArray[np.int64],
) -> dict[str, dict[str, Any]]:
    """Image coverage and regions outside the training distribution, per indicator.

    Coverage is over all labelled regions of the city, compared or not. The test regions, labelled
    or not, are compared with the labelled training regions by [`unlike`], from samples of at most
    [`MOST_REGIONS`] of either.

    Args:
        city: City with its regions and labels.
        table: Embedding table.
        system: One view of the table, for the compared regions.
        kept: Rows of the city's regions that are compared.
        split: Block split of the compared regions; None if there is none.
        blocks: `(len(kept),)` block number of each region.

    Returns:
        Indicator to `covered`, ten shares from the lowest decile, None if empty; `outside`, the
        number of sampled test regions; and `unlike`, the number of these outside the training
        distribution.
    """
    has = pd.Series(table.has(system.view), index=table.region_ids)
    has_image = has.reindex(city.regions["region_id"], fill_value=False).to_numpy(bool)
    known: dict[bytes, tuple[int, int]] = {}  # cache: indicators often share labelled regions
    found = {}
    for target in city.targets:
        labelled = np.isfinite(target.y[kept])
        key = labelled.tobytes()
        if split is not None and key not in known:
            known[key] = _count_unlike(system, labelled, split, blocks)
        outside, different = known.get(key, (0, 0))
        shares = covered_by_decile(target.y, has_image)
        found[target.name] = {
            "covered": [None if np.isnan(share) else share for share in shares],
            "outside": outside,
            "unlike": different,
        }
    return found


def _count_unlike(
    system: System, labelled: NDArray[np.bool_], split: Split, blocks: NDArray[np.int64]
) -> tuple[int, int]:
    """Numbers of sampled test regions and of those outside the training distribution."""
    train, test = _sample(split.train[labelled[split.train]]), _sample(split.test)
    if len(np.unique(blocks[train])) < 2:  # no distances between districts
        return 0, 0
    rows = np.concatenate([train, test])
    X = np.concatenate([block[rows] for block in system.blocks], axis=1)
    folds = np.concatenate([blocks[train], np.full(len(test), -1)])
    found = unlike(X, folds, np.arange(len(train), len(folds)))
    return len(test), int(found.sum())


def _sample(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    if len(rows) <= MOST_REGIONS:
        return rows
    return np.sort(np.random.default_rng(0).choice(rows, MOST_REGIONS, replace=False))


__all__ = ["DECILES", "MOST_REGIONS", "covered_by_decile", "measure_reach", "unlike"]
