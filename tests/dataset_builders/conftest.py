"""Shared fixtures: the provider of a town, its recipe, and the built and the published town."""

from .town import built, provider, published, write

__all__ = ["built", "provider", "published", "write"]
