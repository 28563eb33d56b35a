"""Figures of a dataset: maps of regions, points, indicators, splits and coverage; contact sheets.

Every function writes a PNG. Maps are drawn in degrees with the aspect of their latitude.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from PIL import Image, ImageDraw

from .errors import DatasetError
from .files import atomic_path
from .images import decode_image
from .log_ticks import raw_ticks

SPLIT_COLOURS = {
    "train": "#4c78a8",
    "validation": "#f2b544",
    "test": "#d1495b",
    "buffer": "#cccccc",
}
CLASS_COLOURS = ("#4c78a8", "#d1495b", "#54a24b", "#f2b544", "#7f5aa2", "#8c6d46", "#5ba4a4")
FILL, GREY, EDGE = "#dce6f0", "#d9d9d9", "#5c5c5c"
MOST_OUTLINES = 1500
"""Regions whose outlines are drawn; of more they would cover the map."""
MOST_POLYGONS = 50_000
"""Regions that a map of the plan draws as polygons; a million of them take minutes."""
CELL_PX, GAP_PX = 160, 8
MOST_TICKS = 4


def plot_regions(regions: gpd.GeoDataFrame, path: str | Path, title: str = "") -> Path:
    """The outlines of regions; a dot for each where there are very many.

    Args:
        regions: Polygons with a CRS.
        path: PNG file.
        title: Title; says "synthetic" where the data are.
    """
    frame, style = _degrees(regions), {}
    if len(frame) > MOST_POLYGONS:
        frame = frame.set_geometry(shapely.centroid(frame.geometry.to_numpy()), crs=frame.crs)
        style = {"marker": "s", "markersize": 1.5}
    with _map(path, title) as axes:
        _draw(frame, axes, color=FILL, **style)
    return Path(path)


def plot_indicator(
    regions: gpd.GeoDataFrame, name: str, path: str | Path, title: str = "", log: bool = True
) -> Path:
    """A map of an indicator; grey where it is missing.

    Args:
        regions: With the column `name`.
        name: Name of the indicator.
        path: PNG file.
        title: Title.
        log: Colour by ln(y + 1), as evaluation sees it; the bar is labelled in raw units.
    """
    if name not in regions:
        raise DatasetError(f"There is no indicator {name!r}; columns: {', '.join(regions)}.")
    with _map(path, title) as axes:
        _draw_values(_degrees(regions), regions[name].to_numpy(dtype=float), name, axes, log)
    return Path(path)


def plot_coverage(
    regions: gpd.GeoDataFrame, counts: Mapping[str, int], path: str | Path, title: str = ""
) -> Path:
    """The number of images of each region; grey where there is none.

    Args:
        regions: With `region_id`.
        counts: Number of images by region.
        path: PNG file.
        title: Title.
    """
    values = regions["region_id"].map(counts).to_numpy(dtype=float)
    with _map(path, title) as axes:
        _draw_values(_degrees(regions), np.where(values > 0, values, np.nan), "images", axes)
    return Path(path)


def plot_splits(regions: gpd.GeoDataFrame, column: str, path: str | Path, title: str = "") -> Path:
    """The parts of a split; grey is the buffer, in no part.

    Args:
        regions: With the column: "train", "validation", "test" or null.
        column: "split_random" or "split_block".
        path: PNG file.
        title: Title.
    """
    if column not in regions:
        raise DatasetError(f"There is no split {column!r}; columns: {', '.join(regions)}.")
    frame = _degrees(regions)
    parts = frame[column].astype(object).fillna("buffer")
    with _map(path, title) as axes:
        _draw(frame, axes, color=[SPLIT_COLOURS.get(part, GREY) for part in parts])
        _legend_of_classes(axes, parts, SPLIT_COLOURS)
    return Path(path)


def plot_points(
    roads: gpd.GeoDataFrame, points: gpd.GeoDataFrame, path: str | Path, title: str = ""
) -> Path:
    """A road network and the sampling points on it.

    Args:
        roads: Lines with a CRS.
        points: Points with a CRS, coloured by `highway` if they have it.
        path: PNG file.
        title: Title.
    """
    roads, points = _degrees(roads), _degrees(points)
    is_classed = "highway" in points
    kinds = points["highway"].astype(str) if is_classed else pd.Series("point", points.index)
    last = len(CLASS_COLOURS) - 1
    names = kinds.value_counts().index
    colours = {name: CLASS_COLOURS[min(rank, last)] for rank, name in enumerate(names)}
    with _map(path, title) as axes:
        roads.plot(ax=axes, color="#b0b0b0", linewidth=0.7)
        points.plot(ax=axes, color=kinds.map(colours), markersize=14, zorder=3)
        _legend_of_classes(axes, kinds, colours)
    return Path(path)


def plot_distances(distances: Mapping[str, np.ndarray], path: str | Path, title: str = "") -> Path:
    """The distance from the test regions of each split to the nearest training region.

    Args:
        distances: Metres, by split.
        path: PNG file.
        title: Title.
    """
    widest = max((float(values.max()) for values in distances.values()), default=1.0)
    edges = np.linspace(0, widest / 1000 * 1.02, 31).tolist()
    with _figure(path, title, (7, 4)) as axes:
        for (name, values), colour in zip(distances.items(), CLASS_COLOURS, strict=False):
            label = f"{name} (median {np.median(values) / 1000:.2f} km)"
            axes.hist(values / 1000, edges, color=colour, alpha=0.6, label=label)
        axes.set_xlabel("km to the nearest training region")
        axes.set_ylabel("test regions")
        axes.legend(frameon=False)
    return Path(path)


def contact_sheet(
    images: Sequence[tuple[str, bytes]], path: str | Path, columns: int = 6, title: str = ""
) -> Path:
    """Thumbnails side by side, each with its name.

    Args:
        images: Name and encoded bytes of each.
        path: PNG file.
        columns: Images per row.
        title: Title.

    Raises:
        DatasetError: There is no image.
    """
    if not images:
        raise DatasetError("A contact sheet needs at least one image.")
    columns = min(columns, len(images))
    rows = math.ceil(len(images) / columns)
    step, top, line = CELL_PX + GAP_PX, 28 if title else GAP_PX, 14
    sheet = Image.new("RGB", (columns * step + GAP_PX, top + rows * (step + line)), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP_PX, 8), title, fill="black")
    for number, (name, data) in enumerate(images):
        left, upper = GAP_PX + number % columns * step, top + number // columns * (step + line)
        small = decode_image(data)
        small.thumbnail((CELL_PX, CELL_PX))
        sheet.paste(small, (left, upper + CELL_PX - small.height))
        draw.text((left, upper + CELL_PX + 1), _shortened(draw, name), fill="#333333")
    with atomic_path(Path(path)) as temporary:
        sheet.save(temporary, "PNG", optimize=True)
    return Path(path)


def _shortened(draw: ImageDraw.ImageDraw, name: str) -> str:
    """The name, cut to the width of a thumbnail."""
    kept = len(name)
    while kept > 4 and draw.textlength(name[:kept] + "…" * (kept < len(name))) > CELL_PX:
        kept -= 1
    return name[:kept] + "…" * (kept < len(name))


def _degrees(frame: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    if frame.crs is None:
        raise DatasetError("A map needs a CRS: set it with `frame.set_crs(...)`.")
    if len(frame) == 0:
        raise DatasetError("There is nothing to draw: the table is empty.")
    return frame.to_crs("EPSG:4326").reset_index(drop=True)


def _draw(frame: gpd.GeoDataFrame, axes: Any, **style: Any) -> None:
    width = 0.4 if len(frame) < MOST_OUTLINES else 0.0
    frame.plot(ax=axes, edgecolor=EDGE, linewidth=width, **style)


def _draw_values(
    frame: gpd.GeoDataFrame, values: np.ndarray, name: str, axes: Any, log: bool = False
) -> None:
    """Regions coloured by a value, with a bar in raw units."""
    shown = np.log1p(values) if log else values
    known = np.isfinite(shown)
    if not known.all():
        _draw(frame[~known], axes, color=GREY)
        _legend(axes, {"missing": GREY})
    if not known.any():
        return
    low, high = shown[known].min(), shown[known].max()
    some = frame[known].assign(_value=shown[known])
    _draw(some, axes, column="_value", cmap="viridis", vmin=low, vmax=max(high, low + 1e-9))
    bar = axes.figure.colorbar(axes.collections[-1], ax=axes, shrink=0.8)
    bar.set_label(name, parse_math=False)
    if log:
        places, labels = raw_ticks(*bar.ax.get_ylim())
        bar.set_ticks(places, labels=labels)


def _legend_of_classes(axes: Any, kinds: pd.Series, colours: Mapping[str, str]) -> None:
    """Each class with its number."""
    counts = kinds.value_counts()
    _legend(axes, {f"{k} ({counts[k]})": colour for k, colour in colours.items() if k in counts})


def _legend(axes: Any, colours: Mapping[str, str]) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(color=colour, label=name) for name, colour in colours.items()]
    legend = axes.figure.legend(handles=handles, loc="outside right upper", frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)


@contextmanager
def _map(path: str | Path, title: str) -> Iterator[Any]:
    """The axes of a map in degrees, saved once they are drawn on."""
    with _figure(path, title, (7, 6)) as axes:
        yield axes
        axes.set_xlabel("longitude")
        axes.set_ylabel("latitude")
        axes.ticklabel_format(useOffset=False)
        (west, east), (south, north) = axes.get_xlim(), axes.get_ylim()
        squeeze = math.cos(math.radians((south + north) / 2))
        axes.set_aspect(1 / squeeze)
        # labels of a narrow map would be written over one another
        ticks = MOST_TICKS * (east - west) * squeeze / (north - south)
        axes.locator_params(axis="x", nbins=round(min(max(ticks, 1), MOST_TICKS)), min_n_ticks=1)


@contextmanager
def _figure(path: str | Path, title: str, size: tuple[float, float]) -> Iterator[Any]:
    """The axes of a figure, saved once they are drawn on."""
    if Path(path).suffix != ".png":
        raise DatasetError(f"A figure is written as .png, got {Path(path).name!r}.")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set_title(title, parse_math=False)
    yield axes
    with atomic_path(Path(path)) as temporary:
        # the aspect is set after the layout: nothing that sticks out is cut
        figure.savefig(temporary, format="png", dpi=130, bbox_inches="tight")


__all__ = [
    "contact_sheet",
    "plot_coverage",
    "plot_distances",
    "plot_indicator",
    "plot_points",
    "plot_regions",
    "plot_splits",
]
