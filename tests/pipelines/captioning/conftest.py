"""A small synthetic city with ground truth, for the simulated models."""

from pathlib import Path

import pytest

from dataset_builders.synthetic import build_dataset
from pipelines.captioning.simulated.truth import Truth


@pytest.fixture(scope="session")
def city_with_truth(tmp_path_factory) -> Path:
    """The city "harborview" with 3 x 3 regions, one street view per region, and masks."""
    folder = tmp_path_factory.mktemp("city_with_truth")
    return build_dataset(folder, grid_size=3, street_views=1, with_masks=True, num_workers=1)


@pytest.fixture(scope="session")
def truth(city_with_truth) -> Truth:
    """Ground truth of that city."""
    return Truth(city_with_truth)
