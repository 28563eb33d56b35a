"""UrbanCLIP's toolkit: Baidu satellite tiles, captions and three indicators.

Layout: `tiles/<City>/16_<x>_<y>_s.jpg`, `captions/<City>_captions.json` (nested lists of sentences)
and `indicators/<City>.csv`; captions and indicators are optional. Every tile in any of them is a
region, with or without an image.

Geometry is computed from the tile coordinates. The toolkit's column "WGS84 coordinate" is not used:
it holds the BD-09 latitude and longitude of the south-west corner. The authors sampled their
rasters at these coordinates as if they were WGS-84, 0.8 to 1.3 km away and outside the tile. Their
values are stored with the suffix `_urbanclip`.
"""

from pathlib import Path

from ..errors import SourceError
from ..schema import DatasetMetadata, Indicator, config_name
from ..storage import Reject
from .base import Imported, ImportPlan, city_of, require
from .tiles import plan_tiles, read_tile_rows

SUMMARY = "UrbanCLIP's toolkit: Baidu tiles with captions, carbon, population, GDP"
LAYOUT = "tiles/<City>/, and optionally captions/ and indicators/, of UrbanCLIP's toolkit"
SOURCE = "https://github.com/siruzhong/UrbanCLIP-Dataset-Toolkit"
PLACE = "One pixel, about 1 km off: the tile's south-west corner in BD-09 was read as WGS-84."
CARBON = "ODIAC 2022, one month, carbon and not carbon dioxide, per 1-km pixel."
PEOPLE = "WorldPop, per 1-km pixel; negatives and no-data became 0."
GDP = "Raster of 2010, per 1-km pixel; a sixth of all values is exactly 10,000."
INDICATORS = (
    Indicator("carbon_urbanclip", "tonnes carbon, December 2021", "count", f"{CARBON} {PLACE}"),
    Indicator("population_urbanclip", "people", "count", f"{PEOPLE} {PLACE}"),
    Indicator("gdp_urbanclip", "million CNY", "count", f"{GDP} {PLACE}"),
)
CSV_COLUMNS = {
    "carbon_emissions (ton)": "carbon_urbanclip",
    "population (unit)": "population_urbanclip",
    "gdp (million yuan)": "gdp_urbanclip",
}


METADATA = DatasetMetadata(
    title="UrbanCLIP's satellite tiles, captions and indicators",
    description=(
        "Baidu satellite tiles of zoom 16 with the captions and indicators published with "
        "UrbanCLIP. Most regions have no image; the tiles must be downloaded separately."
    ),
    source=SOURCE,
    licence="not stated",
    indicators=INDICATORS,
    parameters={"importer": "urbanclip"},
    notes=(
        "tile_z, tile_x and tile_y follow Baidu's scheme, in which y increases northward from the "
        "equator; they differ from those of OpenStreetMap and Google.",
        "Geometry is computed from the tile coordinates by Baidu's polynomials, BD-09 and GCJ-02, "
        "and is WGS-84. The toolkit's column 'WGS84 coordinate' holds BD-09 and is not used.",
        "The authors sampled their rasters at that point, 0.8 to 1.3 km away and outside the tile. "
        "The published values (`_urbanclip`) are kept for reproduction.",
        "The side of a tile is less than 1 km: about 785 m in Beijing.",
    ),
    citation="Yan et al.: UrbanCLIP. WWW 2024.",
)


def read(source: Path) -> Imported:
    """Read all cities of UrbanCLIP's toolkit."""
    require(source, "tiles", layout=LAYOUT)
    folders = sorted(path for path in (source / "tiles").iterdir() if path.is_dir())
    if not folders:
        raise SourceError(f"{source / 'tiles'} contains no city folder. Expected: {LAYOUT}.")
    plans = [_plan_city(source, folder) for folder in folders]
    return plans, METADATA


def _plan_city(source: Path, folder: Path) -> ImportPlan:
    rejects: list[Reject] = []
    path = source / "indicators" / f"{folder.name}.csv"
    table = config_name(city_of(folder.name), "regions")
    # despite its name, "BD09 coordinate" holds column and row of the tile
    rows = read_tile_rows(path, "BD09 coordinate", CSV_COLUMNS, table, rejects)
    values = {tile: numbers for tile, numbers, _ in rows} if path.exists() else {}
    return plan_tiles(
        folder.name,
        folder,
        source / "captions" / f"{folder.name}_captions.json",
        values,
        METADATA,
        indicator_source="UrbanCLIP toolkit",
        rejects=rejects,
    )
