"""Assign downloaded images to regions and convert them to table rows."""

import datetime
import hashlib
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np

from ..assignment import RegionIndex, assign_points
from ..download import Store, check_image
from ..sources.local_folder import LocalFolder
from ..sources.satellite import PICTURE_PX, Picture, SatelliteSource
from ..sources.street_view import Place, StreetViewSource, View
from ..storage import Reject
from .fetching import batches
from .recipe import CityRecipe

REGIONS_PER_SHARD = 500
TILE_COLUMNS = ("tile_z", "tile_x", "tile_y")


@dataclass(frozen=True)
class CityImage:
    """A downloaded or rejected image.

    Attributes:
        image_id: Image ID.
        region_id: ID of its region; None outside all regions.
        names: Content identifiers; regions with a common identifier share an image.
        identity: Fingerprint of the row.
        reason: Reject reason; "" if the image is kept.
        detail: Detail of the reject reason.
        row: Returns the row of the table, or a reject reason.
    """

    image_id: str
    region_id: str | None
    names: tuple[str, ...]
    identity: str
    reason: str
    detail: str
    row: Callable[[], dict[str, Any] | str]


def satellite_images(
    recipe: CityRecipe, regions: gpd.GeoDataFrame, store: Store
) -> Iterator[list[CityImage]]:
    """Satellite images of all regions, in shards."""
    source = recipe.satellite_source()
    if source is None:
        return
    pictures = source.pictures(regions, store)
    while some := list(itertools.islice(pictures, REGIONS_PER_SHARD)):
        yield [
            CityImage(
                one.image_id,
                str(one.region.region_id),
                (one.identity,) if one.identity else (),
                one.identity,
                one.reason,
                one.detail,
                partial(satellite_row, source, one, store),
            )
            for one in some
        ]


def street_view_images(
    recipe: CityRecipe,
    regions: gpd.GeoDataFrame,
    places: Sequence[Place],
    store: Store,
    cache: Path,
) -> Iterator[list[CityImage]]:
    """Street views of all sources without duplicates, in batches."""
    seen: set[str] = set()
    index, names = RegionIndex(regions), regions["region_id"].to_numpy()
    for batch in itertools.chain.from_iterable(some for _, some in batches(recipe, places, cache)):
        views = [view for view in batch.views() if view.image_id not in seen]
        seen.update(view.image_id for view in views)
        if views:
            yield list(_placed(batch.source, views, index, names, store))


def folder_rejects(recipe: CityRecipe, places: Sequence[Place], cache: Path) -> list[Reject]:
    """Rejected files of local folders."""
    return [
        (f"{recipe.city}-street_view", one.file, one.reason, one.detail)
        for source, some in batches(recipe, places, cache)
        if isinstance(source, LocalFolder)
        for batch in some
        for one in batch.rejects()
    ]


def satellite_row(source: SatelliteSource, picture: Picture, store: Store) -> dict[str, Any] | str:
    """Table row of a satellite image, or a reject reason."""
    region = picture.region
    content = source.read(picture, store)
    if content is None:
        return "missing"
    verdict = check_image(content, "image/jpeg")
    if verdict.status != "ok":
        return verdict.status
    return {
        "image": {"bytes": content, "path": None},
        "image_id": picture.image_id,
        "region_id": region.region_id,
        **{name: getattr(region, name) if picture.is_tile else None for name in TILE_COLUMNS},
        "ground_resolution_m": math.sqrt(region.area_m2) / PICTURE_PX,
        "captured_at": picture.captured_at,
        "source": source.name,
        "licence": source.licence,
        "attribution": source.attribution,
        "redistributable": source.redistributable,
        "fetched_at": _moment(picture.fetched_at),
        "sha256": hashlib.sha256(content).hexdigest(),
    }


def _placed(
    source: StreetViewSource, views: Sequence[View], index: RegionIndex, names: Any, store: Store
) -> Iterator[CityImage]:
    lon, lat = (np.array([getattr(view, name) for view in views]) for name in ("lon", "lat"))
    is_folder = isinstance(source, LocalFolder)
    # providers return cameras beyond the outermost regions: only local folders are checked
    found = assign_points(lon, lat, index, check=is_folder)
    for view, number in zip(views, found.tolist(), strict=True):
        fetched = store.get(view.key)
        if fetched is None or fetched.status != "ok" or fetched.sha256 is None:
            lost = "not_fetched" if fetched is None else fetched.status
            yield CityImage(view.image_id, None, (), "", lost, "", lambda: "")
            continue
        sha256, moment = fetched.sha256, _moment(fetched.fetched_at)
        region_id = None if number < 0 else str(names[number])
        yield CityImage(
            view.image_id,
            region_id,
            # views of one panorama have the same image ID up to the heading
            (sha256, view.image_id if is_folder else "/".join(view.image_id.split("/")[:2])),
            sha256,
            "outside" if region_id is None else "",
            "",
            partial(_view_row, source, view, region_id, sha256, moment, store),
        )


def _view_row(
    source: StreetViewSource,
    view: View,
    region_id: str | None,
    sha256: str,
    fetched_at: str,
    store: Store,
) -> dict[str, Any]:
    columns = {name: value for name, value in asdict(view).items() if name != "key"}
    return {
        **columns,
        "image": {"bytes": store.content(sha256), "path": None},
        "region_id": region_id,
        "redistributable": source.redistributable,
        "fetched_at": fetched_at,
        "sha256": sha256,
    }


def _moment(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


__all__ = [
    "CityImage",
    "folder_rejects",
    "satellite_images",
    "satellite_row",
    "street_view_images",
]
