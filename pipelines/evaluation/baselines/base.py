"""What a baseline sees of a city, and what it gives back: one vector a region."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Use = Literal["satellite", "street_view", "captions", "coordinates", "poi"]
FUSED = "both"


@dataclass(frozen=True)
class View:
    """The images of one view of a city, decoded to one size.

    Attributes:
        image_ids: `(M,)`.
        region: `(M,)` row of the region of each image in [`RegionData`].
        pixels: `(M, S, S, 3)` uint8, mapped from disk.
        captions: `(M,)` texts; None where an image has none.
        lonlat: `(M, 2)` degrees, EPSG:4326; of the region where the image has no place of its own.
        heading: `(M,)` degrees clockwise from north; nan where there is none.
    """

    image_ids: list[str]
    region: NDArray[np.int64]
    pixels: NDArray[np.uint8]
    captions: list[str | None]
    lonlat: NDArray[np.float64]
    heading: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.image_ids)


@dataclass(frozen=True)
class RegionData:
    """A city as a baseline sees it: no indicator, no split.

    Attributes:
        city: its name.
        region_ids: `(N,)`.
        xy: `(N, 2)` local metres.
        lonlat: `(N, 2)` degrees, EPSG:4326.
        cell_m: side of a typical region.
        views: "satellite" and "street_view", those that the dataset has.
        poi: `(N, categories)` counts of points of interest; None where there is none that may be
            seen.
        poi_categories: names of the columns of `poi`.
        poi_left_out: columns of the table of regions that are not among `poi`, for they would give
            an indicator away ([`poi`][pipelines.evaluation.embed.poi]).
        synthetic: the city is simulated.
        fingerprint: equal for equal content.
    """

    city: str
    region_ids: list[str]
    xy: NDArray[np.float64]
    lonlat: NDArray[np.float64]
    cell_m: float
    views: Mapping[str, View]
    poi: NDArray[np.float64] | None = None
    poi_categories: tuple[str, ...] = ()
    poi_left_out: tuple[str, ...] = ()
    synthetic: bool = False
    fingerprint: str = ""


@dataclass(frozen=True)
class Provenance:
    """What a system was made of, for the tables.

    Attributes:
        source: paper, file or equation that it follows.
        differs: what differs from it, one sentence each.
        uses: what it sees. A system that uses "poi" is never scored on an indicator that its counts
            of points of interest give away.
        pretrained: name of the weights it starts from; None if they were drawn at random.
    """

    source: str
    differs: tuple[str, ...]
    uses: frozenset[Use]
    pretrained: str | None = None


class RegionEncoder(Protocol):
    """A system: fit on regions, encode a region.

    Attributes:
        name: in tables ("tile2vec", "musecl-nomob"); says what variant it is.
        provenance: what it was made of.
        fingerprint: of the settings and the seed.
    """

    name: str
    provenance: Provenance
    fingerprint: str

    def fit(self, data: RegionData) -> None:
        """Learn without labels; a frozen system does nothing."""
        ...

    def encode(self, data: RegionData) -> dict[str, NDArray[np.float32]]:
        """Vectors by "satellite", "street_view" or "both" (fused): `(N, D)`.

        Rows of nan where a region has no image of the view. Never all keys for their own sake:
        a system that sees one view gives one.
        """
        ...


__all__ = ["FUSED", "Provenance", "RegionData", "RegionEncoder", "Use", "View"]
