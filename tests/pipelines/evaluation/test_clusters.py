import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from pipelines.evaluation.analysis.clusters import by_size, cluster
from pipelines.evaluation.errors import InputError


def blobs(sizes=(20, 50, 30), dim=8, spread=0.3):
    rng = np.random.default_rng(0)
    centres = rng.normal(0, 5, (len(sizes), dim))
    truth = np.repeat(np.arange(len(sizes)), sizes)
    return centres[truth] + rng.normal(0, spread, (len(truth), dim)), truth


def test_clusters_that_are_there_are_found_and_firm():
    X, truth = blobs()
    found = cluster(X)
    assert adjusted_rand_score(truth, found.labels) == 1
    assert found.stability == found.least_stability == 1
    assert found.silhouette > 0.8
    assert found.axes.shape == (100, 2)
    assert found.shares[0] >= found.shares[1] > 0


def test_clusters_that_are_not_there_are_not_called_firm():
    found = cluster(np.random.default_rng(0).normal(size=(300, 20)))
    assert found.silhouette < 0.2
    assert found.stability < 0.9


def test_clusters_do_not_depend_on_the_scale_of_a_number():
    X, _ = blobs()
    stretched = X * np.geomspace(1e-3, 1e3, X.shape[1])
    assert (cluster(X).labels == cluster(stretched).labels).all()


def test_the_largest_cluster_comes_first():
    X, _ = blobs()
    assert np.bincount(cluster(X).labels).tolist() == [50, 30, 20]
    assert by_size(np.array([2, 2, 0, 1, 1, 1])).tolist() == [1, 1, 2, 0, 0, 0]


def test_numbers_that_never_change_are_left_out():
    X, truth = blobs()
    found = cluster(np.column_stack([X, np.full(len(X), 7.0)]))
    assert adjusted_rand_score(truth, found.labels) == 1


def test_too_few_regions_are_told():
    with pytest.raises(InputError, match="got 3 regions"):
        cluster(np.eye(3))
    with pytest.raises(InputError, match="vectors that differ"):
        cluster(np.ones((10, 4)))
