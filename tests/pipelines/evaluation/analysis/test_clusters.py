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


def test_separated_clusters_are_found_and_stable():
    X, truth = blobs()
    found = cluster(X)
    assert adjusted_rand_score(truth, found.labels) == 1
    assert found.stability == found.least_stability == 1
    assert found.silhouette > 0.8
    assert found.axes.shape == (100, 2)
    assert found.shares[0] >= found.shares[1] > 0


def test_unclustered_data_is_unstable():
    found = cluster(np.random.default_rng(0).normal(size=(300, 20)))
    assert found.silhouette < 0.2
    assert found.stability < 0.9


def test_scale_and_constant_dimensions_do_not_matter():
    X, _ = blobs()
    stretched = np.column_stack([X * np.geomspace(1e-3, 1e3, X.shape[1]), np.full(len(X), 7.0)])
    found = cluster(stretched)
    assert (cluster(X).labels == found.labels).all()
    assert np.bincount(found.labels).tolist() == [50, 30, 20], "the largest comes first"


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
    assert [len(one.labels) for one in found] == [98, 98]
    assert agreements([one.labels for one in found]) == [1]


def test_too_few_regions_raise():
    with pytest.raises(InputError, match="got 3 regions"):
        cluster(np.eye(3))
    with pytest.raises(InputError, match="vectors that differ"):
        cluster(np.ones((10, 4)))
