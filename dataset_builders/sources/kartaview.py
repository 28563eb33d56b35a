"""KartaView API 2.0: photos near a location, then their images.

https://doc.kartaview.org. Crowdsourced images, CC BY-SA 4.0. Fields have disappeared from the
responses over the years, so all except the ID and an image URL are optional here.
"""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ..download import Fetcher, Item, Limit, Store, Verdict
from .street_view import (
    Place,
    View,
    batched,
    check_nearest,
    id_parts,
    images,
    is_id,
    is_since,
    json_answers,
    number,
    read_json,
)

HOST = "https://api.openstreetcam.org"
SIZES = ("fileurlTh", "fileurlLTh", "fileurlProc", "fileurl")
"""Fields with the URLs of a photo, from the smallest thumbnail to the original."""


@dataclass(frozen=True)
class KartaView:
    """Photos nearest to each location.

    Attributes:
        per_place: Maximum number of photos per location.
        radius_m: Maximum distance from the location in metres.
        since: Date of the oldest photos to use, "2020-01-31"; no limit by default.
        size: Field with the URL of the image, one of `SIZES`.
        base_url: URL of the service.
    """

    provider: Literal["kartaview"] = "kartaview"
    per_place: int = 1
    radius_m: int = 50
    since: str | None = None
    size: str = "fileurlProc"
    base_url: str = HOST
    limits: Mapping[str, Limit] = field(
        default_factory=lambda: {"api.openstreetcam.org": Limit(2, 4)}
    )
    name: str = "kartaview"
    licence: str = "cc-by-sa-4.0"
    redistributable: bool = True
    price_per_1000: float = 0.0

    def __post_init__(self) -> None:
        check_nearest(self.per_place, self.radius_m, self.since, self.size, SIZES)

    @property
    def requests_per_place(self) -> float:
        """Requests per location: the search, and one per image."""
        return 1.0 + self.per_place

    async def views(
        self, places: Sequence[Place], fetcher: Fetcher, store: Store
    ) -> AsyncIterator[View]:
        """See [`StreetViewSource`]."""
        prefix = f"{self.name}/near/{self.radius_m}/{self.per_place}"
        by_key = {f"{prefix}/{place.point_id}": place for place in places}
        questions = (self._question(key, place) for key, place in by_key.items())
        answers = await json_answers(questions, check_answer, fetcher, store)
        found: dict[str, tuple[View, str]] = {}
        for key, place in by_key.items():
            for photo in list(self._photos(answers.get(key)))[: self.per_place]:
                view = self._view(photo, place)
                # a photo near several locations belongs to the first
                found.setdefault(view.key, (view, photo[self.size]))
        items = (_picture(key, address) for key, (_, address) in found.items())
        async for key in images(items, fetcher):
            yield found[key][0]

    async def pictures(
        self, rows: Sequence[Mapping[str, Any]], fetcher: Fetcher, store: Store
    ) -> AsyncIterator[tuple[str, str]]:
        """See [`StreetViewSource`]; requests the current URL of each photo."""
        for batch in batched(one for _, one in id_parts(rows, 2)):
            ids = {f"{self.name}/photo/{one}": one for one in batch}
            questions = (Item(key, f"{self.base_url}/2.0/photo/{one}") for key, one in ids.items())
            answers = await json_answers(questions, check_answer, fetcher, store)
            addresses = {
                self._picture_key(ids[key]): photo[self.size]
                for key, answer in answers.items()
                for photo in self._photos(answer)
            }
            items = (_picture(key, address) for key, address in addresses.items())
            async for key in images(items, fetcher):
                yield f"{self.name}/{key.split('/')[2]}", key

    def _picture_key(self, one: str) -> str:
        return f"{self.name}/picture/{one}/{self.size}"

    def _question(self, key: str, place: Place) -> Item:
        params = {
            "lat": f"{place.lat:.7f}",
            "lng": f"{place.lon:.7f}",
            "radius": str(self.radius_m),
            "itemsPerPage": str(max(10, self.per_place)),
        }
        return Item(key, f"{self.base_url}/2.0/photo/", params)

    def _photos(self, answer: Any) -> Iterator[dict[str, Any]]:
        """Recent photos of a response that have an ID and an image URL."""
        result = answer.get("result") if isinstance(answer, dict) else None
        data = result.get("data") if isinstance(result, dict) else None
        photos = data if isinstance(data, list) else [data]
        for photo in photos:
            if not isinstance(photo, dict) or not is_id(photo.get("id")):
                continue
            taken = photo.get("shotDate") or photo.get("dateAdded")
            if isinstance(photo.get(self.size), str) and is_since(taken, self.since):
                yield photo

    def _view(self, photo: Mapping[str, Any], place: Place) -> View:
        taken = photo.get("shotDate") or photo.get("dateAdded")
        heading = number(photo.get("heading"))
        lon, lat = number(photo.get("lng")), number(photo.get("lat"))
        if lon is None or lat is None:
            lon, lat = place.lon, place.lat
        where = (lon, lat, None if heading is None else heading % 360)
        taken_at = None if taken is None else str(taken).replace(" ", "T")
        key, image_id = self._picture_key(str(photo["id"])), f"{self.name}/{photo['id']}"
        by = "KartaView contributors"
        return View(image_id, place.point_id, key, *where, taken_at, self.name, self.licence, by)


def check_answer(content: bytes, media_type: str) -> Verdict:
    """Check for a result; errors may be JSON with HTTP 200."""
    answer = read_json(content)
    if not isinstance(answer, dict):
        return Verdict("invalid", f"{media_type or 'response'}, not a JSON object")
    status = answer.get("status")
    code = status.get("httpCode") if isinstance(status, dict) else None
    if code in (401, 403, 429):
        return Verdict("quota" if code == 429 else "denied", f"httpCode {code}")
    if "result" not in answer or (isinstance(code, int) and code >= 400):
        return Verdict("invalid", f"httpCode {code}" if code else "JSON without a result")
    return Verdict("ok")


def _picture(key: str, address: str) -> Item:
    # the URL holds no API key, so a rejected request need not stop the build
    return Item(key, address, refused="failed")


__all__ = ["KartaView", "check_answer"]
