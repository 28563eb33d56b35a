"""Baidu tiles of zoom 16 as regions, which the UrbanCLIP and UrbanVLP layouts share."""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..coordinates import tile_polygons
from ..errors import SourceError
from .base import geodesic_areas

ZOOM = 16
TILE_PIXELS = 256
TILE_NAME = re.compile(r"(?:.*/)?(?P<z>\d+)_(?P<x>-?\d+)_(?P<y>-?\d+)_s(?:\.\w+)?")
TILE_PAIR = re.compile(r"\(\s*(?P<x>-?\d+)\s*,\s*(?P<y>-?\d+)\s*\)")
Tile = tuple[int, int]


def parse_tile_name(name: str) -> Tile | None:
    """Column and row of "<z>_<x>_<y>_s.jpg" with any folder before; None for another name."""
    match = TILE_NAME.fullmatch(name)
    if match is None or int(match["z"]) != ZOOM:
        return None
    return int(match["x"]), int(match["y"])


def parse_tile_pair(text: Any) -> Tile | None:
    """Column and row of "(x,y)"; None for another text."""
    match = TILE_PAIR.fullmatch(str(text).strip())
    return (int(match["x"]), int(match["y"])) if match else None


def tile_id(tile: Tile) -> str:
    """Image id of a tile: as it is published, without the suffix."""
    return f"{ZOOM}_{tile[0]}_{tile[1]}"


def tile_region_id(tile: Tile) -> str:
    """Region id; it says whose tile it is, for other maps count otherwise."""
    return f"baidu_{tile_id(tile)}"


def tile_regions(tiles: Iterable[Tile]) -> pd.DataFrame:
    """Rows of regions of tiles, sorted: geometry in WGS-84, area, tile numbers."""
    ordered = sorted(set(tiles))
    x, y = np.array(ordered, dtype=np.int64).reshape(-1, 2).T
    geometry = tile_polygons(x, y, ZOOM, "baidu") if ordered else np.array([], dtype=object)
    return pd.DataFrame(
        {
            "region_id": [tile_region_id(tile) for tile in ordered],
            "geometry": pd.Series(list(geometry), dtype=object),
            "area_m2": geodesic_areas(geometry),
            "tile_z": ZOOM,
            "tile_x": x,
            "tile_y": y,
        }
    )


def tile_columns(tile: Tile, area_m2: float) -> dict[str, Any]:
    """Columns of a satellite image that shows a whole tile."""
    resolution = float(np.sqrt(area_m2)) / TILE_PIXELS
    return {"tile_z": ZOOM, "tile_x": tile[0], "tile_y": tile[1], "ground_resolution_m": resolution}


def read_sentences(path: Path) -> dict[str, list[str]]:
    """Sentences of each image in their order, from nested lists of {"image", "caption"}.

    The lists may be nested in any way; a sentence belongs to the image it names.

    Raises:
        SourceError: no JSON, or none of this kind.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise SourceError(f"{path} is no JSON: {error}") from error
    sentences: dict[str, list[str]] = {}
    for record in _flatten(content):
        if not isinstance(record, dict) or "image" not in record or "caption" not in record:
            raise SourceError(f"{path} should hold {{'image', 'caption'}} only, got {record!r}.")
        sentences.setdefault(record["image"], []).append(record["caption"] or "")
    return sentences


def _flatten(content: Any) -> Iterable[Any]:
    if not isinstance(content, list):
        yield content
        return
    for part in content:
        yield from _flatten(part)
