"""Experiments and one-off importers; nothing imports them."""
