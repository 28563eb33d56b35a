"""The satellite pictures of a city's regions, made of the tiles that were fetched."""

import datetime
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import geopandas as gpd
import shapely

from .._http import Store, check_image
from ..files import digest
from ..sources.tiles import TileSource, region_picture, tile_picture, tiles_of

PICTURE_PX = 256


@dataclass(frozen=True)
class Picture:
    """A region's picture before it is made.

    Attributes:
        region: row of the region.
        image_id: unique and stable.
        identity: of the contents it is made of; "" if there is none.
        reason: why there is none; "" if there is one.
        detail: what was found.
        fetched_at: seconds since 1970, of the latest piece.
    """

    region: Any
    image_id: str
    identity: str
    reason: str = ""
    detail: str = ""
    fetched_at: float = 0.0


def is_tile_grid(source: TileSource, regions: gpd.GeoDataFrame) -> bool:
    """Whether every region is a tile of the source, which then is its picture, byte for byte."""
    if "tile_z" not in regions or len(regions) == 0:
        return False
    schemes = regions["region_id"].str.partition("_")[0]
    return bool((schemes == source.scheme).all() and (regions["tile_z"] == source.zoom).all())


def square_of(shape: Any) -> shapely.Polygon | None:
    """The region's outline if a picture can be laid on it: one ring of four corners."""
    if not isinstance(shape, shapely.Polygon) or len(shape.exterior.coords) != 5:
        return None
    return shape


def pictures(source: TileSource, regions: gpd.GeoDataFrame, store: Store) -> Iterator[Picture]:
    """What is known of each region's picture, in the order of the regions."""
    whole = is_tile_grid(source, regions)
    for region in regions.itertuples(index=False):
        if whole:
            pieces = [(int(region.tile_x), int(region.tile_y))]
            image_id = source.key_of(*pieces[0])
        else:
            square = square_of(region.geometry)
            image_id = f"{source.name}/{source.zoom}/{region.region_id}"
            if square is None:
                detail = "a picture is laid on a region with four corners"
                yield Picture(region, image_id, "", "no_square", detail)
                continue
            pieces = tiles_of(source, [square])
        yield _picture(source, region, image_id, pieces, store)


def _picture(
    source: TileSource, region: Any, image_id: str, pieces: list[tuple[int, int]], store: Store
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
    return Picture(region, image_id, identity, fetched_at=latest)


def picture_row(source: TileSource, picture: Picture, store: Store) -> dict[str, Any] | str:
    """The row of a picture, or why it is none after all."""
    region = picture.region
    is_tile = picture.image_id != f"{source.name}/{source.zoom}/{region.region_id}"
    if is_tile:
        content = tile_picture(source, int(region.tile_x), int(region.tile_y), store)
    else:
        content = region_picture(source, region.geometry, store)
    if content is None:
        return "missing"
    verdict = check_image(content, "image/jpeg")
    if verdict.status != "ok":
        return verdict.status
    return {
        "image": {"bytes": content, "path": None},
        "image_id": picture.image_id,
        "region_id": region.region_id,
        "tile_z": region.tile_z if is_tile else None,
        "tile_x": region.tile_x if is_tile else None,
        "tile_y": region.tile_y if is_tile else None,
        "ground_resolution_m": math.sqrt(region.area_m2) / PICTURE_PX,
        "source": source.name,
        "licence": source.licence,
        "attribution": source.attribution,
        "redistributable": source.redistributable,
        "fetched_at": moment(picture.fetched_at),
    }


def moment(seconds: float) -> str:
    """Seconds since 1970 as ISO 8601."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


__all__ = ["Picture", "is_tile_grid", "moment", "picture_row", "pictures", "square_of"]
