"""The street views of a city's regions: each belongs where its camera stood."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np

from ..assignment import assign_points
from ..download import Store
from ..photos import PhotoReject
from ..sources.local_folder import LocalFolder
from ..sources.street_view import Place, StreetViewSource, View
from ..storage import Reject
from .fetching import batch_files, read_views
from .recipe import CityRecipe
from .satellite import moment


@dataclass(frozen=True)
class SeenView:
    """A view with its region.

    Attributes:
        view: as the source found it.
        source: that found it.
        region_id: where the camera stood; None outside all regions.
        sha256: of its bytes; "" if they are not there.
        fetched_at: seconds since 1970.
        reason: why it is left out; "" if it is not.
    """

    view: View
    source: StreetViewSource
    region_id: str | None
    sha256: str
    fetched_at: float
    reason: str = ""


def batches(
    recipe: CityRecipe,
    regions: gpd.GeoDataFrame,
    places: Sequence[Place],
    store: Store,
    cache: Path,
) -> Iterator[list[SeenView]]:
    """The views of all sources, batch by batch; a picture that comes twice is kept once."""
    seen: set[str] = set()
    for number, source in enumerate(recipe.open_street_views()):
        for file, _ in batch_files(recipe, number, places, cache):
            views = [view for view in read_views(file) if view.image_id not in seen]
            seen.update(view.image_id for view in views)
            if views:
                yield list(_placed(source, views, regions, store))


def folder_rejects(recipe: CityRecipe, store: Store) -> list[Reject]:
    """Files of local folders that are no street views, and why."""
    return [
        (f"{recipe.city}-street_view", one.file, one.reason, one.detail)
        for source in recipe.open_street_views()
        if isinstance(source, LocalFolder)
        for one in source.scan(store)
        if isinstance(one, PhotoReject)
    ]


def view_row(seen: SeenView, store: Store) -> dict[str, Any]:
    """The row of a view."""
    view = seen.view
    content = store.content(seen.sha256)
    return {
        "image": {"bytes": content, "path": None},
        "image_id": view.image_id,
        "region_id": seen.region_id,
        "lon": view.lon,
        "lat": view.lat,
        "heading": view.heading,
        "captured_at": view.captured_at,
        "source": view.source,
        "licence": view.licence,
        "attribution": view.attribution,
        "redistributable": seen.source.redistributable,
        "fetched_at": moment(seen.fetched_at),
        "point_id": view.point_id,
    }


def _placed(
    source: StreetViewSource, views: Sequence[View], regions: gpd.GeoDataFrame, store: Store
) -> Iterator[SeenView]:
    lon, lat = (np.array([getattr(view, name) for view in views]) for name in ("lon", "lat"))
    # a camera may stand beyond the edge of the regions, so nothing is concluded from those outside
    found = assign_points(lon, lat, regions, check=isinstance(source, LocalFolder))
    names = regions["region_id"].to_numpy()
    for view, row in zip(views, found.tolist(), strict=True):
        fetched = store.get(view.key)
        if fetched is None or fetched.status != "ok" or fetched.sha256 is None:
            lost = "not_fetched" if fetched is None else fetched.status
            yield SeenView(view, source, None, "", 0.0, lost)
        else:
            region_id = None if row < 0 else str(names[row])
            reason = "outside" if region_id is None else ""
            yield SeenView(view, source, region_id, fetched.sha256, fetched.fetched_at, reason)


__all__ = ["SeenView", "batches", "folder_rejects", "view_row"]
