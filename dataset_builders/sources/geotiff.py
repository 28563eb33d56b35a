"""Windowed reads from remote cloud-optimised GeoTIFFs with GDAL."""

import re
from typing import Any

import numpy as np
import pyproj
import shapely

from ..download import USER_AGENT
from ..ledger import Status
from ..rasters import import_rasterio
from .satellite import OVERSAMPLING, PICTURE_PX, corners_of

SIZE_PX = PICTURE_PX * OVERSAMPLING
BENT_PX = 0.25
"""Maximum deviation of a region from a parallelogram in the item's CRS, in output pixels."""
GDAL_OPTIONS = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "CPL_VSIL_CURL_USE_HEAD": "NO",
    "GDAL_HTTP_MAX_RETRY": "4",
    "GDAL_HTTP_RETRY_DELAY": "1",
    "GDAL_HTTP_TIMEOUT": "60",
    "GDAL_HTTP_USERAGENT": USER_AGENT,
}


class UnreadableError(Exception):
    """Raised for an unreadable file: temporarily (status "failed") or permanently."""

    def __init__(self, status: Status, detail: str):
        super().__init__(detail)
        self.status = status


def warped(href: str, square: shapely.Polygon, count: int) -> Any:
    """Read the first bands of a GeoTIFF over a square region.

    Args:
        href: URL of the GeoTIFF.
        square: Polygon with four corners, EPSG:4326; its north-west corner becomes the upper left.
        count: Number of bands.

    Returns:
        A masked array `(count, SIZE_PX, SIZE_PX)`.

    Raises:
        UnreadableError: The file cannot be read, or lacks a CRS or bands.
    """
    rasterio = import_rasterio()
    from rasterio.enums import ColorInterp, Resampling
    from rasterio.vrt import WarpedVRT

    try:
        with rasterio.Env(**GDAL_OPTIONS), rasterio.open(href, driver="GTiff") as dataset:
            if dataset.crs is None or dataset.count < count:
                detail = "no CRS" if dataset.crs is None else f"{dataset.count} bands, not {count}"
                raise UnreadableError("invalid", detail)
            gaps = dataset.nodata is None and ColorInterp.alpha not in dataset.colorinterp
            with WarpedVRT(
                dataset,
                crs=dataset.crs,
                transform=_laid(square, dataset.crs),
                width=SIZE_PX,
                height=SIZE_PX,
                resampling=Resampling.bilinear,
                add_alpha=gaps,
            ) as laid:
                return laid.read(list(range(1, count + 1)), masked=True)
    except (rasterio.errors.RasterioError, OSError) as error:
        raise _unreadable(error) from None  # GDAL's messages contain URLs with signatures


def _unreadable(error: BaseException) -> UnreadableError:
    """Convert an error of GDAL to an error without the URL."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(cause)
    codes = re.findall(
        r"(?:HTTP response code|HTTP error code ?): ?(\d{3})", " ".join(map(str, chain))
    )
    code = int(codes[-1]) if codes else 0
    if code in (401, 403):
        return UnreadableError("denied", f"HTTP {code}")
    if code == 429 or code >= 500:
        return UnreadableError("failed", f"HTTP {code}")
    return UnreadableError("invalid", f"HTTP {code}" if code else "not a readable GeoTIFF")


def _laid(square: shapely.Polygon, crs: Any) -> Any:
    """Least-squares affine transform from image pixels to a CRS that maps corners to corners."""
    from affine import Affine

    plane = pyproj.CRS.from_user_input(crs.to_wkt())
    to_plane = pyproj.Transformer.from_crs("EPSG:4326", plane, always_xy=True)
    xy = np.column_stack(to_plane.transform(*corners_of([square])[0].T))
    design = np.array([(0, 1, 1), (1, 1, 1), (1, 0, 1), (0, 0, 1)], dtype=float) * SIZE_PX
    design[:, 2] = 1
    solution, *_ = np.linalg.lstsq(design, xy, rcond=None)
    off = np.abs(design @ solution - xy).max()
    pixel = np.sqrt(abs(np.linalg.det(solution[:2]))) * OVERSAMPLING
    if not off <= BENT_PX * pixel:
        detail = f"the region is {off / pixel:.1f} px off a parallelogram in the CRS of the item"
        raise UnreadableError("invalid", detail)
    return Affine(*solution.T.ravel())


__all__ = ["SIZE_PX", "UnreadableError", "warped"]
