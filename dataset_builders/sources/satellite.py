"""What all sources of satellite pictures share: regions asked for, and one picture for each."""

from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import geopandas as gpd
import shapely

from ..download import Fetched, Fetcher, Limit, Store

PICTURE_PX = 256
OVERSAMPLING = 2
"""A picture is warped at twice its size and then halved, so that finer pixels do not alias."""


@dataclass(frozen=True)
class Picture:
    """A region's picture before it is made.

    Attributes:
        region: row of the region.
        image_id: unique and stable.
        identity: of the contents it is made of; "" if there is none.
        reason: why there is none; "" if there is one.
        detail: what was found.
        fetched_at: seconds since 1970, of the latest piece.
        captured_at: ISO 8601, as precise as it is known; None if unknown.
        is_tile: it is a tile of the provider, byte for byte.
    """

    region: Any
    image_id: str
    identity: str
    reason: str = ""
    detail: str = ""
    fetched_at: float = 0.0
    captured_at: str | None = None
    is_tile: bool = False


@runtime_checkable
class SatelliteSource(Protocol):
    """A provider of pictures from above."""

    @property
    def name(self) -> str:
        """In the ledger and in the column `source`."""
        ...

    @property
    def licence(self) -> str:
        """Of the pictures, as stored with each."""
        ...

    @property
    def attribution(self) -> str:
        """That the provider asks for."""
        ...

    @property
    def redistributable(self) -> bool:
        """The pictures may be published; if not, only ids are."""
        ...

    @property
    def price_per_1000(self) -> float:
        """Requests, in the currency of the recipe."""
        ...

    @property
    def limits(self) -> Mapping[str, Limit]:
        """By host."""
        ...

    @property
    def requests_per_item(self) -> float:
        """For the estimate of a plan."""
        ...

    @property
    def kilobytes_per_request(self) -> float | None:
        """For the estimate of a plan; None for what the recipe says."""
        ...

    @property
    def makeup(self) -> str:
        """How the pictures are made, for the card; empty if they are taken as they are."""
        ...

    def keys(self, regions: gpd.GeoDataFrame) -> list[str]:
        """Everything the regions need, each once, by its key in the ledger."""
        ...

    def fetch(
        self, regions: gpd.GeoDataFrame, fetcher: Fetcher, store: Store
    ) -> AsyncIterator[Fetched]:
        """Fetch what the regions need and the store lacks.

        Raises:
            StoppedError: quota used up or key refused.
            SourceError: a key is not in the environment, or the source has nothing of the kind.
        """
        ...

    def pictures(self, regions: gpd.GeoDataFrame, store: Store) -> Iterator[Picture]:
        """What is known of each region's picture, in the order of the regions."""
        ...

    def read(self, picture: Picture, store: Store) -> bytes | None:
        """The encoded picture, 256 x 256 pixels; None if it is not there after all."""
        ...


def square_of(shape: Any) -> shapely.Polygon | None:
    """The region's outline if a picture can be laid on it: one ring of four corners."""
    if not isinstance(shape, shapely.Polygon) or len(shape.exterior.coords) != 5:
        return None
    return shape


def corners_of(square: shapely.Polygon) -> Any:
    """South-west, south-east, north-east and north-west of a square: `(4, 2)` degrees."""
    ring = shapely.get_coordinates(shapely.orient_polygons(square).exterior)[:-1]
    start = int((ring - ring.mean(axis=0)).sum(axis=1).argmin())
    return ring[[(start + number) % len(ring) for number in range(len(ring))]]


__all__ = [
    "OVERSAMPLING",
    "PICTURE_PX",
    "Picture",
    "SatelliteSource",
    "corners_of",
    "square_of",
]
