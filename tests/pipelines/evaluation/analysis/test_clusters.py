import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from pipelines.evaluation.analysis.clusters import agreements, cluster, cluster_trainings
from pipelines.evaluation.embed.tables import EmbeddingTable
from pipelines.evaluation.errors import InputError


def blobs(sizes=(20, 50, 30), dim=8, spread=0.3):
    rng = np.random.default_rng(0)
    centres = rng.normal(0, 5, (len(sizes), dim))
    truth = np.repeat(np.arange(len(sizes)), sizes)
    return centres[truth] + rng.normal(0, spread, (len(truth), dim)), truth


def test_separated_clusters_are_found_and_stable_whatever_the_scale():
    X, truth = blobs()
    found = cluster(X)
    assert adjusted_rand_score(truth, found.labels) == 1
    assert found.stability == found.least_stability == 1
    assert found.silhouette > 0.8
    assert found.axes.shape == (100, 2)
    assert found.shares[0] >= found.shares[1] > 0
    stretched = np.column_stack([X * np.geomspace(1e-3, 1e3, X.shape[1]), np.full(len(X), 7.0)])
    assert (cluster(stretched).labels == found.labels).all()
    assert np.bincount(found.labels).tolist() == [50, 30, 20], "the largest comes first"
    noise = cluster(np.random.default_rng(0).normal(size=(300, 20)))
    assert noise.silhouette < 0.2
    assert noise.stability < 0.9


def test_regions_without_an_embedding_are_dropped():
    X, _ = blobs()
    ids = [f"r{i}" for i in range(len(X))]
    tables = []
    for missing in (3, 5):
        vectors = X.astype(np.float32).copy()
        vectors[missing] = np.nan
        tables.append(EmbeddingTable("t", {}, ids, {"satellite": vectors}, "h"))
    kept, found = cluster_trainings(tables, "satellite", ids)
    assert kept == [name for name in ids if name not in ("r3", "r5")]
    assert agreements([one.labels for one in found]) == [1]


def test_too_few_regions_raise():
    with pytest.raises(InputError, match="got 3 regions"):
        cluster(np.eye(3))
    with pytest.raises(InputError, match="vectors that differ"):
        cluster(np.ones((10, 4)))
