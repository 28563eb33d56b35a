"""UrbanCLIP's toolkit: Baidu satellite tiles, sentence-wise captions, three indicators.

Layout: `tiles/<City>/16_<x>_<y>_s.jpg`, `captions/<City>_captions.json` (nested lists of sentences)
and `indicators/<City>.csv`; captions and indicators are optional. Every tile that any of them
names is a region, with or without a picture.

Geometry is computed from the tile numbers. The toolkit's column "WGS84 coordinate" is not used: it
holds BD-09 latitude and longitude of the south-west corner, at which the authors read their
rasters as if it were WGS-84, about 0.8 to 1.3 km off and outside the tile. Their values are kept,
under names that end in `_urbanclip`.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..captions import join_sentences
from ..errors import SourceError
from ..schema import DatasetMetadata, Indicator, config_name
from .base import (
    IMAGES_PER_SHARD,
    ImageItem,
    ImportPlan,
    ImportReport,
    city_of,
    list_images,
    require,
    write_plans,
)
from .tiles import (
    Tile,
    parse_tile_name,
    parse_tile_pair,
    read_sentences,
    tile_columns,
    tile_id,
    tile_region_id,
    tile_regions,
)

SUMMARY = "UrbanCLIP's toolkit: Baidu tiles with captions, carbon, population, GDP"
LAYOUT = "tiles/<City>/, and optionally captions/ and indicators/, of UrbanCLIP's toolkit"
SOURCE = "https://github.com/siruzhong/UrbanCLIP-Dataset-Toolkit"
PLACE = "One pixel read at the tile's south-west corner in BD-09 taken for WGS-84, off by 1 km."
INDICATORS = (
    Indicator(
        "carbon_urbanclip",
        "tonnes carbon, December 2021",
        "count",
        f"ODIAC 2022, one month, carbon and not carbon dioxide, per 1-km pixel. {PLACE}",
    ),
    Indicator(
        "population_urbanclip",
        "people",
        "count",
        f"WorldPop, per 1-km pixel; negatives and no-data became 0. {PLACE}",
    ),
    Indicator(
        "gdp_urbanclip",
        "million CNY",
        "count",
        f"A raster of 2010 per 1-km pixel; a sixth of all values is exactly 10,000. {PLACE}",
    ),
)
CSV_COLUMNS = {
    "carbon_emissions (ton)": "carbon_urbanclip",
    "population (unit)": "population_urbanclip",
    "gdp (million yuan)": "gdp_urbanclip",
}
Rejects = list[tuple[str, str, str, str]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No flags of its own."""


def import_dataset(
    source: str | Path,
    output_dir: str | Path,
    *,
    seed: int = 0,
    images_per_shard: int = IMAGES_PER_SHARD,
) -> ImportReport:
    """Import every city of UrbanCLIP's toolkit.

    Args:
        source: the toolkit's folder.
        output_dir: the dataset folder; an unfinished import there goes on.
        seed: of the splits.
        images_per_shard: rows of a shard.

    Raises:
        SourceError: another layout.
    """
    source = Path(source)
    require(source, "tiles", layout=LAYOUT)
    folders = sorted(path for path in (source / "tiles").iterdir() if path.is_dir())
    if not folders:
        raise SourceError(f"{source / 'tiles'} holds no folder of a city. Expected is {LAYOUT}.")
    plans = [_plan_city(source, folder) for folder in folders]
    return write_plans(plans, _metadata(), output_dir, seed, images_per_shard)


def _plan_city(source: Path, folder: Path) -> ImportPlan:
    city = city_of(folder.name)
    rejects: Rejects = []
    pictures = tile_pictures(folder, config_name(city, "satellite"), rejects)
    captions = tile_captions(
        source / "captions" / f"{folder.name}_captions.json",
        config_name(city, "captions"),
        rejects,
    )
    values = _read_indicators(
        source / "indicators" / f"{folder.name}.csv", config_name(city, "regions"), rejects
    )
    regions = tile_regions({*pictures, *captions, *values})
    for name in CSV_COLUMNS.values():
        found = {tile_region_id(tile): row[name] for tile, row in values.items()}
        regions[name] = regions["region_id"].map(found).astype(np.float64)
    return ImportPlan(
        city=city,
        regions=regions,
        images={"satellite": satellite_items(pictures, captions, regions, SOURCE, "urbanclip")},
        captions=caption_rows(captions, "urbanclip"),
        rejects=rejects,
        cell_m=float(np.sqrt(regions["area_m2"].median())),
        sources={one.name: "UrbanCLIP toolkit" for one in INDICATORS},
    )


def tile_pictures(folder: Path, table: str, rejects: Rejects) -> dict[Tile, Path]:
    """Pictures of a folder by tile; others are added to the rejects."""
    pictures: dict[Tile, Path] = {}
    for path in list_images(folder):
        tile = parse_tile_name(path.name)
        if tile is None:
            rejects.append((table, path.name, "bad_name", "expected 16_<x>_<y>_s.jpg"))
        elif tile in pictures:
            rejects.append((table, path.name, "listed_twice", f"as {pictures[tile].name}"))
        else:
            pictures[tile] = path
    return pictures


def tile_captions(path: Path, table: str, rejects: Rejects) -> dict[Tile, str]:
    """Whole captions by tile, from a file of sentences that need not be there."""
    captions: dict[Tile, str] = {}
    for name, sentences in (read_sentences(path) if path.exists() else {}).items():
        tile, caption = parse_tile_name(name), join_sentences(sentences)
        if tile is None:
            rejects.append((table, name, "bad_name", "expected 16_<x>_<y>_s.jpg"))
        elif caption is None:
            rejects.append((table, name, "empty_caption", f"{len(sentences)} sentences"))
        else:
            captions[tile] = caption
    return captions


def satellite_items(
    pictures: dict[Tile, Path],
    captions: dict[Tile, str],
    regions: pd.DataFrame,
    source: str,
    model: str,
) -> list[ImageItem]:
    """The pictures to import, by tile, with their captions."""
    areas = regions.set_index("region_id")["area_m2"]
    items = []
    for tile, path in sorted(pictures.items()):
        columns = tile_columns(tile, areas[tile_region_id(tile)]) | {"source": source}
        if tile in captions:
            columns |= {"caption": captions[tile], "caption_model": model}
        items.append(ImageItem(tile_id(tile), tile_region_id(tile), path, columns))
    return items


def caption_rows(captions: dict[Tile, str], model: str) -> list[dict[str, Any]]:
    """All captions as published, also of tiles whose picture is not there."""
    return [
        {
            "image_id": tile_id(tile),
            "model": model,
            "stage": "published",
            "text": text,
            "kept": True,
        }
        for tile, text in sorted(captions.items())
    ]


def _read_indicators(path: Path, table: str, rejects: Rejects) -> dict[Tile, dict[str, float]]:
    if not path.exists():
        return {}
    frame = pd.read_csv(path)
    missing = [name for name in ("BD09 coordinate", *CSV_COLUMNS) if name not in frame]
    if missing:
        raise SourceError(f"{path} has no column {', '.join(missing)}.")
    values: dict[Tile, dict[str, float]] = {}
    for row in frame.to_dict("records"):
        # named a coordinate, but it is the tile's column and row
        tile = parse_tile_pair(row["BD09 coordinate"])
        if tile is None:
            rejects.append((table, str(row["BD09 coordinate"]), "bad_tile", "expected (x,y)"))
        elif tile in values:
            rejects.append((table, tile_region_id(tile), "listed_twice", path.name))
        else:
            values[tile] = {name: row[column] for column, name in CSV_COLUMNS.items()}
    return values


def _metadata() -> DatasetMetadata:
    return DatasetMetadata(
        title="UrbanCLIP's satellite tiles, captions and indicators",
        description=(
            "Baidu satellite tiles of zoom 16 with the captions and indicators published with "
            "UrbanCLIP. Most regions have no picture: fetch the tiles yourself."
        ),
        source=SOURCE,
        licence="not stated",
        indicators=INDICATORS,
        parameters={"importer": "urbanclip"},
        notes=(
            "tile_z, tile_x and tile_y are Baidu's: y counts northward from the equator, and the "
            "numbers are not those of OpenStreetMap or Google.",
            "Geometry is computed from the tile numbers by Baidu's polynomials, BD-09 and GCJ-02, "
            "and is WGS-84. The toolkit's column 'WGS84 coordinate' holds BD-09 and is not used.",
            "The authors read their rasters at that point, which lies 0.8 to 1.3 km off and "
            "outside the tile. The values here are theirs (`_urbanclip`), for reproduction.",
            "A tile is no square kilometre: about 785 m a side in Beijing.",
        ),
        citation="Yan et al.: UrbanCLIP. WWW 2024.",
    )
