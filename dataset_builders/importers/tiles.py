"""Baidu tiles of zoom 16 as regions, as in the UrbanCLIP and UrbanVLP layouts."""

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
from ..photos import list_images
from ..schema import DatasetMetadata, config_name
from ..storage import Reject
from .base import ImageItem, ImportPlan, city_of, read_columns

ZOOM = 16
TILE_PIXELS = 256
TILE_NAME = re.compile(r"(?:.*/)?(?P<z>\d+)_(?P<x>-?\d+)_(?P<y>-?\d+)_s(?:\.\w+)?")
TILE_PAIR = re.compile(r"\(\s*(?P<x>-?\d+)\s*,\s*(?P<y>-?\d+)\s*\)")
BAD_NAME = ("bad_name", "expected 16_<x>_<y>_s.jpg")
Tile = tuple[int, int]


def plan_tiles(
    folder: str,
    images: Path,
    captions: Path,
    values: Mapping[Tile, Mapping[str, Any]],
    metadata: DatasetMetadata,
    *,
    indicator_source: str,
    rejects: Sequence[Reject],
    street_views: Sequence[ImageItem] = (),
) -> ImportPlan:
    """Plan the import of a city of tiles; every tile with an image, caption or value is a region.

    Args:
        folder: Name of the city's folder.
        images: Folder of the tile images; other files in it become rejects.
        captions: JSON file of caption sentences; need not exist.
        values: Indicators and extra columns of the regions, by tile.
        metadata: Metadata of the dataset; the importer's name becomes the caption model.
        indicator_source: Source of the indicators.
        rejects: Rejects of the values and street views.
        street_views: Street views in tiles of `values`.
    """
    city, model = city_of(folder), metadata.parameters["importer"]
    found: list[Reject] = []
    files = _images(images, config_name(city, "satellite"), found)
    texts = _captions(captions, config_name(city, "captions"), found)
    regions = _regions({*files, *texts, *values})
    names = [one.name for one in metadata.indicators]
    names += metadata.extra_columns.get("regions", {})
    rows = {tile_region_id(tile): row for tile, row in values.items()}
    table = pd.DataFrame.from_dict(rows, orient="index").reindex(columns=names)
    captioned = [(_image_id(tile), text) for tile, text in sorted(texts.items())]
    captioned += [
        (view.image_id, view.columns["caption"])
        for view in street_views
        if "caption" in view.columns
    ]
    return ImportPlan(
        city=city,
        regions=regions.join(table, on="region_id"),
        images={
            "satellite": list(_items(files, texts, regions, metadata.source, model)),
            "street_view": street_views,
        },
        captions=[
            {"image_id": image, "model": model, "stage": "published", "text": text, "kept": True}
            for image, text in captioned
        ],
        rejects=[*found, *rejects],
        cell_m=float(np.sqrt(regions["area_m2"].median())),
        sources={one.name: indicator_source for one in metadata.indicators},
    )


def parse_tile_name(name: str) -> Tile | None:
    """Column and row of a tile name "<z>_<x>_<y>_s.jpg" in any folder; None for other names."""
    match = TILE_NAME.fullmatch(name)
    if match is None or int(match["z"]) != ZOOM:
        return None
    return int(match["x"]), int(match["y"])


def tile_region_id(tile: Tile) -> str:
    """Region ID of a tile, prefixed with the tile numbering scheme."""
    return f"baidu_{_image_id(tile)}"


def read_tile_rows(
    path: Path, coordinate: str, columns: Mapping[str, str], table: str, rejects: list[Reject]
) -> Iterator[tuple[Tile, dict[str, float], Mapping[Any, Any]]]:
    """Read the rows of a CSV file: tile, renamed numbers, and all columns as text.

    Args:
        path: CSV file.
        coordinate: Column of the tiles, "(x,y)".
        columns: New names of the numeric columns, by name in the CSV; text becomes NaN.
        table: Config name of the rejects.
        rejects: List to which unusable rows (invalid or duplicate tile, too many fields) and
            invalid numbers are appended.

    Raises:
        SourceError: The file cannot be read or lacks the column of the tiles.
    """
    frame, bad = read_columns(path, [coordinate], [], table)
    rejects += bad
    listed: set[Tile] = set()
    for row in frame.to_dict("records"):
        text = str(row[coordinate])
        if (match := TILE_PAIR.fullmatch(text.strip())) is None:
            rejects.append((table, text, "bad_tile", f"{path.name}: expected (x,y)"))
            continue
        tile = int(match["x"]), int(match["y"])
        item = tile_region_id(tile)
        if tile in listed:
            rejects.append((table, item, "listed_twice", path.name))
            continue
        listed.add(tile)
        numbers = {}
        for column, name in columns.items():
            if column in row:
                numbers[name] = float(pd.to_numeric(row[column], errors="coerce"))
                if np.isnan(numbers[name]) and pd.notna(row[column]):
                    rejects.append((table, item, "bad_number", f"{column}: {row[column]!r}"))
        yield tile, numbers, row


def read_sentences(path: Path) -> dict[str, list[str]]:
    """Read the caption sentences of each image from arbitrarily nested lists in JSON.

    The list items are objects {"image": ..., "caption": ...} with one sentence each.

    Raises:
        SourceError: The file is not JSON, or has another structure.
    """
    try:
        records = [json.loads(path.read_text(encoding="utf-8"))]
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SourceError(f"{path} is not valid JSON: {error}") from error
    sentences: dict[str, list[str]] = {}
    while records:
        record = records.pop()
        if isinstance(record, list):
            records += reversed(record)
            continue
        if not isinstance(record, dict) or "image" not in record or "caption" not in record:
            raise SourceError(f"{path} must list {{'image', 'caption'}} objects, got {record!r}.")
        sentences.setdefault(str(record["image"]), []).append(record["caption"] or "")
    return sentences


def _image_id(tile: Tile) -> str:
    return f"{ZOOM}_{tile[0]}_{tile[1]}"


def _regions(tiles: Iterable[Tile]) -> pd.DataFrame:
    """One row per tile, sorted: geometry (WGS-84), area, tile coordinates."""
    ordered = sorted(tiles)
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


def _images(folder: Path, table: str, rejects: list[Reject]) -> dict[Tile, Path]:
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


def _captions(path: Path, table: str, rejects: list[Reject]) -> dict[Tile, str]:
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


def _items(
    images: Mapping[Tile, Path],
    captions: Mapping[Tile, str],
    regions: pd.DataFrame,
    source: str,
    model: str,
) -> Iterator[ImageItem]:
    areas = regions.set_index("region_id")["area_m2"]
    for tile, path in sorted(images.items()):
        region = tile_region_id(tile)
        columns = {
            "tile_z": ZOOM,
            "tile_x": tile[0],
            "tile_y": tile[1],
            "ground_resolution_m": float(np.sqrt(areas[region])) / TILE_PIXELS,
            "source": source,
        }
        if tile in captions:
            columns |= {"caption": captions[tile], "caption_model": model}
        yield ImageItem(_image_id(tile), region, path, columns)
