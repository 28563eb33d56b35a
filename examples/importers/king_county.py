"""House sales of King County with overhead images: four houses in each of 250 cells of 1 km.

Layout: `houses.csv` (id, price, log_price, lat, long, cell, sqft_living, sqft_lot, floors, grade,
condition, yr_built, image) and `z18/`. Regions are cells, with indicators averaged over their
houses. Price and areas use the geometric mean, so that targets of evaluation are mean logarithms.
The lowest 16 rows of an image, which contain a watermark, are cropped.
"""

from pathlib import Path

import numpy as np
import shapely

from dataset_builders.errors import SourceError
from dataset_builders.images import decode_image, encode_image
from dataset_builders.importers.base import Imported, read_columns, require
from dataset_builders.importers.image_folder import plan_from_frame
from dataset_builders.schema import DatasetMetadata, Indicator, config_name

SUMMARY = "1,000 overhead images of houses in 250 cells of King County, with prices"
CITY = "king_county"
LAYOUT = "houses.csv and the folder z18/"
SOURCE = "https://github.com/anu2421/satellite-property-valuation"
TEXT, NUMBERS = ("id", "cell", "image"), ("price", "sqft_living", "sqft_lot", "grade", "yr_built")
NAMES = {
    "image": "file", "id": "image_id", "cell": "region_id", "price": "price",
    "sqft_living": "living_area", "sqft_lot": "lot_area", "yr_built": "year_built",
}  # fmt: skip
LOGGED = ["price", "living_area", "lot_area"]
WATERMARK_PX = 16
CELL_M = 1000.0
# cells are named floor(lat * a), floor(lon * b), with 1-km cells on a sphere of radius 6371 km; b
# is at the central latitude of the full data and was inferred from the names of the cells
CELLS_PER_DEGREE_NORTH = 111.195
CELLS_PER_DEGREE_EAST = 75.03636
# an image of 224 px shows about 45 m
GROUND_RESOLUTION_M = 45 / 224
INDICATORS = (
    Indicator("price", "USD", "intensity", "Sale price, geometric mean."),
    Indicator("living_area", "square feet", "intensity", "Living area, geometric mean."),
    Indicator("lot_area", "square feet", "intensity", "Area of the lot, geometric mean."),
    Indicator("year_built", "year", "intensity", "Year of construction, mean.", "identity"),
    Indicator("grade", "1-13", "intensity", "County construction grade, mean.", "identity"),
)


METADATA = DatasetMetadata(
    title="Overhead images of houses in King County",
    description=(
        "Overhead images of houses, each about 45 m across, four in each of 250 cells of 1 km, "
        "with sale prices and other attributes averaged over the four houses."
    ),
    source=SOURCE,
    licence="not stated",
    indicators=INDICATORS,
    parameters={"importer": "king_county", "watermark_px": WATERMARK_PX},
    notes=(
        "The indicators describe the four houses in the images, not all houses of the cell.",
        f"The lowest {WATERMARK_PX} rows of pixels (a watermark) are cropped.",
        "Price, living area and lot area are geometric means, so that ln(y + 1) is approximately "
        "the mean logarithm.",
    ),
)


def read(source: Path) -> Imported:
    """Read the houses of King County."""
    require(source, "houses.csv", "z18", layout=LAYOUT)
    table = config_name(CITY, "satellite")
    houses, rejects = read_columns(source / "houses.csv", TEXT, NUMBERS, table)
    houses = houses.dropna(subset=["cell"])
    houses = houses.rename(columns=NAMES)[[*NAMES.values(), "grade"]]
    houses[LOGGED] = np.log(houses[LOGGED])
    plan = plan_from_frame(
        houses.assign(ground_resolution_m=GROUND_RESOLUTION_M, source=SOURCE),
        source,
        city=CITY,
        view="satellite",
        indicators=INDICATORS,
        cell_m=CELL_M,
        region_columns={"geometry": {name: _cell(name) for name in set(houses["region_id"])}},
        sources={one.name: SOURCE for one in INDICATORS},
        load=without_watermark,
        rejects=rejects,
    )
    plan.regions[LOGGED] = np.exp(plan.regions[LOGGED])
    return [plan], METADATA


def without_watermark(path: Path) -> bytes:
    """Crop the lowest 16 rows of an image, and encode it as JPEG of quality 95.

    Raises:
        BadImageError: The image is unusable.
    """
    image = decode_image(path, min_side=2 * WATERMARK_PX)
    return encode_image(image.crop((0, 0, image.width, image.height - WATERMARK_PX)), quality=95)


def _cell(name: str) -> shapely.Polygon:
    try:
        row, column = (int(part) for part in name.split("_"))
    except ValueError as error:
        raise SourceError(f"Cell names must look like '5303_-9185', got {name!r}.") from error
    return shapely.box(
        column / CELLS_PER_DEGREE_EAST,
        row / CELLS_PER_DEGREE_NORTH,
        (column + 1) / CELLS_PER_DEGREE_EAST,
        (row + 1) / CELLS_PER_DEGREE_NORTH,
    )
