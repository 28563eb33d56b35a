"""Fixtures that several modules use: a town's provider, its recipe, and the town as built."""

from .town import built, provider, town, write

__all__ = ["built", "provider", "town", "write"]
