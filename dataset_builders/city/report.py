"""Report of a city's dataset: maps, contact sheets, and a check of the splits for leakage."""

from collections import Counter
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np

from ..errors import SplitError
from ..files import write_json
from ..plots import (
    contact_sheet,
    plot_coverage,
    plot_distances,
    plot_indicator,
    plot_points,
    plot_splits,
)
from ..schema import VIEWS
from ..split_checks import duplicate_groups, nearest_train_distance
from ..splits import NAMES as PARTS
from ..splits import local_xy, region_neighbourhood
from ..storage import (
    list_tables,
    read_indicators,
    read_metadata,
    read_regions,
    read_table,
    sample_images,
)
from .layout import Layout
from .recipe import CityRecipe
from .splitting import correlation_ranges
from .workspace import Workspace

SPLITS = ("split_random", "split_block")
SHEET_SIZE = 24


def write_report(space: Workspace, recipe: CityRecipe, layout: Layout) -> None:
    """Write the figures and the split report of a dataset to `<root>/report`."""
    city, dataset, folder = recipe.city, space.dataset, space.report
    regions = read_regions(dataset, city)
    said = f"{city}{' (synthetic)' * recipe.synthetic}: "
    folder.mkdir(parents=True, exist_ok=True)
    for name, one in read_indicators(dataset, city).items():
        title = f"{said}{name}, {one.unit}"
        path = folder / f"indicator_{name}.png"
        plot_indicator(regions, name, path, title, log=one.transform == "ln1p")
    for column in SPLITS:
        if regions[column].notna().any():
            plot_splits(regions, column, folder / f"{column}.png", said + column)
    for view in VIEWS:
        if (city, view) in list_tables(dataset):
            title = said + view.replace("_", " ")
            counts = Counter(read_table(dataset, city, view, ["region_id"])["region_id"])
            plot_coverage(regions, counts, folder / f"coverage_{view}.png", f"{title} images")
            if images := sample_images(dataset, city, view, SHEET_SIZE):
                contact_sheet(images, folder / f"contact_sheet_{view}.png", title=title)
    if layout.roads is not None and layout.points is not None and len(layout.points):
        title = f"{said}roads and sampling points"
        plot_points(layout.roads, layout.points, folder / "points.png", title)
    if distances := train_distances(regions):
        title = f"{said}distance from test to training regions"
        plot_distances(distances, folder / "split_distances.png", title)
        write_json(folder / "split_report.json", split_numbers(dataset, city, regions))


def train_distances(regions: gpd.GeoDataFrame) -> dict[str, Any]:
    """Distance in metres from each test region to the nearest training region, per split.

    Splits that could not be made are left out.
    """
    x, y = local_xy(regions["lon"].to_numpy(), regions["lat"].to_numpy())
    found = {}
    for column in SPLITS:
        try:
            found[column] = nearest_train_distance(x, y, regions[column].to_numpy(dtype=object))
        except SplitError:
            continue
    return found


def split_numbers(dataset: Path, city: str, regions: gpd.GeoDataFrame) -> dict[str, Any]:
    """Sizes of the splits, duplicate images, and distances between test and training regions."""
    x, y = local_xy(regions["lon"].to_numpy(), regions["lat"].to_numpy())
    indicators = list(read_indicators(dataset, city).values())
    return {
        "block_m": read_metadata(dataset, city).parameters.get("block_m"),
        "correlation_range_m": correlation_ranges(x, y, regions, indicators),
        "counts": _counts(regions),
        "labelled": {one.name: _counts(regions[regions[one.name].notna()]) for one in indicators},
        "duplicates": _duplicates(dataset, city, regions),
        "nearest_train_distance_m": {
            name: {
                "n_test": len(values),
                "median": float(np.median(values)),
                "p05": float(np.percentile(values, 5)),
                "p95": float(np.percentile(values, 95)),
            }
            for name, values in train_distances(regions).items()
        },
        "train_gap": _train_gaps(regions),
    }


def _train_gaps(regions: gpd.GeoDataFrame) -> dict[str, dict[str, Any]]:
    """Smallest gap in metres between borders of test and training regions, and touching pairs."""
    near = region_neighbourhood(regions.geometry, regions["lon"], regions["lat"])
    found = {}
    for column in SPLITS:
        train, test = (
            np.flatnonzero((regions[column] == part).to_numpy(dtype=bool) & near.placed)
            for part in ("train", "test")
        )
        if len(train) and len(test):
            found[column] = {
                "smallest_m": float(near.gaps_m(test, train).min()),
                "touching_pairs": near.count_touching(test, train),
            }
    return found


def _counts(regions: gpd.GeoDataFrame) -> dict[str, dict[str, int]]:
    counts = {}
    for column in SPLITS:
        found = {part: int((regions[column] == part).sum()) for part in PARTS}
        counts[column] = found | {"none": len(regions) - sum(found.values())}
    return counts


def _duplicates(dataset: Path, city: str, regions: gpd.GeoDataFrame) -> dict[str, Any]:
    """Number of groups of regions that share an image, and of those that straddle two parts."""
    keys: dict[str, list[str]] = {name: [] for name in regions["region_id"]}
    for view in VIEWS:
        if (city, view) in list_tables(dataset):
            rows = read_table(dataset, city, view, ["region_id", "sha256"])
            for region_id, sha256 in zip(rows["region_id"], rows["sha256"], strict=True):
                keys[region_id].append(sha256)
    groups, part_of = duplicate_groups(keys), regions.set_index("region_id")
    straddling = {
        column: sum(part_of.loc[group, column].nunique() > 1 for group in groups)
        for column in SPLITS
    }
    return {"groups": len(groups), "regions": sum(map(len, groups)), "straddling": straddling}


__all__ = ["split_numbers", "train_distances", "write_report"]
