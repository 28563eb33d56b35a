"""Satellite images from map tiles: one image of 256 x 256 pixels per region.

A region that is itself a tile gets the unmodified tile. The image of any other square is warped
from the tiles that cover it, so that the corners of the square are the corners of the image.
"""

import string
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

import geopandas as gpd
import numpy as np
import shapely
from numpy.typing import NDArray
from PIL import Image

from ..coordinates import SCHEMES, convert, tile_position
from ..download import Fetched, Fetcher, Item, Limit, Store, check_image, check_piece
from ..errors import SourceError
from ..files import digest
from ..images import decode_image, encode_image
from ..trust import secret_from
from .satellite import NO_SQUARE, OVERSAMPLING, PICTURE_PX, Picture, are_squares, corners_of

TILE_PX = 256
PATCHES = 8
QUALITY = 90
SQUARES_AT_ONCE = 10_000
Tile = tuple[int, int]
PLACEHOLDERS = {"z", "x", "y", "key"}
# equivalent placeholders of WMTS templates
WMTS_NAMES = {"TileMatrix": "z", "TileCol": "x", "TileRow": "y"}


@dataclass(frozen=True)
class TileSource:
    """Provider of map tiles.

    Further fields are those of [`SatelliteSource`].

    Attributes:
        url: URL template with {z}, {x} and {y} (or WMTS's {TileMatrix}, {TileCol}, {TileRow}), and
            {key} if the API key is part of the path.
        zoom: Zoom level.
        scheme: Tile numbering scheme: "xyz" (also WMTS in Web Mercator), "tms" or "baidu".
        key_env: Environment variable that holds the API key, if one is needed.
        key_param: Query parameter of the API key; None if the key is part of the path.
        limit: Rate and concurrency limit of the host.
    """

    name: str
    url: str
    zoom: int
    provider: Literal["tiles"] = "tiles"
    scheme: str = "xyz"
    licence: str = "unknown"
    attribution: str = ""
    redistributable: bool = False
    key_env: str | None = None
    key_param: str | None = None
    limit: Limit = field(default_factory=Limit)
    price_per_1000: float = 0.0

    requests_per_item, kilobytes_per_request, makeup = 1.0, None, ""

    def __post_init__(self) -> None:
        if self.scheme not in SCHEMES:
            raise SourceError(f"`scheme` must be one of {SCHEMES}, got {self.scheme!r}.")
        names = {name for _, name, _, _ in string.Formatter().parse(self._template) if name}
        if not {"z", "x", "y"} <= names <= PLACEHOLDERS:
            takes = "{z}, {x}, {y} and optionally {key}"
            raise SourceError(f"`url` must contain {takes}; it contains {sorted(names)}.")

    @property
    def _template(self) -> str:
        template = self.url
        for wmts, ours in WMTS_NAMES.items():
            template = template.replace("{" + wmts + "}", "{" + ours + "}")
        return template

    @property
    def limits(self) -> Mapping[str, Limit]:
        """Request limits per host."""
        return {urlsplit(self.url).hostname or "": self.limit}

    def keys(self, regions: gpd.GeoDataFrame) -> list[str]:
        """See [`SatelliteSource`]; one key per tile."""
        return [self.key_of(*tile) for tile in self.tiles(regions)]

    def tiles(self, regions: gpd.GeoDataFrame) -> list[Tile]:
        """Sorted unique tiles of all regions."""
        if self._is_grid(regions):
            return _distinct(regions[["tile_x", "tile_y"]].to_numpy(dtype=np.int64))
        shapes = regions.geometry.to_numpy()
        squares = shapes[are_squares(shapes)]
        starts = range(0, len(squares), SQUARES_AT_ONCE)
        parts = [self.covering(squares[start : start + SQUARES_AT_ONCE]) for start in starts]
        return sorted(set().union(*parts))

    def covering(self, squares: Any) -> list[Tile]:
        """Sorted unique tiles that cover polygons with four corners (EPSG:4326)."""
        return _covering(_meshes(self, squares))

    async def fetch(
        self, regions: gpd.GeoDataFrame, fetcher: Fetcher, store: Store
    ) -> AsyncIterator[Fetched]:
        """See [`SatelliteSource`]."""
        tiles = self.tiles(regions)
        todo = set(store.unsettled([self.key_of(*tile) for tile in tiles]))
        missing = (self.item(*tile) for tile in tiles if self.key_of(*tile) in todo)
        # a blank tile is invalid as an image, but valid as part of one (open sea)
        check = check_image if self._is_grid(regions) else check_piece
        async for fetched in fetcher.fetch_all(missing, check):
            yield fetched

    def pictures(self, regions: gpd.GeoDataFrame, store: Store) -> Iterator[Picture]:
        """See [`SatelliteSource`]."""
        is_grid = self._is_grid(regions)
        is_square = are_squares(regions.geometry.to_numpy())
        for region, laid in zip(regions.itertuples(index=False), is_square, strict=True):
            if is_grid:
                tiles = [(int(region.tile_x), int(region.tile_y))]
                yield self._picture(region, self.key_of(*tiles[0]), tiles, store, True)
                continue
            image_id = f"{self.name}/{self.zoom}/{region.region_id}"
            if laid:
                tiles = self.covering([region.geometry])
                yield self._picture(region, image_id, tiles, store, False)
            else:
                yield Picture(region, image_id, "", *NO_SQUARE)

    def read(self, picture: Picture, store: Store) -> bytes | None:
        """See [`SatelliteSource`]."""
        region = picture.region
        if picture.is_tile:
            return store.read(self.key_of(int(region.tile_x), int(region.tile_y)))
        return self.mosaic(region.geometry, store)

    def mosaic(self, square: shapely.Polygon, store: Store) -> bytes | None:
        """Warp the image of a square from tiles; its north-west corner becomes the upper left.

        The square is divided into patches that are quadrilaterals in the projection of the tiles.
        The edges of a square kilometre are straight in degrees to within centimetres, but not in
        the projection of Baidu's tiles.

        Args:
            square: Polygon with four corners, EPSG:4326.
            store: Store of the tiles.

        Returns:
            JPEG of 256 x 256 pixels; None if a tile is missing.
        """
        mesh = _meshes(self, [square])[0]
        contents: dict[Tile, bytes] = {}
        for tile in _covering(mesh[None]):
            if (content := store.read(self.key_of(*tile))) is None:
                return None
            contents[tile] = content
        mosaic, origin = _joined(self.scheme, contents)
        pixels = (mesh - origin) * TILE_PX
        if self.scheme != "xyz":
            pixels[..., 1] = mosaic.height - pixels[..., 1]  # image rows run southward
        size = PICTURE_PX * OVERSAMPLING
        warped = mosaic.transform(
            (size, size), Image.Transform.MESH, _patches(pixels, size), Image.Resampling.BILINEAR
        )
        return encode_image(warped.reduce(OVERSAMPLING), "JPEG", QUALITY)

    def key_of(self, x: int, y: int) -> str:
        """Ledger key of a tile."""
        return f"{self.name}/{self.zoom}/{x}/{y}"

    def item(self, x: int, y: int) -> Item:
        """Request for a tile.

        Raises:
            SourceError: The API key is not in the environment.
        """
        secret = secret_from(self.key_env, self.name) if self.key_env else ""
        url = self._template.format(z=self.zoom, x=x, y=y, key=secret)
        params = {self.key_param: secret} if self.key_param else {}
        return Item(self.key_of(x, y), url, params, secret=secret)

    def _is_grid(self, regions: gpd.GeoDataFrame) -> bool:
        """Whether the regions are tiles of this source, whose images are unmodified tiles."""
        if "tile_z" not in regions or len(regions) == 0:
            return False
        schemes = regions["region_id"].str.partition("_")[0]
        return bool((schemes == self.scheme).all() and (regions["tile_z"] == self.zoom).all())

    def _picture(
        self, region: Any, image_id: str, tiles: Sequence[Tile], store: Store, is_tile: bool
    ) -> Picture:
        found: list[Fetched] = []
        for tile in tiles:
            one = store.get(key := self.key_of(*tile))
            if one is None:
                detail = f"tile {key}: not requested"
                return Picture(region, image_id, "", "not_fetched", detail)
            if one.status != "ok":
                return Picture(region, image_id, "", one.status, f"tile {key}: {one.detail}")
            found.append(one)
        latest = max(one.fetched_at for one in found)
        identity = digest([one.sha256 for one in found])
        return Picture(region, image_id, identity, fetched_at=latest, is_tile=is_tile)


def _meshes(source: TileSource, squares: Any) -> NDArray[np.float64]:
    """Grids of points over squares in tile units: `(n, PATCHES + 1, PATCHES + 1, 2)`.

    Rows run from north to south, columns from west to east.
    """
    if not are_squares(squares).all():
        raise SourceError("Satellite images require regions with four corners.")
    south_west, south_east, north_east, north_west = (
        corner[:, None, None] for corner in np.moveaxis(corners_of(squares), 1, 0)
    )
    ticks = np.linspace(0, 1, PATCHES + 1)
    east, south = ticks[None, :, None], ticks[:, None, None]
    north_side = north_west + (north_east - north_west) * east
    south_side = south_west + (south_east - south_west) * east
    lon, lat = np.moveaxis(north_side + (south_side - north_side) * south, -1, 0)
    if source.scheme == "baidu":
        lon, lat = convert(lon, lat, "wgs84", "bd09")
    return np.stack(tile_position(lon, lat, source.zoom, source.scheme), axis=-1)


def _patches(
    pixels: NDArray[np.float64], size: int
) -> list[tuple[tuple[int, int, int, int], tuple[float, ...]]]:
    """Box of each patch in the image, and its corners in the mosaic."""
    edges = np.linspace(0, size, PATCHES + 1).astype(int)
    return [
        (
            (int(edges[j]), int(edges[i]), int(edges[j + 1]), int(edges[i + 1])),
            (*pixels[i, j], *pixels[i + 1, j], *pixels[i + 1, j + 1], *pixels[i, j + 1]),
        )
        for i in range(PATCHES)
        for j in range(PATCHES)
    ]


def _covering(meshes: NDArray[np.float64]) -> list[Tile]:
    low = np.floor(meshes.min(axis=(1, 2)) + 1e-9).astype(int)
    high = np.ceil(meshes.max(axis=(1, 2)) - 1e-9).astype(int)
    widest = np.arange((high - low).max())
    steps = np.stack(np.meshgrid(widest, widest), axis=-1).reshape(-1, 2)
    tiles = low[:, None] + steps
    return _distinct(tiles[(tiles < high[:, None]).all(axis=2)])


def _distinct(tiles: NDArray[np.int64]) -> list[Tile]:
    return [(x, y) for x, y in np.unique(tiles, axis=0).tolist()]


def _joined(scheme: str, contents: Mapping[Tile, bytes]) -> tuple[Image.Image, NDArray[np.float64]]:
    """Mosaic of tiles, and the tile coordinates of its corner with the smallest x and y."""
    columns, rows = (np.array(axis) for axis in zip(*contents, strict=True))
    wide, high = np.ptp(columns) + 1, np.ptp(rows) + 1
    mosaic = Image.new("RGB", (int(wide) * TILE_PX, int(high) * TILE_PX))
    for (x, y), content in contents.items():
        tile = decode_image(content)
        if tile.size != (TILE_PX, TILE_PX):
            tile = tile.resize((TILE_PX, TILE_PX), Image.Resampling.LANCZOS)  # 512 px tiles
        down = y - rows.min() if scheme == "xyz" else rows.max() - y
        mosaic.paste(tile, (int(x - columns.min()) * TILE_PX, int(down) * TILE_PX))
    return mosaic, np.array([columns.min(), rows.min()], dtype=np.float64)


__all__ = ["TileSource"]
