"""Reproduction of published scores from the real labels."""

import numpy as np
import pytest

from examples.cityrep.run import Settings, run
from examples.cityrep.systems import PositionalEncoding
from examples.cityrep.tasks import find_tasks, read_published, read_task


@pytest.fixture
def data(shared_data):
    folder = shared_data / "cityrep"
    if not folder.is_dir():
        pytest.skip(f"CityRep's labels not found at {folder}")
    return folder


def test_tasks_have_the_published_number_of_samples(data):
    counts = read_published(data / "published").groupby("task_id")["n"].unique()
    for folder in find_tasks(data, None, None)[0]:
        assert counts[folder.name].tolist() == [len(read_task(folder))]


def test_published_row_pe_is_reproduced(data, tmp_path):
    """Scores are only equal if samples, splits, features, targets and head are."""
    published = read_published(data / "published")
    published = published[published["model"] == "PE"].set_index(["protocol", "task_id"])
    protocol = "cityrep_block"
    settings = Settings(cities=["jakarta"], tasks=["pm25"], protocols=(protocol,), head="mlp")
    rows = run(data, tmp_path, settings, [PositionalEncoding()], progress=False).rows
    ours, theirs = [row.r2 for row in rows], published.loc[protocol, "jakarta.pm25.2022"]
    assert np.mean(ours) == pytest.approx(theirs["r2"], abs=2e-3)
    assert np.std(ours) == pytest.approx(theirs["r2_sd"], abs=2e-3)
