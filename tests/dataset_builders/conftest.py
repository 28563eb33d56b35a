"""Shared fixtures: the provider of a town, its recipe, and the built town."""

from .town import built, provider, town, write

__all__ = ["built", "provider", "town", "write"]
