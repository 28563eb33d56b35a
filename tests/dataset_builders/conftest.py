"""Fixtures that several modules use: a town's provider, its recipe, and the town as built."""

from .test_city_build import provider, write
from .town import built, town

__all__ = ["built", "provider", "town", "write"]
