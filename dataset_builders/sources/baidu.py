"""Baidu panorama static image API v2.

https://lbsyun.baidu.com/index.php?title=viewstatic. Images have at most 1024 x 512 pixels,
coordinates are BD-09 unless `coordtype` is given, errors are JSON with HTTP 200, and the service
requires a paid permission.
"""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ..download import Fetcher, Item, Limit, Store, Verdict, check_image
from ..errors import SourceError
from ..trust import secret_from
from .street_view import Place, View, images, number, read_json

HOST = "https://api.map.baidu.com"
MAX_WIDTH, MAX_HEIGHT = 1024, 512
# status codes of all web services: https://lbsyun.baidu.com/index.php?title=webapi/appendix
QUOTA_CODES = frozenset({"4", "301", "302", "401", "402"})
MISSING_CODES = frozenset({"1", "404"})


@dataclass(frozen=True)
class BaiduPanorama:
    """One panorama image per location, in the direction of the road.

    Attributes:
        width: Image width in pixels, at most 1024.
        height: Image height in pixels, at most 512.
        fov: Horizontal field of view in degrees, at most 360.
        price_per_1000: Price of 1,000 images.
        base_url: URL of the service.
        key_env: Environment variable that holds the API key.
    """

    provider: Literal["baidu"] = "baidu"
    width: int = MAX_WIDTH
    height: int = MAX_HEIGHT
    fov: float = 180.0
    price_per_1000: float = 0.0
    base_url: str = HOST
    key_env: str = "BAIDU_MAP_AK"
    limits: Mapping[str, Limit] = field(default_factory=lambda: {"api.map.baidu.com": Limit(10, 8)})
    name: str = "baidu"
    licence: str = "Baidu Maps open platform terms of service"
    redistributable: bool = False
    requests_per_place: float = 1.0

    def __post_init__(self) -> None:
        if not (10 <= self.width <= MAX_WIDTH and 10 <= self.height <= MAX_HEIGHT):
            raise SourceError(
                f"Baidu gives images of 10 x 10 to {MAX_WIDTH} x {MAX_HEIGHT} px, got "
                f"{self.width} x {self.height}."
            )

    async def views(
        self, places: Sequence[Place], fetcher: Fetcher, store: Store
    ) -> AsyncIterator[View]:
        """See [`StreetViewSource`]."""
        by_key = {self._key(place): place for place in places}
        async for key in images(self._items(places), fetcher, check_panorama):
            yield self._view(by_key[key])

    async def pictures(
        self, rows: Sequence[Mapping[str, Any]], fetcher: Fetcher, store: Store
    ) -> AsyncIterator[tuple[str, str]]:
        """See [`StreetViewSource`]; the rows hold the requested locations."""
        wheres = ([number(row[name]) for name in ("lon", "lat", "heading")] for row in rows)
        places = [
            Place(str(row["point_id"]), lon, lat, heading)
            for row, (lon, lat, heading) in zip(rows, wheres, strict=True)
            if lon is not None and lat is not None and heading is not None
        ]
        async for key in images(self._items(places), fetcher, check_panorama):
            yield key, key

    def _key(self, place: Place) -> str:
        size = f"{self.width}x{self.height}/{self.fov:g}"
        return f"{self.name}/{place.point_id}/{round(place.heading % 360):03d}/{size}"

    def _items(self, places: Sequence[Place]) -> Iterator[Item]:
        secret = secret_from(self.key_env, self.name)
        for place in places:
            params = {
                "ak": secret,
                "width": str(self.width),
                "height": str(self.height),
                "location": f"{place.lon:.7f},{place.lat:.7f}",
                "coordtype": "wgs84ll",  # the default is BD-09, about 1 km off
                "heading": str(round(place.heading % 360)),
                "fov": f"{self.fov:g}",
            }
            yield Item(self._key(place), f"{self.base_url}/panorama/v2", params, secret=secret)

    def _view(self, place: Place) -> View:
        # the API does not return the position of the panorama
        key, heading = self._key(place), float(round(place.heading % 360))
        where = (place.lon, place.lat, heading)
        return View(key, place.point_id, key, *where, None, self.name, self.licence)


def check_panorama(content: bytes, media_type: str) -> Verdict:
    """Check for an image; Baidu sends errors as JSON with HTTP 200."""
    if not content.lstrip().startswith(b"{"):
        return check_image(content, media_type)
    answer = read_json(content)
    code = str((answer or {}).get("status", "")) if isinstance(answer, dict) else ""
    said = f"status {code}" if code else "JSON without a status"
    if code in QUOTA_CODES:
        return Verdict("quota", said)
    if code in MISSING_CODES:
        return Verdict("missing", said)
    if len(code) == 3 and code.startswith("2"):  # 2xx: invalid key or missing permission
        return Verdict("denied", said)
    return Verdict("invalid", said)


__all__ = ["BaiduPanorama", "check_panorama"]
