"""Synthetic cities: simulated images, captions and indicators of cities that do not exist.

    python -m dataset_builders.synthetic --output_dir runs/city

One latent world (`world`) determines satellite tiles, street views, captions and indicators, so
methods can be run and compared without a network or a licence.
"""

from .build import build_dataset, region_id

__all__ = ["build_dataset", "region_id"]
