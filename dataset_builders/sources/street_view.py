"""Interface of street-view sources: from locations along roads to images.

Sources use official APIs, download through the [`Fetcher`], check every response, and read API
keys from the environment.
"""

import datetime as dt
import itertools
import json
import math
import re
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

from ..download import Check, Fetcher, Item, Limit, Store, check_image
from ..errors import SourceError

T = TypeVar("T")
BATCH = 500
HALF_PAIR = re.compile(r"\\u[dD][89a-fA-F]")
ID = re.compile(r"(?!\.+$)[\w.=:-]{1,200}", re.ASCII)


@dataclass(frozen=True)
class Place:
    """Location for which street views are requested.

    Attributes:
        point_id: Stable ID, derived from the coordinates.
        lon: Longitude, WGS-84.
        lat: Latitude, WGS-84.
        heading: Direction of the road in degrees clockwise from north.
    """

    point_id: str
    lon: float
    lat: float
    heading: float = 0.0


@dataclass(frozen=True)
class View:
    """Downloaded street view.

    Attributes:
        image_id: Unique, stable ID of source, image and heading.
        point_id: ID of the requested location.
        key: Key of the image in the store.
        lon: Longitude of the camera, WGS-84.
        lat: Latitude of the camera, WGS-84.
        heading: Direction of the camera in degrees clockwise from north; None if unknown.
        captured_at: Capture time in ISO 8601, to the known precision; None if unknown.
        source: Name of the source.
        licence: Licence of the image.
        attribution: Attribution to display with the image.
    """

    image_id: str
    point_id: str
    key: str
    lon: float
    lat: float
    heading: float | None
    captured_at: str | None
    source: str
    licence: str
    attribution: str = ""


@runtime_checkable
class StreetViewSource(Protocol):
    """Provider of street views.

    Attributes:
        name: Name in the ledger and in the column `source`.
        licence: Licence of the images.
        redistributable: Whether the images may be published; if not, only their IDs are.
        limits: Request limits per host.
        requests_per_place: Estimated number of requests per location.
        price_per_1000: Price of 1,000 images.
    """

    name: str
    licence: str
    redistributable: bool
    limits: Mapping[str, Limit]
    requests_per_place: float
    price_per_1000: float

    def views(self, places: Sequence[Place], fetcher: Fetcher, store: Store) -> AsyncIterator[View]:
        """Download the street views at the locations, except those in the store.

        Raises:
            StoppedError: The quota is exhausted or the key was rejected.
        """
        ...

    def pictures(
        self, rows: Sequence[Mapping[str, Any]], fetcher: Fetcher, store: Store
    ) -> AsyncIterator[tuple[str, str]]:
        """Download images of a published dataset that holds only their IDs.

        Args:
            rows: Rows of the street-view table: `image_id`, `lon`, `lat`, `heading`, `point_id`.
            fetcher: Download client.
            store: Store of the downloads.

        Yields:
            ID and store key of each downloaded image.
        """
        ...


def check_nearest(
    per_place: int, radius_m: float, since: str | None, size: str, sizes: Sequence[str]
) -> None:
    """Check the settings of a source of the images nearest to a location.

    Raises:
        SourceError: A setting is invalid.
    """
    if size not in sizes:
        raise SourceError(f"`size` must be one of {', '.join(sizes)}; got {size!r}.")
    try:
        is_date = since is None or dt.date.fromisoformat(since).isoformat() == since
    except ValueError:
        is_date = False
    if not is_date:
        raise SourceError(f"`since` must be a date such as 2020-01-31, got {since!r}.")
    if per_place < 1 or radius_m <= 0:
        raise SourceError(
            f"`per_place` must be 1 or more and `radius_m` above 0, got {per_place} and {radius_m}."
        )


def is_since(taken: Any, since: str | None) -> bool:
    """Whether an ISO 8601 date is not before `since`; unknown dates are."""
    return since is None or str(taken or "")[:10] >= since


def batched(values: Iterable[T]) -> Iterator[list[T]]:
    """Batches small enough for bounded memory and for using URLs before they expire."""
    source = iter(values)
    while batch := list(itertools.islice(source, BATCH)):
        yield batch


async def json_answers(
    items: Iterable[Item], check: Check, fetcher: Fetcher, store: Store
) -> dict[str, Any]:
    """Download JSON responses; return those with status "ok", by key."""
    keys = [one.key async for one in fetcher.fetch_all(items, check) if one.status == "ok"]
    return {key: read_json(store.read(key) or b"") for key in sorted(keys)}


async def images(items: Iterable[Item], fetcher: Fetcher, check: Check = check_image) -> Any:
    """Download images; yield the keys of those with status "ok"."""
    async for fetched in fetcher.fetch_all(items, check):
        if fetched.status == "ok":
            yield fetched.key


def read_json(content: bytes) -> Any:
    """Parse JSON, or return None; lone surrogates, which cannot be encoded, become "?"."""
    try:
        text = content.decode("utf-8-sig")
        if HALF_PAIR.search(text):
            text = json.dumps(json.loads(text), ensure_ascii=False)
            text = text.encode(errors="replace").decode()
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def id_parts(rows: Iterable[Mapping[str, Any]], count: int) -> Iterator[list[str]]:
    """Parts of the image IDs of a dataset; IDs of another format are skipped."""
    for row in rows:
        parts = str(row["image_id"]).split("/")
        if len(parts) == count and all(map(is_id, parts)):
            yield parts


def is_id(value: Any) -> bool:
    """Whether an untrusted value is safe as part of a URL and of a store key."""
    return isinstance(value, (str, int)) and ID.fullmatch(str(value)) is not None


def number(value: Any) -> float | None:
    """Convert an untrusted value to a finite number, or None."""
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


__all__ = [
    "Place",
    "StreetViewSource",
    "View",
    "batched",
    "check_nearest",
    "id_parts",
    "images",
    "is_id",
    "is_since",
    "json_answers",
    "number",
    "read_json",
]
