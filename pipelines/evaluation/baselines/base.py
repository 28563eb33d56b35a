"""Interface of baselines: input data, provenance and the encoder protocol."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

FUSED = "both"


@dataclass(frozen=True)
class View:
    """Images of one view of a city, decoded to one size.

    Attributes:
        image_ids: Image ids, `(M,)`.
        region: Row index of each image's region in [`RegionData`], `(M,)`.
        pixels: Memory-mapped pixels, `(M, S, S, 3)`, uint8.
        captions: Caption of each image or None, `(M,)`.
        lonlat: Longitude and latitude of each image, by default of its region, in degrees
            (EPSG:4326), `(M, 2)`.
        heading: Heading in degrees clockwise from north, or NaN, `(M,)`.
    """

    image_ids: list[str]
    region: NDArray[np.int64]
    pixels: NDArray[np.uint8]
    captions: list[str | None]
    lonlat: NDArray[np.float64]
    heading: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.image_ids)

    def take(self, rows: NDArray[np.int64]) -> "View":
        """Some of the images."""
        return View(
            [self.image_ids[row] for row in rows],
            self.region[rows],
            np.array(self.pixels[rows]),
            [self.captions[row] for row in rows],
            self.lonlat[rows],
            self.heading[rows],
        )


@dataclass(frozen=True)
class RegionData:
    """Data of a city for baselines, without indicators and splits.

    Attributes:
        city: Name of the city.
        region_ids: Region ids, `(N,)`.
        xy: Coordinates in a local projection, in metres, `(N, 2)`.
        lonlat: Longitude and latitude in degrees (EPSG:4326), `(N, 2)`.
        cell_m: Typical side length of a region, in metres.
        views: Available views, "satellite" and "street_view".
        poi: POI counts by category, `(N, categories)`; None if there are no usable columns.
        poi_categories: Names of the columns of `poi`.
        poi_left_out: POI columns excluded because they leak an indicator
            ([`poi`][pipelines.evaluation.embed.poi]).
        synthetic: Whether the city is simulated.
        fingerprint: Hash of the content.
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
    """Provenance of a system, for reports.

    Attributes:
        source: Paper, file or equation that it implements.
        differs: Differences from the source, one sentence each.
        uses: Inputs, some of "satellite", "street_view", "captions", "coordinates" and "poi". A
            system that uses "poi" is not scored on indicators that its inputs leak.
        pretrained: Name of the initial weights; None for random initialisation.
    """

    source: str
    differs: tuple[str, ...]
    uses: frozenset[str]
    pretrained: str | None = None


class RegionEncoder(Protocol):
    """Encoder of regions that is fitted without labels.

    Attributes:
        name: Name and variant in tables, such as "tile2vec" or "musecl-nomob".
        provenance: Sources, differences and inputs.
        fingerprint: Hash of settings and seed.
    """

    name: str
    provenance: Provenance
    fingerprint: str

    def fit(self, data: RegionData) -> None:
        """Train without labels."""
        ...

    def encode(self, data: RegionData) -> dict[str, NDArray[np.float32]]:
        """Vectors of regions, `(N, D)`, under "satellite", "street_view" or "both" (fused).

        Rows are NaN for regions without images of the view.
        """
        ...


__all__ = [
    "FUSED",
    "Provenance",
    "RegionData",
    "RegionEncoder",
    "View",
]
