import pytest

from pipelines.evaluation.probe import controls


@pytest.fixture(scope="package", autouse=True)
def few_trees():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(controls, "MAX_TREES", 20)
        yield
