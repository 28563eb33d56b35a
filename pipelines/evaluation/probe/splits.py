"""Which regions train, validate and test, for every protocol and split seed.

Three splitters behind one interface, [`Splitter`]: random, block and city. Splits are drawn over
all regions of a city by `dataset_builders.splits`, before any system is looked at, so that they do
not depend on who is compared. Seed 0 is the split stored in the dataset.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import geopandas as gpd
import numpy as np
from numpy.typing import NDArray

from dataset_builders.splits import (
    Neighbourhood,
    apply_buffer,
    block_numbers,
    block_split,
    default_block_m,
    local_xy,
    random_split,
    region_neighbourhood,
    spacing_m,
)

from ..errors import InputError
from .tasks import Indices

PROTOCOLS = {"random": "interpolation", "block": "new district"}
FRACTIONS = (0.6, 0.2, 0.2)
STORED_SEED = 0
SPLIT_RULE = "touching or near centres"
"""What keeps blocks apart, for the hashes of what was scored under it."""
LONE_CELL_M = 1000.0  # of a single point, which nothing can be measured on


@dataclass(frozen=True)
class Geography:
    """Where the regions lie, in local metres, and which of them are neighbours.

    Attributes:
        xy: `(N, 2)` of the regions' points; nan where a region has no place.
        cell_m: side of a typical region, or the usual distance of neighbours for points.
        block_m: side of the blocks that are held out whole; nan without places.
        neighbourhood: which regions are too near to be in two parts of a split.
    """

    xy: NDArray[np.float64]
    cell_m: float
    block_m: float
    neighbourhood: Neighbourhood

    @property
    def buffer_m(self) -> float:
        """Distance of centres up to which regions of two parts are too near, touching or not."""
        return self.neighbourhood.centre_distance_m

    def complete(self, rows: NDArray[np.int64]) -> bool:
        """Whether all these regions have a place."""
        return bool(np.isfinite(self.xy[rows]).all())


def geography(regions: gpd.GeoDataFrame, block_m: float | None = None) -> Geography:
    """Local coordinates and typical sizes of a city's regions.

    Args:
        regions: with `lon`, `lat` and geometry in EPSG:4326; without a geometry they are points.
        block_m: side of the blocks of the stored split, so that the drawn ones are like it;
            chosen from the extent where the dataset names none.
    """
    x, y = local_xy(regions["lon"].to_numpy(float), regions["lat"].to_numpy(float))
    xy = np.stack([x, y], axis=1)
    placed = xy[np.isfinite(xy).all(1)]
    if not len(placed):
        nowhere = np.full(len(regions), None, dtype=object)
        return Geography(xy, np.nan, np.nan, Neighbourhood(nowhere, 0.0))
    cell_m = _cell_m(regions, placed)
    if block_m is None:
        block_m = float(default_block_m(placed[:, 0], placed[:, 1], cell_m))
    near = region_neighbourhood(regions.geometry, regions["lon"], regions["lat"], cell_m=cell_m)
    return Geography(xy, cell_m, block_m, near)


def _cell_m(regions: gpd.GeoDataFrame, xy: NDArray[np.float64]) -> float:
    if "area_m2" in regions and (regions["area_m2"] > 0).any():
        return float(np.sqrt(regions.loc[regions["area_m2"] > 0, "area_m2"].median()))
    if len(xy) < 2:
        return LONE_CELL_M
    return max(spacing_m(xy), 1.0)


def block_ids(place: Geography) -> NDArray[np.int64]:
    """`(N,)` number of the block of each region, on the grid of the block protocol.

    Regions without a place are blocks of their own.
    """
    blocks = np.arange(len(place.xy))
    placed = np.isfinite(place.xy).all(1)
    if placed.any():
        x, y = place.xy[placed].T
        members = block_numbers(x, y, place.block_m, place.neighbourhood)
        blocks[placed] = len(place.xy) + members
    return np.unique(blocks, return_inverse=True)[1]


class Split(NamedTuple):
    """One split: increasing row numbers of the three parts; other rows are in none of them."""

    train: Indices
    validation: Indices
    test: Indices

    @classmethod
    def of(cls, parts: NDArray[np.object_]) -> "Split":
        """From `(N,)` of "train", "validation", "test" or None."""
        return cls(*(np.flatnonzero(parts == part) for part in cls._fields))

    def parts(self, n: int) -> NDArray[np.object_]:
        """`(n,)` of "train", "validation", "test" or None."""
        parts = np.full(n, None, dtype=object)
        for part, rows in self._asdict().items():
            parts[rows] = part
        return parts


class Splitter(Protocol):
    """What draws the splits of a protocol."""

    def split(self, seed: int) -> Split:
        """Draw the split of a seed.

        Raises:
            SplitError: Too few regions or blocks, or regions without a place.
        """
        ...


@dataclass(frozen=True)
class CityRegions:
    """The regions of one city that are compared.

    Attributes:
        regions: All regions of the city: splits are drawn over all of them.
        place: Their geography, from [`geography`].
        kept: Rows of the regions that are compared, in order; None for all. The rows of a split
            count these.
    """

    regions: gpd.GeoDataFrame
    place: Geography
    kept: Indices | None = None

    def order(self) -> NDArray[np.int64]:
        """Rows by region_id, so that a split does not depend on the order of the dataset."""
        return np.argsort(self.regions["region_id"].to_numpy(str), kind="stable")

    def chosen(self, parts: NDArray[np.object_]) -> Split:
        """The split of the compared regions, from the parts of all regions."""
        return Split.of(parts if self.kept is None else parts[self.kept])


class RandomSplitter(CityRegions):
    """Regions at random, 6:2:2; seed 0 is the split stored in the dataset, where there is one."""

    def split(self, seed: int) -> Split:
        """See [`Splitter.split`]."""
        parts = _stored(self.regions, "random") if seed == STORED_SEED else None
        if parts is None:
            parts = np.full(len(self.regions), None, dtype=object)
            parts[self.order()] = random_split(len(parts), seed)
        return self.chosen(parts)


class BlockSplitter(CityRegions):
    """Whole blocks; regions too near to another part's are in no part, stored or drawn."""

    def split(self, seed: int) -> Split:
        """See [`Splitter.split`]."""
        near = self.place.neighbourhood
        stored = _stored(self.regions, "block") if seed == STORED_SEED else None
        if stored is not None:
            return self.chosen(apply_buffer(stored, near))
        order = self.order()
        parts = np.full(len(order), None, dtype=object)
        x, y = self.place.xy[order].T
        parts[order] = block_split(x, y, self.place.block_m, seed, near.take(order))[0]
        return self.chosen(parts)


@dataclass(frozen=True)
class CitySplitter:
    """All regions of the source cities train and validate, those of the target are tested.

    The rows of a split count the regions of the sources, one city after the other, then the
    target's. A source's random validation split of the seed validates; the rest of it trains.

    Attributes:
        sources: The compared regions of each source city.
        num_target: Number of compared regions of the target.
    """

    sources: Sequence[RandomSplitter]
    num_target: int

    def split(self, seed: int) -> Split:
        """See [`Splitter.split`]."""
        train, validation, start = [], [], 0
        for source in self.sources:
            own = source.split(seed)
            train.append(start + np.union1d(own.train, own.test))  # nothing is tested here
            validation.append(start + own.validation)
            start += len(source.regions) if source.kept is None else len(source.kept)
        tested = np.arange(start, start + self.num_target)
        return Split(np.concatenate(train), np.concatenate(validation), tested)


SPLITTERS: Mapping[str, type[RandomSplitter] | type[BlockSplitter]] = {
    "random": RandomSplitter,
    "block": BlockSplitter,
}


def splitter_within(protocol: str, regions: CityRegions) -> Splitter:
    """The splitter of a protocol within one city.

    Raises:
        InputError: The protocol is unknown.
    """
    if protocol not in SPLITTERS:
        raise InputError(f"Unknown protocol {protocol!r}; known are {', '.join(SPLITTERS)}.")
    return SPLITTERS[protocol](regions.regions, regions.place, regions.kept)


def stored_neighbours(regions: gpd.GeoDataFrame, place: Geography) -> dict[str, int]:
    """Regions of the stored block split that [`BlockSplitter`] leaves out, counted by stored part.

    Empty where the stored parts keep their distance.
    """
    stored = _stored(regions, "block")
    if stored is None:
        return {}
    lost = stored[apply_buffer(stored, place.neighbourhood) != stored]
    return {str(part): int((lost == part).sum()) for part in sorted(set(lost))}


def _stored(regions: gpd.GeoDataFrame, protocol: str) -> NDArray[np.object_] | None:
    column = f"split_{protocol}"
    if column not in regions or not regions[column].notna().any():
        return None
    values = regions[column].astype(object)
    return values.where(values.notna(), None).to_numpy()


__all__ = [
    "FRACTIONS",
    "PROTOCOLS",
    "SPLIT_RULE",
    "STORED_SEED",
    "BlockSplitter",
    "CityRegions",
    "CitySplitter",
    "Geography",
    "RandomSplitter",
    "Split",
    "Splitter",
    "block_ids",
    "geography",
    "splitter_within",
    "stored_neighbours",
]
