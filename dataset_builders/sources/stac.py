"""Satellite images from a STAC catalogue, such as Sentinel-2 or NAIP.

The catalogue is searched once for a time window. Each region gets the least cloudy item that
covers it; if none covers it completely, further items fill the gaps. GDAL reads only the required
windows of the cloud-optimised GeoTIFFs, and the resulting image is recorded in the ledger.

rio-tiler is not used because it reads axis-aligned boxes, and regions may be rotated.

https://github.com/radiantearth/stac-api-spec, https://www.cogeo.org
"""

import asyncio
import datetime as dt
import hashlib
import json
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal
from urllib.parse import parse_qsl, urljoin, urlsplit

import geopandas as gpd
import numpy as np
import shapely
from PIL import Image

from ..download import Fetched, Fetcher, Item, Limit, StoppedError, Store, Verdict
from ..errors import SourceError
from ..files import digest
from ..images import encode_image
from ..ledger import Status
from ..rasters import import_rasterio
from .geotiff import SIZE_PX, UnreadableError, warped
from .satellite import NO_SQUARE, OVERSAMPLING, Picture, are_squares
from .street_view import read_json

SEARCH_LIMIT = 100
MAX_PAGES = 1000
ITEMS_PER_REGION = 6
"""Maximum number of items per image; remaining gaps are missing."""
LOOKS = ("collection", "datetime", "stretch", "assets", "max_cloud", "min_valid")
"""Fields on which the images depend."""


@dataclass(frozen=True)
class StacSource:
    """Collection of a STAC catalogue.

    Further fields are those of [`SatelliteSource`].

    Attributes:
        url: URL of the catalogue's API; searches use `<url>/search`.
        collection: Collection ID, such as "sentinel-2-l2a" or "naip".
        datetime: First and last day, "2024-05-01/2024-09-30"; a closed interval, so that searches
            are reproducible.
        stretch: Values mapped linearly to black and white. [0, 3000] suits cities in Sentinel-2
            reflectances times 10,000; use [0, 255] for 8-bit images.
        assets: Assets of the red, green and blue bands, or one asset whose first three bands are
            red, green and blue.
        max_cloud: Maximum cloud cover of an item in per cent; a missing value counts as 0.
        min_valid: Minimum share of an image with data; the rest is black.
        limit: Rate limit of searches, and number of regions read concurrently.
    """

    name: str
    url: str
    collection: str
    datetime: str
    stretch: tuple[float, float]
    provider: Literal["stac"] = "stac"
    assets: tuple[str, ...] = ("red", "green", "blue")
    max_cloud: float = 20.0
    min_valid: float = 1.0
    licence: str = "unknown"
    attribution: str = ""
    redistributable: bool = False
    limit: Limit = field(default_factory=Limit)
    price_per_1000: float = 0.0

    kilobytes_per_request = 500.0

    def __post_init__(self) -> None:
        if len(self.assets) not in (1, 3):
            raise SourceError(f"`assets` takes one or three assets, got {self.assets}.")
        if not self.stretch[0] < self.stretch[1]:
            raise SourceError(f"`stretch` must increase, got {self.stretch}.")
        if not 0 < self.min_valid <= 1:
            raise SourceError(f"`min_valid` must be in (0, 1], got {self.min_valid}.")
        if not _is_web(self.url):
            raise SourceError(f"`url` must use https://, got {self.url!r}.")
        first, last = self._window()
        if first > last:
            raise SourceError(f"`datetime` ends before it starts, got {self.datetime!r}.")

    @property
    def limits(self) -> Mapping[str, Limit]:
        """Request limits of the catalogue's host."""
        return {urlsplit(self.url).hostname or "": self.limit}

    @property
    def requests_per_item(self) -> float:
        """Upper bound: the header and one block of each file."""
        return 2.0 * len(self.assets)

    @property
    def makeup(self) -> str:
        """Processing of the images, for the card."""
        low, high = self.stretch
        return (
            f"the least cloudy items of {self.collection}, {self.datetime}, at most "
            f"{self.max_cloud:g} % cloud; {' + '.join(self.assets)}, {low:g} to {high:g} stretched "
            "to 0 to 255"
        )

    def keys(self, regions: gpd.GeoDataFrame) -> list[str]:
        """See [`SatelliteSource`]; one key per region."""
        return [*self._squares(regions)]

    def _squares(self, regions: gpd.GeoDataFrame) -> dict[str, Any]:
        """Rows of the regions with four corners, by ledger key."""
        laid = regions[are_squares(regions.geometry.to_numpy())]
        return {self._key(one): one for one in laid.itertuples(index=False)}

    async def fetch(
        self, regions: gpd.GeoDataFrame, fetcher: Fetcher, store: Store
    ) -> AsyncIterator[Fetched]:
        """Compose the images that the store lacks.

        Raises:
            StoppedError: The quota is exhausted or the key was rejected.
            SourceError: No item lies in the time window, or none has the assets.
        """
        squares = self._squares(regions)
        rows = [squares[key] for key in store.unsettled([*squares])]
        if not rows:
            return
        import_rasterio()
        bounds = shapely.total_bounds(np.array([row.geometry for row in rows]))
        scenes = self._usable(await self._search(bounds, fetcher))
        loop, at_once = asyncio.get_running_loop(), self.limit.at_once
        with ThreadPoolExecutor(at_once) as threads:
            for start in range(0, len(rows), at_once):
                jobs = [
                    loop.run_in_executor(threads, self._make, one, scenes, store)
                    for one in rows[start : start + at_once]
                ]
                for made in await asyncio.gather(*jobs):
                    yield made

    def pictures(self, regions: gpd.GeoDataFrame, store: Store) -> Iterator[Picture]:
        """See [`SatelliteSource`]."""
        is_square = are_squares(regions.geometry.to_numpy())
        for region, laid in zip(regions.itertuples(index=False), is_square, strict=True):
            image_id, known = f"{self.name}/{region.region_id}", store.get(self._key(region))
            if not laid:
                yield Picture(region, image_id, "", *NO_SQUARE)
            elif known is None:
                yield Picture(region, image_id, "", "not_fetched")
            elif known.status != "ok":
                yield Picture(region, image_id, "", known.status, known.detail)
            else:
                taken = json.loads(known.detail)["captured_at"]
                found = (str(known.sha256), "", known.detail, known.fetched_at, taken)
                yield Picture(region, image_id, *found)

    def read(self, picture: Picture, store: Store) -> bytes | None:
        """See [`SatelliteSource`]."""
        return store.read(self._key(picture.region))

    def _key(self, region: Any) -> str:
        """Ledger key of a region's image, which depends on the settings and the geometry."""
        looks = {name: getattr(self, name) for name in LOOKS}
        stamp = digest(looks, shapely.to_wkb(region.geometry))
        return f"{self.name}/{region.region_id}/{stamp}"

    def _window(self) -> tuple[dt.datetime, dt.datetime]:
        first, _, last = self.datetime.partition("/")
        try:
            start, end = (dt.datetime.fromisoformat(one) for one in (first, last))
        except ValueError as error:
            raise SourceError(
                "`datetime` must be a first and a last day, such as 2024-05-01/2024-09-30; got "
                f"{self.datetime!r}."
            ) from error
        if len(last) == len("2024-09-30"):
            end += dt.timedelta(days=1, seconds=-1)
        return start.replace(tzinfo=start.tzinfo or dt.UTC), end.replace(
            tzinfo=end.tzinfo or dt.UTC
        )

    async def _search(self, bounds: Sequence[float], fetcher: Fetcher) -> list["_Scene"]:
        """All items within bounds in degrees."""
        west, south, east, north = bounds
        if west >= 180 or east > 180:  # boxes across the antimeridian have west > east
            west, east = ((lon + 180) % 360 - 180 for lon in (west, east))
        url: str | None = self.url.rstrip("/") + "/search"
        params = {
            "collections": self.collection,
            "bbox": f"{west:.6f},{south:.6f},{east:.6f},{north:.6f}",
            "datetime": "/".join(one.strftime("%Y-%m-%dT%H:%M:%SZ") for one in self._window()),
            "limit": str(SEARCH_LIMIT),
        }
        found: dict[str, _Scene] = {}
        for page in range(MAX_PAGES):
            if url is None:
                break
            item = Item(f"{self.name}/search page {page + 1}", url, params)
            answered, content = await fetcher.ask(item, check_search)
            if answered.status != "ok":
                raise SourceError(
                    f"{self.name!r} could not be searched ({self.url}): {answered.status}, "
                    f"{answered.detail}. Is this the URL of a STAC API?"
                )
            answer = read_json(content)
            found |= {scene.name: scene for scene in _scenes(answer, urljoin(self.url, url))}
            url, params = _next(answer, url)
        return list(found.values())

    def _usable(self, scenes: Sequence["_Scene"]) -> list["_Scene"]:
        """Items with the required assets and cloud cover, sorted by cloud cover, newest first."""
        where = f"of {self.collection!r}"
        if not scenes:
            raise SourceError(
                f"The catalogue {self.url} has no item {where} for {self.datetime} in this area. "
                "Widen `datetime`, or check `collection`."
            )
        having = [one for one in scenes if set(self.assets) <= one.hrefs.keys()]
        if not having:
            known = sorted({name for one in scenes for name in one.hrefs})
            raise SourceError(
                f"No item {where} has the assets {', '.join(self.assets)}; they have "
                f"{', '.join(known)}."
            )
        usable = [one for one in having if all(_is_web(one.hrefs[name]) for name in self.assets)]
        if not usable:
            example = having[0].hrefs[self.assets[0]].partition("?")[0]
            raise SourceError(
                f"The assets {', '.join(self.assets)} {where} have URLs such as {example}, "
                "which cannot be read over https://. Use other `assets` or another catalogue."
            )
        clear = [one for one in usable if one.cloud <= self.max_cloud]
        clear.sort(key=lambda one: one.name)
        clear.sort(key=lambda one: one.taken_at, reverse=True)
        return sorted(clear, key=lambda one: one.cloud)

    def _make(self, region: Any, scenes: Sequence["_Scene"], store: Store) -> Fetched:
        """Compose the image of a region from the best items until no gaps remain; store it."""
        square = region.geometry
        canvas = np.zeros((3, SIZE_PX, SIZE_PX), dtype=np.float64)
        is_open = np.ones((SIZE_PX, SIZE_PX), dtype=bool)
        used: list[_Scene] = []
        problems: list[UnreadableError] = []
        for scene in _candidates(scenes, square)[:ITEMS_PER_REGION]:
            try:
                values = self._bands(scene, square)
            except UnreadableError as error:
                problems.append(UnreadableError(error.status, f"{scene.name}: {error}"))
                continue
            new = is_open & ~np.ma.getmaskarray(values).any(axis=0)
            if new.any():
                used.append(scene)
                canvas[:, new] = values.data[:, new]
                is_open &= ~new
            if not is_open.any():
                break
        gap = float(is_open.mean())
        key, now = self._key(region), time.time()
        if 1 - gap < self.min_valid:
            # temporary failures are retried by the next run
            is_final = all(one.status != "failed" for one in problems)
            detail = f"{gap:.0%} of the image has no data" if used else "no item covers the region"
            detail = "; ".join([detail, *map(str, problems)])
            status: Status = "missing" if is_final else "failed"
            fetched, content = Fetched(key, status, detail=detail, fetched_at=now), None
        else:
            low, high = self.stretch
            pixels = np.clip((canvas - low) / (high - low), 0, 1) * 255
            image = Image.fromarray(pixels.round().astype(np.uint8).transpose(1, 2, 0))
            content = encode_image(image.reduce(OVERSAMPLING), "JPEG", 90)
            names = [one.name for one in used]
            detail = json.dumps({"items": names, "captured_at": used[0].taken_at or None})
            sha256 = hashlib.sha256(content).hexdigest()
            fetched = Fetched(key, "ok", 200, sha256, len(content), detail, now)
        store.put(fetched, content)
        return fetched

    def _bands(self, scene: "_Scene", square: shapely.Polygon) -> Any:
        """Red, green and blue bands over the square: masked array `(3, SIZE_PX, SIZE_PX)`.

        Raises:
            UnreadableError: A file is unreadable.
            StoppedError: The server denied access.
        """
        count, layers = (3 if len(self.assets) == 1 else 1), []
        for name in self.assets:
            try:
                layers.append(warped(scene.hrefs[name], square, count))
            except UnreadableError as error:
                detail = f"asset {name}: {error}"
                if error.status == "denied":
                    where = f"{self.name}/{scene.name}/{name}"
                    raise StoppedError(Fetched(where, "denied", 403, detail=detail)) from error
                raise UnreadableError(error.status, detail) from error
        return np.ma.concatenate(layers).astype(np.float64)


@dataclass(frozen=True)
class _Scene:
    """Required fields of a STAC item."""

    name: str
    footprint: shapely.Geometry
    cloud: float
    taken_at: str
    hrefs: Mapping[str, str] = field(repr=False)


def check_search(content: bytes, media_type: str) -> Verdict:
    """Check for a page of STAC items."""
    try:
        answer = read_json(content)
        list(_scenes(answer, "https://catalogue/"))
        _next(answer, "https://catalogue/search")
    except Exception:  # any deviation from the specification
        return Verdict("invalid", f"{media_type or 'response'}, not a list of STAC items")
    return Verdict("ok")


def _candidates(scenes: Sequence[_Scene], square: shapely.Polygon) -> list[_Scene]:
    """Scenes that intersect a square, those that cover it completely first."""
    # cities across the antimeridian have longitudes beyond 180, footprints do not
    turned = [shapely.transform(square, partial(np.add, (turn, 0.0))) for turn in (0, -360, 360)]
    whole: list[_Scene] = []
    parts: list[_Scene] = []
    for scene in scenes:
        here = next((one for one in turned if shapely.intersects(scene.footprint, one)), None)
        if here is not None:
            (whole if shapely.covers(scene.footprint, here) else parts).append(scene)
    return [*whole, *parts]


def _scenes(answer: Any, base: str) -> Iterator[_Scene]:
    """Items of a page, with URLs resolved relative to `base`."""
    for feature in answer["features"]:
        properties, geometry = feature.get("properties") or {}, feature.get("geometry")
        taken_at = properties.get("datetime") or properties.get("start_datetime") or ""
        footprint = (
            shapely.make_valid(shapely.from_geojson(json.dumps(geometry)))
            if geometry
            else shapely.box(*feature["bbox"])
        )
        assets = (feature.get("assets") or {}).items()
        hrefs = {name: urljoin(base, str(one["href"])) for name, one in assets if "href" in one}
        cloud = float(properties.get("eo:cloud_cover") or 0.0)
        yield _Scene(str(feature["id"]), footprint, cloud, str(taken_at), hrefs)


def _next(answer: Mapping[str, Any], url: str) -> tuple[str | None, dict[str, str]]:
    for link in answer.get("links") or []:
        if link.get("rel") == "next" and link.get("method", "GET").upper() == "GET":
            address = urlsplit(urljoin(url, str(link["href"])))
            query = dict(parse_qsl(address.query, keep_blank_values=True))
            return address._replace(query="").geturl(), query
    return None, {}


def _is_web(url: str) -> bool:
    return urlsplit(url).scheme in ("http", "https")


__all__ = ["StacSource", "check_search"]
