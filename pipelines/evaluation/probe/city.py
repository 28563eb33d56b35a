"""Regions and target indicators of a city."""

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
    """Target indicator on its transformed scale.

    Attributes:
        name: Name of the indicator.
        unit: Unit of the raw values.
        transform: `ln1p` or `identity`.
        y: `(N,)` transformed values; NaN where missing.
        invalid: Number of negative or infinite labels treated as missing.
    """

    name: str
    unit: str
    transform: str
    y: NDArray[np.float64]
    invalid: int = 0


@dataclass(frozen=True)
class City:
    """City with its regions and target indicators.

    Attributes:
        name: Name of the city.
        dataset_name: Dataset folder or Hub id.
        synthetic: Whether the data is simulated.
        regions: All regions, with region_id, lon, lat, geometry and stored splits.
        targets: Target indicators.
        block_m: Side of the blocks of the stored block split in metres, if known.

    Raises:
        InputError: A region id is duplicated, which would leak test labels into training.
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
        """`(N, len(columns))` values of region columns; NaN where missing."""
        return self.regions[list(columns)].to_numpy(np.float64, na_value=np.nan)


def transform_labels(raw: NDArray[np.float64], transform: str) -> tuple[NDArray[np.float64], int]:
    """Apply the transform of an indicator: ln(y + 1) or the identity.

    Returns:
        Transformed labels, NaN where missing, and the number of labels treated as missing because
        they are infinite, or negative for `ln1p`.

    Raises:
        InputError: The transform is unknown.
    """
    if transform not in ("ln1p", "identity"):
        raise InputError(f"Unknown transform {transform!r}; known are 'ln1p' and 'identity'.")
    present = ~np.isnan(raw)
    usable = np.isfinite(raw) & ((raw >= 0) | (transform == "identity"))
    y = np.where(usable, raw, np.nan)
    return (np.log1p(y) if transform == "ln1p" else y), int((present & ~usable).sum())


def open_city(dataset_name: str, city: str) -> City:
    """Read the regions and indicators of a city.

    Raises:
        InputError: The dataset, the city or an indicator's column does not exist, there are no
            indicators, or a region id is duplicated.
    """
    from ..embed.sources import check_city  # imports torch, which reports do not need

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
