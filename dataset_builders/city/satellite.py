"""The rows of a city's satellite pictures."""

import datetime
import math
from typing import Any

from ..download import Store, check_image
from ..sources.satellite import PICTURE_PX, Picture, SatelliteSource


def picture_row(source: SatelliteSource, picture: Picture, store: Store) -> dict[str, Any] | str:
    """The row of a picture, or why it is none after all."""
    region = picture.region
    content = source.read(picture, store)
    if content is None:
        return "missing"
    verdict = check_image(content, "image/jpeg")
    if verdict.status != "ok":
        return verdict.status
    return {
        "image": {"bytes": content, "path": None},
        "image_id": picture.image_id,
        "region_id": region.region_id,
        "tile_z": region.tile_z if picture.is_tile else None,
        "tile_x": region.tile_x if picture.is_tile else None,
        "tile_y": region.tile_y if picture.is_tile else None,
        "ground_resolution_m": math.sqrt(region.area_m2) / PICTURE_PX,
        "captured_at": picture.captured_at,
        "source": source.name,
        "licence": source.licence,
        "attribution": source.attribution,
        "redistributable": source.redistributable,
        "fetched_at": moment(picture.fetched_at),
    }


def moment(seconds: float) -> str:
    """Seconds since 1970 as ISO 8601."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


__all__ = ["moment", "picture_row"]
