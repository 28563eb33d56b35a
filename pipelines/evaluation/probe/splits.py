"""Training, validation and test splits for every protocol and split seed, and the tasks of probes.

Random, block and city splits share the interface [`Splitter`]. Splits are drawn over all regions of
a city by `dataset_builders.splits`, so they do not depend on the systems compared. Seed 0 is the
split stored in the dataset.
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

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

PROTOCOLS = {"random": "interpolation", "block": "new district"}
FRACTIONS = (0.6, 0.2, 0.2)
STORED_SEED = 0
SPLIT_RULE = "touching or near centres"
"""Version of the buffer rule, part of the table hash."""
LONE_CELL_M = 1000.0  # assumed side of a single point region


@dataclass(frozen=True)
class Geography:
    """Positions of the regions in local metres, and their neighbourhoods.

    Attributes:
        xy: `(N, 2)` positions in local metres; NaN for regions without coordinates.
        cell_m: Typical side of a region in metres, or typical spacing of points.
        block_m: Side of the blocks of the block protocol in metres; NaN without coordinates.
        neighbourhood: Pairs of regions that must not be in different parts of a split.
    """

    xy: NDArray[np.float64]
    cell_m: float
    block_m: float
    neighbourhood: Neighbourhood

    @property
    def buffer_m(self) -> float:
        """Minimum distance between centres of regions in different parts, in metres."""
        return self.neighbourhood.centre_distance_m

    def complete(self, rows: NDArray[np.int64]) -> bool:
        """Whether all given regions have coordinates."""
        return bool(np.isfinite(self.xy[rows]).all())


def geography(regions: gpd.GeoDataFrame, block_m: float | None = None) -> Geography:
    """Compute local coordinates, typical sizes and neighbourhoods of regions.

    Args:
        regions: Regions with `lon`, `lat` and geometry in EPSG:4326; points without a geometry.
        block_m: Side of the blocks in metres; by default derived from the extent.
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
    """`(N,)` block number of each region; regions without coordinates are blocks of their own."""
    blocks = np.arange(len(place.xy))
    placed = np.isfinite(place.xy).all(1)
    if placed.any():
        x, y = place.xy[placed].T
        members = block_numbers(x, y, place.block_m, place.neighbourhood)
        blocks[placed] = len(place.xy) + members
    return np.unique(blocks, return_inverse=True)[1]


class Split(NamedTuple):
    """Sorted row numbers of the three parts of a split; other rows are unused."""

    train: Indices
    validation: Indices
    test: Indices

    @classmethod
    def of(cls, parts: NDArray[np.object_]) -> "Split":
        """Create a split from `(N,)` values "train", "validation", "test" or None."""
        return cls(*(np.flatnonzero(parts == part) for part in cls._fields))

    def parts(self, n: int) -> NDArray[np.object_]:
        """`(n,)` values "train", "validation", "test" or None."""
        parts = np.full(n, None, dtype=object)
        for part, rows in self._asdict().items():
            parts[rows] = part
        return parts


@dataclass(frozen=True)
class Task:
    """One indicator under one split and one probe seed.

    Attributes:
        y: `(N,)` targets on the transformed scale; NaN where missing.
        fit_rows: Rows of all training regions, labelled or not, used to standardise the inputs.
        train: Rows of the labelled training regions.
        validation: Rows of the labelled validation regions.
        test: Rows of the labelled test regions.
        seed: Seed of initial weights and batch order.
    """

    y: Array
    fit_rows: Indices
    train: Indices
    validation: Indices
    test: Indices
    seed: int = 0


@dataclass(frozen=True)
class Fit:
    """Result of a probe on one task, for the chosen hyper-parameters, on the scale of `Task.y`.

    Attributes:
        predictions: `(n_test,)` test predictions.
        validation_mse: Mean squared error on the validation set.
        hyperparameters: Hyper-parameters chosen on the validation set.
        validation_predictions: `(n_validation,)` validation predictions.
    """

    predictions: Array
    validation_mse: float
    hyperparameters: dict[str, float]
    validation_predictions: Array


class Splitter(Protocol):
    """Interface of the splitters."""

    def split(self, seed: int) -> Split:
        """Draw the split of a seed.

        Raises:
            SplitError: There are too few regions or blocks, or regions without coordinates.
        """
        ...


@dataclass(frozen=True)
class CityRegions:
    """Compared regions of one city.

    Attributes:
        regions: All regions of the city, over which splits are drawn.
        place: Geography of all regions, from [`geography`].
        kept: Sorted rows of the compared regions, which the rows of a split index; None for all.
    """

    regions: gpd.GeoDataFrame
    place: Geography
    kept: Indices | None = None

    def order(self) -> NDArray[np.int64]:
        """Rows sorted by region_id, so that splits do not depend on the order of the dataset."""
        return np.argsort(self.regions["region_id"].to_numpy(str), kind="stable")

    def chosen(self, parts: NDArray[np.object_]) -> Split:
        """Split of the compared regions from the parts of all regions."""
        return Split.of(parts if self.kept is None else parts[self.kept])


class RandomSplitter(CityRegions):
    """Random 6:2:2 split of regions; seed 0 is the stored split, if any."""

    def split(self, seed: int) -> Split:
        """See [`Splitter.split`]."""
        parts = _stored(self.regions, "random") if seed == STORED_SEED else None
        if parts is None:
            parts = np.full(len(self.regions), None, dtype=object)
            parts[self.order()] = random_split(len(parts), seed)
        return self.chosen(parts)


class BlockSplitter(CityRegions):
    """Split of blocks, without regions too close to another part; seed 0 is the stored split."""

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
    """Split with training and validation in the source cities and testing in the target city.

    Rows index the regions of the sources, city by city, then those of the target. The validation
    part of each source's random split validates; its other regions train.

    Attributes:
        sources: Compared regions of each source city.
        num_target: Number of compared regions of the target city.
    """

    sources: Sequence[RandomSplitter]
    num_target: int

    def split(self, seed: int) -> Split:
        """See [`Splitter.split`]."""
        train, validation, start = [], [], 0
        for source in self.sources:
            own = source.split(seed)
            train.append(start + np.union1d(own.train, own.test))
            validation.append(start + own.validation)
            start += len(source.regions) if source.kept is None else len(source.kept)
        tested = np.arange(start, start + self.num_target)
        return Split(np.concatenate(train), np.concatenate(validation), tested)


SPLITTERS: Mapping[str, type[RandomSplitter] | type[BlockSplitter]] = {
    "random": RandomSplitter,
    "block": BlockSplitter,
}


def splitter_within(protocol: str, regions: CityRegions) -> Splitter:
    """Create the splitter of a protocol within one city.

    Raises:
        InputError: The protocol is unknown.
    """
    if protocol not in SPLITTERS:
        raise InputError(f"Unknown protocol {protocol!r}; known are {', '.join(SPLITTERS)}.")
    return SPLITTERS[protocol](regions.regions, regions.place, regions.kept)


def stored_neighbours(regions: gpd.GeoDataFrame, place: Geography) -> dict[str, int]:
    """Numbers of regions per stored part that [`BlockSplitter`] excludes from the stored split."""
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
    "Array",
    "BlockSplitter",
    "CityRegions",
    "CitySplitter",
    "Fit",
    "Geography",
    "RandomSplitter",
    "Split",
    "Splitter",
    "Task",
    "block_ids",
    "geography",
    "splitter_within",
    "stored_neighbours",
]
