"""Clusters of regions drawn: main axes, the density of an indicator, and a map."""

from collections.abc import Sequence
from pathlib import Path

import geopandas as gpd
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from .plots import (
    MISSING_COLOUR,
    STYLE,
    label_in_raw_units,
    marker_size,
    panel_title,
    readable,
    save,
)

COLOURS = ("#1f5f8b", "#c77700", "#3f7f4f")
NAMES = "ABC"
GRID = 200


def draw_clusters(
    path: Path,
    title: str,
    axes_values: NDArray[np.float64],
    shares: tuple[float, float],
    labels: NDArray[np.int64],
    indicator: NDArray[np.float64],
    indicator_name: str,
    unit: str,
    transform: str,
    regions_path: Path,
    region_ids: Sequence[str],
) -> None:
    """Three panels.

    Args:
        path: of the PNG.
        title: above all.
        axes_values: `(N, 2)` the main axes.
        shares: of the variance on each.
        labels: `(N,)` number of the cluster.
        indicator: `(N,)`; nan where unknown.
        indicator_name: what it is.
        unit: of its raw values.
        transform: "ln1p" or "identity".
        regions_path: GeoParquet with region_id and geometry.
        region_ids: `(N,)`.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11, 3.9), layout="constrained")
        scatter, density, place = figure.subplots(1, 3, width_ratios=(1, 1, 1.05))
        for number, colour in enumerate(COLOURS):
            mine = labels == number
            scatter.scatter(*axes_values[mine].T, s=10, color=colour, alpha=0.7, linewidths=0)
            _density(density, indicator[mine], colour)
        scatter.set_xlabel(f"first main axis ({shares[0]:.0%} of the variance)")
        scatter.set_ylabel(f"second ({shares[1]:.0%})")
        scatter.set_title("vectors", loc="left", fontweight="bold")
        density.set_xlabel(panel_title(indicator_name, unit))
        density.set_ylabel("density")
        density.set_ylim(bottom=0)
        density.set_title(readable(indicator_name), loc="left", fontweight="bold")
        if transform == "ln1p":
            label_in_raw_units(density.xaxis)
        _map(place, labels, regions_path, region_ids)
        handles = [
            Patch(color=colour, label=f"cluster {NAMES[i]}, {int((labels == i).sum())} regions")
            for i, colour in enumerate(COLOURS)
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
        figure.suptitle(title, fontsize=12)
        save(figure, path)


def _density(axes: Axes, values: NDArray[np.float64], colour: str) -> None:
    """A Gaussian kernel by Scott's rule; a line where all values are one."""
    from scipy.stats import gaussian_kde

    values = values[np.isfinite(values)]
    if len(values) < 2:
        return
    if np.ptp(values) == 0:
        axes.axvline(values[0], color=colour, linewidth=1.5)
        return
    margin = 0.15 * np.ptp(values)
    x = np.linspace(values.min() - margin, values.max() + margin, GRID)
    y = gaussian_kde(values)(x)
    axes.plot(x, y, color=colour, linewidth=1.5)
    axes.fill_between(x, y, color=colour, alpha=0.18, linewidth=0)


def _map(
    axes: Axes, labels: NDArray[np.int64], regions_path: Path, region_ids: Sequence[str]
) -> None:
    axes.set_axis_off()
    axes.set_title("map", loc="left", fontweight="bold")
    regions = gpd.read_parquet(regions_path)
    regions = regions[regions.geometry.notna() & ~regions.geometry.is_empty]
    if regions.empty:
        axes.text(0.5, 0.5, "no geometry", ha="center", transform=axes.transAxes)
        return
    regions = regions.to_crs(regions.estimate_utm_crs())
    of_region = dict(zip(region_ids, labels.tolist(), strict=True))
    colours = [
        COLOURS[of_region[name]] if name in of_region else MISSING_COLOUR
        for name in regions["region_id"]
    ]
    regions.plot(
        ax=axes,
        color=colours,
        edgecolor="face",
        linewidth=0.2,
        markersize=marker_size(len(regions)),
    )


__all__ = ["draw_clusters"]
