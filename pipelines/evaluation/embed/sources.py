"""Open the images and regions of a dataset for embedding."""

from pathlib import Path
from typing import Any

import geopandas as gpd

from dataset_builders.errors import DatasetError
from dataset_builders.files import digest, files_fingerprint
from dataset_builders.schema import VIEWS, config_name
from dataset_builders.storage import (
    count_rows,
    iter_images,
    list_cities,
    read_metadata,
    read_regions,
    read_table,
    table_shards,
)

from ..errors import InputError
from .images import Source


def open_images(dataset_name: str, city: str) -> Source:
    """Open the images of a city for streaming from a dataset folder or Hub repository.

    Raises:
        InputError: The dataset, city or column does not exist, or ids are duplicated.
    """
    about = _describe(dataset_name, city)
    try:
        region_ids = read_table(dataset_name, city, "regions", ["region_id"])["region_id"].tolist()
        num_images = {view: _count(dataset_name, city, view) for view in VIEWS}
    except DatasetError as error:
        raise InputError(str(error)) from error
    fingerprints = (_fingerprint(dataset_name, city, view) for view in VIEWS)
    return Source(
        region_ids=region_ids,
        num_images=num_images,
        open_view=lambda view: iter_images(dataset_name, city, view),
        fingerprint=digest(city, region_ids, *fingerprints),
        description=about,
    )


def open_regions(
    dataset_name: str, city: str, shapes: bool = True
) -> tuple[gpd.GeoDataFrame, dict[str, Any]]:
    """Read the regions of a city in the dataset's order, and metadata for tables of their vectors.

    Args:
        dataset_name: Folder or Hub id of a dataset.
        city: City of the dataset.
        shapes: Whether regions must have a geometry.

    Raises:
        InputError: The dataset or city does not exist, or no region has a geometry.
    """
    about = _describe(dataset_name, city)
    try:
        regions = read_regions(dataset_name, city)
    except DatasetError as error:
        raise InputError(str(error)) from error
    if shapes and not regions.geometry.notna().any():
        raise InputError(f"The regions of {city!r} have no geometry, which rasters require.")
    return regions, about


def check_city(dataset_name: str, city: str) -> None:
    """Raise `InputError` if the dataset or city does not exist."""
    try:
        cities = list_cities(dataset_name)
    except DatasetError as error:
        raise InputError(str(error)) from error
    if city not in cities:
        raise InputError(f"{dataset_name} has no city {city!r}; it has: {', '.join(cities)}.")


def _describe(dataset_name: str, city: str) -> dict[str, Any]:
    check_city(dataset_name, city)
    try:
        synthetic = read_metadata(dataset_name, city).synthetic
    except DatasetError as error:
        raise InputError(str(error)) from error
    return {"dataset": str(dataset_name), "city": city, "synthetic": synthetic}


def _count(dataset_name: str, city: str, view: str) -> int:
    try:
        rows = count_rows(dataset_name, city, view)
    except DatasetError:  # the city is there, so what is missing is this table
        return 0
    table_shards(dataset_name, city, view)  # checks the ids before anything is encoded
    return rows


def _fingerprint(dataset_name: str, city: str, table: str) -> str:
    root = Path(dataset_name)
    if not root.is_dir():
        from huggingface_hub import snapshot_download

        root = Path(snapshot_download(dataset_name, repo_type="dataset", local_files_only=True))
    return files_fingerprint((root / "data" / config_name(city, table)).glob("*.parquet"))


__all__ = ["check_city", "open_images", "open_regions"]
