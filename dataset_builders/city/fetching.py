"""Download the satellite images and street views of a city.

Every response is recorded in the ledger, so an interrupted run resumes, and completed batches of
locations are not requested again.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
from tqdm import tqdm

from ..download import Fetcher, Limit, Store
from ..files import digest, read_json, write_state
from ..photos import PhotoReject
from ..sources.local_folder import LocalFolder
from ..sources.satellite import SatelliteSource
from ..sources.street_view import Place, StreetViewSource, View, batched
from .recipe import CityRecipe, NetworkSettings

PLACES_AT_ONCE = 500


@dataclass(frozen=True)
class Batch:
    """A batch of locations requested from a source, or of files of a local folder.

    Attributes:
        source: Street-view source.
        places: Locations to request.
        file: JSON file of the result, which says whether items failed.
    """

    source: StreetViewSource
    places: Sequence[Place]
    file: Path

    def views(self) -> list[View]:
        """Street views found."""
        return [View(**values) for values in self._read()["views"]]

    def rejects(self) -> list[PhotoReject]:
        """Rejected files of a local folder."""
        return [PhotoReject(**values) for values in self._read()["rejects"]]

    def write(self, found: Sequence[View | PhotoReject], complete: bool = True) -> None:
        """Write the result to disk."""
        views = sorted((v for v in found if isinstance(v, View)), key=lambda view: view.image_id)
        rejects = [asdict(one) for one in found if isinstance(one, PhotoReject)]
        answer = {"views": [*map(asdict, views)], "rejects": rejects, "complete": complete}
        write_state(self.file, answer)

    def is_complete(self) -> bool:
        """Whether the result of every item is on disk."""
        return bool(self._read()["complete"])

    def _read(self) -> Any:
        nothing = {"views": [], "rejects": [], "complete": False}
        return nothing | (read_json(self.file) or {})


def batches(
    recipe: CityRecipe, places: Sequence[Place], cache: Path
) -> Iterator[tuple[StreetViewSource, list[Batch]]]:
    """Street-view sources in the order of the recipe, each with its batches.

    The batches of a local folder exist only after the folder was scanned.
    """
    for number, source in enumerate(recipe.street_view_sources()):
        if isinstance(source, LocalFolder):
            files = sorted((cache / "views").glob(f"{number}-??????-folder.json"))
            yield source, [Batch(source, (), file) for file in files]
            continue
        settings, found = asdict(recipe.street_view[number]), []
        for index, start in enumerate(range(0, len(places), PLACES_AT_ONCE)):
            some = places[start : start + PLACES_AT_ONCE]
            stamp = digest(settings, [asdict(place) for place in some])
            found.append(
                Batch(source, some, cache / "views" / f"{number}-{index:06d}-{stamp}.json")
            )
        yield source, found


def forget_batches(cache: Path) -> None:
    """Delete the results of all batches, so that their locations are requested again."""
    for path in (cache / "views").glob("*.json"):
        path.unlink()


def fetch_all(
    recipe: CityRecipe, regions: gpd.GeoDataFrame, places: Sequence[Place], cache: Path
) -> None:
    """Download the missing images of a city.

    Raises:
        StoppedError: A quota is exhausted or a key was rejected. Downloads are kept.
        SourceError: An API key is not in the environment.
    """
    with closing(Store(cache)) as store:
        if (source := recipe.satellite_source()) is not None:
            asyncio.run(fetch_satellite(recipe, source, regions, store))
        for number, (views, some) in enumerate(batches(recipe, places, cache)):
            if isinstance(views, LocalFolder):
                _scan_folder(views, number, cache, store)
                store.mark_placeholders(f"{views.name}/", recipe.network.placeholders_above)
            else:
                asyncio.run(_fetch_views(recipe, views, some, store))


def open_fetcher(settings: NetworkSettings, store: Store, limits: Mapping[str, Limit]) -> Fetcher:
    """Fetcher with the source's rate limits, overridden by those of the recipe."""
    return Fetcher(
        store,
        {**limits, **settings.limits},
        max_attempts=settings.max_attempts,
        user_agent=settings.user_agent,
    )


async def fetch_satellite(
    recipe: CityRecipe, source: SatelliteSource, regions: gpd.GeoDataFrame, store: Store
) -> None:
    """Download what the satellite images of the regions need and the store lacks."""
    keys = source.keys(regions)
    done = len(keys) - len(store.unsettled(keys))
    with tqdm(total=len(keys), initial=done, desc=source.name, unit="item") as bar:
        async with open_fetcher(recipe.network, store, source.limits) as fetcher:
            async for _ in source.fetch(regions, fetcher, store):
                bar.update()
    store.mark_placeholders(f"{source.name}/", recipe.network.placeholders_above)


def _scan_folder(source: Any, number: int, cache: Path, store: Store) -> None:
    """Scan a local folder in batches, replacing the results of an earlier scan."""
    for earlier in (cache / "views").glob(f"{number}-??????-folder.json"):
        earlier.unlink()
    with tqdm(desc=source.name, unit="file") as bar:
        for index, found in enumerate(batched(source.scan(store))):
            file = cache / "views" / f"{number}-{index:06d}-folder.json"
            Batch(source, (), file).write(found)
            bar.update(len(found))


async def _fetch_views(
    recipe: CityRecipe, source: StreetViewSource, all_batches: Sequence[Batch], store: Store
) -> None:
    todo = [batch for batch in all_batches if not batch.is_complete()]
    total, left = (sum(len(one.places) for one in some) for some in (all_batches, todo))
    with tqdm(total=total, initial=total - left, desc=source.name, unit="place") as bar:
        async with open_fetcher(recipe.network, store, source.limits) as fetcher:
            for batch in todo:
                failed = fetcher.failed
                found = [view async for view in source.views(batch.places, fetcher, store)]
                batch.write(found, complete=fetcher.failed == failed)
                bar.update(len(batch.places))
    _mark_placeholders(all_batches, store, recipe.network.placeholders_above)


def _mark_placeholders(some: Sequence[Batch], store: Store, more_than: int) -> None:
    """Mark images returned for many locations: providers send them where they have no image."""
    known = {
        view.key: fetched.sha256
        for batch in some
        for view in batch.views()
        if (fetched := store.get(view.key)) is not None and fetched.status == "ok"
    }
    count = Counter(known.values())
    often = sorted(key for key, sha256 in known.items() if count[sha256] > more_than)
    store.mark(often, "placeholder", "identical to many other images")


__all__ = ["Batch", "batches", "fetch_all", "fetch_satellite", "forget_batches", "open_fetcher"]
