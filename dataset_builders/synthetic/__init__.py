"""Synthetic cities: simulated images, captions and indicators of cities that do not exist.

    python -m dataset_builders.synthetic --output_dir runs/city

Satellite tiles, street views, captions and indicators follow from one latent world (`world`), so
that methods can be run and compared without network access or image licences.
"""

from .build import build_dataset, region_id

__all__ = ["build_dataset", "region_id"]
