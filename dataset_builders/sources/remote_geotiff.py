"""GeoTIFFs at an address, read part by part by GDAL but downloaded by the [`Fetcher`].

So reading keeps to rates, retries and the ledger, and no part is requested twice.
"""

import asyncio
import io
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import numpy as np
import pyproj
import shapely

from ..download import Fetched, Fetcher, Item, Store, Verdict
from ..ledger import Status
from ..rasters import import_rasterio
from .satellite import OVERSAMPLING, PICTURE_PX, corners_of

PART_BYTES = 2**19
"""Files are read in parts of this size: a block of a Sentinel-2 band takes two or three."""
SIZE_PX = PICTURE_PX * OVERSAMPLING
BENT_PX = 0.25
"""A region that the plane of an item bends by more has no image."""
GDAL_OPTIONS = {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR"}


Sign = Callable[[str], Awaitable[str]]


class UnreadableError(Exception):
    """A file of an item that cannot be read, now ("failed") or at all."""

    def __init__(self, status: Status, detail: str):
        super().__init__(detail)
        self.status = status


class RemoteFiles:
    """Files that threads read, downloaded by the event loop that this was made in.

    Args:
        fetcher: Of the parts.
        store: That takes them.
        sign: From the address of a file to one that may be downloaded now.
    """

    def __init__(self, fetcher: Fetcher, store: Store, sign: Sign):
        self.store = store
        self._fetcher, self._sign = fetcher, sign
        self._loop = asyncio.get_running_loop()
        self._running: dict[str, asyncio.Task[Fetched]] = {}
        self._stopped = False

    def stop(self) -> None:
        """Cancel what is being downloaded, and whatever would be."""
        self._stopped = True
        for task in self._running.values():
            task.cancel()

    def part(self, name: str, href: str, number: int) -> tuple[bytes, int]:
        """A part of a file, and the size of the whole; to be called from a thread.

        Raises:
            UnreadableError: It could not be had.
            StoppedError: Quota exhausted or key refused.
        """
        part = asyncio.run_coroutine_threadsafe(self._part(name, href, number), self._loop)
        fetched = part.result()
        if fetched.status != "ok" or fetched.sha256 is None:
            raise UnreadableError(fetched.status, fetched.detail)
        # "bytes 0-99/1234" tells the size of the file; one that came whole is its own
        total = fetched.detail.rpartition("/")[2]
        size = int(total) if total.isdigit() else fetched.size
        return self.store.content(fetched.sha256), size

    async def _part(self, name: str, href: str, number: int) -> Fetched:
        if self._stopped:
            raise asyncio.CancelledError
        key = f"{name}/{number}"
        if (known := self.store.settled(key)) is not None:
            return known
        if key not in self._running:  # neighbours may ask for the same at the same time
            job = self._download(key, href, number)
            self._running[key] = asyncio.create_task(job)
            self._running[key].add_done_callback(lambda _: self._running.pop(key))
        return await asyncio.shield(self._running[key])

    async def _download(self, key: str, href: str, number: int) -> Fetched:
        address = urlsplit(await self._sign(href))
        # the query holds the signature
        params = dict(parse_qsl(address.query, keep_blank_values=True))
        start = number * PART_BYTES
        headers = {"Range": f"bytes={start}-{start + PART_BYTES - 1}"}
        url = address._replace(query="").geturl()
        item = Item(key, url, params, headers, max_bytes=PART_BYTES)
        return await self._fetcher.fetch(item, check_part)


class _PartFile(io.RawIOBase):
    """A file as GDAL reads it, of which parts are downloaded as they are needed."""

    def __init__(self, files: RemoteFiles, name: str, href: str):
        super().__init__()
        self._get = partial(files.part, name, href)
        _, self._size = self._get(0)
        self._position = 0
        self.error: Exception | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + (0, self._position, self._size)[whence]
        return self._position

    def read(self, size: int = -1) -> bytes:
        start, stop = self._position, self._size
        if size >= 0:
            stop = min(start + size, self._size)
        first = start // PART_BYTES
        content = b"".join(self._part(n) for n in range(first, -(-stop // PART_BYTES)))
        content = content[start - first * PART_BYTES :][: max(0, stop - start)]
        self._position += len(content)
        return content

    def _part(self, number: int) -> bytes:
        # what is raised here would end in GDAL: it is kept, to be raised again, and the file ends
        try:
            return b"" if self.error is not None else self._get(number)[0]
        except Exception as error:
            self.error = error
            return b""


def check_part(content: bytes, media_type: str) -> Verdict:
    """A part of a file, and no page about it."""
    if media_type.startswith(("text/", "application/json", "application/xml")):
        return Verdict("invalid", f"{media_type} in place of a GeoTIFF")
    return Verdict("ok")


def warped(files: RemoteFiles, name: str, href: str, square: shapely.Polygon, count: int) -> Any:
    """The first bands of a file over a square, the north of its own grid up.

    Args:
        files: That it is one of.
        name: Of the file in the ledger.
        href: Its address.
        square: EPSG:4326.
        count: Number of bands.

    Returns:
        A masked array `(count, SIZE_PX, SIZE_PX)`.

    Raises:
        UnreadableError: A part of the file could not be had, or it is not what it should be.
        StoppedError: Quota exhausted or key refused.
    """
    rasterio = import_rasterio()
    from rasterio.enums import ColorInterp, Resampling
    from rasterio.errors import RasterioError
    from rasterio.vrt import WarpedVRT

    asset = name.rpartition("/")[2]
    path_name = name.replace("/", "_") + ".tif"
    file = _PartFile(files, name, href)

    def opener(path: str, mode: str = "rb") -> _PartFile:
        if not path.endswith(path_name) or mode.strip("b") != "r":
            raise FileNotFoundError(path)
        file.seek(0)
        return file

    try:
        with rasterio.Env(**GDAL_OPTIONS), rasterio.open(path_name, opener=opener) as dataset:
            if dataset.crs is None or dataset.count < count:
                detail = "no CRS" if dataset.crs is None else f"{dataset.count} bands, not {count}"
                raise UnreadableError("invalid", f"asset {asset}: {detail}")
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
                layer = laid.read(list(range(1, count + 1)), masked=True)
    except (RasterioError, OSError) as error:
        if file.error is None:
            detail = f"asset {asset} is no GeoTIFF that can be read"
            raise UnreadableError("invalid", detail) from error
    if file.error is not None:  # GDAL may make do with less
        raise file.error
    return layer


def _laid(square: shapely.Polygon, crs: Any) -> Any:
    """The affine map from the pixels of an image to a plane that best meets the corners."""
    from affine import Affine

    plane = pyproj.CRS.from_user_input(crs.to_wkt())
    to_plane = pyproj.Transformer.from_crs("EPSG:4326", plane, always_xy=True)
    xy = np.column_stack(to_plane.transform(*corners_of(square).T))
    design = np.array([(0, 1, 1), (1, 1, 1), (1, 0, 1), (0, 0, 1)], dtype=float) * SIZE_PX
    design[:, 2] = 1
    solution, *_ = np.linalg.lstsq(design, xy, rcond=None)
    off = np.abs(design @ solution - xy).max()
    pixel = np.sqrt(abs(np.linalg.det(solution[:2]))) * OVERSAMPLING
    if not off <= BENT_PX * pixel:
        detail = f"the region is bent by {off / pixel:.1f} pixels on the plane of the items"
        raise UnreadableError("invalid", detail)
    return Affine(*solution.T.ravel())


__all__ = ["PART_BYTES", "SIZE_PX", "RemoteFiles", "UnreadableError", "check_part", "warped"]
