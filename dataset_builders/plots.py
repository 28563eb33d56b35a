"""Figures of a dataset, written as PNG: maps and contact sheets.

Maps are in degrees, with the aspect ratio of their latitude.
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
"""Number of regions from which outlines are omitted, since they would cover the map."""
MOST_POLYGONS = 50_000
"""Number of regions above which dots replace polygons; a million polygons take minutes."""
THUMBNAILS_PER_ROW, THUMBNAIL_PX, LABEL_LENGTH = 6, 160, 24
MOST_TICKS = 4


def plot_regions(regions: gpd.GeoDataFrame, path: str | Path, title: str = "") -> Path:
    """Map of the outlines of regions; dots if there are very many.

    Args:
        regions: Polygons with a CRS.
        path: Output PNG file.
        title: Title, which marks synthetic data.
    """
    frame, style = _degrees(regions), {}
    if len(frame) > MOST_POLYGONS:
        frame = frame.set_geometry(shapely.centroid(frame.geometry.to_numpy()), crs=frame.crs)
        style = {"marker": "s", "markersize": 1.5}
    with _map(path, title) as axes:
        frame.plot(ax=axes, color=FILL, **_outlines(frame), **style)
    return Path(path)


def plot_indicator(
    regions: gpd.GeoDataFrame, name: str, path: str | Path, title: str = "", log: bool = True
) -> Path:
    """Map of an indicator; missing values are grey.

    Args:
        regions: Regions with the column `name`.
        name: Name of the indicator.
        path: Output PNG file.
        title: Title.
        log: Colour by ln(y + 1), as in evaluation; the colour bar is labelled in raw units.
    """
    if name not in regions:
        raise DatasetError(f"There is no indicator {name!r}; columns: {', '.join(regions)}.")
    with _map(path, title) as axes:
        _colour_by_value(_degrees(regions), regions[name].to_numpy(dtype=float), name, axes, log)
    return Path(path)


def plot_coverage(
    regions: gpd.GeoDataFrame, counts: Mapping[str, int], path: str | Path, title: str = ""
) -> Path:
    """Map of the number of images per region; regions without images are grey.

    Args:
        regions: Regions with `region_id`.
        counts: Number of images by region id.
        path: Output PNG file.
        title: Title.
    """
    values = regions["region_id"].map(counts).to_numpy(dtype=float)
    with _map(path, title) as axes:
        _colour_by_value(_degrees(regions), np.where(values > 0, values, np.nan), "images", axes)
    return Path(path)


def plot_splits(regions: gpd.GeoDataFrame, column: str, path: str | Path, title: str = "") -> Path:
    """Map of the parts of a split; the buffer is grey.

    Args:
        regions: Regions with the column, of "train", "validation", "test" or null.
        column: "split_random" or "split_block".
        path: Output PNG file.
        title: Title.
    """
    frame = _degrees(regions)
    parts = frame[column].astype(object).fillna("buffer")
    with _map(path, title) as axes:
        _colour_by_class(frame, parts, SPLIT_COLOURS, axes, **_outlines(frame))
    return Path(path)


def plot_points(
    roads: gpd.GeoDataFrame, points: gpd.GeoDataFrame, path: str | Path, title: str = ""
) -> Path:
    """Map of a road network and its sampling points.

    Args:
        roads: Lines with a CRS.
        points: Points with a CRS, coloured by `highway` if they have it.
        path: Output PNG file.
        title: Title.
    """
    roads, points = _degrees(roads), _degrees(points)
    kinds = points.get("highway", pd.Series("point", points.index)).astype(str)
    last = len(CLASS_COLOURS) - 1
    names = kinds.value_counts().index
    colours = {name: CLASS_COLOURS[min(rank, last)] for rank, name in enumerate(names)}
    with _map(path, title) as axes:
        roads.plot(ax=axes, color="#b0b0b0", linewidth=0.7)
        _colour_by_class(points, kinds, colours, axes, markersize=14, zorder=3)
    return Path(path)


def plot_distances(distances: Mapping[str, np.ndarray], path: str | Path, title: str = "") -> Path:
    """Histogram of the distance from test regions to the nearest training region, by split.

    Args:
        distances: Distances in metres, by split.
        path: Output PNG file.
        title: Title.
    """
    widest = max((float(values.max()) for values in distances.values()), default=1.0)
    edges = np.linspace(0, widest / 1000 * 1.02, 31).tolist()
    with _figure(path, title, (7, 4)) as axes:
        for (name, values), colour in zip(distances.items(), CLASS_COLOURS, strict=False):
            label = f"{name} (median {np.median(values) / 1000:.2f} km)"
            axes.hist(values / 1000, edges, color=colour, alpha=0.6, label=label)
        axes.set(xlabel="km to the nearest training region", ylabel="test regions")
        axes.legend(frameon=False)
    return Path(path)


def contact_sheet(images: Sequence[tuple[str, bytes]], path: str | Path, title: str = "") -> Path:
    """Grid of thumbnails, each with its name.

    Args:
        images: Name and encoded bytes of each image.
        path: Output PNG file.
        title: Title.

    Raises:
        DatasetError: There is no image.
    """
    if not images:
        raise DatasetError("A contact sheet needs at least one image.")
    columns = min(THUMBNAILS_PER_ROW, len(images))
    rows = math.ceil(len(images) / columns)
    with _figure(path, title, (1.6 * columns, 1.8 * rows)) as axes:
        axes.set_axis_off()
        for number, (name, content) in enumerate(images):
            row, column = divmod(number, columns)
            place = (column / columns, 1 - (row + 0.9) / rows, 0.94 / columns, 0.8 / rows)
            cell = axes.inset_axes(place)
            thumbnail = decode_image(content)
            thumbnail.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
            cell.imshow(thumbnail)
            cell.set_axis_off()
            label = name if len(name) <= LABEL_LENGTH else name[: LABEL_LENGTH - 1] + "…"
            cell.set_title(label, fontsize=6, y=-0.12)
    return Path(path)


def _degrees(frame: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    if frame.crs is None:
        raise DatasetError("A map needs a CRS: set it with `frame.set_crs(...)`.")
    if len(frame) == 0:
        raise DatasetError("There is nothing to draw: the table is empty.")
    return frame.to_crs("EPSG:4326").reset_index(drop=True)


def _outlines(frame: gpd.GeoDataFrame) -> dict[str, Any]:
    return {"edgecolor": EDGE, "linewidth": 0.4 if len(frame) < MOST_OUTLINES else 0.0}


def _colour_by_value(
    frame: gpd.GeoDataFrame, values: np.ndarray, name: str, axes: Any, log: bool = False
) -> None:
    frame = frame.assign(_value=np.log1p(values) if log else values)
    known, style = np.isfinite(values), _outlines(frame)
    if not known.all():
        frame[~known].plot(ax=axes, color=GREY, **style)
        _legend(axes, {"missing": GREY})
    if not known.any():
        return
    frame[known].plot(ax=axes, column="_value", cmap="viridis", **style)
    bar = axes.figure.colorbar(axes.collections[-1], ax=axes, shrink=0.8)
    bar.set_label(name)
    if log:
        places, labels = raw_ticks(*bar.ax.get_ylim())
        bar.set_ticks(places, labels=labels)


def _colour_by_class(
    frame: gpd.GeoDataFrame, kinds: pd.Series, colours: Mapping[str, str], axes: Any, **style: Any
) -> None:
    frame.plot(ax=axes, color=[colours.get(kind, GREY) for kind in kinds], **style)
    counts = kinds.value_counts()
    _legend(axes, {f"{k} ({counts[k]})": colour for k, colour in colours.items() if k in counts})


def _legend(axes: Any, colours: Mapping[str, str]) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(color=colour, label=name) for name, colour in colours.items()]
    axes.figure.legend(handles=handles, loc="outside right upper", frameon=False)


@contextmanager
def _map(path: str | Path, title: str) -> Iterator[Any]:
    """Axes of a map in degrees, saved after the block."""
    with _figure(path, title, (7, 6)) as axes:
        yield axes
        axes.set(xlabel="longitude", ylabel="latitude")
        axes.ticklabel_format(useOffset=False)
        (west, east), (south, north) = axes.get_xlim(), axes.get_ylim()
        # fewer ticks on a narrow map, whose labels would overlap
        ticks = MOST_TICKS * (east - west) / (north - south) / axes.get_aspect()
        axes.locator_params(axis="x", nbins=round(min(max(ticks, 1), MOST_TICKS)), min_n_ticks=1)


@contextmanager
def _figure(path: str | Path, title: str, size: tuple[float, float]) -> Iterator[Any]:
    """Axes of a figure, saved after the block."""
    if Path(path).suffix != ".png":
        raise DatasetError(f"A figure is written as .png, got {Path(path).name!r}.")
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context({"text.parse_math": False}):  # names and units are not formulas
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        axes.set_title(title)
        yield axes
        with atomic_path(Path(path)) as temporary:
            # the aspect is applied after the layout: avoid cropping
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
