"""Pictures of a dataset: maps of regions, points, indicators, splits, coverage; a sheet of images.

Every function writes a PNG. Maps are drawn in degrees with the aspect of their latitude.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
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
GREY, EDGE = "#d9d9d9", "#5c5c5c"
CELL_PX, GAP_PX = 160, 8
MOST_TICKS = 4


def plot_regions(regions: gpd.GeoDataFrame, path: str | Path, title: str = "") -> Path:
    """The outlines of regions.

    Args:
        regions: polygons with a CRS.
        path: .png.
        title: on top; says "synthetic" where the data are.
    """
    frame = _degrees(regions)
    return _save(frame, np.full(len(frame), "#dce6f0", dtype=object), path, title, {})


def plot_indicator(
    regions: gpd.GeoDataFrame, name: str, path: str | Path, title: str = "", log: bool = True
) -> Path:
    """A map of an indicator; grey where it is missing.

    Args:
        regions: with the column `name`.
        name: of the indicator.
        path: .png.
        title: on top.
        log: colour by ln(y + 1), as evaluation sees it; the bar is labelled in raw units.
    """
    if name not in regions:
        raise DatasetError(f"There is no indicator {name!r}; columns: {', '.join(regions)}.")
    frame = _degrees(regions)
    values = frame[name].to_numpy(dtype=float)
    return _plot_values(frame, values, name, path, title, log)


def plot_coverage(
    regions: gpd.GeoDataFrame, counts: Mapping[str, int], path: str | Path, title: str = ""
) -> Path:
    """How many pictures each region has; grey where there is none.

    Args:
        regions: with `region_id`.
        counts: pictures by region.
        path: .png.
        title: on top.
    """
    frame = _degrees(regions)
    values = np.array([float(counts.get(one, 0)) for one in frame["region_id"]])
    return _plot_values(frame, np.where(values > 0, values, np.nan), "pictures", path, title, False)


def plot_splits(regions: gpd.GeoDataFrame, column: str, path: str | Path, title: str = "") -> Path:
    """Which region is in which part of a split; grey is the buffer, in no part.

    Args:
        regions: with the column, "train", "validation", "test" or null.
        column: "split_random" or "split_block".
        path: .png.
        title: on top.
    """
    if column not in regions:
        raise DatasetError(f"There is no split {column!r}; columns: {', '.join(regions)}.")
    frame = _degrees(regions)
    parts = frame[column].fillna("buffer").to_numpy()
    colours = np.array([SPLIT_COLOURS.get(part, GREY) for part in parts], dtype=object)
    legend = {
        f"{part} ({(parts == part).sum()})": colour
        for part, colour in SPLIT_COLOURS.items()
        if (parts == part).any()
    }
    return _save(frame, colours, path, title, legend)


def plot_points(
    roads: gpd.GeoDataFrame, points: gpd.GeoDataFrame, path: str | Path, title: str = ""
) -> Path:
    """A road network and the sampling points on it.

    Args:
        roads: lines with a CRS.
        points: points with a CRS, and `highway` for their colours if they have it.
        path: .png.
        title: on top.
    """
    roads, points = _degrees(roads), _degrees(points)
    kinds = (
        points["highway"].astype(str) if "highway" in points else pd.Series("point", points.index)
    )
    names = kinds.value_counts().index.tolist()
    colour_of = {
        name: CLASS_COLOURS[min(i, len(CLASS_COLOURS) - 1)] for i, name in enumerate(names)
    }
    colours = kinds.map(colour_of).to_numpy()
    legend = {f"{name} ({(kinds == name).sum()})": colour_of[name] for name in names}
    figure, axes = _figure(path, title)
    roads.plot(ax=axes, color="#b0b0b0", linewidth=0.7)
    axes.scatter(points.geometry.x, points.geometry.y, c=colours, s=14, zorder=3)
    return _save_png(figure, axes, path, legend)


def plot_distances(distances: Mapping[str, np.ndarray], path: str | Path, title: str = "") -> Path:
    """How far the test regions of each split lie from the nearest training region.

    Args:
        distances: metres, by split.
        path: .png.
        title: on top.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    widest = max((float(values.max()) for values in distances.values()), default=1.0)
    edges = np.linspace(0, widest / 1000 * 1.02, 31).tolist()
    for (name, values), colour in zip(distances.items(), CLASS_COLOURS, strict=False):
        label = f"{name} (median {np.median(values) / 1000:.2f} km)"
        axes.hist(values / 1000, edges, color=colour, alpha=0.6, label=label)
    axes.set_xlabel("km to the nearest training region")
    axes.set_ylabel("test regions")
    axes.set_title(title)
    axes.legend(frameon=False)
    path = Path(path)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130)
    return path


def contact_sheet(
    images: Sequence[tuple[str, bytes]], path: str | Path, columns: int = 6, title: str = ""
) -> Path:
    """Small pictures side by side, each with its name.

    Args:
        images: name and encoded bytes of each.
        path: .png.
        columns: pictures in a row.
        title: on top.

    Raises:
        DatasetError: there is no image.
    """
    if not images:
        raise DatasetError("A contact sheet needs one image at least.")
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
        draw.text((left, upper + CELL_PX + 1), _fit(draw, name), fill="#333333")
    path = Path(path)
    with atomic_path(path) as temporary:
        sheet.save(temporary, "PNG", optimize=True)
    return path


def _fit(draw: ImageDraw.ImageDraw, name: str) -> str:
    while len(name) > 4 and draw.textlength(name) > CELL_PX:
        name = name[:-2] + "…" if not name.endswith("…") else name[:-3] + "…"
    return name


def _plot_values(
    frame: gpd.GeoDataFrame,
    values: np.ndarray,
    name: str,
    path: str | Path,
    title: str,
    log: bool,
) -> Path:
    import matplotlib as mpl

    shown = np.log1p(values) if log else values
    known = np.isfinite(shown)
    low, high = (float(shown[known].min()), float(shown[known].max())) if known.any() else (0, 1)
    scale = mpl.colors.Normalize(low, high if high > low else low + 1)
    palette = mpl.colormaps["viridis"]
    colours = np.array(
        [
            mpl.colors.to_hex(palette(scale(v))) if ok else GREY
            for v, ok in zip(shown, known, strict=True)
        ],
        dtype=object,
    )
    figure, axes = _figure(path, title)
    _draw(frame, axes, colours)
    if known.any():
        mappable = mpl.cm.ScalarMappable(scale, palette)
        bar = figure.colorbar(mappable, ax=axes, label=name, shrink=0.8)
        if log:
            places, labels = raw_ticks(*bar.ax.get_ylim())
            bar.set_ticks(places, labels=labels)
    return _save_png(figure, axes, path, {} if known.all() else {"missing": GREY})


def _degrees(frame: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    if frame.crs is None:
        raise DatasetError("A map needs a CRS: set it with `frame.set_crs(...)`.")
    if len(frame) == 0:
        raise DatasetError("There is nothing to draw: the table is empty.")
    return frame.to_crs("EPSG:4326").reset_index(drop=True)


def _save(
    frame: gpd.GeoDataFrame,
    colours: np.ndarray,
    path: str | Path,
    title: str,
    legend: Mapping[str, str],
) -> Path:
    figure, axes = _figure(path, title)
    _draw(frame, axes, colours)
    return _save_png(figure, axes, path, legend)


def _draw(frame: gpd.GeoDataFrame, axes: Any, colours: np.ndarray) -> None:
    width = 0.4 if len(frame) < 1500 else 0.0
    frame.plot(ax=axes, color=list(colours), edgecolor=EDGE, linewidth=width)


def _figure(path: str | Path, title: str) -> tuple[Any, Any]:
    if Path(path).suffix != ".png":
        raise DatasetError(f"A map is written as .png, got {Path(path).name!r}.")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set_title(title)
    axes.set_xlabel("longitude")
    axes.set_ylabel("latitude")
    axes.ticklabel_format(useOffset=False)
    return figure, axes


def _save_png(figure: Any, axes: Any, path: str | Path, legend: Mapping[str, str]) -> Path:
    from matplotlib.patches import Patch

    path = Path(path)
    if legend:
        handles = [Patch(color=colour, label=name) for name, colour in legend.items()]
        figure.legend(handles=handles, loc="outside right upper", frameon=False)
    (west, east), (south, north) = axes.get_xlim(), axes.get_ylim()
    squeeze = math.cos(math.radians((south + north) / 2))
    axes.set_aspect(1 / squeeze)
    # labels of a narrow map would be written over one another
    ticks = MOST_TICKS * (east - west) * squeeze / (north - south)
    axes.locator_params(axis="x", nbins=round(min(max(ticks, 1), MOST_TICKS)), min_n_ticks=1)
    with atomic_path(path) as temporary:
        # the aspect is set after the layout: nothing that sticks out is cut
        figure.savefig(temporary, format="png", dpi=130, bbox_inches="tight")
    return path


__all__ = [
    "contact_sheet",
    "plot_coverage",
    "plot_distances",
    "plot_indicator",
    "plot_points",
    "plot_regions",
    "plot_splits",
]
