"""A city as it is probed: its regions and what is predicted of them."""

from collections.abc import Iterable
from dataclasses import dataclass

import geopandas as gpd
import numpy as np
from numpy.typing import NDArray

from dataset_builders.errors import DatasetError
from dataset_builders.schema import config_name
from dataset_builders.storage import read_indicators, read_metadata, read_regions
from dataset_builders.unique import RepeatedIdError, require_unique

from ..errors import InputError


@dataclass(frozen=True)
class Target:
    """An indicator as it is scored.

    Attributes:
        name: of the indicator.
        unit: of its raw values.
        transform: `ln1p` or `identity`.
        y: `(N,)` transformed; nan where missing.
        invalid: labels that have no logarithm (below 0), taken as missing.
    """

    name: str
    unit: str
    transform: str
    y: NDArray[np.float64]
    invalid: int = 0


@dataclass(frozen=True)
class City:
    """What is predicted, and where.

    Attributes:
        name: of the city.
        dataset_name: where it comes from.
        synthetic: the data is simulated.
        regions: all regions, with region_id, lon, lat, geometry and stored splits.
        targets: the indicators.
        block_m: side of the blocks that the dataset holds out, where it names one.

    Raises:
        InputError: a region stands in two rows, and so in the training and the test part at once.
    """

    name: str
    dataset_name: str
    synthetic: bool
    regions: gpd.GeoDataFrame
    targets: list[Target]
    block_m: float | None = None

    def __post_init__(self) -> None:
        try:
            require_unique(
                [self.regions[["region_id"]]], f"{self.dataset_name}, city {self.name!r}"
            )
        except RepeatedIdError as error:
            raise InputError(str(error)) from error

    def numbers(self, columns: Iterable[str]) -> NDArray[np.float64]:
        """`(N, columns)` of the table of regions, nan where missing."""
        return self.regions[list(columns)].to_numpy(np.float64, na_value=np.nan)


def transform_labels(raw: NDArray[np.float64], transform: str) -> tuple[NDArray[np.float64], int]:
    """ln(y + 1), or the values as they are.

    Returns:
        The labels, nan where missing, and how many were taken as missing though present: they are
        negative where a logarithm is asked for, or infinite.

    Raises:
        InputError: the transform is unknown.
    """
    if transform not in ("ln1p", "identity"):
        raise InputError(f"Unknown transform {transform!r}; known are 'ln1p' and 'identity'.")
    present = ~np.isnan(raw)
    usable = np.isfinite(raw) & ((raw >= 0) | (transform == "identity"))
    y = np.where(usable, raw, np.nan)
    return (np.log1p(y) if transform == "ln1p" else y), int((present & ~usable).sum())


def open_city(dataset_name: str, city: str) -> City:
    """Regions and indicators of a city.

    Raises:
        InputError: there is no such dataset, city or column, it has no indicator, or an id stands
            in two rows.
    """
    from ..embed.sources import check_city  # imports torch, which reports do without

    check_city(dataset_name, city)
    try:
        regions = read_regions(dataset_name, city)
        indicators = read_indicators(dataset_name, city)
        metadata = read_metadata(dataset_name, city)
    except DatasetError as error:
        raise InputError(str(error)) from error
    if not indicators:
        raise InputError(f"{dataset_name} has no indicator to predict for {city!r}.")
    targets = []
    for name, indicator in indicators.items():
        if name not in regions:
            raise InputError(
                f"The indicator {name!r} is declared in the metadata of {dataset_name} but the "
                f"table {config_name(city, 'regions')!r} has no such column."
            )
        raw = regions[name].to_numpy(np.float64, na_value=np.nan)
        y, invalid = transform_labels(raw, indicator.transform)
        targets.append(Target(name, indicator.unit, indicator.transform, y, invalid))
    block_m = metadata.parameters.get("block_m")
    return City(city, str(dataset_name), metadata.synthetic, regions, targets, block_m)


__all__ = ["City", "Target", "open_city", "transform_labels"]
