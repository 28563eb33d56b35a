"""A small dataset for tests of all pipelines."""

import pytest


@pytest.fixture(scope="session")
def small_city(tmp_path_factory):
    """A synthetic dataset: the city "harborview" with 3 x 3 regions, too few for predictions."""
    from dataset_builders.synthetic import build_dataset

    folder = tmp_path_factory.mktemp("small_city")
    build_dataset(folder, ("harborview",), grid_size=3, street_views=1, num_workers=1)
    return folder
