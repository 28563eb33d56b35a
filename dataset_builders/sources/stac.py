"""Satellite pictures from a STAC catalogue, such as Sentinel-2 or NAIP.

The catalogue is searched once for the window of time. Each region gets the least cloudy item that
covers it; where none covers it whole, the next ones fill the gaps. Of the item's cloud-optimised
GeoTIFFs only the parts are read that the region needs, and GDAL reads them through the network
room: at its pace, into its ledger, each part once. Addresses that are signed expire, so neither
they nor the answers of a search are stored.

https://github.com/radiantearth/stac-api-spec, https://www.cogeo.org
"""

import asyncio
import datetime as dt
import hashlib
import io
import json
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any
from urllib.parse import parse_qsl, urljoin, urlsplit

import geopandas as gpd
import numpy as np
import pyproj
import shapely
from numpy.typing import NDArray
from PIL import Image

from ..download import Fetched, Fetcher, Item, Limit, Status, Store, Verdict
from ..errors import SourceError
from ..files import digest
from ..images import encode_image
from ..rasters import import_rasterio
from .satellite import OVERSAMPLING, PICTURE_PX, Picture, corners_of, square_of
from .street_view import read_json

PART_BYTES = 2**19
"""Files are read in parts of this size: a block of a Sentinel-2 band takes two or three."""
SEARCH_LIMIT = 100
MAX_PAGES = 1000
ITEMS_PER_REGION = 6
"""So many items at most make a picture; what they leave open is missing."""
REGIONS_AT_ONCE = 8
SIGNED_FOR_S = 600.0
"""A signature is used for so long; providers give an hour or more."""
BENT_PX = 0.25
"""A region that an item's plane bends by more has no picture."""
GDAL_OPTIONS = {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR"}


@dataclass(frozen=True)
class StacSource:
    """A collection of a STAC catalogue.

    Attributes:
        name: in the ledger and in the column `source`.
        url: of the catalogue's API; `/search` is asked.
        collection: its id, such as "sentinel-2-l2a" or "naip".
        datetime: first and last day, "2024-05-01/2024-09-30"; closed, so that the same items are
            found again.
        stretch: values that become black and white; what lies between is linear. Sentinel-2
            reflectances times 10,000 show a city well from 0 to 3,000; 8-bit pictures take
            [0, 255].
        assets: of red, green and blue; or one asset, whose first three bands these are.
        max_cloud: per cent of an item; items that say nothing of clouds are taken as cloudless.
        min_valid: share of a picture that must show something; the rest is black.
        sign_url: address that signs those of the assets (`?href=...`), as the Planetary Computer
            asks for.
        licence: of the pictures, as stored with each.
        attribution: that the provider asks for.
        redistributable: the pictures may be published; if not, only ids are.
        limit: requests that each host is asked to bear.
        price_per_1000: requests, in the currency of the recipe.
    """

    name: str
    url: str
    collection: str
    datetime: str
    stretch: tuple[float, float]
    assets: tuple[str, ...] = ("red", "green", "blue")
    max_cloud: float = 20.0
    min_valid: float = 1.0
    sign_url: str | None = None
    licence: str = "unknown"
    attribution: str = ""
    redistributable: bool = False
    limit: Limit = field(default_factory=Limit)
    price_per_1000: float = 0.0

    def __post_init__(self) -> None:
        if len(self.assets) not in (1, 3):
            raise SourceError(
                f"{self.name!r} takes three assets (red, green, blue) or one with three bands, "
                f"got {len(self.assets)}: {', '.join(self.assets)}."
            )
        low, high = self.stretch
        if not low < high:
            raise SourceError(f"The stretch of {self.name!r} goes upwards, got {self.stretch}.")
        if not 0 < self.min_valid <= 1:
            raise SourceError(f"`min_valid` lies in (0, 1], got {self.min_valid}.")
        for url in filter(None, (self.url, self.sign_url)):
            if urlsplit(url).scheme not in ("http", "https"):
                raise SourceError(f"The url of {self.name!r} starts with https://, got {url!r}.")
        first, last = _window(self.name, self.datetime)
        if first > last:
            raise SourceError(f"The window of {self.name!r} ends before it starts.")

    @property
    def limits(self) -> dict[str, Limit]:
        """By host, of the catalogue; those of the assets have the default limit."""
        urls = filter(None, (self.url, self.sign_url))
        return {urlsplit(url).hostname or "": self.limit for url in urls}

    @property
    def requests_per_item(self) -> float:
        """At most: the head of each file and a block of it; neighbours share both."""
        return 2.0 * len(self.assets)

    @property
    def kilobytes_per_request(self) -> float:
        """Of a part of a file."""
        return PART_BYTES / 1000

    @property
    def makeup(self) -> str:
        """How the pictures are made, for the card."""
        low, high = self.stretch
        return (
            f"the least cloudy items of {self.collection}, {self.datetime}, at most "
            f"{self.max_cloud:g} % cloud; {' + '.join(self.assets)}, {low:g} to {high:g} stretched "
            "to 0 to 255"
        )

    def keys(self, regions: gpd.GeoDataFrame) -> list[str]:
        """The pictures of all regions, by their keys in the ledger."""
        return [
            self._key(one) for one in regions.itertuples(index=False) if square_of(one.geometry)
        ]

    async def fetch(
        self, regions: gpd.GeoDataFrame, fetcher: Fetcher, store: Store
    ) -> AsyncIterator[Fetched]:
        """Make the pictures that the store lacks, of what the catalogue has.

        Raises:
            StoppedError: quota used up or key refused.
            SourceError: nothing in the window, or no item has the assets.
        """
        todo = [
            region
            for region in regions.itertuples(index=False)
            if square_of(region.geometry) and store.settled(self._key(region)) is None
        ]
        if not todo:
            return
        import_rasterio()
        bounds = shapely.total_bounds(np.array([region.geometry for region in todo]))
        scenes = self._usable(await self._search(bounds, fetcher))
        files = _Files(self, fetcher, store)
        with ThreadPoolExecutor(REGIONS_AT_ONCE) as threads:
            for start in range(0, len(todo), REGIONS_AT_ONCE):
                batch = todo[start : start + REGIONS_AT_ONCE]
                jobs = [
                    asyncio.ensure_future(self._make(region, scenes, files, threads))
                    for region in batch
                ]
                try:
                    made = await asyncio.gather(*jobs)
                except BaseException:
                    # threads that wait for the loop must end before the loop waits for them
                    files.stop()
                    await asyncio.gather(*jobs, return_exceptions=True)
                    raise
                for found in made:
                    yield found

    def pictures(self, regions: gpd.GeoDataFrame, store: Store) -> Iterator[Picture]:
        """What is known of each region's picture, in the order of the regions."""
        for region in regions.itertuples(index=False):
            image_id = f"{self.name}/{region.region_id}"
            known = store.get(self._key(region))
            if not square_of(region.geometry):
                detail = "a picture is laid on a region with four corners"
                yield Picture(region, image_id, "", "no_square", detail)
            elif known is None or known.status != "ok":
                reason, detail = (
                    ("not_fetched", "") if known is None else (known.status, known.detail)
                )
                yield Picture(region, image_id, "", reason, detail)
            else:
                captured_at = json.loads(known.detail)["captured_at"]
                identity = str(known.sha256)
                yield Picture(
                    region,
                    image_id,
                    identity,
                    detail=known.detail,
                    fetched_at=known.fetched_at,
                    captured_at=captured_at,
                )

    def read(self, picture: Picture, store: Store) -> bytes | None:
        """The picture; None if it is not there."""
        return store.read(self._key(picture.region))

    def _key(self, region: Any) -> str:
        """Of a region's picture: another recipe, or another outline, is another picture."""
        looks = {
            name: value
            for name, value in asdict(self).items()
            if name in ("collection", "datetime", "stretch", "assets", "max_cloud", "min_valid")
        }
        stamp = digest(looks, shapely.to_wkb(region.geometry))
        return f"{self.name}/{region.region_id}/{stamp}"

    async def _search(self, bounds: Sequence[float], fetcher: Fetcher) -> list["_Scene"]:
        west, south, east, north = bounds
        if west >= 180 or east > 180:  # the catalogue takes a box across the antimeridian this way
            west, east = _wrapped(west), _wrapped(east)
        url: str | None = self.url.rstrip("/") + "/search"
        params = {
            "collections": self.collection,
            "bbox": f"{west:.6f},{south:.6f},{east:.6f},{north:.6f}",
            "datetime": "/".join(one.strftime("%Y-%m-%dT%H:%M:%SZ") for one in self._span),
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
                    f"{answered.detail}. Is that the address of a STAC API?"
                )
            answer = json.loads(content)
            for feature in answer["features"]:
                scene = _scene(feature, urljoin(self.url, url))
                found[scene.name] = scene
            url, params = _next(answer, url)
        return list(found.values())

    @property
    def _span(self) -> tuple[dt.datetime, dt.datetime]:
        return _window(self.name, self.datetime)

    def _usable(self, scenes: Sequence["_Scene"]) -> list["_Scene"]:
        """Those with the assets and few clouds, the best first."""
        if not scenes:
            raise SourceError(
                f"The catalogue has no item of {self.collection!r} for {self.datetime} here "
                f"({self.url}). Widen `datetime`, or check `collection`."
            )
        having = [one for one in scenes if set(self.assets) <= one.hrefs.keys()]
        if not having:
            known = sorted({name for one in scenes for name in one.hrefs})
            raise SourceError(
                f"No item of {self.collection!r} has the assets {', '.join(self.assets)}; they "
                f"have {', '.join(known)}."
            )
        clear = [one for one in having if one.cloud <= self.max_cloud]
        return sorted(clear, key=lambda one: (one.cloud, _backwards(one.taken_at), one.name))

    async def _make(
        self, region: Any, scenes: Sequence["_Scene"], files: "_Files", threads: ThreadPoolExecutor
    ) -> Fetched:
        loop = asyncio.get_running_loop()
        key = self._key(region)
        fetched, content = await loop.run_in_executor(
            threads, self._picture, key, region.geometry, scenes, files
        )
        files.store.put(fetched, content)
        return fetched

    def _picture(
        self, key: str, square: shapely.Polygon, scenes: Sequence["_Scene"], files: "_Files"
    ) -> tuple[Fetched, bytes | None]:
        """Lay the items over one another, the best on top, until nothing is open."""
        size = PICTURE_PX * OVERSAMPLING
        canvas = np.zeros((3, size, size), dtype=np.float64)
        open_ = np.ones((size, size), dtype=bool)
        used: list[_Scene] = []
        problems: list[tuple[Status, str]] = []
        for scene in _candidates(scenes, square)[:ITEMS_PER_REGION]:
            try:
                values, there = self._read(scene, square, size, files)
            except _NoPartError as error:
                problems.append((error.fetched.status, f"{scene.name}: {error.fetched.detail}"))
                continue
            new = open_ & there
            if new.any():
                used.append(scene)
                canvas[:, new] = values[:, new]
                open_ &= ~there
            if not open_.any():
                break
        return self._judged(key, canvas, 1 - open_.mean(), used, problems)

    def _judged(
        self,
        key: str,
        canvas: NDArray[np.float64],
        valid: float,
        used: Sequence["_Scene"],
        problems: Sequence[tuple[Status, str]],
    ) -> tuple[Fetched, bytes | None]:
        if valid < self.min_valid:
            # what failed for the moment may be there the next time
            states = [status for status, _ in problems]
            status: Status = "failed" if "failed" in states else "missing"
            said = "; ".join(text for _, text in problems)
            detail = f"{1 - valid:.0%} of the picture without data" if used else "no item here"
            detail = "; ".join(filter(None, (detail, said)))
            return Fetched(key, status, detail=detail, fetched_at=time.time()), None
        low, high = self.stretch
        pixels = np.clip((canvas - low) / (high - low), 0, 1) * 255
        image = Image.fromarray(pixels.round().astype(np.uint8).transpose(1, 2, 0))
        content = encode_image(image.reduce(OVERSAMPLING), "JPEG", 90)
        detail = json.dumps(
            {"items": [one.name for one in used], "captured_at": used[0].taken_at or None}
        )
        sha256 = hashlib.sha256(content).hexdigest()
        return Fetched(key, "ok", 200, sha256, len(content), detail, time.time()), content

    def _read(
        self, scene: "_Scene", square: shapely.Polygon, size: int, files: "_Files"
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Red, green and blue over the square, `(3, size, size)`, and where there are any."""
        bands = []
        there = np.ones((size, size), dtype=bool)
        for name in self.assets:
            count = 3 if len(self.assets) == 1 else 1
            layer = _warped(files, scene, name, square, size, count)
            there &= ~np.ma.getmaskarray(layer).any(axis=0)
            bands.append(layer.filled(0).astype(np.float64))
        return np.concatenate(bands), there


@dataclass(frozen=True)
class _Scene:
    """An item of a catalogue, as far as it is needed."""

    name: str
    footprint: shapely.Geometry
    cloud: float
    taken_at: str
    hrefs: Mapping[str, str] = field(repr=False)


class _NoPartError(Exception):
    """A part of a file could not be had."""

    def __init__(self, fetched: Fetched):
        super().__init__(fetched.detail)
        self.fetched = fetched


class _Files:
    """Files of a catalogue's assets, read part by part through the network room.

    GDAL reads in threads; what it asks for is fetched by the event loop that it was made in.
    """

    def __init__(self, source: StacSource, fetcher: Fetcher, store: Store):
        self.store = store
        self._source, self._fetcher = source, fetcher
        self._loop = asyncio.get_running_loop()
        self._running: dict[str, asyncio.Task[Fetched]] = {}
        self._signed: dict[str, tuple[float, str]] = {}
        self._stopped = False

    def stop(self) -> None:
        """Call off what is still asked for, and whatever would be."""
        self._stopped = True
        for task in self._running.values():
            task.cancel()

    def part(self, scene: _Scene, asset: str, number: int) -> tuple[bytes, int]:
        """A part of a file, and the size of the whole; to be called from a thread.

        Raises:
            _NoPartError: it could not be had.
            StoppedError: quota used up or key refused.
        """
        waiting = asyncio.run_coroutine_threadsafe(self._part(scene, asset, number), self._loop)
        fetched = waiting.result()
        if fetched.status != "ok" or fetched.sha256 is None:
            raise _NoPartError(fetched)
        return self.store.content(fetched.sha256), _size_of(fetched)

    async def _part(self, scene: _Scene, asset: str, number: int) -> Fetched:
        if self._stopped:
            raise asyncio.CancelledError
        key = f"{self._source.name}/{scene.name}/{asset}/{number}"
        if (known := self.store.settled(key)) is not None:
            return known
        if key not in self._running:  # neighbours may ask for the same at the same time
            self._running[key] = asyncio.create_task(self._fetch(key, scene.hrefs[asset], number))
            self._running[key].add_done_callback(lambda _: self._running.pop(key))
        return await asyncio.shield(self._running[key])

    async def _fetch(self, key: str, href: str, number: int) -> Fetched:
        address = urlsplit(await self._address(href))
        start = number * PART_BYTES
        item = Item(
            key,
            address._replace(query="").geturl(),
            dict(parse_qsl(address.query, keep_blank_values=True)),  # holds the signature
            {"Range": f"bytes={start}-{start + PART_BYTES - 1}"},
        )
        return await self._fetcher.fetch(item, check_part)

    async def _address(self, href: str) -> str:
        """The address of an asset, signed if the provider wants it so."""
        sign_url = self._source.sign_url
        if sign_url is None:
            return href
        until, signed = self._signed.get(href, (0.0, ""))
        if time.monotonic() < until:
            return signed
        item = Item(f"{self._source.name}/signature", sign_url, {"href": href})
        answered, content = await self._fetcher.ask(item, check_signature)
        if answered.status != "ok":
            raise _NoPartError(answered)
        signed = str(json.loads(content)["href"])
        self._signed[href] = (time.monotonic() + SIGNED_FOR_S, signed)
        return signed


class _PartFile(io.RawIOBase):
    """A file as GDAL reads it, of which parts are fetched as they are needed."""

    def __init__(self, files: _Files, scene: _Scene, asset: str):
        super().__init__()
        self._files, self._scene, self._asset = files, scene, asset
        self._position = 0
        self._size: int | None = None
        self.error: Exception | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_END and self._size is None:
            self._part(0)
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size or 0}[whence]
        self._position = base + offset
        return self._position

    def read(self, size: int = -1) -> bytes:
        start = self._position
        stop = start + size
        content = b""
        if self._size is None:
            self._part(0)
        end = self._size or 0
        stop = end if size < 0 else min(stop, end)
        for number in range(start // PART_BYTES, -(-stop // PART_BYTES) if stop > start else 0):
            content += self._part(number)
        offset = start - start // PART_BYTES * PART_BYTES
        content = content[offset : offset + max(0, stop - start)]
        self._position = start + len(content)
        return content

    def _part(self, number: int) -> bytes:
        # what is raised here would end in GDAL: it is kept, to be raised again, and the file ends
        if self.error is not None:
            return b""
        try:
            content, self._size = self._files.part(self._scene, self._asset, number)
        except Exception as error:
            self.error = error
            return b""
        return content


def check_search(content: bytes, media_type: str) -> Verdict:
    """A page of items."""
    answer = read_json(content)
    if not isinstance(answer, dict) or not isinstance(answer.get("features"), list):
        return Verdict("invalid", f"{media_type or 'an answer'} that is no list of STAC items")
    return Verdict("ok")


def check_signature(content: bytes, media_type: str) -> Verdict:
    """An address that was signed."""
    answer = read_json(content)
    if not isinstance(answer, dict) or not isinstance(answer.get("href"), str):
        return Verdict("invalid", f"{media_type or 'an answer'} without an address")
    return Verdict("ok")


def check_part(content: bytes, media_type: str) -> Verdict:
    """A part of a file, not the whole of a larger one."""
    if len(content) > PART_BYTES:
        return Verdict(
            "invalid", f"the server sends whole files ({len(content):,} bytes), no parts"
        )
    if media_type.startswith(("text/", "application/json", "application/xml")):
        return Verdict("invalid", f"{media_type} in place of a GeoTIFF")
    return Verdict("ok")


def _size_of(part: Fetched) -> int:
    """Of the file that a part is of: "bytes 0-99/1234" says it, and a whole file is its own."""
    _, _, total = part.detail.rpartition("/")
    return int(total) if total.isdigit() else part.size


def _warped(
    files: _Files, scene: _Scene, asset: str, square: shapely.Polygon, size: int, count: int
) -> Any:
    """The first bands of an asset over a square, north of the square's own grid up; masked."""
    rasterio = import_rasterio()
    from rasterio.enums import ColorInterp, Resampling
    from rasterio.errors import RasterioError
    from rasterio.vrt import WarpedVRT

    name = f"{scene.name}-{asset}.tif".replace("/", "_")
    file = _PartFile(files, scene, asset)

    def opener(path: str, mode: str = "rb") -> _PartFile:
        if not path.endswith(name) or mode.strip("b") != "r":
            raise FileNotFoundError(path)
        file._position = 0
        return file

    try:
        with rasterio.Env(**GDAL_OPTIONS), rasterio.open(name, opener=opener) as dataset:
            if dataset.crs is None or dataset.count < count:
                detail = "no CRS" if dataset.crs is None else f"{dataset.count} bands, not {count}"
                raise _NoPartError(Fetched("", "invalid", detail=f"asset {asset}: {detail}"))
            transform = _laid(square, dataset.crs, size)
            gaps = dataset.nodata is None and ColorInterp.alpha not in dataset.colorinterp
            with WarpedVRT(
                dataset,
                crs=dataset.crs,
                transform=transform,
                width=size,
                height=size,
                resampling=Resampling.bilinear,
                add_alpha=gaps,
            ) as laid:
                layer = laid.read(list(range(1, count + 1)), masked=True)
    except (RasterioError, OSError) as error:
        if file.error is not None:
            raise file.error from None
        detail = f"asset {asset} is no GeoTIFF that can be read"
        raise _NoPartError(Fetched("", "invalid", detail=detail)) from error
    if file.error is not None:  # GDAL may make do with less
        raise file.error
    return layer


def _laid(square: shapely.Polygon, crs: Any, size: int) -> Any:
    """The affine map from a picture's pixels to a plane that best meets the square's corners."""
    from affine import Affine

    plane = pyproj.CRS.from_user_input(crs.to_wkt())
    to_plane = pyproj.Transformer.from_crs("EPSG:4326", plane, always_xy=True)
    xy = np.column_stack(to_plane.transform(*corners_of(square).T))
    pixels = np.array([(0, size), (size, size), (size, 0), (0, 0)], dtype=float)
    design = np.column_stack([pixels, np.ones(4)])
    solution, *_ = np.linalg.lstsq(design, xy, rcond=None)
    off = np.abs(design @ solution - xy).max()
    pixel = np.sqrt(abs(np.linalg.det(solution[:2]))) * OVERSAMPLING
    if not off <= BENT_PX * pixel:
        detail = f"the region is bent by {off / pixel:.1f} pixels on the plane of the items"
        raise _NoPartError(Fetched("", "invalid", detail=detail))
    (a, d), (b, e), (c, f) = solution
    return Affine(a, b, c, d, e, f)


def _candidates(scenes: Sequence[_Scene], square: shapely.Polygon) -> list[_Scene]:
    """Scenes over a square, those that cover it whole first."""
    whole: list[_Scene] = []
    parts: list[_Scene] = []
    # catalogues count longitudes to 180, and a city across the antimeridian beyond
    turned = [shapely.transform(square, partial(np.add, (turn, 0.0))) for turn in (0, -360, 360)]
    for scene in scenes:
        for here in turned:
            if shapely.intersects(scene.footprint, here):
                (whole if shapely.covers(scene.footprint, here) else parts).append(scene)
                break
    return [*whole, *parts]


def _scene(feature: Mapping[str, Any], base: str) -> _Scene:
    properties = feature.get("properties") or {}
    cloud = properties.get("eo:cloud_cover")
    taken_at = properties.get("datetime") or properties.get("start_datetime") or ""
    assets = feature.get("assets") or {}
    geometry = feature.get("geometry")
    return _Scene(
        str(feature["id"]),
        shapely.make_valid(shapely.from_geojson(json.dumps(geometry)))
        if geometry
        else shapely.box(*feature["bbox"]),
        0.0 if cloud is None else float(cloud),
        str(taken_at),
        {
            name: urljoin(base, str(one["href"]))
            for name, one in assets.items()
            if isinstance(one, Mapping) and "href" in one
        },
    )


def _next(answer: Mapping[str, Any], url: str) -> tuple[str | None, dict[str, str]]:
    """Address and query of the next page, if there is one."""
    for link in answer.get("links") or []:
        if link.get("rel") == "next" and link.get("method", "GET").upper() == "GET":
            address = urlsplit(urljoin(url, str(link["href"])))
            query = dict(parse_qsl(address.query, keep_blank_values=True))
            return address._replace(query="").geturl(), query
    return None, {}


def _window(name: str, text: str) -> tuple[dt.datetime, dt.datetime]:
    """First and last moment of a window of time."""
    first, slash, last = text.partition("/")
    try:
        start, end = (dt.datetime.fromisoformat(one) for one in (first, last))
    except ValueError:
        slash = ""
    if not slash:
        raise SourceError(
            f"`datetime` of {name!r} is a first and a last day, such as 2024-05-01/2024-09-30; "
            f"got {text!r}."
        )
    if len(last) == len("2024-09-30"):
        end += dt.timedelta(days=1, seconds=-1)
    return (
        start if start.tzinfo else start.replace(tzinfo=dt.UTC),
        end if end.tzinfo else end.replace(tzinfo=dt.UTC),
    )


def _backwards(moment: str) -> tuple[int, ...]:
    """Sorts later moments first."""
    return tuple(-ord(letter) for letter in moment)


def _wrapped(lon: float) -> float:
    return (lon + 180) % 360 - 180


__all__ = ["StacSource", "check_part", "check_search", "check_signature"]
