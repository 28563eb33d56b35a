"""Google Street View Static API: metadata first, which costs nothing, then the pictures.

https://developers.google.com/maps/documentation/streetview: pictures of 640 x 640 pixels at most;
panorama ids may change, so places are what is kept; storing and publishing pictures is restricted.
"""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..download import Fetcher, Item, Limit, Store, check_image
from ..errors import SourceError
from ..trust import secret_from
from .street_view import Place, View, json_check, stored_json

HOST = "https://maps.googleapis.com"
MAX_PX = 640
STATUSES = {
    "OK": "ok",
    "ZERO_RESULTS": "missing",
    "NOT_FOUND": "missing",
    "OVER_QUERY_LIMIT": "quota",
    "OVER_DAILY_LIMIT": "quota",
    "REQUEST_DENIED": "denied",
    "UNKNOWN_ERROR": "failed",
}


@dataclass(frozen=True)
class GoogleStreetView:
    """Pictures at headings relative to the road, of the panorama nearest to each place.

    Attributes:
        headings: degrees clockwise from the road's direction.
        size_px: side of the picture, 640 at most.
        fov: field of view in degrees.
        radius_m: how far from the place a panorama may be.
        outdoor_only: no panoramas from inside buildings.
        price_per_1000: pictures, as on your price list.
        base_url: of the service.
        key_env: environment variable with the key.
    """

    headings: tuple[float, ...] = (90.0, 270.0)
    size_px: int = MAX_PX
    fov: float = 90.0
    radius_m: int = 50
    outdoor_only: bool = True
    price_per_1000: float = 7.0
    base_url: str = HOST
    key_env: str = "GOOGLE_MAPS_API_KEY"
    limits: Mapping[str, Limit] = field(
        default_factory=lambda: {"maps.googleapis.com": Limit(20, 16)}
    )
    name: str = "google"
    licence: str = "Google Maps Platform terms of service"
    redistributable: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.size_px <= MAX_PX:
            raise SourceError(f"Google gives pictures up to {MAX_PX} px, got {self.size_px}.")

    @property
    def requests_per_place(self) -> float:
        """One for the metadata, one for each heading."""
        return 1 + len(self.headings)

    async def views(
        self, places: Sequence[Place], fetcher: Fetcher, store: Store
    ) -> AsyncIterator[View]:
        """See [`StreetViewSource`]."""
        secret = secret_from(self.key_env, self.name)
        check = json_check(STATUSES)
        by_key = {self._metadata_key(place): place for place in places}
        async for _ in fetcher.fetch_all(self._metadata_items(places, secret), check):
            pass
        found: dict[str, View] = {}
        for key, place in by_key.items():
            for view in self._views_of(place, stored_json(store, key)):
                found.setdefault(view.image_id, view)  # two places may share a panorama
        items = (self._picture_item(view, secret) for view in found.values())
        async for fetched in fetcher.fetch_all(items, check_image):
            if fetched.status == "ok":
                yield found[fetched.key]

    async def pictures(
        self, rows: Sequence[Mapping[str, Any]], fetcher: Fetcher, store: Store
    ) -> AsyncIterator[tuple[str, str]]:
        """See [`StreetViewSource`]; the panorama, heading and size stand in the id."""
        secret = secret_from(self.key_env, self.name)
        items = (self._item_of_id(str(row["image_id"]), secret) for row in rows)
        async for fetched in fetcher.fetch_all(items, check_image):
            if fetched.status == "ok":
                yield fetched.key, fetched.key

    def _metadata_key(self, place: Place) -> str:
        return f"{self.name}/metadata/{self.radius_m}/{place.point_id}"

    def _metadata_items(self, places: Sequence[Place], secret: str) -> Iterator[Item]:
        for place in places:
            params = {
                "location": f"{place.lat:.7f},{place.lon:.7f}",
                "radius": str(self.radius_m),
                "key": secret,
            }
            if self.outdoor_only:
                params["source"] = "outdoor"
            url = f"{self.base_url}/maps/api/streetview/metadata"
            yield Item(self._metadata_key(place), url, params, secret=secret)

    def _views_of(self, place: Place, answer: dict | None) -> Iterator[View]:
        location = (answer or {}).get("location") or {}
        panorama = (answer or {}).get("pano_id")
        if not panorama or "lat" not in location or "lng" not in location:
            return
        assert answer is not None
        for turn in self.headings:
            heading = round((place.heading + turn) % 360, 1)
            image_id = f"{self.name}/{panorama}/{heading:05.1f}/{self.fov:g}/{self.size_px}"
            yield View(
                image_id,
                place.point_id,
                image_id,
                float(location["lng"]),
                float(location["lat"]),
                heading,
                answer.get("date"),
                self.name,
                self.licence,
                str(answer.get("copyright", "")),
            )

    def _picture_item(self, view: View, secret: str) -> Item:
        return self._item_of_id(view.image_id, secret)

    def _item_of_id(self, image_id: str, secret: str) -> Item:
        _, panorama, heading, fov, size = image_id.split("/")
        params = {
            "size": f"{size}x{size}",
            "pano": panorama,
            "heading": f"{float(heading)}",
            "fov": fov,
            "return_error_code": "true",
            "key": secret,
        }
        return Item(image_id, f"{self.base_url}/maps/api/streetview", params, secret=secret)


__all__ = ["GoogleStreetView"]
