"""Satellite pictures from map tiles: one picture of 256 x 256 pixels for each region.

A region that is a tile gets the tile as it is, byte for byte. Any other square gets a picture made
of the tiles that cover it, laid so that its corners are the picture's corners.
"""

import io
import string
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
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
from ..images import encode_image
from ..trust import secret_from
from .satellite import OVERSAMPLING, PICTURE_PX, Picture, corners_of, square_of

TILE_PX = 256
PATCHES = 8
REGIONS_AT_ONCE = 10_000
PLACEHOLDERS = {"z", "x", "y", "key"}
# names in WMTS templates for the same numbers
WMTS_NAMES = {"TileMatrix": "z", "TileCol": "x", "TileRow": "y"}


@dataclass(frozen=True)
class TileSource:
    """A provider of map tiles.

    Attributes:
        name: in the ledger and in the column `source`.
        url: template with {z}, {x} and {y} (or WMTS's {TileMatrix}, {TileCol}, {TileRow}), and
            {key} where the provider takes it in the path.
        zoom: of the tiles.
        scheme: "xyz" (also WMTS in Web Mercator), "tms" or "baidu".
        licence: of the pictures, as stored with each.
        attribution: that the provider asks for.
        redistributable: the pictures may be published; if not, only ids are.
        key_env: environment variable that holds the key, if one is needed.
        key_param: query parameter that takes the key; None if the template does.
        limit: requests that the host is asked to bear.
        price_per_1000: requests, in the currency of the recipe.
    """

    name: str
    url: str
    zoom: int
    scheme: str = "xyz"
    licence: str = "unknown"
    attribution: str = ""
    redistributable: bool = False
    key_env: str | None = None
    key_param: str | None = None
    limit: Limit = field(default_factory=Limit)
    price_per_1000: float = 0.0

    def __post_init__(self) -> None:
        if self.scheme not in SCHEMES:
            raise SourceError(
                f"The scheme of {self.name!r} must be one of {SCHEMES}, got {self.scheme!r}."
            )
        names = {name for _, name, _, _ in string.Formatter().parse(self._template) if name}
        if not {"z", "x", "y"} <= names <= PLACEHOLDERS:
            raise SourceError(
                f"The url of {self.name!r} must hold {{z}}, {{x}} and {{y}}, and {{key}} at most; "
                f"it holds {sorted(names)}."
            )

    @property
    def _template(self) -> str:
        template = self.url
        for wmts, ours in WMTS_NAMES.items():
            template = template.replace("{" + wmts + "}", "{" + ours + "}")
        return template

    @property
    def limits(self) -> dict[str, Limit]:
        """By host."""
        return {urlsplit(self.url).hostname or "": self.limit}

    @property
    def requests_per_item(self) -> float:
        """A tile is one request."""
        return 1.0

    @property
    def kilobytes_per_request(self) -> float | None:
        """As the recipe estimates it."""
        return None

    @property
    def makeup(self) -> str:
        """Tiles are taken as they are."""
        return ""

    def keys(self, regions: gpd.GeoDataFrame) -> list[str]:
        """The tiles of all regions, each once, by their keys in the ledger."""
        return [self.key_of(*tile) for tile in needed_tiles(self, regions)]

    async def fetch(
        self, regions: gpd.GeoDataFrame, fetcher: Fetcher, store: Store
    ) -> AsyncIterator[Fetched]:
        """Fetch the tiles of all regions that are not in the store.

        Raises:
            StoppedError: quota used up or key refused.
            SourceError: the key is not in the environment.
        """
        missing = [
            tile
            for tile in needed_tiles(self, regions)
            if store.settled(self.key_of(*tile)) is None
        ]
        # a tile that is a region must show something; a piece of a picture may be open sea
        check = check_image if is_tile_grid(self, regions) else check_piece
        async for fetched in fetcher.fetch_all(items(self, missing), check):
            yield fetched

    def pictures(self, regions: gpd.GeoDataFrame, store: Store) -> Iterator[Picture]:
        """What is known of each region's picture, in the order of the regions."""
        whole = is_tile_grid(self, regions)
        for region in regions.itertuples(index=False):
            if whole:
                pieces = [(int(region.tile_x), int(region.tile_y))]
                image_id = self.key_of(*pieces[0])
            else:
                square = square_of(region.geometry)
                image_id = f"{self.name}/{self.zoom}/{region.region_id}"
                if square is None:
                    detail = "a picture is laid on a region with four corners"
                    yield Picture(region, image_id, "", "no_square", detail)
                    continue
                pieces = tiles_of(self, [square])
            yield _picture(self, region, image_id, pieces, store, whole)

    def read(self, picture: Picture, store: Store) -> bytes | None:
        """The picture; None if a tile is not there."""
        region = picture.region
        if picture.is_tile:
            return tile_picture(self, int(region.tile_x), int(region.tile_y), store)
        return region_picture(self, region.geometry, store)

    def key_of(self, x: int, y: int) -> str:
        """The tile's name in the ledger."""
        return f"{self.name}/{self.zoom}/{x}/{y}"

    def item(self, x: int, y: int) -> Item:
        """The request for a tile.

        Raises:
            SourceError: the key is not in the environment.
        """
        secret = secret_from(self.key_env, self.name) if self.key_env else ""
        url = self._template.format(z=self.zoom, x=x, y=y, key=secret)
        params = {self.key_param: secret} if self.key_param else {}
        return Item(self.key_of(x, y), url, params, secret=secret)


def is_tile_grid(source: TileSource, regions: gpd.GeoDataFrame) -> bool:
    """Whether every region is a tile of the source, which then is its picture, byte for byte."""
    if "tile_z" not in regions or len(regions) == 0:
        return False
    schemes = regions["region_id"].str.partition("_")[0]
    return bool((schemes == source.scheme).all() and (regions["tile_z"] == source.zoom).all())


def needed_tiles(source: TileSource, regions: gpd.GeoDataFrame) -> list[tuple[int, int]]:
    """The tiles of all regions, each once, sorted."""
    if is_tile_grid(source, regions):
        pairs = zip(regions["tile_x"].tolist(), regions["tile_y"].tolist(), strict=True)
        return sorted({(int(x), int(y)) for x, y in pairs})
    squares = [square for shape in regions.geometry if (square := square_of(shape)) is not None]
    found: set[tuple[int, int]] = set()
    for start in range(0, len(squares), REGIONS_AT_ONCE):
        found.update(tiles_of(source, squares[start : start + REGIONS_AT_ONCE]))
    return sorted(found)


def tiles_of(source: TileSource, regions: Sequence[shapely.Polygon]) -> list[tuple[int, int]]:
    """The tiles that cover the regions, each once, sorted.

    Args:
        source: of the tiles.
        regions: polygons with four corners, EPSG:4326.
    """
    found: set[tuple[int, int]] = set()
    for region in regions:
        found.update(_covering(_mesh(source, region)))
    return sorted(found)


def items(source: TileSource, tiles: Sequence[tuple[int, int]]) -> Iterator[Item]:
    """The requests for tiles."""
    return (source.item(x, y) for x, y in tiles)


def tile_picture(source: TileSource, x: int, y: int, store: Store) -> bytes | None:
    """The picture of a region that is a tile: the tile itself; None if it is not there."""
    return store.read(source.key_of(x, y))


def region_picture(
    source: TileSource, region: shapely.Polygon, store: Store, quality: int = 90
) -> bytes | None:
    """The picture of a square that is no tile, north (of the square's own grid) up.

    The square is cut into patches, each a quadrilateral of the tiles' plane: in degrees a square
    of a kilometre is straight to within centimetres, but the plane of Baidu's tiles is not.

    Args:
        source: of the tiles.
        region: square, EPSG:4326, corners from the south-west counter-clockwise.
        store: with the tiles fetched.
        quality: of the JPEG.

    Returns:
        256 x 256 pixels as JPEG; None if a tile is missing.
    """
    mesh = _mesh(source, region)
    tiles = _covering(mesh)
    contents: dict[tuple[int, int], bytes] = {}
    for tile in tiles:
        if (content := store.read(source.key_of(*tile))) is None:
            return None
        contents[tile] = content
    mosaic, origin = _mosaic(source, contents)
    pixels = (mesh - origin) * TILE_PX
    if source.scheme != "xyz":
        pixels[..., 1] = mosaic.height - pixels[..., 1]  # rows of pictures go south
    size = PICTURE_PX * OVERSAMPLING
    warped = mosaic.transform(
        (size, size), Image.Transform.MESH, _patches(pixels, size), Image.Resampling.BILINEAR
    )
    return encode_image(warped.reduce(OVERSAMPLING), "JPEG", quality)


def _picture(
    source: TileSource,
    region: Any,
    image_id: str,
    pieces: list[tuple[int, int]],
    store: Store,
    is_tile: bool,
) -> Picture:
    found = [store.get(source.key_of(*piece)) for piece in pieces]
    for piece, one in zip(pieces, found, strict=True):
        if one is None or one.status != "ok":
            status = "not_fetched" if one is None else one.status
            detail = f"tile {source.key_of(*piece)}: {one.detail if one else 'never asked for'}"
            return Picture(region, image_id, "", status, detail)
    known = [one for one in found if one is not None]
    latest = max(one.fetched_at for one in known)
    identity = digest([one.sha256 for one in known])
    return Picture(region, image_id, identity, fetched_at=latest, is_tile=is_tile)


def _mesh(source: TileSource, region: shapely.Polygon) -> NDArray[np.float64]:
    """A grid of points over the square, in tiles: `(PATCHES + 1, PATCHES + 1, 2)`.

    The first row is the north side, the first column the west side.
    """
    if square_of(region) is None:
        raise SourceError(
            "A picture is made of a region with four corners, got a "
            f"{region.geom_type} with {shapely.get_num_coordinates(region) - 1}. "
            "Take square regions or tiles."
        )
    south_west, south_east, north_east, north_west = corners_of(region)
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
    """For each patch its box in the picture, and its corners in the mosaic."""
    edges = np.linspace(0, size, PATCHES + 1).astype(int)
    return [
        (
            (int(edges[j]), int(edges[i]), int(edges[j + 1]), int(edges[i + 1])),
            (*pixels[i, j], *pixels[i + 1, j], *pixels[i + 1, j + 1], *pixels[i, j + 1]),
        )
        for i in range(PATCHES)
        for j in range(PATCHES)
    ]


def _covering(mesh: NDArray[np.float64]) -> list[tuple[int, int]]:
    low = np.floor(mesh.min(axis=(0, 1)) + 1e-9).astype(int)
    high = np.ceil(mesh.max(axis=(0, 1)) - 1e-9).astype(int)
    return [(x, y) for x in range(low[0], high[0]) for y in range(low[1], high[1])]


def _mosaic(
    source: TileSource, contents: Mapping[tuple[int, int], bytes]
) -> tuple[Image.Image, NDArray[np.float64]]:
    """The tiles as one picture, and the plane's position of its corner of least x and y."""
    columns, rows = (np.array(axis) for axis in zip(*contents, strict=True))
    wide, high = np.ptp(columns) + 1, np.ptp(rows) + 1
    mosaic = Image.new("RGB", (int(wide) * TILE_PX, int(high) * TILE_PX))
    for (x, y), content in contents.items():
        tile: Any = Image.open(io.BytesIO(content)).convert("RGB")
        if tile.size != (TILE_PX, TILE_PX):
            tile = tile.resize((TILE_PX, TILE_PX), Image.Resampling.LANCZOS)  # 512 px tiles
        down = y - rows.min() if source.scheme == "xyz" else rows.max() - y
        mosaic.paste(tile, (int(x - columns.min()) * TILE_PX, int(down) * TILE_PX))
    return mosaic, np.array([columns.min(), rows.min()], dtype=np.float64)


__all__ = [
    "TileSource",
    "is_tile_grid",
    "items",
    "needed_tiles",
    "region_picture",
    "tile_picture",
    "tiles_of",
]
