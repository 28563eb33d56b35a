"""Read rasters of precomputed Earth embeddings (one vector per cell).

Supported layouts:

- `plain`: unquantised values, such as Earth Engine exports of
  `GOOGLE/SATELLITE_EMBEDDING/V1/ANNUAL` and the GeoTIFF files of `geotessera download` (float32,
  NaN where there is no embedding).
- `alphaearth`: AlphaEarth Foundations as on Google Cloud Storage and Source Cooperative. 64 int8
  bands A00 to A63, -128 for masked cells; a stored value q decodes to `sign(q) (q / 127.5)^2`, and
  vectors have unit length.
  https://developers.google.com/earth-engine/guides/aef_on_gcs_readme
  https://source.coop/tge-labs/aef
- `tessera`: quantised TESSERA. 128 int8 bands and a separate file of float32 scales, one per cell
  or one per cell and band; the value is the product of both.
  https://geotessera.readthedocs.io/en/latest/architecture.html
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isqrt
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dataset_builders.errors import DatasetError, MissingExtraError
from dataset_builders.rasters import Band, open_raster

from ..errors import InputError

Layout = Literal["auto", "plain", "alphaearth", "tessera"]

ALPHAEARTH_BANDS = 64
ALPHAEARTH_MASKED = -128
_QUANTISED = np.arange(256).astype(np.uint8).view(np.int8).astype(float)
ALPHAEARTH_VALUES = np.sign(_QUANTISED) * (_QUANTISED / 127.5) ** 2
"""Lookup table: decoded value of each byte, indexed as unsigned."""
LENGTH_TOLERANCE = 0.1
"""Tolerance of unit length, well above the quantisation error."""
SCALES = "_scales"
NUMBERS_AT_ONCE = 1 << 25
SAME_GRID = 1e-3
"""Maximum offset between two grids that are treated as one, in cells."""


@dataclass(frozen=True)
class Cells:
    """Stored vectors of a window.

    Attributes:
        raw: Stored values of the cells, row by row, `(bands, n)`.
        scales: Scale factors, `(1 or bands, n)`, if the layout has any.
        valid: Whether a cell has a value in every band, `(n,)`.
        in_band: Whether any cell has a value in the band, `(bands,)`.
        incomplete: Number of cells with values in some bands only.
    """

    raw: NDArray[Any]
    scales: NDArray[np.floating] | None
    valid: NDArray[np.bool_]
    in_band: NDArray[np.bool_]
    incomplete: int


class EmbeddingRaster:
    """Open raster of embeddings.

    Args:
        path: Path for GDAL; `/vsicurl/https://...` reads remote files in parts.
        layout: Storage layout of the vectors; "auto" detects it from the file.
        nodata: Value of cells without data, in addition to the file's own tag.

    Raises:
        InputError: The raster does not exist, has no CRS, or does not match the layout.
    """

    def __init__(self, path: str | Path, layout: Layout = "auto", nodata: float | None = None):
        self.path = str(path)
        try:
            self.dataset = open_raster(path)
            Band(self.dataset, 1, nodata="none")
        except (DatasetError, MissingExtraError) as error:
            raise InputError(str(error)) from error
        self.dim = int(self.dataset.count)
        scales = scales_file(path)
        self.layout = _layout(self.dataset, scales is not None) if layout == "auto" else layout
        self.scales = self._open_scales(scales) if self.layout == "tessera" else None
        if self.layout == "alphaearth":
            self._check_alphaearth()
        self.nodata = [
            value
            for value in (nodata, self.dataset.nodatavals[0] if self.layout == "plain" else None)
            if value is not None
        ]

    @property
    def names(self) -> tuple[str | None, ...]:
        """Descriptions of the bands."""
        return tuple(self.dataset.descriptions)

    def offset(self, other: "EmbeddingRaster") -> tuple[int, int] | None:
        """Column and row of another raster's origin; None if it is on another grid."""
        ours, theirs = self.dataset.transform, other.dataset.transform
        steps = np.array(
            [(ours.a, ours.b, ours.d, ours.e), (theirs.a, theirs.b, theirs.d, theirs.e)]
        )
        largest = max(other.dataset.shape) * np.abs(steps[0] - steps[1]).max()
        if self.dataset.crs != other.dataset.crs or largest > SAME_GRID * np.abs(steps[0]).max():
            return None
        place = np.array(~ours @ (theirs.c, theirs.f))
        rounded = np.round(place)
        if np.abs(place - rounded).max() > SAME_GRID:
            return None
        return int(rounded[0]), int(rounded[1])

    def windows(self, left: int, top: int, right: int, bottom: int) -> Iterator[tuple[int, ...]]:
        """Split a part of the raster into block-aligned windows of bounded size.

        Yields:
            Left, top, right and bottom, in columns and rows from the top left.
        """
        block_height, block_width = self.dataset.block_shapes[0]
        most = max(1, NUMBERS_AT_ONCE // self.dim)
        width = min(most, block_width * max(1, isqrt(most) // block_width))
        height = max(1, most // width)
        height -= height % block_height if height >= block_height else 0
        for y in range(top - top % height, bottom, height):
            for x in range(left - left % width, right, width):
                yield max(x, left), max(y, top), min(x + width, right), min(y + height, bottom)

    def read(self, left: int, top: int, right: int, bottom: int) -> Cells:
        """Read the vectors of a window."""
        from rasterio.windows import Window

        window = Window(left, top, right - left, bottom - top)
        raw = self.dataset.read(window=window).reshape(self.dim, -1)
        scales = None
        if self.layout == "alphaearth":
            there = raw != ALPHAEARTH_MASKED
        elif self.scales is not None:
            scales = self.scales.read(window=window).reshape(self.scales.count, -1)
            there = np.broadcast_to(np.isfinite(scales) & (scales != 0), raw.shape)
        else:
            there = np.isfinite(raw)
            for value in self.nodata:
                there &= raw != value
        if "per_dataset" in [flag.name for flag in self.dataset.mask_flag_enums[0]]:
            there = there & (self.dataset.read_masks(1, window=window).ravel() > 0)
        valid = there.all(0)
        incomplete = int(there.any(0).sum() - valid.sum())
        return Cells(raw, scales, valid, there.any(1), incomplete)

    def vectors(self, cells: Cells, bands: slice, chosen: NDArray[np.int64]) -> NDArray[np.float64]:
        """Decode the values of some bands, `(len(chosen), bands)`.

        Args:
            cells: Cells of a window.
            bands: Bands to decode.
            chosen: Indices of the cells to decode.
        """
        raw = cells.raw[bands][:, chosen]
        if self.layout == "alphaearth":
            return ALPHAEARTH_VALUES[raw.view(np.uint8)].T
        values = raw.astype(np.float64)
        if cells.scales is not None:
            values *= cells.scales[bands if len(cells.scales) > 1 else slice(None)][:, chosen]
        else:
            factor, term = (
                np.array(of)[bands] for of in (self.dataset.scales, self.dataset.offsets)
            )
            if (factor != 1).any() or (term != 0).any():
                values = values * factor[:, None] + term[:, None]
        return values.T

    def check_length(self, vectors: NDArray[np.floating]) -> None:
        """Raise `InputError` if AlphaEarth vectors, `(n, dim)`, do not have unit length."""
        if self.layout != "alphaearth" or not len(vectors):
            return
        length = float(np.median(np.linalg.norm(vectors, axis=1)))
        if abs(length - 1) > LENGTH_TOLERANCE:
            raise InputError(
                f"{self.path}: AlphaEarth vectors must have length 1, got {length:.2f}. Use "
                "--raster_layout plain or tessera for other layouts."
            )

    def _open_scales(self, path: Path | None) -> Any:
        if path is None:
            raise InputError(
                f"{self.path}: layout tessera needs a file of scales, "
                f"{Path(self.path).stem}{SCALES}.tif in the same folder."
            )
        try:
            scales = open_raster(path)
        except DatasetError as error:
            raise InputError(str(error)) from error
        same = scales.shape == self.dataset.shape and scales.count in (1, self.dim)
        if not same or not np.allclose(scales.transform, self.dataset.transform):
            raise InputError(
                f"{path} has {scales.count} band(s) of {scales.width} x {scales.height} cells and "
                f"does not fit {self.path}, of {self.dim} bands of {self.dataset.width} x "
                f"{self.dataset.height} cells. Scales must be on the same grid, in 1 or {self.dim} "
                "bands."
            )
        return scales

    def _check_alphaearth(self) -> None:
        if self.dataset.dtypes[0] != "int8" or self.dim != ALPHAEARTH_BANDS:
            raise InputError(
                f"{self.path}: layout alphaearth needs {ALPHAEARTH_BANDS} bands of int8, got "
                f"{self.dim} of {self.dataset.dtypes[0]}. Use --raster_layout plain for decoded "
                "values."
            )


def open_rasters(
    paths: Sequence[str | Path], layout: Layout = "auto", nodata: float | None = None
) -> list[EmbeddingRaster]:
    """Open the rasters of a city and check that they are compatible.

    Args:
        paths: Raster files; files of scales are skipped.
        layout: See [`EmbeddingRaster`].
        nodata: See [`EmbeddingRaster`].

    Raises:
        InputError: A raster is invalid, or they differ in bands or layout.
    """
    own = [path for path in paths if not Path(path).stem.endswith(SCALES)]
    if not own:
        raise InputError("--raster is missing: the raster files of the embeddings.")
    rasters = [EmbeddingRaster(path, layout, nodata) for path in own]
    first = rasters[0]
    for other in rasters[1:]:
        if (other.dim, other.layout) != (first.dim, first.layout):
            raise InputError(
                f"{first.path} has {first.dim} bands ({first.layout}) and {other.path} has "
                f"{other.dim} ({other.layout}). All files of a city must have the same bands."
            )
        if all(first.names) and all(other.names) and first.names != other.names:
            differ = [
                pair for pair in zip(first.names, other.names, strict=True) if len({*pair}) > 1
            ]
            raise InputError(
                f"The bands of {first.path} and {other.path} differ: {differ[0][0]!r} is "
                f"{differ[0][1]!r} in the second. All files of a city must have the same bands in "
                "the same order."
            )
    return rasters


def scales_file(path: str | Path) -> Path | None:
    """Path of the scales of a TESSERA raster, if the file exists."""
    place = Path(path)
    found = [
        place.with_name(f"{place.stem}{SCALES}{end}") for end in (place.suffix, ".tif", ".tiff")
    ]
    return next((one for one in found if one.is_file()), None)


def _layout(dataset: Any, has_scales: bool) -> Layout:
    if dataset.dtypes[0] != "int8":
        return "plain"
    if has_scales:
        return "tessera"
    if dataset.count == ALPHAEARTH_BANDS and dataset.nodatavals[0] == ALPHAEARTH_MASKED:
        return "alphaearth"
    raise InputError(
        f"{dataset.name} has {dataset.count} bands of int8, neither as in AlphaEarth "
        f"({ALPHAEARTH_BANDS} bands, nodata {ALPHAEARTH_MASKED}) nor with a file of TESSERA scales "
        f"({Path(dataset.name).stem}{SCALES}.tif). Specify --raster_layout."
    )


__all__ = ["Cells", "EmbeddingRaster", "Layout", "open_rasters", "scales_file"]
