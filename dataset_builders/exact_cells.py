"""Adapters of bands and polygons for exactextract, an optional dependency."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import shapely
from exactextract import exact_extract
from exactextract.feature import Feature, FeatureSource
from exactextract.raster import RasterSource
from numpy.typing import NDArray

from .rasters import Band

CELLS_AT_ONCE = 4_000_000

Window = tuple[int, int, int, int]
"""Left, bottom, right, top, in columns from the left and rows from the bottom."""


def sum_cells(
    band: Band, polygons: NDArray[Any], window: Window, fill: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sum of a band's values over polygons, and number of cells with a value.

    Args:
        band: Band to read.
        polygons: `(n,)` polygons in the coordinates of `window`.
        window: Part of the band to read.
        fill: Treat cells without a value as 0.

    Returns:
        `(n,)` sums and `(n,)` numbers of cells, both weighted by the covered share of each cell.
    """
    found = exact_extract(
        _Cells(band, window, fill),
        _Polygons(polygons),
        ["sum", "count"],
        include_cols=["id"],
        strategy="raster-sequential",
        max_cells_in_memory=CELLS_AT_ONCE,
        output="pandas",
    )
    found = found.set_index("id").loc[range(len(polygons))]
    return np.nan_to_num(found["sum"].to_numpy(float)), found["count"].to_numpy(float)


def covered_cells(
    polygons: NDArray[Any], window: Window
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Cells that polygons cover, and the covered share of each.

    Args:
        polygons: `(n,)` polygons in the coordinates of `window`.
        window: Extent of the cells.

    Returns:
        For each pair of polygon and cell: index of the polygon, index of the cell in the window
        (row-major from the top left), and covered share of the cell.
    """
    found = exact_extract(
        _Empty(window),
        _Polygons(polygons),
        ["cell_id", "coverage"],
        include_cols=["id"],
        max_cells_in_memory=CELLS_AT_ONCE,
        output="pandas",
    )
    numbers = found["id"].to_numpy(np.int64)
    cells, shares = (found[name].to_list() for name in ("cell_id", "coverage"))
    owner = np.repeat(numbers, [len(one) for one in cells])
    return owner, np.concatenate(cells), np.concatenate(shares)


class _Empty(RasterSource):  # type: ignore[misc]
    """Raster of 1 x 1 cells without values."""

    def __init__(self, window: Window):
        super().__init__()
        self.window = window

    def res(self) -> tuple[float, float]:
        return 1.0, 1.0

    def extent(self) -> tuple[float, ...]:
        return tuple(float(side) for side in self.window)

    def nodata_value(self) -> None:
        return None

    def srs_wkt(self) -> None:
        return None

    def read_window(self, x: int, y: int, width: int, height: int) -> NDArray[Any]:
        return np.zeros((height, width), np.uint8)


class _Cells(_Empty):
    def __init__(self, band: Band, window: Window, fill: bool):
        super().__init__(window)
        self.band, self.fill = band, fill

    def read_window(self, x: int, y: int, width: int, height: int) -> NDArray[np.float64]:
        left, _, _, top = self.window
        values = self.band.read(left + x, self.band.dataset.height - top + y, width, height)
        return np.nan_to_num(values) if self.fill else values


class _Polygon(Feature):  # type: ignore[misc]
    def __init__(self, number: int, wkb: bytes):
        super().__init__()
        self.number, self.wkb = number, wkb

    def geometry(self) -> bytes:
        return self.wkb

    def fields(self) -> list[str]:
        return ["id"]

    def get(self, name: str) -> int:
        return self.number


class _Polygons(FeatureSource):  # type: ignore[misc]
    """Polygons as WKB, several times faster than the GeoJSON of a GeoDataFrame."""

    def __init__(self, polygons: NDArray[Any]):
        super().__init__()
        self.wkb = shapely.to_wkb(polygons)

    def count(self) -> int:
        return len(self.wkb)

    def __iter__(self) -> Iterator[_Polygon]:
        return (_Polygon(number, wkb) for number, wkb in enumerate(self.wkb))

    def srs_wkt(self) -> None:
        return None


__all__ = ["Window", "covered_cells", "sum_cells"]
