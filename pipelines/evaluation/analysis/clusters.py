"""What region vectors know of a city without being asked: three clusters, told by nothing but them.

The vectors are standardised and brought to their main axes; K-means makes three clusters of them.
How firm they are is measured: by the silhouette, by how far other starts of K-means agree, and by
how far another training of the same system agrees. The clusters are named by their size alone: what
they stand for is the reader's to see.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dataset_builders.log_ticks import compact

from ..embed.tables import EmbeddingTable, read_embeddings
from ..errors import InputError
from ..probe.predictions import REGIONS_FILE
from ..report.cluster_plots import draw_clusters
from ..report.documents import Block, Heading, Picture, Text
from ..report.frame import VIEW_NAMES, CityResults, best_key, slug
from ..report.table_formats import Cell, Table, number

NUM_CLUSTERS = 3
VARIANCE_KEPT = 0.9
MAX_AXES = 50
STARTS = 10
NAMES = "ABC"
SHOWN = "population"  # whose distribution is drawn for each cluster, where the city has it


@dataclass(frozen=True)
class Clusters:
    """Regions in three clusters.

    Attributes:
        labels: `(N,)` of 0, 1, 2; 0 is the largest.
        axes: `(N, 2)` the two main axes.
        shares: of the variance on each of the two.
        num_axes: that K-means saw.
        silhouette: mean over regions, of -1 to 1.
        stability: mean adjusted Rand index over pairs of single starts of K-means; 1 is the same.
        least_stability: the least of them.
    """

    labels: NDArray[np.int64]
    axes: NDArray[np.float64]
    shares: tuple[float, float]
    num_axes: int
    silhouette: float
    stability: float
    least_stability: float


def cluster(X: NDArray[np.float64], seed: int = 0, num_clusters: int = NUM_CLUSTERS) -> Clusters:
    """Main axes, and K-means on them.

    Args:
        X: `(N, D)` vectors.
        seed: of K-means; that of the pairs of starts follow.
        num_clusters: to make.

    Raises:
        InputError: there are too few regions, or all vectors are the same.
    """
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA
    from sklearn.metrics import adjusted_rand_score, silhouette_score

    spread = X.std(0)
    if len(X) <= num_clusters or not spread.any():
        raise InputError(
            f"{num_clusters} clusters need more regions than that, and vectors that differ; got "
            f"{len(X)} regions."
        )
    standard = (X - X.mean(0))[:, spread > 0] / spread[spread > 0]
    pca = PCA(min(MAX_AXES, *standard.shape), random_state=seed).fit(standard)
    kept = np.searchsorted(np.cumsum(pca.explained_variance_ratio_), VARIANCE_KEPT) + 1
    num_axes = int(min(max(kept, 2), pca.n_components_))
    points = pca.transform(standard)[:, :num_axes]
    labels = KMeans(num_clusters, n_init=STARTS, random_state=seed).fit_predict(points)
    singles = [
        KMeans(num_clusters, n_init=1, random_state=seed + start).fit_predict(points)
        for start in range(STARTS)
    ]
    agreement = [adjusted_rand_score(a, b) for a, b in combinations(singles, 2)]
    flat = np.pad(points, ((0, 0), (0, max(0, 2 - num_axes))))
    shares = [*pca.explained_variance_ratio_, 0.0]
    return Clusters(
        by_size(labels),
        flat[:, :2],
        (float(shares[0]), float(shares[1])),
        num_axes,
        float(silhouette_score(points, labels)) if len(set(labels)) > 1 else float("nan"),
        float(np.mean(agreement)),
        float(np.min(agreement)),
    )


def by_size(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """The same clusters, numbered from the largest."""
    counts = np.bincount(labels)
    order = np.argsort(-counts, kind="stable")
    return np.argsort(order)[labels]


def cluster_blocks(city: CityResults, embeddings: Path, output: Path, folder: str) -> list[Block]:
    """Figure and table of a city's clusters; nothing where no system saw an image.

    Args:
        city: whose regions.
        embeddings: folder of the city's embedding tables.
        output: where the page lies.
        folder: of the pictures, below it.
    """
    key = best_key(city, city.rows)
    if key is None:
        return []
    system, view, _ = key
    title = f"{city.title}: clusters of {system}, {VIEW_NAMES[view]}"
    blocks: list[Block] = [Heading(3, title)]
    tables = find_tables(city, embeddings, system)
    if not tables:
        return [
            *blocks,
            Text(f"Not drawn: the vectors that were probed do not lie in `{embeddings.name}`."),
        ]
    regions = pd.read_parquet(city.folder / REGIONS_FILE)
    regions = regions[regions["region_id"].isin(_with_vectors(tables, view))]
    try:
        found = [cluster(_vectors(table, view, regions["region_id"])) for table in tables]
    except InputError as error:
        return [*blocks, Text(f"Not drawn: {error}")]
    first = found[0]
    indicator = SHOWN if SHOWN in city.indicators else city.indicators[0]
    about = city.summary["indicators"][indicator]
    path = f"{folder}/{slug(city.name, 'clusters')}.png"
    draw_clusters(
        output / path, title, first.axes, first.shares, first.labels,
        regions[indicator].to_numpy(float), indicator, about["unit"], about["transform"],
        city.folder / REGIONS_FILE, regions["region_id"].tolist(),
    )  # fmt: skip
    blocks.append(
        Picture(
            path,
            title,
            f"Left: the two main axes of the vectors. Middle: density of {indicator} in each "
            "cluster. Right: where they lie. Clusters are named by size; labels were not seen.",
        )
    )
    return [*blocks, _table(city, title, found, regions)]


def find_tables(city: CityResults, embeddings: Path, system: str) -> list[EmbeddingTable]:
    """The tables that a system's rows were computed from, by training; those that are there."""
    found = []
    for label in city.members[system]:
        path = embeddings / f"{label}.parquet"
        if path.is_file():
            table = read_embeddings(path)
            if table.hash == city.summary["systems"][label]["embedding_hash"]:
                found.append(table)
    return found


def _with_vectors(tables: Sequence[EmbeddingTable], view: str) -> set[str]:
    """Regions that all trainings have a vector of."""
    own = [
        {name for name, has in zip(t.region_ids, t.has(view), strict=True) if has} for t in tables
    ]
    return set.intersection(*own)


def _vectors(table: EmbeddingTable, view: str, region_ids: pd.Series) -> NDArray[np.float64]:
    position = {name: row for row, name in enumerate(table.region_ids)}
    return table.matrix(view)[[position[name] for name in region_ids]]


def _table(
    city: CityResults, title: str, found: Sequence[Clusters], regions: pd.DataFrame
) -> Table:
    from sklearn.metrics import adjusted_rand_score

    first = found[0]
    body = []
    for number_of in range(NUM_CLUSTERS):
        mine = first.labels == number_of
        cells = (_median(regions.loc[mine, name], city.summary["indicators"][name]["transform"])
                 for name in city.indicators)  # fmt: skip
        share = number(100 * mine.mean(), form=".0f")
        body.append((Cell(NAMES[number_of]), number(int(mine.sum()), form="d"), share, *cells))
    notes = [
        "Medians in raw units.",
        f"K-means on {first.num_axes} main axes ({VARIANCE_KEPT:.0%} of the variance, at most "
        f"{MAX_AXES}); the two that are drawn hold {first.shares[0]:.0%} and "
        f"{first.shares[1]:.0%}. "
        f"Silhouette {first.silhouette:.2f}. Adjusted Rand index between {STARTS} single starts: "
        f"mean {first.stability:.2f}, least {first.least_stability:.2f}.",
    ]
    if len(found) > 1:
        pairs = [adjusted_rand_score(a.labels, b.labels) for a, b in combinations(found, 2)]
        notes.append(
            f"Between the {len(found)} trainings of the system: mean {np.mean(pairs):.2f}, least "
            f"{np.min(pairs):.2f}."
        )
    return Table(
        name=slug(city.name, "clusters"),
        title=title,
        header=("cluster", "regions", "%", *city.indicators),
        rows=tuple(body),
        notes=tuple(notes),
    )


def _median(values: pd.Series, transform: str) -> Cell:
    median = float(values.median())
    median = float(np.expm1(median)) if transform == "ln1p" else median
    return Cell(compact(median), median) if np.isfinite(median) else number(None)


__all__ = ["Clusters", "by_size", "cluster", "cluster_blocks", "find_tables"]
