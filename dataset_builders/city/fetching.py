"""Everything a city needs from the network, fetched once: tiles, and views along its roads.

A run that is stopped goes on where it was: the ledger knows every answer, and a batch of places
whose views are known is not gone through again.
"""

import asyncio
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import geopandas as gpd
from tqdm import tqdm

from ..download import Fetcher, Limit, Store
from ..files import digest, write_json
from ..sources.satellite import SatelliteSource
from ..sources.street_view import Place, StreetViewSource, View
from .recipe import CityRecipe, NetworkSettings

PLACES_AT_ONCE = 500
BATCH_NAME = re.compile(r"\d+-(\d{6}-)?[0-9a-f]{16}\.json")  # of `batch_files`


def fetch_all(
    recipe: CityRecipe, regions: gpd.GeoDataFrame, places: Sequence[Place], cache: Path
) -> None:
    """Fetch what is missing of a city's pictures.

    Raises:
        StoppedError: quota used up or key refused; what is there is kept.
        SourceError: a key is not in the environment.
    """
    store = Store(cache)
    try:
        if (source := recipe.open_satellite()) is not None:
            asyncio.run(fetch_satellite(recipe, source, regions, store))
        for number, views in enumerate(recipe.open_street_views()):
            asyncio.run(_fetch_views(recipe, number, views, places, store, cache))
    finally:
        store.close()


def batch_files(
    recipe: CityRecipe, number: int, places: Sequence[Place], cache: Path
) -> Iterator[tuple[Path, Sequence[Place]]]:
    """The batches of places of a source of street views, each with the file of its views."""
    stamp = dict(recipe.street_view[number])
    # a folder has its pictures whether or not there are roads
    if stamp["provider"] == "folder":
        yield cache / "views" / f"{number}-{digest(stamp)}.json", places
        return
    for start in range(0, len(places), PLACES_AT_ONCE):
        batch = places[start : start + PLACES_AT_ONCE]
        name = digest(stamp, [asdict(place) for place in batch])
        yield cache / "views" / f"{number}-{start // PLACES_AT_ONCE:06d}-{name}.json", batch


def forget_batches(cache: Path) -> None:
    """Let the places of all batches be asked for again."""
    for path in (cache / "views").glob("*.json"):
        if BATCH_NAME.fullmatch(path.name):
            path.unlink()


def read_views(file: Path) -> list[View]:
    """The views of a batch."""
    return [View(**values) for values in json.loads(file.read_text(encoding="utf-8"))]


def open_fetcher(settings: NetworkSettings, store: Store, limits: dict[str, Limit]) -> Fetcher:
    """A fetcher as polite as the recipe says; its limits win over the source's own."""
    return Fetcher(
        store,
        limits | dict(settings.limits),
        max_attempts=settings.max_attempts,
        timeout_s=settings.timeout_s,
        user_agent=settings.user_agent,
    )


async def fetch_satellite(
    recipe: CityRecipe, source: SatelliteSource, regions: gpd.GeoDataFrame, store: Store
) -> None:
    """Fetch what the pictures of all regions need and the store lacks."""
    keys = source.keys(regions)
    done = sum(store.settled(key) is not None for key in keys)
    with tqdm(total=len(keys), initial=done, desc=source.name, unit="item") as bar:
        async with open_fetcher(recipe.network, store, dict(source.limits)) as fetcher:
            async for _ in source.fetch(regions, fetcher, store):
                bar.update()
    store.mark_placeholders(f"{source.name}/", recipe.network.placeholders_above)


async def _fetch_views(
    recipe: CityRecipe,
    number: int,
    source: StreetViewSource,
    places: Sequence[Place],
    store: Store,
    cache: Path,
) -> None:
    batches = list(batch_files(recipe, number, places, cache))
    # what failed for the moment is asked for again
    again = any(one.status == "failed" for one in store.failures(f"{source.name}/"))
    is_folder = recipe.street_view[number]["provider"] == "folder"
    todo = [pair for pair in batches if again or is_folder or not pair[0].exists()]
    total, left = (sum(len(batch) for _, batch in some) for some in (batches, todo))
    with tqdm(total=total, initial=total - left, desc=source.name, unit="place") as bar:
        async with open_fetcher(recipe.network, store, dict(source.limits)) as fetcher:
            for file, batch in todo:
                found = [view async for view in source.views(batch, fetcher, store)]
                found.sort(key=lambda view: view.image_id)
                write_json(file, [asdict(view) for view in found])
                bar.update(len(batch))
    _mark_placeholders([file for file, _ in batches], store, recipe.network.placeholders_above)


def _mark_placeholders(files: Sequence[Path], store: Store, more_than: int) -> None:
    """Pictures that came for many places are a provider's way to say that there is none."""
    count: Counter[str] = Counter()
    seen: set[str] = set()
    for file in files:
        for view in read_views(file):
            fetched = store.get(view.key)
            if fetched is not None and fetched.sha256 is not None and view.key not in seen:
                seen.add(view.key)
                count[fetched.sha256] += fetched.status == "ok"
    often = {sha256 for sha256, number in count.items() if number > more_than}
    if often:
        keys = [key for key in seen if (one := store.get(key)) and one.sha256 in often]
        store.mark(sorted(keys), "placeholder", "the same picture as many others")


__all__ = [
    "batch_files",
    "fetch_all",
    "fetch_satellite",
    "forget_batches",
    "open_fetcher",
    "read_views",
]
