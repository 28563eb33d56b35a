"""Figures of a report, drawn from data frames to PNG files."""

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import geopandas as gpd
import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colorbar import Colorbar
from matplotlib.colors import Normalize, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch
from numpy.typing import NDArray

from dataset_builders.files import atomic_path
from dataset_builders.log_ticks import raw_ticks

from ..analysis.clusters import Clusters

FIGURES_FOLDER = "figures"  # in the report's folder
MAX_COLUMNS = 4
TITLE_WIDTH = 30  # of panel titles, in characters
CHARACTERS_PER_INCH = 11  # in figure titles
BLUE, ORANGE, GREEN, RED, GREY = "#1f5f8b", "#c77700", "#3f7f4f", "#b5482f", "#8a8a8a"
LINE_COLOUR, MISSING_COLOUR = "#444444", "#c4c4c4"
VALUES, RESIDUALS, R2_COLOURS = "viridis", "RdBu_r", "RdBu"
PERCENTILES = (2, 98)
DARK = 0.6  # absolute R2 from which numbers are printed in white
CUT = -1.0  # lower limit of axes of R2
STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.dpi": 150,
    "savefig.facecolor": "white",
    # names and units come from datasets
    "text.parse_math": False,
}


@contextmanager
def drawing(path: Path, title: str, size: tuple[float, float]) -> Iterator[Figure]:
    """Create a figure in the report's style and save it on exit."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08))
        wrapped = textwrap.fill(title, max(int(size[0] * CHARACTERS_PER_INCH), 20))
        figure.suptitle(wrapped, fontsize=11)
        yield figure
        save(figure, path)


def save(figure: Figure, path: Path) -> None:
    """Write a PNG atomically."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)


def _grid(figure: Figure, names: Sequence[str], **options: Any) -> Iterator[tuple[str, Axes]]:
    """Axes for each name, in rows of at most `MAX_COLUMNS`."""
    columns = math.ceil(len(names) / math.ceil(len(names) / MAX_COLUMNS))
    rows = math.ceil(len(names) / columns)
    grid = figure.subplots(rows, columns, squeeze=False, **options)
    for axes in grid.flat[len(names) :]:
        axes.set_axis_off()
    return zip(names, grid.flat, strict=False)


def _size(panels: int, width: float, height: float) -> tuple[float, float]:
    rows = math.ceil(panels / MAX_COLUMNS)
    return width * math.ceil(panels / rows), height * rows


def draw_scatter(
    path: Path,
    title: str,
    predictions: pd.DataFrame,
    scores: Mapping[str, pd.Series],
    indicators: Mapping[str, Mapping[str, str]],
) -> None:
    """Draw predictions against truth in raw units, one panel per indicator.

    Args:
        path: Output PNG.
        title: Figure title.
        predictions: Columns indicator, truth, prediction.
        scores: Indicator to R2 per split.
        indicators: Name to unit and transform.
    """
    names = [name for name in indicators if (predictions["indicator"] == name).any()]
    width, height = _size(len(names), 2.9, 3.0)
    with drawing(path, title, (max(width, 4.5), height + 0.5)) as figure:
        for name, axes in _grid(figure, names):
            chosen = predictions[predictions["indicator"] == name]
            _scatter_panel(axes, chosen, name, scores[name], indicators[name])
        figure.supxlabel("truth", fontsize=10)
        figure.supylabel("prediction (test regions)", fontsize=10)


def _scatter_panel(
    axes: Axes, chosen: pd.DataFrame, name: str, scores: pd.Series, indicator: Mapping[str, str]
) -> None:
    truth, prediction = chosen["truth"].to_numpy(), chosen["prediction"].to_numpy()
    low, high = _limits(np.concatenate([truth, prediction]), (0, 100))
    margin = 0.04 * (high - low)
    limits = (low - margin, high + margin)
    axes.plot(limits, limits, color=LINE_COLOUR, linewidth=0.8, linestyle="--", zorder=1)
    alpha = float(np.clip(6 / math.sqrt(len(truth)), 0.08, 0.7))
    axes.scatter(truth, prediction, s=9, color=BLUE, alpha=alpha, linewidths=0, rasterized=True)
    axes.set(xlim=limits, ylim=limits, aspect="equal")
    if indicator["transform"] == "ln1p":
        _label_in_raw_units(axes.xaxis)
        _label_in_raw_units(axes.yaxis)
    else:
        axes.locator_params(nbins=5)
    axes.set_title(_panel_title(name, indicator["unit"]), loc="left")
    spread = f" ± {scores.std():.2f}" if len(scores) > 1 else ""
    text = f"R² {scores.mean():.2f}{spread}"
    axes.text(0.04, 0.96, text, transform=axes.transAxes, va="top")


def draw_maps(
    path: Path,
    title: str,
    regions_path: Path,
    predictions: pd.DataFrame,
    indicators: Mapping[str, Mapping[str, str]],
) -> bool:
    """Draw maps of truth, prediction and residual, one row per indicator.

    Args:
        path: Output PNG.
        title: Figure title.
        regions_path: GeoParquet with region_id, geometry and a label column per indicator.
        predictions: Columns indicator, region_id, prediction; averaged per region.
        indicators: Name to unit and transform.

    Returns:
        Whether the regions have geometries.
    """
    regions = _read_regions(regions_path)
    if regions.empty:
        return False
    names = [name for name in indicators if (predictions["indicator"] == name).any()]
    left, bottom, right, top = regions.total_bounds
    shape = float(np.clip((top - bottom) / max(right - left, 1.0), 0.5, 1.6))
    size = (10, (2.75 * shape + 0.45) * len(names) + 0.5)
    with drawing(path, title, size) as figure:
        grid = figure.subplots(len(names), 3, squeeze=False)
        for row, name in zip(grid, names, strict=True):
            of_indicator = predictions[predictions["indicator"] == name]
            means = of_indicator.groupby("region_id")["prediction"].mean()
            _map_row(figure, row, regions, means, name, indicators[name])
    return True


def _read_regions(path: Path) -> gpd.GeoDataFrame:
    """Regions with a geometry, in UTM coordinates."""
    regions = gpd.read_parquet(path)
    regions = regions[regions.geometry.notna() & ~regions.geometry.is_empty]
    return regions if regions.empty else regions.to_crs(regions.estimate_utm_crs())


def _plot_regions(axes: Axes, regions: gpd.GeoDataFrame, **options: Any) -> None:
    axes.set_axis_off()
    # coloured edges avoid white seams; point size decreases with the number of regions
    size = float(np.clip(12_000 / len(regions), 2, 60))
    regions.plot(ax=axes, edgecolor="face", linewidth=0.2, markersize=size, **options)


def _map_row(
    figure: Figure,
    row: Any,
    regions: gpd.GeoDataFrame,
    means: pd.Series,
    name: str,
    indicator: Mapping[str, str],
) -> None:
    joined = regions[["region_id", "geometry"]].assign(truth=regions[name])
    joined["prediction"] = joined["region_id"].map(means)
    joined["residual"] = joined["prediction"] - joined["truth"]
    # shared colour scale for truth and prediction
    shared = Normalize(*_limits(joined["truth"].dropna().to_numpy(), PERCENTILES))
    reach = max(float(np.nanpercentile(joined["residual"].abs(), PERCENTILES[1])), 1e-9)
    norms = (shared, shared, TwoSlopeNorm(0, -reach, reach))
    for axes, column, norm in zip(row, ("truth", "prediction", "residual"), norms, strict=True):
        colours = RESIDUALS if column == "residual" else VALUES
        missing = {"color": MISSING_COLOUR}
        _plot_regions(axes, joined, column=column, cmap=colours, norm=norm, missing_kwds=missing)
        if column != "truth":  # shares the colour bar of the prediction
            bar = _colour_bar(figure, axes, norm, colours, extend="both")
            bar.ax.tick_params(labelsize=8)
            if indicator["transform"] == "ln1p":
                _label_bar(bar, column, reach)
        axes.set_title(column, loc="left")
    row[0].set_title(f"{_panel_title(name, indicator['unit'])}: truth", loc="left")


def _colour_bar(figure: Figure, axes: Any, norm: Any, colours: str, extend: Any) -> Colorbar:
    mappable = matplotlib.cm.ScalarMappable(norm, colours)
    bar = figure.colorbar(mappable, ax=axes, shrink=0.8, pad=0.02, extend=extend)
    bar.outline.set_visible(False)
    return bar


def _label_bar(bar: Colorbar, column: str, reach: float) -> None:
    """Label a colour bar of ln(y + 1) in raw values, or in factors for residuals."""
    if column != "residual":
        _label_in_raw_units(bar.ax.yaxis)
        return
    factor = f"{math.exp(0.9 * reach):.3g}"
    place = math.log(float(factor))
    bar.set_ticks([-place, 0, place], labels=[f"÷ {factor}", "equal", f"× {factor}"])


# ---- scores -------------------------------------------------------------------------------------


def draw_intervals(
    path: Path, title: str, panels: Mapping[str, pd.DataFrame], label: str, cut: float | None = None
) -> None:
    """Draw a forest plot: estimates with their intervals, one row per name.

    Args:
        path: Output PNG.
        title: Figure title.
        panels: Panel title to columns name, estimate, low, high, colour, and `seeds`, the list of
            estimates per training seed.
        label: Axis label.
        cut: Lower axis limit, optional.
    """
    names = list(dict.fromkeys(name for frame in panels.values() for name in frame["name"]))
    width, height = _size(len(panels), 3.2 if len(panels) < 3 else 2.3, 0.27 * len(names) + 0.75)
    name_width = 0.075 * max(map(len, names))
    with drawing(path, title, (width + name_width, height + 0.7)) as figure:
        for panel, axes in _grid(figure, list(panels), sharey=True, sharex=cut is not None):
            _interval_panel(axes, panel, panels[panel], names, cut)
        figure.supxlabel(label, fontsize=10)


def _interval_panel(
    axes: Axes, title: str, frame: pd.DataFrame, names: Sequence[str], cut: float | None
) -> None:
    axes.axvline(0, color=LINE_COLOUR, linewidth=0.8, zorder=1)
    row: Any  # a named tuple of the columns
    for row in frame.itertuples():
        y = names.index(row.name)
        axes.plot([row.low, row.high], [y, y], color=row.colour, linewidth=1.6, zorder=3)
        axes.plot(row.estimate, y, "o", ms=5.5, color=row.colour, zorder=4)
        seeds = list(row.seeds)
        axes.plot(seeds, [y] * len(seeds), "o", ms=3, mfc="white", mec="black", mew=0.7, zorder=5)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", color="#eeeeee", linewidth=0.8, zorder=0)
    if cut is not None and axes.get_xlim()[0] < cut:
        axes.set_xlim(left=cut)
    axes.locator_params(axis="x", nbins=5)
    axes.set_title(_readable(title), loc="left", fontweight="bold")


def draw_curves(
    path: Path, title: str, panels: Mapping[str, pd.DataFrame], x_label: str, y_label: str
) -> None:
    """Draw curves with confidence bands.

    Args:
        path: Output PNG.
        title: Figure title.
        panels: Panel title to columns curve, x, estimate, low, high.
        x_label: Label of the x axes.
        y_label: Label of the y axis.
    """
    with drawing(path, title, (max(4.6 * len(panels), 6.5), 4.0)) as figure:
        for name, axes in _grid(figure, list(panels)):
            axes.axhline(0, color=LINE_COLOUR, linewidth=0.8, zorder=1)
            curves = panels[name].groupby("curve", sort=False)
            for colour, (curve, own) in zip((BLUE, ORANGE, GREEN), curves, strict=False):
                band = own["low"], own["high"]
                axes.fill_between(own["x"], *band, color=colour, alpha=0.18, linewidth=0)
                axes.plot(own["x"], own["estimate"], "-o", ms=4, color=colour, label=curve)
            axes.set_xticks(sorted(set(panels[name]["x"])))
            axes.set_xlabel(x_label)
            axes.set_title(_readable(name), loc="left", fontweight="bold")
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
        figure.supylabel(y_label, fontsize=10)


def draw_matrices(path: Path, title: str, panels: Mapping[str, pd.DataFrame]) -> None:
    """Draw heat maps of R2 by source and target on a shared colour scale, with numbers."""
    first = next(iter(panels.values()))
    wide = max(0.75 * first.shape[1] + 0.6, 2.1)
    names = 0.075 * max(map(len, first.index))
    width, height = _size(len(panels), wide, 0.42 * len(first) + 1.3)
    norm = TwoSlopeNorm(0, CUT, 1.0)
    with drawing(path, title, (max(width + names + 0.9, 5.5), height + 0.8)) as figure:
        for name, axes in _grid(figure, list(panels), sharey=True):
            values = panels[name].to_numpy(float)
            axes.set_facecolor(MISSING_COLOUR)
            axes.imshow(np.ma.masked_invalid(values), cmap=R2_COLOURS, norm=norm, aspect="auto")
            for row, column in zip(*np.nonzero(np.isfinite(values)), strict=True):
                value = values[row, column]
                colour = "white" if abs(value) > DARK else "black"
                axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour)
            axes.set_xticks(range(values.shape[1]), panels[name].columns, rotation=30, ha="right")
            axes.set_yticks(range(len(values)), panels[name].index)
            axes.tick_params(length=0)
            axes.spines[:].set_visible(False)
            axes.set_title(_readable(name), loc="left", fontweight="bold")
        _colour_bar(figure, figure.axes, norm, R2_COLOURS, extend="min").set_label("R²")
        figure.supxlabel("evaluated in", fontsize=10)
        figure.supylabel("trained in", fontsize=10)


def draw_clusters(
    path: Path,
    title: str,
    found: Clusters,
    regions: pd.DataFrame,
    indicator: tuple[str, str, str],
    regions_path: Path,
) -> None:
    """Draw clusters on two principal components, the density of an indicator, and a map.

    Args:
        path: Output PNG.
        title: Figure title.
        found: Clusters of N regions.
        regions: N rows with region_id and the indicator.
        indicator: Name, unit and transform.
        regions_path: GeoParquet with region_id and geometry.
    """
    name, unit, transform = indicator
    colours = dict(enumerate((BLUE, ORANGE, GREEN)))
    with drawing(path, title, (11, 3.9)) as figure:
        scatter, density, place = figure.subplots(1, 3, width_ratios=(1, 1, 1.05))
        for number, colour in colours.items():
            mine = found.labels == number
            scatter.scatter(*found.axes[mine].T, s=10, color=colour, alpha=0.7, linewidths=0)
            _density(density, regions.loc[mine, name].to_numpy(float), colour)
        scatter.set_xlabel(f"first principal component ({found.shares[0]:.0%} of the variance)")
        scatter.set_ylabel(f"second ({found.shares[1]:.0%})")
        scatter.set_title("embeddings", loc="left", fontweight="bold")
        density.set_xlabel(_panel_title(name, unit))
        density.set_ylabel("density")
        density.set_ylim(bottom=0)
        density.set_title(_readable(name), loc="left", fontweight="bold")
        if transform == "ln1p":
            _label_in_raw_units(density.xaxis)
        place.set_axis_off()
        place.set_title("map", loc="left", fontweight="bold")
        outlines = _read_regions(regions_path)
        if outlines.empty:
            place.text(0.5, 0.5, "no geometry", ha="center", transform=place.transAxes)
        else:
            number_of = dict(zip(regions["region_id"], found.labels, strict=True))
            shown = outlines["region_id"].map(number_of).map(colours).fillna(MISSING_COLOUR)
            _plot_regions(place, outlines, color=shown.tolist())
        handles = [
            Patch(
                color=colour, label=f"cluster {'ABC'[i]}, {int((found.labels == i).sum())} regions"
            )
            for i, colour in colours.items()
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)


def _density(axes: Axes, values: NDArray[np.float64], colour: str) -> None:
    """Gaussian kernel density by Scott's rule, or a line for a constant."""
    from scipy.stats import gaussian_kde

    values = values[np.isfinite(values)]
    if len(set(values)) < 2:
        for value in set(values):
            axes.axvline(value, color=colour, linewidth=1.5)
        return
    margin = 0.15 * np.ptp(values)
    x = np.linspace(values.min() - margin, values.max() + margin, 200)
    y = gaussian_kde(values)(x)
    axes.plot(x, y, color=colour, linewidth=1.5)
    axes.fill_between(x, y, color=colour, alpha=0.18, linewidth=0)


def _label_in_raw_units(axis: Axis) -> None:
    """Label the ticks of a ln(y + 1) axis in raw values."""
    places, labels = raw_ticks(*axis.get_view_interval())
    axis.set_ticks(places, labels=labels)


def _panel_title(name: str, unit: str) -> str:
    """Indicator and unit, wrapped to at most two lines."""
    named = f"{_readable(name)} ({unit})"
    return textwrap.fill(named, TITLE_WIDTH, max_lines=2, placeholder=" …")


def _limits(values: NDArray[np.float64], percentiles: tuple[int, int]) -> tuple[float, float]:
    low, high = np.percentile(values, percentiles)
    return (float(low), float(high)) if high > low else (float(low) - 0.5, float(low) + 0.5)


def _readable(name: str) -> str:
    return name.replace("_", " ")


__all__ = [
    "BLUE",
    "CUT",
    "FIGURES_FOLDER",
    "GREY",
    "MISSING_COLOUR",
    "PERCENTILES",
    "RED",
    "RESIDUALS",
    "VALUES",
    "draw_clusters",
    "draw_curves",
    "draw_intervals",
    "draw_maps",
    "draw_matrices",
    "draw_scatter",
    "save",
]
