import geopandas as gpd
import numpy as np
import shapely

from dataset_builders.city.report import split_numbers, train_distances
from dataset_builders.schema import INDICATORS, DatasetMetadata
from dataset_builders.storage import read_regions
from dataset_builders.writer import DatasetWriter

from .helpers import encoded, picture

STEP_M = 0.01 * 111_195


def test_counts_distances_and_duplicates_of_splits(tmp_path):
    # six adjacent squares; the third and fourth share an image
    squares = [shapely.box(n / 100, 0, (n + 1) / 100, 0.01) for n in range(6)]
    frame = gpd.GeoDataFrame(
        {
            "region_id": [f"r{n}" for n in range(6)],
            "city": "row",
            "lon": [(n + 0.5) / 100 for n in range(6)],
            "lat": 0.005,
            "area_m2": 1.2e6,
            "population": [None, 1.0, 2.0, 3.0, 4.0, 5.0],
            "split_random": ["train", "train", "validation", "test", None, "test"],
            "split_block": None,
        },
        geometry=squares,
        crs="EPSG:4326",
    )
    population = (INDICATORS["population"],)
    extra = {"satellite": {"sha256": "string"}}
    metadata = DatasetMetadata(
        "t", "d", "s", "l", indicators=population, extra_columns=extra, parameters={"block_m": 2e3}
    )
    writer = DatasetWriter(tmp_path, metadata)
    rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
    writer.write_shard("row", "regions", 0, rows)
    images = [
        {
            "image": {"bytes": encoded(picture(n)), "path": None},
            "image_id": f"i{n}",
            "region_id": f"r{n}",
            "sha256": "same" if n in (2, 3) else f"s{n}",
        }
        for n in range(6)
    ]
    writer.write_shard("row", "satellite", 0, images)
    writer.finish()
    regions = read_regions(tmp_path, "row")
    assert list(train_distances(regions)) == ["split_random"]  # split_block is empty
    numbers = split_numbers(tmp_path, "row", regions)
    counts = {"train": 2, "validation": 1, "test": 2, "none": 1}
    assert numbers["counts"]["split_random"] == counts
    assert numbers["labelled"]["population"]["split_random"]["train"] == 1
    straddling = {"split_random": 1, "split_block": 0}
    assert numbers["duplicates"] == {"groups": 1, "regions": 2, "straddling": straddling}
    assert numbers["block_m"] == 2000
    # 2 and 4 squares from the nearest training region
    near = numbers["nearest_train_distance_m"]["split_random"]
    np.testing.assert_allclose(near["median"], 3 * STEP_M, rtol=0.01)
    # one square lies between the nearest training and test regions
    gap = numbers["train_gap"]["split_random"]
    np.testing.assert_allclose(gap["smallest_m"], STEP_M, rtol=0.01)
    assert gap["touching_pairs"] == 0
    touching = regions.assign(split_block=["train", "test", "train", None, "validation", "test"])
    gap = split_numbers(tmp_path, "row", touching)["train_gap"]["split_block"]
    assert gap == {"smallest_m": 0.0, "touching_pairs": 2}
