"""Load the data of a city for baselines."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dataset_builders.captions import clean_caption
from dataset_builders.errors import DatasetError
from dataset_builders.files import digest
from dataset_builders.schema import VIEWS
from dataset_builders.storage import iter_images, read_indicators, read_regions, read_table

from ..embed.images import Source
from ..embed.poi import PREFIX, poi_columns, training_columns
from ..embed.sources import open_images
from ..probe.splits import geography
from .base import RegionData, View
from .pixels import decode_view

DATA_VERSION = "1"


def load_region_data(
    dataset_name: str, city: str, size_px: int, cache_dir: str | Path
) -> RegionData:
    """Read images at one size, captions, coordinates and POI counts of a city.

    POI columns that leak an indicator of the dataset are excluded. Pixels are decoded once per
    size, resumably and in constant memory; unusable images are listed next to the cache.

    Args:
        dataset_name: Folder or Hub id of a dataset.
        city: City of the dataset.
        size_px: Side length of images; see [`pixels`][pipelines.evaluation.baselines.pixels].
        cache_dir: Folder of the decoded pixels.

    Raises:
        InputError: The dataset or city does not exist.
    """
    source = open_images(dataset_name, city)
    regions = read_regions(dataset_name, city)
    place = geography(regions)
    lonlat = regions[["lon", "lat"]].to_numpy(np.float64)
    key = digest("pixels", DATA_VERSION, source.fingerprint, size_px)
    views = {
        view: _view(dataset_name, city, view, source, lonlat, size_px, Path(cache_dir) / key)
        for view in sorted(VIEWS)
        if source.num_images[view]
    }
    views = {name: view for name, view in views.items() if len(view)}
    columns = poi_columns(regions)
    seen = training_columns(columns, read_indicators(dataset_name, city))
    poi, categories = _counts(regions, seen)
    return RegionData(
        city=city,
        region_ids=source.region_ids,
        xy=place.xy,
        lonlat=lonlat,
        cell_m=place.cell_m,
        views=views,
        poi=poi,
        poi_categories=categories,
        poi_left_out=tuple(column for column in columns if column not in seen),
        synthetic=source.description["synthetic"],
        fingerprint=_fingerprint(key, lonlat, poi, categories, views),
    )


def _counts(
    regions: pd.DataFrame, columns: Sequence[str]
) -> tuple[NDArray[np.float64] | None, tuple[str, ...]]:
    """POI counts, with nulls as 0, and their categories."""
    if not columns:
        return None, ()
    counts = regions[list(columns)].to_numpy(np.float64, na_value=0.0)
    return np.nan_to_num(counts), tuple(name.removeprefix(PREFIX) for name in columns)


def _view(
    dataset_name: str,
    city: str,
    view: str,
    source: Source,
    lonlat: NDArray[np.float64],
    size_px: int,
    folder: Path,
) -> View:
    rows = iter_images(dataset_name, city, view)
    known = frozenset(source.region_ids)
    path = folder / f"{view}.npy"
    pixels, left_out = decode_view(rows, source.num_images[view], view, size_px, known, path)
    if left_out:
        reasons = dict(sorted(Counter(one.reason for one in left_out).items()))
        print(f"{view}: skipped {reasons}; listed in {path.with_suffix('.left_out.json')}")
    table = _columns(dataset_name, city, view).drop(index=[one.row for one in left_out])
    row_of = {region_id: row for row, region_id in enumerate(source.region_ids)}
    region = np.array([row_of[name] for name in table["region_id"]], dtype=np.int64)
    return View(
        image_ids=table["image_id"].tolist(),
        region=region,
        pixels=pixels,
        captions=[clean_caption(c) if isinstance(c, str) else None for c in table["caption"]],
        lonlat=_places(table, lonlat[region]),
        heading=table["heading"].to_numpy(np.float64, na_value=np.nan),
    )


def _columns(dataset_name: str, city: str, view: str) -> pd.DataFrame:
    names = ["image_id", "region_id", "caption", "lon", "lat", "heading"]
    try:
        return read_table(dataset_name, city, view, names)
    except DatasetError:  # satellite images have no coordinates
        return read_table(dataset_name, city, view, names[:3]).reindex(columns=names)


def _places(table: pd.DataFrame, of_region: NDArray[np.float64]) -> NDArray[np.float64]:
    own = table[["lon", "lat"]].to_numpy(np.float64, na_value=np.nan)
    return np.where(np.isfinite(own).all(axis=1, keepdims=True), own, of_region)


def _fingerprint(
    key: str,
    lonlat: NDArray[np.float64],
    poi: NDArray[np.float64] | None,
    categories: tuple[str, ...],
    views: dict[str, View],
) -> str:
    counts = b"" if poi is None else poi.tobytes()
    parts: list[object] = [key, lonlat.tobytes(), counts, list(categories)]
    for name, view in sorted(views.items()):
        parts += [name, view.captions, view.lonlat.tobytes(), view.heading.tobytes()]
    return digest(*parts)


__all__ = ["load_region_data"]
