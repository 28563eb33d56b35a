"""Baidu tiles of zoom 16 as regions: what the UrbanCLIP and UrbanVLP layouts share."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..captions import join_sentences
from ..coordinates import tile_polygons
from ..errors import SourceError
from ..globe import geodesic_areas
from ..photos import list_images, read_csv_rows
from ..storage import Reject
from .base import ImageItem

ZOOM = 16
TILE_PIXELS = 256
TILE_NAME = re.compile(r"(?:.*/)?(?P<z>\d+)_(?P<x>-?\d+)_(?P<y>-?\d+)_s(?:\.\w+)?")
TILE_PAIR = re.compile(r"\(\s*(?P<x>-?\d+)\s*,\s*(?P<y>-?\d+)\s*\)")
BAD_NAME = ("bad_name", "expected 16_<x>_<y>_s.jpg")
Tile = tuple[int, int]


def parse_tile_name(name: str) -> Tile | None:
    """Column and row of "<z>_<x>_<y>_s.jpg" in any folder; None for another name."""
    match = TILE_NAME.fullmatch(name)
    if match is None or int(match["z"]) != ZOOM:
        return None
    return int(match["x"]), int(match["y"])


def parse_tile_pair(text: Any) -> Tile | None:
    """Column and row of "(x,y)"; None for another text."""
    match = TILE_PAIR.fullmatch(str(text).strip())
    return (int(match["x"]), int(match["y"])) if match else None


def tile_id(tile: Tile) -> str:
    """Image id of a tile: its published name without the suffix."""
    return f"{ZOOM}_{tile[0]}_{tile[1]}"


def tile_region_id(tile: Tile) -> str:
    """Region id of a tile; it names the map, since others number their tiles otherwise."""
    return f"baidu_{tile_id(tile)}"


def tile_regions(tiles: Iterable[Tile]) -> pd.DataFrame:
    """One row per tile, sorted: geometry (WGS-84), area, tile numbers."""
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


def tile_images(folder: Path, table: str, rejects: list[Reject]) -> dict[Tile, Path]:
    """Images of a folder by tile; other files are added to the rejects."""
    images: dict[Tile, Path] = {}
    for path in list_images(folder):
        tile = parse_tile_name(path.name)
        if tile is None:
            rejects.append((table, path.name, *BAD_NAME))
        elif tile in images:
            rejects.append((table, path.name, "listed_twice", f"as {images[tile].name}"))
        else:
            images[tile] = path
    return images


def tile_captions(path: Path, table: str, rejects: list[Reject]) -> dict[Tile, str]:
    """Whole captions by tile, from a file of sentences; none if there is no such file."""
    captions: dict[Tile, str] = {}
    for name, sentences in (read_sentences(path) if path.exists() else {}).items():
        tile, caption = parse_tile_name(name), join_sentences(sentences)
        if tile is None:
            rejects.append((table, name, *BAD_NAME))
        elif caption is None:
            rejects.append((table, name, "empty_caption", f"{len(sentences)} sentences"))
        else:
            captions[tile] = caption
    return captions


def satellite_items(
    images: Mapping[Tile, Path],
    captions: Mapping[Tile, str],
    regions: pd.DataFrame,
    source: str,
    model: str,
) -> list[ImageItem]:
    """The images to import, by tile, with their captions."""
    areas = regions.set_index("region_id")["area_m2"]
    items = []
    for tile, path in sorted(images.items()):
        columns = {
            "tile_z": ZOOM,
            "tile_x": tile[0],
            "tile_y": tile[1],
            "ground_resolution_m": float(np.sqrt(areas[tile_region_id(tile)])) / TILE_PIXELS,
            "source": source,
        }
        if tile in captions:
            columns |= {"caption": captions[tile], "caption_model": model}
        items.append(ImageItem(tile_id(tile), tile_region_id(tile), path, columns))
    return items


def published_caption(image_id: str, model: str, text: str) -> dict[str, Any]:
    """The row of a published caption in the table of candidates."""
    return {
        "image_id": image_id,
        "model": model,
        "stage": "published",
        "text": text,
        "kept": True,
    }


def read_tile_rows(
    path: Path, coordinate: str, required: Sequence[str], table: str, rejects: list[Reject]
) -> Iterator[tuple[Tile, dict[str, Any]]]:
    """The rows of a CSV by tile, as text; rows that cannot be used are added to the rejects.

    Args:
        path: the CSV.
        coordinate: column of the tiles, "(x,y)".
        required: further columns that it must have.
        table: config name of the rejects.
        rejects: extended by rows without a tile, with too many fields, or of a tile listed before.

    Raises:
        SourceError: it cannot be read, or lacks a column.
    """
    frame, bad = read_csv_rows(path)
    rejects += [(table, one.file, one.reason, f"{path.name}: {one.detail}") for one in bad]
    if missing := [name for name in (coordinate, *required) if name not in frame]:
        raise SourceError(
            f"{path} has no column {', '.join(missing)}; it has {', '.join(frame.columns)}."
        )
    listed: set[Tile] = set()
    for row in frame.to_dict("records"):
        tile = parse_tile_pair(row[coordinate])
        if tile is None:
            item, detail = str(row[coordinate]), f"{path.name}: expected (x,y)"
            rejects.append((table, item, "bad_tile", detail))
        elif tile in listed:
            rejects.append((table, tile_region_id(tile), "listed_twice", path.name))
        else:
            listed.add(tile)
            yield tile, {str(name): value for name, value in row.items()}


def row_numbers(
    row: Mapping[str, Any], columns: Mapping[str, str], item: str, table: str, rejects: list[Reject]
) -> dict[str, float]:
    """The numbers of a row, renamed; text that is no number becomes NaN and a reject."""
    found = {}
    for column, name in columns.items():
        if column in row:
            found[name] = float(pd.to_numeric(row[column], errors="coerce"))
            if np.isnan(found[name]) and pd.notna(row[column]):
                rejects.append((table, item, "bad_number", f"{column}: {row[column]!r}"))
    return found


def read_sentences(path: Path) -> dict[str, list[str]]:
    """Sentences of each image in their order, from nested lists of {"image", "caption"}.

    The lists may be nested in any way; a sentence belongs to the image it names.

    Raises:
        SourceError: not JSON, or JSON of another kind.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        records = list(_flatten(content))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SourceError(f"{path} is no JSON: {error}") from error
    sentences: dict[str, list[str]] = {}
    for record in records:
        if not isinstance(record, dict) or "image" not in record or "caption" not in record:
            raise SourceError(f"{path} should hold {{'image', 'caption'}} only, got {record!r}.")
        sentences.setdefault(str(record["image"]), []).append(record["caption"] or "")
    return sentences


def _flatten(content: Any) -> Iterator[Any]:
    if isinstance(content, list):
        for part in content:
            yield from _flatten(part)
    else:
        yield content
