"""K-means clusters of region embeddings, and their stability.

Embeddings are standardised and reduced by PCA; labels are not used. Stability is measured by the
silhouette, and by the agreement between K-means initialisations and between trainings.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..embed.tables import EmbeddingTable, read_embeddings
from ..errors import InputError

NUM_CLUSTERS = 3
VARIANCE_KEPT = 0.9
MAX_AXES = 50
STARTS = 10


@dataclass(frozen=True)
class Clusters:
    """Clusters of regions.

    Attributes:
        labels: `(N,)` cluster numbers; 0 is the largest cluster.
        axes: `(N, 2)` first two principal components.
        shares: Explained variance ratio of these two.
        num_axes: Number of principal components used by K-means.
        silhouette: Mean silhouette coefficient, from -1 to 1.
        stability: Mean adjusted Rand index over pairs of K-means initialisations.
        least_stability: Minimum of these indices.
    """

    labels: NDArray[np.int64]
    axes: NDArray[np.float64]
    shares: tuple[float, float]
    num_axes: int
    silhouette: float
    stability: float
    least_stability: float


def cluster(X: NDArray[np.float64]) -> Clusters:
    """Reduce `(N, D)` embeddings by PCA and cluster them by K-means.

    Raises:
        InputError: There are too few regions, or all embeddings are equal.
    """
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA
    from sklearn.metrics import silhouette_score

    spread = X.std(0)
    if len(X) <= NUM_CLUSTERS or not spread.any():
        raise InputError(
            f"K-means with {NUM_CLUSTERS} clusters needs more than {NUM_CLUSTERS} regions and "
            f"vectors that differ; got {len(X)} regions."
        )
    standard = (X - X.mean(0))[:, spread > 0] / spread[spread > 0]
    pca = PCA(min(MAX_AXES, *standard.shape), random_state=0).fit(standard)
    kept = np.searchsorted(np.cumsum(pca.explained_variance_ratio_), VARIANCE_KEPT) + 1
    num_axes = int(min(max(kept, 2), pca.n_components_))
    points = pca.transform(standard)[:, :num_axes]
    labels = KMeans(NUM_CLUSTERS, n_init=STARTS, random_state=0).fit_predict(points)
    singles = [
        KMeans(NUM_CLUSTERS, n_init=1, random_state=seed).fit_predict(points)
        for seed in range(STARTS)
    ]
    agreement = agreements(singles)
    flat = np.pad(points, ((0, 0), (0, max(0, 2 - num_axes))))
    shares = [*pca.explained_variance_ratio_, 0.0]
    by_size = np.argsort(np.argsort(-np.bincount(labels), kind="stable"))
    return Clusters(
        by_size[labels],
        flat[:, :2],
        (float(shares[0]), float(shares[1])),
        num_axes,
        float(silhouette_score(points, labels)) if len(set(labels)) > 1 else float("nan"),
        float(np.mean(agreement)),
        float(np.min(agreement)),
    )


def agreements(partitions: Sequence[NDArray[np.int64]]) -> list[float]:
    """Adjusted Rand index of every pair of partitions."""
    from sklearn.metrics import adjusted_rand_score

    return [float(adjusted_rand_score(a, b)) for a, b in combinations(partitions, 2)]


def find_tables(
    folder: Path, labels: Sequence[str], systems: Mapping[str, Mapping[str, Any]]
) -> list[EmbeddingTable]:
    """Embedding tables that are unchanged since they were evaluated.

    Args:
        folder: Folder of the city's embedding tables.
        labels: Labels of the trainings of one system.
        systems: Label to table metadata, from probe.json.
    """
    paths = {label: folder / f"{label}.parquet" for label in labels}
    found = {label: read_embeddings(path) for label, path in paths.items() if path.is_file()}
    return [t for label, t in found.items() if t.hash == systems[label]["embedding_hash"]]


def cluster_trainings(
    tables: Sequence[EmbeddingTable], view: str, region_ids: Sequence[str]
) -> tuple[list[str], list[Clusters]]:
    """Cluster regions by the embeddings of each training of a system.

    Args:
        tables: Embedding tables, one per training.
        view: View of the embeddings.
        region_ids: Candidate regions; those without an embedding in some table are dropped.

    Returns:
        Ids of the clustered regions, and the clusters of each training.

    Raises:
        InputError: There are too few regions, or all embeddings are equal.
    """
    rows = [{name: row for row, name in enumerate(table.region_ids)} for table in tables]
    has = [table.has(view) for table in tables]
    kept = [
        name
        for name in region_ids
        if all(name in row and own[row[name]] for row, own in zip(rows, has, strict=True))
    ]
    return kept, [
        cluster(table.matrix(view)[[row[name] for name in kept]])
        for table, row in zip(tables, rows, strict=True)
    ]


__all__ = ["Clusters", "agreements", "cluster", "cluster_trainings", "find_tables"]
