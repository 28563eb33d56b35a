"""Interface of satellite sources: one image per region."""

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
"""Images are warped at this multiple of their size and then reduced, to avoid aliasing."""
NO_SQUARE = ("no_square", "the region does not have four corners")


@dataclass(frozen=True)
class Picture:
    """Metadata of a region's image, which is encoded on demand.

    Attributes:
        region: Row of the region.
        image_id: Unique, stable image ID.
        identity: Hash of the downloaded content; "" if the image is not available.
        reason: Reject reason; "" if the image is available.
        detail: Detail of the reject reason.
        fetched_at: Unix time of the latest download in seconds.
        captured_at: Capture time in ISO 8601, to the known precision; None if unknown.
        is_tile: Whether the image is an unmodified tile of the provider.
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
    """Provider of satellite images.

    Attributes:
        name: Name in the ledger and in the column `source`.
        licence: Licence of the images.
        attribution: Attribution required by the provider.
        redistributable: Whether the images may be published; if not, only their IDs are.
        price_per_1000: Price of 1,000 requests, in the currency of the recipe.
        limits: Request limits per host.
        requests_per_item: Estimated number of requests per item.
        kilobytes_per_request: Estimated size of a response; None for the estimate of the recipe.
        makeup: Processing of the images, for the card; "" if they are not modified.
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
        """Unique ledger keys of the items that the regions need."""
        ...

    def fetch(
        self, regions: gpd.GeoDataFrame, fetcher: Fetcher, store: Store
    ) -> AsyncIterator[Fetched]:
        """Download the items that the regions need and the store lacks.

        Raises:
            StoppedError: The quota is exhausted or the key was rejected.
            SourceError: The API key is not in the environment, or the source has no such data.
        """
        ...

    def pictures(self, regions: gpd.GeoDataFrame, store: Store) -> Iterator[Picture]:
        """Image metadata of each region, in the order of the regions."""
        ...

    def read(self, picture: Picture, store: Store) -> bytes | None:
        """Encoded image of 256 x 256 pixels, or None if the content is missing."""
        ...


def are_squares(shapes: Any) -> NDArray[np.bool_]:
    """Whether each of `n` polygons has exactly four corners, `(n,)`; others have no image."""
    shapes = np.asarray(shapes, dtype=object)
    # closed ring: the first coordinate is repeated
    return shapely.get_num_coordinates(shapely.get_exterior_ring(shapes)) == 5


def corners_of(squares: Any) -> NDArray[np.float64]:
    """South-west, south-east, north-east and north-west corners of squares, `(n, 4, 2)` degrees."""
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
