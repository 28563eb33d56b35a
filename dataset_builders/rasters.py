"""Raster files: opening them, finding a band, reading values and missing cells."""

from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import DatasetError, MissingExtraError


def import_rasterio() -> ModuleType:
    """Import rasterio, an optional dependency.

    Raises:
        MissingExtraError: rasterio is not installed.
    """
    try:
        import rasterio
    except ImportError as error:
        raise MissingExtraError("rasterio", "geo") from error
    return rasterio


def open_raster(path: str | Path) -> Any:
    """Open a raster for reading.

    Raises:
        DatasetError: The file is missing, or not a raster.
        MissingExtraError: rasterio is not installed.
    """
    rasterio = import_rasterio()
    if not Path(path).exists() and not str(path).startswith("/vsi"):
        raise DatasetError(f"There is no raster at {path}.")
    try:
        return rasterio.open(path)
    except rasterio.errors.RasterioIOError as error:
        raise DatasetError(f"{path} cannot be read as a raster: {error}") from error


def find_band(dataset: Any, band: int | str | None) -> int:
    """Number of a band, given by number or description; by default of the only band.

    Raises:
        DatasetError: Unknown band, or several bands and none named.
    """
    texts = [(text or "").casefold() for text in dataset.descriptions]
    listed = ", ".join(f"{n} {text!r}" if text else str(n) for n, text in enumerate(texts, 1))
    if band is None and dataset.count != 1:
        raise DatasetError(
            f"{dataset.name} has {dataset.count} bands; choose one with `band=`: {listed}."
        )
    wanted = 1 if band is None else band
    if isinstance(wanted, str) and texts.count(wanted.casefold()) == 1:
        wanted = texts.index(wanted.casefold()) + 1
    if wanted not in range(1, dataset.count + 1):
        raise DatasetError(
            f"{dataset.name} has bands 1 to {dataset.count}, got {wanted}. Give a number or a "
            f"description: {listed}."
        )
    return int(wanted)


def has_gaps(dataset: Any, band: int) -> bool:
    """Whether a raster marks missing cells, by a nodata tag or a mask."""
    flags = [flag.name for flag in dataset.mask_flag_enums[band - 1]]
    return flags != ["all_valid"] or dataset.nodatavals[band - 1] is not None


def raster_bounds(dataset: Any) -> tuple[float, float, float, float]:
    """West, south, east and north of a raster, which may be rotated."""
    of = dataset.transform
    column, row = (axis.ravel() for axis in np.meshgrid([0, dataset.width], [0, dataset.height]))
    x, y = of.a * column + of.b * row + of.c, of.d * column + of.e * row + of.f
    return float(x.min()), float(y.min()), float(x.max()), float(y.max())


@dataclass(frozen=True)
class Band:
    """Numeric band of an open raster.

    Args:
        dataset: Open raster.
        number: Number of the band, from 1.
        nodata: Value of missing cells, in addition to the file's tag; "none" ignores the tag; None
            requires one.
        signed: Whether values may be negative.

    Raises:
        DatasetError: The raster has no CRS, no geotransform, no numeric values or no nodata tag, or
            its type cannot represent `nodata`.
    """

    dataset: Any
    number: int
    nodata: float | str | None = None
    signed: bool = True

    def __post_init__(self) -> None:
        name, dtype = self.dataset.name, np.dtype(self.dataset.dtypes[self.number - 1])
        if self.dataset.crs is None:
            raise DatasetError(
                f"{name} has no CRS. Set it, for example with `rio edit-info --crs EPSG:4326`."
            )
        if self.dataset.transform.is_identity or not self.dataset.transform.determinant:
            raise DatasetError(f"{name} has no geotransform: it is an image, not a map.")
        if dtype.kind not in "iuf":
            raise DatasetError(f"{name} has values of {dtype}, which are not real numbers.")
        if self.nodata is None and not has_gaps(self.dataset, self.number):
            raise DatasetError(
                f"{name} has no nodata tag, so missing cells cannot be identified. Give their "
                'value as `nodata=`, or nodata="none" if every cell has a value.'
            )
        if isinstance(self.nodata, str):
            if self.nodata != "none":
                raise DatasetError(f'`nodata` must be a number or "none", got {self.nodata!r}.')
        elif self.nodata is not None and dtype.kind in "iu":
            limits = np.iinfo(dtype)
            if not (limits.min <= self.nodata <= limits.max and self.nodata % 1 == 0):
                raise DatasetError(
                    f"{name} has values of {dtype}, which cannot be the nodata {self.nodata:g}."
                )

    def read(self, column: int, row: int, width: int, height: int) -> NDArray[np.float64]:
        """Values of a window, `(height, width)`, NaN where missing.

        Raises:
            DatasetError: A value is negative, and the band is not `signed`.
        """
        from rasterio.windows import Window

        window, k = Window(column, row, width, height), self.number - 1
        found = self.dataset.read(self.number, window=window, masked=self.nodata != "none")
        raw, missing = np.ma.getdata(found), np.ma.getmaskarray(found)
        if self.nodata is not None and not isinstance(self.nodata, str):
            missing = missing | (raw == np.array(self.nodata).astype(raw.dtype))
        values = raw.astype(np.float64)
        values[missing | ~np.isfinite(values)] = np.nan
        if (self.dataset.scales[k], self.dataset.offsets[k]) != (1.0, 0.0):
            values = values * self.dataset.scales[k] + self.dataset.offsets[k]
        if not self.signed and (values < 0).any():
            raise DatasetError(
                f"{self.dataset.name} holds negative amounts, down to {np.nanmin(values):g}. If "
                "that marks missing cells, give it as `nodata=`."
            )
        return values


__all__ = ["Band", "find_band", "has_gaps", "import_rasterio", "open_raster", "raster_bounds"]
