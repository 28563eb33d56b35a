from pathlib import Path

import pytest

from tests.pipelines.evaluation.toy import build_toy


@pytest.fixture(scope="session")
def toy_dataset(tmp_path_factory) -> Path:
    """Read-only dataset of "toytown" with 8 x 8 regions."""
    return build_toy(tmp_path_factory.mktemp("toy"))
