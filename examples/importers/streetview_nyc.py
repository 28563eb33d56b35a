"""Street views of New York with five indicators of the same locations (StreetviewLLM).

Layout: `labels.csv` (split, lat, lon, pop, ndvi, building_height, built_surface, travel_time,
image) and the listed images. Regions are squares of 1 km centred on the points, which lie on a
grid of about that spacing. The labels were rescaled to 0-10 by their authors and are predicted
without a transform.
"""

from pathlib import Path

from dataset_builders.importers.base import Imported, read_columns, require
from dataset_builders.importers.image_folder import plan_from_frame
from dataset_builders.schema import DatasetMetadata, Indicator, config_name

SUMMARY = "1,448 Google street views of New York with five indicators (StreetviewLLM)"
CITY = "new_york"
CELL_M = 1000.0
BLOCK_M = 10_000.0
LAYOUT = "labels.csv and the folder images/ of StreetviewLLM's New York set"
SOURCE = "https://github.com/Jasper0122/StreetviewLLM"
NUMBERS = ("lat", "lon", "pop", "ndvi", "building_height", "built_surface", "travel_time")
SCALED = "0-10, rescaled over the area"
INDICATORS = (
    Indicator("population", SCALED, "density", "Population around the point.", "identity"),
    Indicator("ndvi", SCALED, "intensity", "Vegetation index around the point.", "identity"),
    Indicator("building_height", SCALED, "intensity", "Mean height of buildings.", "identity"),
    Indicator("built_surface", SCALED, "intensity", "Built-up surface.", "identity"),
    Indicator(
        "travel_time",
        SCALED,
        "intensity",
        "Travel time to the nearest health facility; a control that images should not predict.",
        "identity",
    ),
)


METADATA = DatasetMetadata(
    title="Street views of New York with five indicators",
    description=(
        "One Google street view per point of a grid of about 1 km, with five indicators of the "
        "same locations, each rescaled to 0-10 over the area by its authors."
    ),
    source=SOURCE,
    licence="MIT as stated for the repository; the photos belong to Google and its users",
    indicators=INDICATORS,
    extra_columns={"regions": {"split_author": "string"}},
    parameters={"importer": "streetview_nyc", "block_m": BLOCK_M},
    notes=(
        "A region is a square of 1 km centred on its point; neighbouring squares overlap slightly "
        "and differ from the areas of the labels.",
        "`split_author` is the published split; `split_random` and `split_block` (blocks of 10 km) "
        "were added by the importer.",
        "About a fifth of the population labels are zero.",
        "There is one view per point: it shows a street, not the square kilometre.",
    ),
)


def read(source: Path) -> Imported:
    """Read the street views of New York."""
    require(source, "labels.csv", "images", layout=LAYOUT)
    table = config_name(CITY, "street_view")
    labels, rejects = read_columns(source / "labels.csv", ("split", "image"), NUMBERS, table)
    labels = labels.rename(columns={"pop": "population", "image": "file", "split": "split_author"})
    labels["region_id"] = [
        f"{lat:.6f}_{lon:.6f}" for lat, lon in zip(labels["lat"], labels["lon"], strict=True)
    ]
    labels["image_id"] = labels["region_id"]
    twice = labels["region_id"].duplicated(keep=False)
    # images of the same point share a region and are identified by file name
    labels.loc[twice, "image_id"] = labels.loc[twice, "file"]
    plan = plan_from_frame(
        labels.assign(source=SOURCE, licence="images of Google and its users"),
        source,
        city=CITY,
        view="street_view",
        indicators=INDICATORS,
        cell_m=CELL_M,
        region_columns={"split_author": labels.set_index("region_id")["split_author"].to_dict()},
        sources={one.name: SOURCE for one in INDICATORS},
        block_m=BLOCK_M,
        rejects=rejects,
    )
    return [plan], METADATA
