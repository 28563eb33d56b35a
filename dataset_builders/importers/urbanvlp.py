"""UrbanVLP's published layout: satellite tiles, street views, captions and downstream tables.

Layout: `urbansat/satellite_images/<City>/16_<x>_<y>_s.jpg`, `urbansat/satellite_texts/<City>.json`
(nested lists of sentences), `urbansv/streetview_images/<City>/<name>.jpg` with names
`<id>_<lng>,<lat>_<YYYYMM>_<heading>`, `urbansv/streetview_texts/<City>/<name>.json` with their
captions, and `downstream/<City>_{train,test}.csv` with variants `..._w_houseprice.csv`.
Every Baidu tile of zoom 16 in any of them is a region.

The coordinate system of the street views' file names is undocumented: WGS-84 is assumed unless
`--street_view_crs` is given. A street view belongs to the tile that contains its coordinates.
"""

import argparse
import ast
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..captions import EMPTY, caption_text
from ..coordinates import SYSTEMS, convert, tile_index
from ..photos import iso_date, list_images
from ..schema import INDICATORS as SEVEN
from ..schema import DatasetMetadata, Indicator, config_name
from ..sources.local_folder import URBANVLP_NAMES
from ..storage import Reject
from .base import ImageItem, Imported, ImportPlan, city_of, require
from .tiles import ZOOM, Tile, plan_tiles, read_tile_rows, tile_region_id

SUMMARY = "UrbanVLP: Baidu tiles and street views with captions, downstream tables"
LAYOUT = "the folders urbansat/ and urbansv/ or downstream/ of UrbanVLP"
MODEL, PARTS = "urbanvlp", ("train", "test")
SOURCE = "https://github.com/CityMind-Lab/UrbanVLP"
# published values are a + b ln(y) of UrbanCLIP's y; a and b were fitted to the common rows
AFFINE = {
    "carbon": (5.73922848, 0.10732694, "tonnes carbon, December 2021"),
    "population": (6.72498672, 0.11160873, "people"),
    "gdp": (8.16417999, 0.08816878, "million CNY"),
}
INDICATORS = (
    *(
        Indicator(
            f"{name}_urbanvlp",
            f"{constant} + {slope} ln(y), y in {unit}",
            "intensity",
            "As published: affine in ln(y), not ln(y + 1), of UrbanCLIP's value of the tile, which "
            "was sampled about 1 km off. Do not take exp() of it.",
            "identity",
        )
        for name, (constant, slope, unit) in AFFINE.items()
    ),
    Indicator(
        "night_light", "radiance as published", "intensity", "Night light, apparently raw.", "ln1p"
    ),
    SEVEN["poi"],
    Indicator("house_price", "CNY/m2", "intensity", "House price, where available."),
)
CSV_COLUMNS = {
    "carbon": "carbon_urbanvlp",
    "population": "population_urbanvlp",
    "gdp": "gdp_urbanvlp",
    "nightlight": "night_light",
    "houseprice": "house_price",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this importer."""
    parser.add_argument(
        "--street_view_crs",
        choices=[name for name in SYSTEMS if name != "bd09mc"],
        default="wgs84",
        help="undocumented coordinate system of the street views' file names (default wgs84)",
    )


def read(source: Path, *, street_view_crs: str = "wgs84") -> Imported:
    """Read all cities of UrbanVLP's layout.

    Args:
        source: UrbanVLP's folder.
        street_view_crs: Coordinate system of the street views' file names: "wgs84", "gcj02" or
            "bd09".
    """
    require(source, "urbansat", layout=LAYOUT)
    cities = sorted(
        {path.name for path in source.glob("urbansat/satellite_images/*") if path.is_dir()}
        | {path.name for path in source.glob("urbansv/streetview_images/*") if path.is_dir()}
        | {path.name.split("_")[0] for path in source.glob("downstream/*.csv")}
    )
    metadata = _metadata(street_view_crs)
    return [_plan_city(source, city, street_view_crs, metadata) for city in cities], metadata


def _plan_city(source: Path, name: str, crs: str, metadata: DatasetMetadata) -> ImportPlan:
    rejects: list[Reject] = []
    views, tiles = _street_views(source / "urbansv", name, crs, rejects)
    values = _read_downstream(source / "downstream", name, tiles, rejects)
    return plan_tiles(
        name,
        source / "urbansat/satellite_images" / name,
        source / "urbansat/satellite_texts" / f"{name}.json",
        values,
        metadata,
        indicator_source="UrbanVLP",
        rejects=rejects,
        street_views=views,
    )


def _street_views(
    folder: Path, city: str, crs: str, rejects: list[Reject]
) -> tuple[list[ImageItem], set[Tile]]:
    table = config_name(city_of(city), "street_view")
    items, tiles = [], set()
    for path in list_images(folder / "streetview_images" / city):
        match = re.fullmatch(URBANVLP_NAMES, path.stem)
        if match is None:
            detail = "expected <id>_<lng>,<lat>_<YYYYMM>_<heading>.jpg"
            rejects.append((table, path.name, "bad_name", detail))
            continue
        try:
            lon, lat, heading = (float(match[name]) for name in ("lon", "lat", "heading"))
            x, y = tile_index(*convert(lon, lat, crs, "bd09"), ZOOM, "baidu")
        except ValueError as error:
            rejects.append((table, path.name, "bad_coordinates", str(error)))
            continue
        lon, lat = convert(lon, lat, crs, "wgs84")
        columns = {
            "lon": lon,
            "lat": lat,
            "heading": heading,
            "captured_at": iso_date(match["captured_at"]),
            "source": SOURCE,
            **_street_view_caption(folder / "streetview_texts" / city, path, table, rejects),
        }
        tiles.add((x, y))
        items.append(ImageItem(path.stem, tile_region_id((x, y)), path, columns))
    return items, tiles


def _street_view_caption(
    folder: Path, image: Path, table: str, rejects: list[Reject]
) -> dict[str, str]:
    path = folder / f"{image.stem}.json"
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        caption, reason = caption_text(next(iter(content.values())))
    except (ValueError, AttributeError, TypeError, StopIteration, RecursionError) as error:
        rejects.append((table, image.stem, "bad_caption", f"{path.name}: {error}"))
        return {}
    if caption is None:
        rejects += [] if reason == EMPTY else [(table, image.stem, reason, path.name)]
        return {}
    return {"caption": caption, "caption_model": MODEL}


def _read_downstream(
    folder: Path, city: str, tiles: Iterable[Tile], rejects: list[Reject]
) -> dict[Tile, dict[str, Any]]:
    """Values of each tile from the four tables, with the authors' split."""
    table = config_name(city_of(city), "regions")
    values: dict[Tile, dict[str, Any]] = {tile: {} for tile in tiles}
    names = [f"{city}_{part}{more}.csv" for part in PARTS for more in ("", "_w_houseprice")]
    for path in (folder / name for name in names if (folder / name).exists()):
        part = path.stem.removeprefix(f"{city}_").removesuffix("_w_houseprice")
        for tile, numbers, row in read_tile_rows(path, "Coordinate", CSV_COLUMNS, table, rejects):
            known = values.setdefault(tile, {})
            if known.setdefault("split_author", part) != part:
                rejects.append((table, tile_region_id(tile), "listed_twice", path.name))
                continue
            known |= numbers
            if "poi" in row:
                known |= _poi(row["poi"], tile_region_id(tile), table, rejects)
    return values


def _poi(text: Any, item: str, table: str, rejects: list[Reject]) -> Mapping[str, float]:
    try:
        counts = ast.literal_eval(str(text))
        return {"poi": float(sum({str(key).strip(): n for key, n in counts.items()}.values()))}
    except (ValueError, SyntaxError, AttributeError, TypeError, RecursionError) as error:
        rejects.append((table, item, "bad_poi", str(error)))
        return {}


def _metadata(street_view_crs: str) -> DatasetMetadata:
    return DatasetMetadata(
        title="UrbanVLP's satellite tiles, street views, captions and indicators",
        description=(
            "Baidu satellite tiles of zoom 16 and street views with the captions and downstream "
            "values published with UrbanVLP."
        ),
        source=SOURCE,
        licence="not stated",
        indicators=INDICATORS,
        extra_columns={"regions": {"split_author": "string"}},
        parameters={"importer": "urbanvlp", "street_view_crs": street_view_crs},
        notes=(
            "Carbon, population and GDP are as published: affine in ln(y) of UrbanCLIP's values "
            "(18 rows, residual below 1e-14), not ln(y + 1). They are predicted without a "
            "transform.",
            "Like UrbanCLIP's values, they were sampled about 1 km off the tile.",
            "tile_z, tile_x and tile_y follow Baidu's scheme: y increases northward from the "
            "equator.",
            f"The coordinates of the street views are assumed to be {street_view_crs}; their "
            "system is undocumented. A street view belongs to the tile that contains it.",
            "Regions without an image are kept; `split_author` is the published split.",
        ),
        citation="Hao et al.: UrbanVLP. AAAI 2025.",
    )
