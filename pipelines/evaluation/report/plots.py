"""Pictures of the report: prediction against truth, and maps."""

import math
import textwrap
from collections.abc import Mapping
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

from dataset_builders.files import atomic_path
from dataset_builders.log_ticks import raw_ticks

MAX_COLUMNS = 4
TITLE_WIDTH = 30  # characters, of a panel
POINT_COLOUR, LINE_COLOUR, MISSING_COLOUR = "#1f5f8b", "#444444", "#c4c4c4"
VALUES, RESIDUALS = "viridis", "RdBu_r"
PERCENTILES = (2, 98)
STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.dpi": 150,
    "savefig.facecolor": "white",
}


def label_in_raw_units(axis: Axis) -> None:
    """Write raw values at the ticks of an axis that shows ln(y + 1)."""
    places, labels = raw_ticks(*axis.get_view_interval())
    axis.set_ticks(places, labels=labels)


def draw_scatter(
    path: Path,
    title: str,
    predictions: pd.DataFrame,
    scores: Mapping[str, pd.Series],
    indicators: Mapping[str, Mapping[str, str]],
) -> None:
    """Prediction against truth, one panel per indicator, in raw units.

    Args:
        path: of the PNG.
        title: above all.
        predictions: columns indicator, truth, prediction.
        scores: indicator -> R2 by split.
        indicators: name -> unit and transform.
    """
    names = [name for name in indicators if (predictions["indicator"] == name).any()]
    rows = math.ceil(len(names) / MAX_COLUMNS)
    columns = math.ceil(len(names) / rows)
    with matplotlib.rc_context(STYLE):
        figure = Figure(
            figsize=(max(2.9 * columns, 4.5), 3.0 * rows + 0.5),
            layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.1),
        )
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes, name in zip(grid.flat, names, strict=False):
            chosen = predictions[predictions["indicator"] == name]
            _scatter_panel(axes, chosen, name, scores[name], indicators[name])
        for axes in grid.flat[len(names) :]:
            axes.set_axis_off()
        figure.suptitle(title, fontsize=12)
        figure.supxlabel("truth", fontsize=10)
        figure.supylabel("prediction (test regions)", fontsize=10)
        save(figure, path)


def _scatter_panel(
    axes: Axes, chosen: pd.DataFrame, name: str, scores: pd.Series, indicator: Mapping[str, str]
) -> None:
    truth, prediction = chosen["truth"].to_numpy(), chosen["prediction"].to_numpy()
    low, high = _limits(np.concatenate([truth, prediction]), (0, 100))
    margin = 0.04 * (high - low)
    limits = (low - margin, high + margin)
    axes.plot(limits, limits, color=LINE_COLOUR, linewidth=0.8, linestyle="--", zorder=1)
    alpha = float(np.clip(60 / math.sqrt(len(truth)) / 10, 0.08, 0.7))
    axes.scatter(
        truth, prediction, s=9, color=POINT_COLOUR, alpha=alpha, linewidths=0, rasterized=True
    )
    axes.set(xlim=limits, ylim=limits, aspect="equal")
    if indicator["transform"] == "ln1p":
        label_in_raw_units(axes.xaxis)
        label_in_raw_units(axes.yaxis)
    else:
        axes.locator_params(nbins=5)
    axes.set_title(panel_title(name, indicator["unit"]), loc="left")
    spread = f" ± {scores.std():.2f}" if len(scores) > 1 else ""
    axes.text(
        0.04, 0.96, f"R² {scores.mean():.2f}{spread}", transform=axes.transAxes, va="top"
    )  # fmt: skip


def draw_maps(
    path: Path,
    title: str,
    regions_path: Path,
    predictions: pd.DataFrame,
    indicators: Mapping[str, Mapping[str, str]],
) -> bool:
    """Maps of truth, prediction and residual, a row an indicator.

    Args:
        path: of the PNG.
        title: above all.
        regions_path: GeoParquet with region_id, geometry and a column of labels an indicator.
        predictions: columns indicator, region_id, prediction; averaged by region.
        indicators: name -> unit and transform.

    Returns:
        Whether there was any geometry to draw.
    """
    regions = gpd.read_parquet(regions_path)
    regions = regions[regions.geometry.notna() & ~regions.geometry.is_empty]
    if regions.empty:
        return False
    # metres: a map in degrees is squeezed away from the equator
    regions = regions.to_crs(regions.estimate_utm_crs())
    names = [name for name in indicators if (predictions["indicator"] == name).any()]
    left, bottom, right, top = regions.total_bounds
    shape = float(np.clip((top - bottom) / max(right - left, 1.0), 0.5, 1.6))
    with matplotlib.rc_context(STYLE):
        figure = Figure(
            figsize=(10, (2.75 * shape + 0.45) * len(names) + 0.5), layout="constrained"
        )
        grid = figure.subplots(len(names), 3, squeeze=False)
        for row, name in zip(grid, names, strict=True):
            of_indicator = predictions[predictions["indicator"] == name]
            means = of_indicator.groupby("region_id")["prediction"].mean()
            _map_row(figure, row, regions, means, name, indicators[name])
        figure.suptitle(title, fontsize=12)
        save(figure, path)
    return True


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
    # one scale for both, so that a flat prediction looks flat
    shared = Normalize(*_limits(joined["truth"].dropna().to_numpy(), PERCENTILES))
    reach = max(float(np.nanpercentile(joined["residual"].abs(), PERCENTILES[1])), 1e-9)
    norms = (shared, shared, TwoSlopeNorm(0, -reach, reach))
    for axes, column, norm in zip(row, ("truth", "prediction", "residual"), norms, strict=True):
        colours = RESIDUALS if column == "residual" else VALUES
        joined.plot(
            column,
            ax=axes,
            cmap=colours,
            norm=norm,
            markersize=marker_size(len(joined)),
            missing_kwds={"color": MISSING_COLOUR},
            # neighbours overlap by a hair: no white seams
            edgecolor="face",
            linewidth=0.2,
        )
        axes.set_axis_off()
        if column != "truth":  # prediction has the same scale
            mappable = matplotlib.cm.ScalarMappable(norm, colours)
            bar = figure.colorbar(mappable, ax=axes, shrink=0.8, pad=0.02, extend="both")
            if indicator["transform"] == "ln1p":
                _label_bar(bar, column, reach)
            bar.ax.tick_params(labelsize=8)
            bar.outline.set_visible(False)
        axes.set_title(column, loc="left")
    row[0].set_title(f"{panel_title(name, indicator['unit'])}: truth", loc="left")


def _label_bar(bar: Colorbar, column: str, reach: float) -> None:
    """Raw values; of residuals on the scale of ln(y + 1), the factor they stand for."""
    if column != "residual":
        label_in_raw_units(bar.ax.yaxis)
        return
    factor = f"{math.exp(0.9 * reach):.3g}"
    place = math.log(float(factor))
    bar.set_ticks([-place, 0, place], labels=[f"÷ {factor}", "equal", f"× {factor}"])


def panel_title(name: str, unit: str) -> str:
    """An indicator and its unit in two lines at most, as plain text."""
    title = textwrap.fill(f"{readable(name)} ({unit})", TITLE_WIDTH, max_lines=2, placeholder=" …")
    return title.replace("$", r"\$")


def _limits(values: np.ndarray, percentiles: tuple[int, int]) -> tuple[float, float]:
    low, high = np.percentile(values, percentiles)
    return (float(low), float(high)) if high > low else (float(low) - 0.5, float(low) + 0.5)


def marker_size(n: int) -> float:
    """Area of a point in points squared, where regions are points."""
    return float(np.clip(12_000 / n, 2, 60))


def readable(name: str) -> str:
    """A column's name for people."""
    return name.replace("_", " ")


def save(figure: Figure, path: Path) -> None:
    """Write a PNG, whole or not at all."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)


__all__ = [
    "MISSING_COLOUR",
    "STYLE",
    "draw_maps",
    "draw_scatter",
    "label_in_raw_units",
    "marker_size",
    "panel_title",
    "readable",
    "save",
]
