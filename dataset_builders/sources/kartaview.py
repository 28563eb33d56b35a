"""KartaView API 2.0: photos near a place, then the pictures themselves.

https://doc.kartaview.org: open pictures of volunteers, CC BY-SA 4.0. Answers of the interface have
lost fields over the years, so every one of them is optional here but the id and an address.
"""

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..download import Fetcher, Item, Limit, Store, Verdict, check_image
from ..errors import SourceError
from .street_view import Place, View, read_json, stored_json

HOST = "https://api.openstreetcam.org"
SIZES = ("fileurlTh", "fileurlLTh", "fileurlProc", "fileurl")
"""Addresses of a photo, from the smallest thumbnail to the original."""
DENIED, QUOTA = (401, 403), (429,)


@dataclass(frozen=True)
class KartaView:
    """The nearest photos to each place.

    Attributes:
        per_place: how many at most.
        radius_m: how far from the place they may be.
        size: field with the picture's address, one of [`SIZES`].
        since: ISO 8601 date; older photos are left out.
        base_url: of the service.
    """

    per_place: int = 1
    radius_m: int = 50
    size: str = "fileurlProc"
    since: str | None = None
    base_url: str = HOST
    limits: Mapping[str, Limit] = field(
        default_factory=lambda: {"api.openstreetcam.org": Limit(2, 4)}
    )
    name: str = "kartaview"
    licence: str = "cc-by-sa-4.0"
    redistributable: bool = True
    price_per_1000: float = 0.0

    def __post_init__(self) -> None:
        if self.size not in SIZES:
            raise SourceError(f"`size` must be one of {SIZES}, got {self.size!r}.")
        if self.per_place < 1 or self.radius_m <= 0:
            raise SourceError(
                "`per_place` must be 1 or more and `radius_m` above 0, got "
                f"{self.per_place} and {self.radius_m}."
            )

    @property
    def requests_per_place(self) -> float:
        """One for what is near, one for each picture."""
        return 1.0 + self.per_place

    async def views(
        self, places: Sequence[Place], fetcher: Fetcher, store: Store
    ) -> AsyncIterator[View]:
        """See [`StreetViewSource`]."""
        async for _ in fetcher.fetch_all(self._near_items(places), check_answer):
            pass
        found: dict[str, tuple[View, str]] = {}
        for place in places:
            answer = stored_json(store, self._near_key(place))
            for photo in list(self._photos(answer))[: self.per_place]:
                view = self._view(photo, place)
                # a photo that is near to two places belongs to the first
                found.setdefault(view.key, (view, photo[self.size]))
        items = (Item(key, address) for key, (_, address) in found.items())
        async for fetched in fetcher.fetch_all(items, check_image):
            if fetched.status == "ok":
                yield found[fetched.key][0]

    async def pictures(
        self, rows: Sequence[Mapping[str, Any]], fetcher: Fetcher, store: Store
    ) -> AsyncIterator[tuple[str, str]]:
        """See [`StreetViewSource`]; each photo is asked for its address."""
        ids = [str(row["image_id"]).split("/")[1] for row in rows]
        items = (Item(self._photo_key(one), f"{self.base_url}/2.0/photo/{one}") for one in ids)
        async for _ in fetcher.fetch_all(items, check_answer):
            pass
        addresses: dict[str, str] = {}
        for one in ids:
            for photo in self._photos(stored_json(store, self._photo_key(one))):
                addresses[self._picture_key(one)] = photo[self.size]
        wanted = (Item(key, address) for key, address in addresses.items())
        async for fetched in fetcher.fetch_all(wanted, check_image):
            if fetched.status == "ok":
                yield f"{self.name}/{fetched.key.split('/')[2]}", fetched.key

    def _near_key(self, place: Place) -> str:
        return f"{self.name}/near/{self.radius_m}/{self.per_place}/{place.point_id}"

    def _photo_key(self, one: str) -> str:
        return f"{self.name}/photo/{one}"

    def _picture_key(self, one: str) -> str:
        return f"{self.name}/picture/{one}/{self.size}"

    def _near_items(self, places: Iterable[Place]) -> Iterator[Item]:
        for place in places:
            params = {
                "lat": f"{place.lat:.7f}",
                "lng": f"{place.lon:.7f}",
                "radius": str(self.radius_m),
                "itemsPerPage": str(max(10, self.per_place)),
            }
            yield Item(self._near_key(place), f"{self.base_url}/2.0/photo/", params)

    def _photos(self, answer: Any) -> Iterator[dict[str, Any]]:
        """The photos of an answer that have an id and an address, in its order."""
        result = answer.get("result") if isinstance(answer, dict) else None
        data = result.get("data") if isinstance(result, dict) else None
        photos = data if isinstance(data, list) else [data]
        for photo in photos:
            if not isinstance(photo, dict) or not photo.get("id") or not photo.get(self.size):
                continue
            taken = photo.get("shotDate") or photo.get("dateAdded")
            if self.since is None or (taken and str(taken)[:10] >= self.since[:10]):
                yield photo

    def _view(self, photo: Mapping[str, Any], place: Place) -> View:
        taken = photo.get("shotDate") or photo.get("dateAdded")
        heading = _number(photo.get("heading"))
        lon, lat = _number(photo.get("lng")), _number(photo.get("lat"))
        return View(
            f"{self.name}/{photo['id']}",
            place.point_id,
            self._picture_key(str(photo["id"])),
            place.lon if lon is None else lon,
            place.lat if lat is None else lat,
            None if heading is None else heading % 360,
            None if taken is None else str(taken).replace(" ", "T"),
            self.name,
            self.licence,
            "KartaView contributors",
        )


def check_answer(content: bytes, media_type: str) -> Verdict:
    """An answer with a result; errors may come as JSON with HTTP 200."""
    answer = read_json(content)
    if not isinstance(answer, dict):
        return Verdict("invalid", f"{media_type or 'an answer'} that is no JSON object")
    status = answer.get("status")
    code = status.get("httpCode") if isinstance(status, dict) else None
    if code in DENIED:
        return Verdict("denied", f"httpCode {code}")
    if code in QUOTA:
        return Verdict("quota", f"httpCode {code}")
    if "result" not in answer or (isinstance(code, int) and code >= 400):
        return Verdict("invalid", f"httpCode {code}" if code else "JSON without a result")
    return Verdict("ok")


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


__all__ = ["KartaView", "check_answer"]
