"""What all street-view sources share: places that are asked for, and the views found there.

A source turns points along the roads into views. It uses official interfaces only, downloads
through the [`Fetcher`] alone, checks every answer, and takes keys from the environment.
"""

import itertools
import json
import math
import re
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

from ..download import Check, Fetcher, Item, Limit, Store, check_image

T = TypeVar("T")
BATCH = 500
HALF_PAIR = re.compile(r"\\u[dD][89a-fA-F]")
ID = re.compile(r"(?!\.+$)[\w.=:-]{1,200}", re.ASCII)


@dataclass(frozen=True)
class Place:
    """A point where a view is asked for.

    Attributes:
        point_id: Stable, from the coordinates.
        lon: WGS-84.
        lat: WGS-84.
        heading: Of the road, degrees clockwise from north.
    """

    point_id: str
    lon: float
    lat: float
    heading: float = 0.0


@dataclass(frozen=True)
class View:
    """A street view that was found and downloaded.

    Attributes:
        image_id: Unique and stable: source, image, heading.
        point_id: Of the place it was asked for.
        key: Of its bytes in the store.
        lon: Of the camera, WGS-84.
        lat: Likewise.
        heading: Of the camera, degrees clockwise from north; None if unknown.
        captured_at: ISO 8601, as precise as it is known; None if unknown.
        source: Name of the source.
        licence: Of the image.
        attribution: To be shown with it.
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
    """A provider of street views.

    Attributes:
        name: In the ledger and in the column `source`.
        licence: Of the images.
        redistributable: Whether the images may be published; if not, only ids are.
        limits: By host.
        requests_per_place: For the estimate of a plan.
        price_per_1000: Images.
    """

    name: str
    licence: str
    redistributable: bool
    limits: Mapping[str, Limit]
    requests_per_place: float
    price_per_1000: float

    def views(self, places: Sequence[Place], fetcher: Fetcher, store: Store) -> AsyncIterator[View]:
        """The views at the places; nothing that is in the store is requested again.

        Raises:
            StoppedError: Quota exhausted or key refused.
        """
        ...

    def pictures(
        self, rows: Sequence[Mapping[str, Any]], fetcher: Fetcher, store: Store
    ) -> AsyncIterator[tuple[str, str]]:
        """Download the images that a dataset names but does not hold.

        Args:
            rows: Of the table of street views: `image_id`, `lon`, `lat`, `heading`, `point_id`.
            fetcher: Of the images.
            store: That takes them.

        Yields:
            The id of each image that was found, and its key in the store.
        """
        ...


def batched(values: Iterable[T]) -> Iterator[list[T]]:
    """Some hundred values at a time: memory stays flat, addresses are used before they expire."""
    source = iter(values)
    while batch := list(itertools.islice(source, BATCH)):
        yield batch


async def json_answers(
    items: Iterable[Item], check: Check, fetcher: Fetcher, store: Store
) -> dict[str, Any]:
    """Download JSON answers; returns those that are "ok", by key."""
    keys = [one.key async for one in fetcher.fetch_all(items, check) if one.status == "ok"]
    return {key: stored_json(store, key) for key in sorted(keys)}


async def images(items: Iterable[Item], fetcher: Fetcher, check: Check = check_image) -> Any:
    """Download images; yields the keys of those that are "ok"."""
    async for fetched in fetcher.fetch_all(items, check):
        if fetched.status == "ok":
            yield fetched.key


def read_json(content: bytes) -> Any:
    """JSON, or None if it is none; of halves of surrogate pairs, which no file can hold, "?"."""
    try:
        text = content.decode("utf-8-sig")
        if HALF_PAIR.search(text):
            text = (
                json.dumps(json.loads(text), ensure_ascii=False).encode(errors="replace").decode()
            )
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def id_parts(rows: Iterable[Mapping[str, Any]], count: int) -> Iterator[list[str]]:
    """The parts of the image ids of a dataset; those of another form name nothing to ask for."""
    for row in rows:
        parts = str(row["image_id"]).split("/")
        if len(parts) == count and all(map(is_id, parts)):
            yield parts


def is_id(value: Any) -> bool:
    """Whether a value of an answer or a dataset can be part of an address and of a key."""
    return isinstance(value, (str, int)) and ID.fullmatch(str(value)) is not None


def stored_json(store: Store, key: str) -> Any:
    """The JSON answer to an item, or None if there is no good one."""
    content = store.read(key)
    return None if content is None else read_json(content)


def number(value: Any) -> float | None:
    """A finite number, or None: fields of an answer may be missing, or anything."""
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
    "id_parts",
    "images",
    "is_id",
    "json_answers",
    "number",
    "read_json",
    "stored_json",
]
