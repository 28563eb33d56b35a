"""What all satellite sources share: regions that are asked for, and one image per region."""

from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import geopandas as gpd
import numpy as np
import shapely
from numpy.typing import NDArray

from ..download import Fetched, Fetcher, Limit, Store

PICTURE_PX = 256
OVERSAMPLING = 2
"""Images are warped at twice their size and then halved, so that finer pixels do not alias."""
NO_SQUARE = ("no_square", "an image is laid on a region with four corners")


@dataclass(frozen=True)
class Picture:
    """The image of a region before it is made.

    Attributes:
        region: Row of the region.
        image_id: Unique and stable.
        identity: Of the contents it is made of; "" if there is none.
        reason: Why there is none; "" if there is one.
        detail: What was found.
        fetched_at: Unix time in seconds, of the latest part.
        captured_at: ISO 8601, as precise as it is known; None if unknown.
        is_tile: It is a tile of the provider, byte for byte.
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
    """A provider of satellite images.

    Attributes:
        name: In the ledger and in the column `source`.
        licence: Of the images, as stored with each.
        attribution: Required by the provider.
        redistributable: Whether the images may be published; if not, only ids are.
        price_per_1000: Requests, in the currency of the recipe.
        limits: By host.
        requests_per_item: For the estimate of a plan.
        kilobytes_per_request: For the estimate of a plan; None for what the recipe says.
        makeup: How the images are made, for the card; "" if they are taken as they are.
    """

    name: str
    licence: str
    attribution: str
    redistributable: bool
    price_per_1000: float
    limits: Mapping[str, Limit]
    requests_per_item: float
    kilobytes_per_request: float | None
    makeup: str

    def keys(self, regions: gpd.GeoDataFrame) -> list[str]:
        """Everything that the regions need, each once, by its key in the ledger."""
        ...

    def fetch(
        self, regions: gpd.GeoDataFrame, fetcher: Fetcher, store: Store
    ) -> AsyncIterator[Fetched]:
        """Download what the regions need and the store lacks.

        Raises:
            StoppedError: Quota exhausted or key refused.
            SourceError: A key is not in the environment, or the source has nothing of the kind.
        """
        ...

    def pictures(self, regions: gpd.GeoDataFrame, store: Store) -> Iterator[Picture]:
        """What is known of the image of each region, in the order of the regions."""
        ...

    def read(self, picture: Picture, store: Store) -> bytes | None:
        """The encoded image, 256 x 256 pixels; None if it is not there after all."""
        ...


def are_squares(shapes: Any) -> NDArray[np.bool_]:
    """Which regions an image can be laid on: `(n,)`, polygons with an outline of four corners."""
    shapes = np.asarray(shapes, dtype=object)
    # 5 coordinates, the first being the last
    return shapely.get_num_coordinates(shapely.get_exterior_ring(shapes)) == 5


def corners_of(squares: Any) -> NDArray[np.float64]:
    """South-west, south-east, north-east and north-west of squares: `(n, 4, 2)` degrees."""
    outlines = shapely.get_exterior_ring(shapely.orient_polygons(np.asarray(squares, dtype=object)))
    rings = shapely.get_coordinates(outlines).reshape(-1, 5, 2)[:, :4]
    first = (rings - rings.mean(axis=1, keepdims=True)).sum(axis=2).argmin(axis=1)
    order = (first[:, None] + np.arange(4)) % 4
    return np.take_along_axis(rings, order[:, :, None], axis=1)


__all__ = [
    "NO_SQUARE",
    "OVERSAMPLING",
    "PICTURE_PX",
    "Picture",
    "SatelliteSource",
    "are_squares",
    "corners_of",
]
