"""What all sources of street views share: a place asked for, a view found, and the way between.

A source turns points along the roads into views, through the network room and nothing else:
official interfaces only, keys from the environment, every answer checked.
"""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from ..download import Check, Fetcher, Item, Limit, Store, Verdict, check_image


@dataclass(frozen=True)
class Place:
    """A point where a view is asked for.

    Attributes:
        point_id: stable, from the coordinates.
        lon: WGS-84.
        lat: WGS-84.
        heading: of the road, degrees clockwise from north.
    """

    point_id: str
    lon: float
    lat: float
    heading: float = 0.0


@dataclass(frozen=True)
class View:
    """A street view that was found and fetched.

    Attributes:
        image_id: unique and stable: source, picture, heading.
        point_id: of the place it was asked for.
        key: of its bytes in the store.
        lon: where the camera stood, WGS-84.
        lat: likewise.
        heading: of the camera, degrees clockwise from north; None if unknown.
        captured_at: ISO 8601, as precise as it is known; None if unknown.
        source: of the picture.
        licence: of the picture.
        attribution: that must be shown with it.
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
        name: in the ledger and in the column `source`.
        licence: of the pictures.
        redistributable: they may be published; if not, only ids are.
        limits: by host.
        requests_per_place: for the estimate of a plan.
        price_per_1000: pictures.
    """

    name: str
    licence: str
    redistributable: bool
    limits: Mapping[str, Limit]
    requests_per_place: float
    price_per_1000: float

    def views(self, places: Sequence[Place], fetcher: Fetcher, store: Store) -> AsyncIterator[View]:
        """The views at the places; what is in the store is not asked for again.

        Raises:
            StoppedError: quota used up or key refused.
        """
        ...

    def pictures(
        self, rows: Sequence[Mapping[str, Any]], fetcher: Fetcher, store: Store
    ) -> AsyncIterator[tuple[str, str]]:
        """Fetch pictures again that a dataset names but does not hold.

        Args:
            rows: of the table of street views: `image_id`, `lon`, `lat`, `heading`, `point_id`.
            fetcher: of the pictures.
            store: that takes them.

        Yields:
            The id of each picture that was found, and its key in the store.
        """
        ...


def read_json(content: bytes) -> Any:
    """JSON, or None if it is none."""
    try:
        return json.loads(content)
    except ValueError:
        return None


def stored_json(store: Store, key: str) -> Any:
    """The JSON answer to an item, or None if there is no good one."""
    content = store.read(key)
    return None if content is None else read_json(content)


def json_check(statuses: Mapping[str, str], field_name: str = "status") -> Check:
    """A check of JSON answers that carry a status of their own.

    Args:
        statuses: from the provider's words to the ledger's states; others are "invalid".
        field_name: where the provider puts it.
    """

    def check(content: bytes, media_type: str) -> Verdict:
        answer = read_json(content)
        if not isinstance(answer, dict):
            return Verdict("invalid", f"{media_type or 'an answer'} that is no JSON object")
        said = str(answer.get(field_name, ""))
        state: Any = statuses.get(said, "invalid")
        return Verdict(state, f"{field_name} {said}" if state != "ok" else "")

    return check


__all__ = [
    "Check",
    "Fetcher",
    "Item",
    "Limit",
    "Place",
    "Store",
    "StreetViewSource",
    "Verdict",
    "View",
    "check_image",
    "json_check",
    "read_json",
    "stored_json",
]
