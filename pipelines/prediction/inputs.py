"""What a prediction starts from: images placed in regions, and labels; from files or a dataset."""

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
"""Table that images from files go to; an encoder treats both views alike."""

NO_PHOTOS = Photos(Path(), pd.DataFrame({"file": [], "lon": [], "lat": []}))


@dataclass(frozen=True)
class Inputs:
    """Regions, what is known of them, and their images.

    Attributes:
        regions: sorted by `region_id`, with `lon`, `lat`, `area_m2` and geometry (EPSG:4326).
        indicators: with `(N,)` labels.
        source: the images of the regions that have any.
        rejects: images that take no part, and why.
        block_m: side of the blocks that a dataset holds out; None where it names none.
        synthetic: the data is simulated.
        notes: what else was left out, one sentence each.
        region_rejects: regions that take no part, and why.
    """

    regions: gpd.GeoDataFrame
    indicators: list[Indicator]
    source: Source
    rejects: list[PhotoReject]
    block_m: float | None = None
    synthetic: bool = False
    notes: Sequence[str] = ()
    region_rejects: Sequence[PhotoReject] = ()


@dataclass(frozen=True)
class RegionOptions:
    """Where the regions and labels of a folder of images come from.

    Attributes:
        csv: name of the CSV of positions in the folder of images.
        regions: polygons.
        region_id: their column of ids.
        side_m: side of squares in place of polygons, metres.
        h3_resolution: of H3 cells in place of polygons.
        labels: see [`pipelines.prediction.labels.read_labels`].
        aggregate: of points and rasters.
        transform: scale that is modelled.
    """

    csv: str | None = None
    regions: str | Path | gpd.GeoDataFrame | None = None
    region_id: str | None = None
    side_m: float | None = None
    h3_resolution: int | None = None
    labels: Labels = None
    aggregate: Aggregate = "mean"
    transform: Transform = "auto"


def is_dataset(images: Any) -> bool:
    """Whether a path is a dataset of ours rather than a folder of photos."""
    if not isinstance(images, str | Path) or not Path(images).is_dir():
        return False
    return any((Path(images) / "data").glob("*-regions/*.parquet"))


def from_dataset(
    name: str, city: str | None, units: Mapping[str, str | None], transform: Transform
) -> Inputs:
    """Everything from a dataset: its regions, images, indicators and units.

    Args:
        name: folder of the dataset.
        city: of the dataset; may be left out where there is but one.
        units: indicators to predict; none for all of the dataset's. A unit of None is the
            dataset's.
        transform: "auto" takes what the dataset says.

    Raises:
        InputError: no such city or indicator.
    """
    try:
        cities = list_cities(name)
    except DatasetError as error:
        raise InputError(str(error)) from error
    if city is None and len(cities) > 1:
        raise InputError(f"{name} has several cities: name one with --city ({', '.join(cities)}).")
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
    images: str | Path | pd.DataFrame | None, units: Mapping[str, str], options: RegionOptions
) -> Inputs:
    """Photos, polygons and labels of one's own.

    Args:
        images: see [`dataset_builders.photos.find_photos`]; None for polygons alone.
        units: unit of each indicator.
        options: where regions and labels come from.

    Raises:
        InputError: anything that cannot be used; the message says what to do.
    """
    try:
        photos = NO_PHOTOS if images is None else find_photos(images, options.csv)
    except SourceError as error:
        raise InputError(str(error)) from error
    regions, own = read_regions(
        options.regions,
        options.region_id,
        photos.frame,
        side_m=options.side_m,
        h3_resolution=options.h3_resolution,
    )
    rows = np.empty(0, np.int64) if images is None else _place(photos, regions)
    raw, notes = read_labels(
        options.labels, list(units), regions, own, options.region_id, options.aggregate
    )
    outside = [PhotoReject(file, "outside_regions") for file in photos.frame.loc[rows < 0, "file"]]
    return Inputs(
        regions,
        as_indicators(raw, units, options.transform),
        _source(photos, rows, regions["region_id"].to_numpy(str)),
        [*photos.rejects, *outside],
        notes=notes,
    )


def _place(photos: Photos, regions: gpd.GeoDataFrame) -> NDArray[np.int64]:
    """The region of each photo, -1 outside."""
    lon, lat = (photos.frame[name].to_numpy(float) for name in ("lon", "lat"))
    try:
        rows = assign_points(lon, lat, regions)
    except DatasetError as error:
        raise InputError(f"The images do not lie in the regions: {error}") from error
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
    """The placed photos as a stream, region by region."""
    placed = np.flatnonzero(rows >= 0)
    placed = placed[np.argsort(rows[placed], kind="stable")]
    files = photos.frame["file"].to_numpy(object)[placed]
    owners = names[rows[placed]]

    def open_view(view: str) -> Iterator[Row]:
        for file, owner in zip(files, owners, strict=True):
            yield {"image_id": file, "region_id": str(owner), "image": photos.read(file)}

    stamps = [(file, *_stamp(photos.root / file)) for file in files]
    return Source(
        region_ids=np.unique(owners).tolist(),
        num_images={view: len(files) if view == IMAGES_VIEW else 0 for view in VIEWS},
        open_view=open_view,
        fingerprint=digest(stamps, owners.tolist()),
        description={"dataset": str(photos.root), "synthetic": False},
    )


def _stamp(path: Path) -> tuple[int, int]:
    """Size and time of a file; a changed photo makes other vectors."""
    found = os.stat(path)
    return found.st_size, found.st_mtime_ns


__all__ = ["IMAGES_VIEW", "Inputs", "RegionOptions", "from_dataset", "from_files", "is_dataset"]
