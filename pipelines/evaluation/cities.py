"""A city as it is probed: its regions and what is predicted of them."""

from dataclasses import dataclass

import geopandas as gpd
import numpy as np
from numpy.typing import NDArray

from .errors import InputError

POI_PREFIX = "poi_"


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
    """

    name: str
    dataset_name: str
    synthetic: bool
    regions: gpd.GeoDataFrame
    targets: list[Target]
    block_m: float | None = None

    def poi_counts(self) -> NDArray[np.float64] | None:
        """`(N, categories)` of the columns `poi_<category>`; None where there is none."""
        targets = {target.name for target in self.targets}
        # `poi_source` is text
        numbers = self.regions.select_dtypes("number")
        names = [n for n in numbers if n.startswith(POI_PREFIX) and n not in targets]
        if not names:
            return None
        return self.regions[sorted(names)].to_numpy(np.float64, na_value=np.nan)


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


__all__ = ["POI_PREFIX", "City", "Target", "transform_labels"]
