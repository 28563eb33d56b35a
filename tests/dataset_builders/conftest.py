"""Shared fixtures: the provider of a town, its recipe, and the built and the published town."""

import pytest

from .town import built, keys, provider, published, write


@pytest.fixture(scope="session", autouse=True)
def _small_contact_sheets():
    with pytest.MonkeyPatch.context() as patch:
        for module in ("publish", "city.report"):
            patch.setattr(f"dataset_builders.{module}.SHEET_SIZE", 3)
        yield


__all__ = ["built", "keys", "provider", "published", "write"]
