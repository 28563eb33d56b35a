"""Maps of predictions as images."""

import io
from base64 import b64encode

import geopandas as gpd
import matplotlib
import numpy as np
from numpy.typing import NDArray

from .estimate import UNLIKE
from .geopackage import DIVERGING, SEQUENTIAL, UNCERTAIN

OUTLINES_UP_TO = 30_000
"""Maximum number of regions to draw as polygons instead of points."""
NOTHING = "#d9d9d9"
DPI = 110


def indicator_maps(table: gpd.GeoDataFrame, name: str, unit: str) -> bytes:
    """Draw estimate, interval width and residual of an indicator as a PNG."""
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    predicted, low, high = (
        table[f"{name}_{part}"].to_numpy(float) for part in ("predicted", "low", "high")
    )
    residual = predicted - table[name].to_numpy(float)
    most = _quantile(np.abs(residual), 0.95)
    panels = (
        (predicted, "Estimate", SEQUENTIAL, _quantile(predicted, 0.02), _quantile(predicted, 0.98)),
        (high - low, "Width of the 90 % interval", UNCERTAIN, 0.0, _quantile(high - low, 0.98)),
        (residual, "Estimate - measured, held out", DIVERGING, -most, most),
    )
    west, south, east, north = table.total_bounds
    tall = (north - south) / max((east - west) * np.cos(np.radians((south + north) / 2)), 1e-9)
    size = (15, 5 * float(np.clip(tall, 0.3, 2)) + 1)
    figure, axes = plt.subplots(1, 3, figsize=size, layout="constrained")
    unlike = table[f"{name}_status"].to_numpy() == UNLIKE
    for axis, (values, title, palette, least, largest) in zip(axes, panels, strict=True):
        _draw(axis, table, values, palette, least, largest, unit.replace("$", r"\$"))  # no mathtext
        axis.set_title(title, fontsize=11)
        axis.set_axis_off()
    if unlike.any():
        x, y = _centres(table[unlike]).T
        axes[0].scatter(x, y, marker="x", s=max(9, 2000 / len(table)), color="black")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    plt.close(figure)
    return buffer.getvalue()


def data_address(png: bytes) -> str:
    """Data URL of a PNG."""
    return f"data:image/png;base64,{b64encode(png).decode()}"


def _draw(
    axis: "matplotlib.axes.Axes",
    table: gpd.GeoDataFrame,
    values: NDArray[np.float64],
    palette: str,
    least: float,
    largest: float,
    unit: str,
) -> None:
    norm = matplotlib.colors.Normalize(least, largest if largest > least else least + 1)
    colours = matplotlib.colormaps[palette](norm(np.nan_to_num(values)))
    colours[~np.isfinite(values)] = matplotlib.colors.to_rgba(NOTHING)
    if len(table) <= OUTLINES_UP_TO:
        table.plot(ax=axis, color=colours, linewidth=0)
    else:
        x, y = _centres(table).T
        axis.scatter(x, y, c=colours, s=1, linewidths=0, rasterized=True)
        axis.set_aspect(1 / np.cos(np.radians(y.mean())))
    mappable = matplotlib.cm.ScalarMappable(norm, palette)
    axis.figure.colorbar(
        mappable, ax=axis, location="bottom", shrink=0.8, aspect=40, label=unit, extend="both"
    )


def _centres(table: gpd.GeoDataFrame) -> NDArray[np.float64]:
    bounds = table.geometry.bounds.to_numpy()
    return (bounds[:, :2] + bounds[:, 2:]) / 2


def _quantile(values: NDArray[np.float64], share: float) -> float:
    known = values[np.isfinite(values)]
    return float(np.quantile(known, share)) if len(known) else 0.0


__all__ = ["data_address", "indicator_maps"]
