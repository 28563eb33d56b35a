from pathlib import Path

import pytest

from tests.pipelines.evaluation.toy import build_toy


@pytest.fixture(scope="session")
def toy_dataset(tmp_path_factory) -> Path:
    """8 x 8 regions of "toytown"; not to be written to."""
    return build_toy(tmp_path_factory.mktemp("toy"))
