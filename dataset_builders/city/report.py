"""Pictures of a built city: maps of its indicators, coverage and splits, and sheets of images."""

from collections import Counter
from pathlib import Path

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
from ..split_checks import nearest_train_distance
from ..splits import local_xy
from ..storage import (
    count_rows,
    iter_images,
    list_tables,
    read_indicators,
    read_metadata,
    read_regions,
    read_table,
)
from .layout import Layout
from .recipe import CityRecipe
from .splitting import correlation_ranges
from .workspace import Workspace

SHEET_SIZE = 24
MAX_REGIONS_IN_HTML = 20_000
"""More polygons than that make a browser slow."""


def write_report(space: Workspace, recipe: CityRecipe, layout: Layout) -> Path:
    """Draw what there is of the dataset in `<root>/report`.

    Returns:
        The folder.
    """
    regions = read_regions(space.dataset, recipe.city)
    suffixes = (".png", ".html") if len(regions) <= MAX_REGIONS_IN_HTML else (".png",)
    said = " (synthetic)" if recipe.synthetic else ""
    space.report.mkdir(parents=True, exist_ok=True)
    for suffix in suffixes:
        for name, one in read_indicators(space.dataset, recipe.city).items():
            path = space.report / f"indicator_{name}{suffix}"
            title = f"{recipe.city}{said}: {name}, {one.unit}"
            plot_indicator(regions, name, path, title, log=one.transform == "ln1p")
        for column in ("split_random", "split_block"):
            if regions[column].notna().any():
                title = f"{recipe.city}{said}: {column}"
                plot_splits(regions, column, space.report / f"{column}{suffix}", title)
        for view in VIEWS:
            if (recipe.city, view) in list_tables(space.dataset):
                ids = read_table(space.dataset, recipe.city, view, ["region_id"])["region_id"]
                path = space.report / f"coverage_{view}{suffix}"
                title = f"{recipe.city}{said}: {view.replace('_', ' ')} images"
                plot_coverage(regions, Counter(ids), path, title)
        if layout.roads is not None and layout.points is not None and len(layout.points):
            title = f"{recipe.city}{said}: roads and points along them"
            plot_points(layout.roads, layout.points, space.report / f"points{suffix}", title)
    for view in VIEWS:
        _sheet(space, recipe, view, said)
    _distances(space, recipe, regions, said)
    return space.report


def _distances(space: Workspace, recipe: CityRecipe, regions: gpd.GeoDataFrame, said: str) -> None:
    """How far the test regions lie from training, beside the reach of each label."""
    x, y = local_xy(regions["lon"].to_numpy(), regions["lat"].to_numpy())
    found = {}
    for column in ("split_random", "split_block"):
        split = regions[column].astype(object).where(regions[column].notna(), None).to_numpy()
        try:
            found[column] = nearest_train_distance(x, y, split)
        except SplitError:  # a split that could not be made
            continue
    if not found:
        return
    title = f"{recipe.city}{said}: how far test is from training"
    plot_distances(found, space.report / "split_distances.png", title)
    indicators = list(read_indicators(space.dataset, recipe.city).values())
    write_json(
        space.report / "split_report.json",
        {
            "block_m": read_metadata(space.dataset, recipe.city).parameters.get("block_m"),
            "correlation_range_m": correlation_ranges(x, y, regions, indicators),
            "nearest_train_distance_m": {
                name: {
                    "n_test": len(values),
                    "median": float(np.median(values)),
                    "p05": float(np.percentile(values, 5)),
                    "p95": float(np.percentile(values, 95)),
                }
                for name, values in found.items()
            },
        },
    )


def _sheet(space: Workspace, recipe: CityRecipe, view: str, said: str) -> None:
    if (recipe.city, view) not in list_tables(space.dataset):
        return
    count = count_rows(space.dataset, recipe.city, view)
    if count == 0:
        return
    wanted = set(np.linspace(0, count - 1, min(SHEET_SIZE, count)).astype(int).tolist())
    images = [
        (row["region_id"], row["image"])
        for number, row in enumerate(iter_images(space.dataset, recipe.city, view))
        if number in wanted and row["image"]
    ]
    title = f"{recipe.city}{said}: {view.replace('_', ' ')}"
    contact_sheet(images, space.report / f"contact_sheet_{view}.png", title=title)


__all__ = ["write_report"]
