"""Experiments and importers of single collections."""
