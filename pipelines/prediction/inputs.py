"""Inputs of a prediction: regions, labels and images, from files or a dataset."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dataset_builders.assignment import assign_points
from dataset_builders.errors import DatasetError, SourceError
from dataset_builders.files import digest
from dataset_builders.photos import PhotoReject, Photos, find_photos
from dataset_builders.schema import VIEWS
from dataset_builders.storage import list_cities
from pipelines.common.errors import InputError
from pipelines.evaluation.embed.images import Row, Source
from pipelines.evaluation.embed.sources import open_images
from pipelines.evaluation.probe.city import open_city

from .labels import Aggregate, Indicator, Labels, Transform, as_indicators, read_labels
from .regions import read_regions

IMAGES_VIEW = "street_view"
"""View assigned to images from files; encoders treat both views alike."""

NO_PHOTOS = Photos(Path(), pd.DataFrame({"file": [], "lon": [], "lat": []}))


@dataclass(frozen=True)
class Inputs:
    """Regions, labels and images.

    Attributes:
        regions: Sorted by `region_id`, with `lon`, `lat`, `area_m2` and geometry (EPSG:4326).
        indicators: Indicators with labels, `(N,)`.
        source: Images of the regions.
        rejects: Rejected images with reasons.
        block_m: Side of the dataset's blocks in metres, if it has any.
        synthetic: Whether the data is simulated.
        notes: Other omissions, one sentence each.
        region_rejects: Rejected regions with reasons.
    """

    regions: gpd.GeoDataFrame
    indicators: list[Indicator]
    source: Source
    rejects: list[PhotoReject]
    block_m: float | None = None
    synthetic: bool = False
    notes: Sequence[str] = ()
    region_rejects: Sequence[PhotoReject] = ()


def is_dataset(images: Any) -> bool:
    """Whether a path is a dataset folder rather than a folder of photos."""
    if not isinstance(images, str | Path) or not Path(images).is_dir():
        return False
    return any((Path(images) / "data").glob("*-regions/*.parquet"))


def from_dataset(
    name: str, city: str | None, units: Mapping[str, str | None], transform: Transform
) -> Inputs:
    """Read regions, images, indicators and units of a dataset.

    Args:
        name: Dataset folder.
        city: City; optional if the dataset has only one.
        units: Indicators to predict with their units, None for the dataset's unit. If empty, all
            indicators.
        transform: Scale to model; "auto" uses the dataset's.

    Raises:
        InputError: If there is no such city or indicator.
    """
    try:
        cities = list_cities(name)
    except DatasetError as error:
        raise InputError(str(error)) from error
    if city is None and len(cities) > 1:
        raise InputError(f"{name} has several cities: pass one by --city ({', '.join(cities)}).")
    data = open_city(name, city or cities[0])
    known = {target.name: target for target in data.targets}
    if unknown := [one for one in units if one not in known]:
        raise InputError(
            f"{name} has no indicator {', '.join(unknown)}; it has {', '.join(known)}."
        )
    indicators = []
    for one in units or known:
        target = known[one]
        raw = data.regions[one].to_numpy(float, na_value=np.nan)
        chosen = target.transform if transform == "auto" else transform
        indicators.append(Indicator(one, units.get(one) or target.unit, chosen, raw))
    return Inputs(
        data.regions,
        indicators,
        open_images(name, data.name),
        [],
        data.block_m,
        data.synthetic,
    )


def from_files(
    images: str | Path | pd.DataFrame | None,
    units: Mapping[str, str],
    *,
    regions: str | Path | gpd.GeoDataFrame | None = None,
    region_id: str | None = None,
    side_m: float | None = None,
    h3_resolution: int | None = None,
    csv: str | None = None,
    labels: Labels = None,
    aggregate: Aggregate = "mean",
    transform: Transform = "auto",
) -> Inputs:
    """Read photos, polygons and labels from files.

    Args:
        images: See [`dataset_builders.photos.find_photos`]. If None, only polygons are read.
        units: Unit of each indicator.
        regions: See [`pipelines.prediction.regions.read_regions`].
        region_id: Column of region ids.
        side_m: Side of grid squares in metres, instead of polygons.
        h3_resolution: Resolution of H3 cells, instead of polygons.
        csv: Name of the CSV with coordinates in the image folder.
        labels: See [`pipelines.prediction.labels.read_labels`].
        aggregate: Aggregation of points and raster cells.
        transform: Scale to model.

    Raises:
        InputError: If an input is invalid.
    """
    try:
        photos = NO_PHOTOS if images is None else find_photos(images, csv)
    except SourceError as error:
        raise InputError(str(error)) from error
    found, own = read_regions(
        regions, region_id, photos.frame, side_m=side_m, h3_resolution=h3_resolution
    )
    rows = np.empty(0, np.int64) if images is None else _place(photos, found)
    raw, notes = read_labels(labels, list(units), found, own, region_id, aggregate)
    outside = [PhotoReject(file, "outside_regions") for file in photos.frame.loc[rows < 0, "file"]]
    return Inputs(
        found,
        as_indicators(raw, units, transform),
        _source(photos, rows, found["region_id"].to_numpy(str)),
        [*photos.rejects, *outside],
        notes=notes,
    )


def _place(photos: Photos, regions: gpd.GeoDataFrame) -> NDArray[np.int64]:
    """Row of the region of each photo, -1 outside."""
    lon, lat = (photos.frame[name].to_numpy(float) for name in ("lon", "lat"))
    try:
        rows = assign_points(lon, lat, regions)
    except DatasetError as error:
        raise InputError(f"The images cannot be assigned to regions: {error}") from error
    if not (rows >= 0).any():
        west, south, east, north = regions.total_bounds
        raise InputError(
            f"None of {len(lon):,} images lies in a region: images span longitude {lon.min():.4f} "
            f"to {lon.max():.4f} and latitude {lat.min():.4f} to {lat.max():.4f}, regions "
            f"{west:.4f} to {east:.4f} and {south:.4f} to {north:.4f}. Are longitude and latitude "
            "swapped, or is the CRS of the polygons wrong?"
        )
    return rows


def _source(photos: Photos, rows: NDArray[np.int64], names: NDArray[np.str_]) -> Source:
    placed = np.flatnonzero(rows >= 0)
    placed = placed[np.argsort(rows[placed], kind="stable")]
    files = photos.frame["file"].to_numpy(object)[placed]
    owners = names[rows[placed]]

    def open_view(view: str) -> Iterator[Row]:
        for file, owner in zip(files, owners, strict=True):
            yield {"image_id": file, "region_id": str(owner), "image": photos.read(file)}

    found = [(file, os.stat(photos.root / file)) for file in files]
    stamps = [(file, one.st_size, one.st_mtime_ns) for file, one in found]
    return Source(
        region_ids=np.unique(owners).tolist(),
        num_images={view: len(files) if view == IMAGES_VIEW else 0 for view in VIEWS},
        open_view=open_view,
        fingerprint=digest(stamps, owners.tolist()),
        description={"dataset": str(photos.root), "synthetic": False},
    )


__all__ = ["Inputs", "from_dataset", "from_files", "is_dataset"]
