"""Report of a city's dataset: maps of indicators, coverage and splits, and contact sheets."""

from collections import Counter

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
from ..storage import list_tables, read_indicators, read_regions, read_table, sample_images
from .layout import Layout
from .recipe import CityRecipe
from .split_report import SPLITS, split_numbers, split_page, train_distances
from .workspace import Workspace

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
        numbers = split_numbers(dataset, city, regions, distances)
        write_json(folder / "split_report.json", numbers)
        names = ("split_distances", *SPLITS)
        figures = {name.replace("_", " "): folder / f"{name}.png" for name in names}
        page = split_page(f"{said}splits", numbers, figures)
        (folder / "split_report.html").write_text(page, encoding="utf-8")


__all__ = ["write_report"]
