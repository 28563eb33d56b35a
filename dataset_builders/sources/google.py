"""Google Street View Static API: free metadata requests, then the images.

https://developers.google.com/maps/documentation/streetview. Images have at most 640 x 640 pixels,
panorama IDs may change, and storage and publication of images are restricted.
"""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ..download import Fetcher, Item, Limit, Store, Verdict
from ..errors import SourceError
from ..ledger import Status
from ..trust import secret_from
from .street_view import Place, View, id_parts, images, is_id, json_answers, number, read_json

HOST = "https://maps.googleapis.com"
MAX_PX = 640
STATUSES: dict[str, Status] = {
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
    """Images of the panorama nearest to each location, at headings relative to the road.

    Attributes:
        headings: Headings in degrees clockwise from the direction of the road.
        size_px: Side of the image in pixels, at most 640.
        fov: Horizontal field of view in degrees.
        radius_m: Maximum distance between a location and its panorama, in metres.
        price_per_1000: Price of 1,000 images.
        base_url: URL of the service.
        key_env: Environment variable that holds the API key.
    """

    provider: Literal["google"] = "google"
    headings: tuple[float, ...] = (90.0, 270.0)
    size_px: int = MAX_PX
    fov: float = 90.0
    radius_m: int = 50
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
            raise SourceError(f"Google gives images up to {MAX_PX} px, got {self.size_px}.")

    @property
    def requests_per_place(self) -> float:
        """Requests per location: the metadata, and one image per heading."""
        return 1 + len(self.headings)

    async def views(
        self, places: Sequence[Place], fetcher: Fetcher, store: Store
    ) -> AsyncIterator[View]:
        """See [`StreetViewSource`]."""
        by_key = {f"{self.name}/metadata/{self.radius_m}/{p.point_id}": p for p in places}
        secret = secret_from(self.key_env, self.name)
        questions = (self._question(key, place, secret) for key, place in by_key.items())
        answers = await json_answers(questions, check_metadata, fetcher, store)
        found: dict[str, View] = {}
        for key, place in by_key.items():
            for view in self._views_of(place, answers.get(key) or {}):
                found.setdefault(view.image_id, view)  # locations may share a panorama
        async for key in images((self._item(one, secret) for one in found), fetcher):
            yield found[key]

    async def pictures(
        self, rows: Sequence[Mapping[str, Any]], fetcher: Fetcher, store: Store
    ) -> AsyncIterator[tuple[str, str]]:
        """See [`StreetViewSource`]; the ID holds panorama, heading and size."""
        secret = secret_from(self.key_env, self.name)
        items = (self._item("/".join(parts), secret) for parts in id_parts(rows, 5))
        async for key in images(items, fetcher):
            yield key, key

    def _question(self, key: str, place: Place, secret: str) -> Item:
        params = {
            "location": f"{place.lat:.7f},{place.lon:.7f}",
            "radius": str(self.radius_m),
            "source": "outdoor",  # exclude interiors
            "key": secret,
        }
        url = f"{self.base_url}/maps/api/streetview/metadata"
        return Item(key, url, params, secret=secret)

    def _views_of(self, place: Place, answer: Mapping[str, Any]) -> Iterator[View]:
        location, panorama = answer.get("location"), answer.get("pano_id")
        if not is_id(panorama) or not isinstance(location, dict):
            return
        lon, lat = number(location.get("lng")), number(location.get("lat"))
        if lon is None or lat is None:
            return
        date, by = answer.get("date"), str(answer.get("copyright", ""))
        date = date if isinstance(date, str) else None
        for turn in self.headings:
            heading = round((place.heading + turn) % 360, 1)
            one = f"{self.name}/{panorama}/{heading:05.1f}/{self.fov:g}/{self.size_px}"
            where = (lon, lat, heading)
            yield View(one, place.point_id, one, *where, date, self.name, self.licence, by)

    def _item(self, image_id: str, secret: str) -> Item:
        _, panorama, heading, fov, size = image_id.split("/")
        params = {
            "size": f"{size}x{size}",
            "pano": panorama,
            "heading": f"{number(heading) or 0.0}",
            "fov": fov,
            "return_error_code": "true",
            "key": secret,
        }
        return Item(image_id, f"{self.base_url}/maps/api/streetview", params, secret=secret)


def check_metadata(content: bytes, media_type: str) -> Verdict:
    """Check the status field of a metadata response."""
    answer = read_json(content)
    if not isinstance(answer, dict):
        return Verdict("invalid", f"{media_type or 'response'}, not a JSON object")
    said = str(answer.get("status", ""))
    state = STATUSES.get(said, "invalid")
    return Verdict(state, f"status {said}" if state != "ok" else "")


__all__ = ["GoogleStreetView", "check_metadata"]
