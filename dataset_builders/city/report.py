"""Pictures of a built city: maps of its indicators, coverage and splits, and sheets of images."""

from collections import Counter
from pathlib import Path

import geopandas as gpd
import numpy as np

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
from ..storage import (
    count_rows,
    iter_images,
    list_tables,
    read_indicators,
    read_regions,
    read_table,
)
from .layout import Layout
from .recipe import CityRecipe
from .split_page import SPLITS, split_numbers, split_page, train_distances
from .workspace import Workspace

SHEET_SIZE = 24


def write_report(space: Workspace, recipe: CityRecipe, layout: Layout) -> Path:
    """Draw what there is of the dataset in `<root>/report`.

    Returns:
        The folder.
    """
    regions = read_regions(space.dataset, recipe.city)
    said = " (synthetic)" if recipe.synthetic else ""
    space.report.mkdir(parents=True, exist_ok=True)
    for name, one in read_indicators(space.dataset, recipe.city).items():
        path = space.report / f"indicator_{name}.png"
        title = f"{recipe.city}{said}: {name}, {one.unit}"
        plot_indicator(regions, name, path, title, log=one.transform == "ln1p")
    for column in SPLITS:
        if regions[column].notna().any():
            title = f"{recipe.city}{said}: {column}"
            plot_splits(regions, column, space.report / f"{column}.png", title)
    for view in VIEWS:
        if (recipe.city, view) in list_tables(space.dataset):
            ids = read_table(space.dataset, recipe.city, view, ["region_id"])["region_id"]
            path = space.report / f"coverage_{view}.png"
            title = f"{recipe.city}{said}: {view.replace('_', ' ')} images"
            plot_coverage(regions, Counter(ids), path, title)
    if layout.roads is not None and layout.points is not None and len(layout.points):
        title = f"{recipe.city}{said}: roads and points along them"
        plot_points(layout.roads, layout.points, space.report / "points.png", title)
    for view in VIEWS:
        _sheet(space, recipe, view, said)
    _splits(space, recipe, regions, said)
    return space.report


def _splits(space: Workspace, recipe: CityRecipe, regions: gpd.GeoDataFrame, said: str) -> None:
    """How honest the splits are, as numbers and as a page."""
    found = train_distances(regions)
    if not found:
        return
    title = f"{recipe.city}{said}: how far test is from training"
    plot_distances(found, space.report / "split_distances.png", title)
    numbers = split_numbers(space.dataset, recipe.city, regions, found)
    write_json(space.report / "split_report.json", numbers)
    names = ("split_distances", *SPLITS)
    pictures = {name.replace("_", " "): space.report / f"{name}.png" for name in names}
    page = split_page(f"{recipe.city}{said}: splits", numbers, pictures)
    (space.report / "split_report.html").write_text(page, encoding="utf-8")


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
