"""A city as an inline SVG, and the colours, the legend and the words of a layer on it.

The outline is drawn once; a layer is a colour a region. Scales are those of the report's maps:
truth and prediction share one, cut at the 2nd and 98th percentile of the truth; residuals diverge
from 0.
"""

from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import shapely
from numpy.typing import NDArray

from pipelines.evaluation.cities import Target
from pipelines.evaluation.plots import MISSING_COLOUR, PERCENTILES, RESIDUALS, VALUES

from .cities import ShownCity, number, raw
from .markup import SYNTHETIC, readable, text, titled

LAYERS = {"truth": "Truth", "prediction": "Prediction", "residual": "Residual"}
SIDE = 1000.0  # of the drawing, longest side
MOST_SLENDER = 0.35
STOPS = 9  # of the legend's gradient
TICKS = 5
PROTOCOL_NOTES = {
    "block": "each region by a probe fitted on other districts, none of them next to its own",
    "random": "each region by a probe fitted on other regions, drawn at random: neighbours help",
}

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Painted:
    """A layer of a map.

    Attributes:
        colours: `(N,)` as `#rrggbb`.
        values: `(N,)` in words.
        legend: HTML.
        note: HTML: what is shown, and by which protocol.
    """

    colours: list[str]
    values: list[str]
    legend: str
    note: str

    def as_json(self) -> dict[str, Any]:
        """For the page."""
        return vars(self)


def outline(city: ShownCity) -> str:
    """The `<path>`s of all regions in their order, and the viewBox: `<svg ...>...</svg>` in full.

    Regions that have no geometry are drawn as circles at their point, or not at all.
    """
    regions = city.city.regions
    shapes = regions.geometry.to_numpy()
    points = shapely.points(regions["lon"].to_numpy(float), regions["lat"].to_numpy(float))
    missing = shapely.is_missing(shapes) | shapely.is_empty(shapes)
    shapes = np.where(missing, points, shapes)
    placed = np.isfinite(shapely.bounds(shapes)).all(1)
    west, south, east, north = (
        shapely.total_bounds(shapes[placed]) if placed.any() else (0, 0, 1, 1)
    )
    squeeze = np.cos(np.radians((south + north) / 2))  # a degree of longitude is shorter
    width, height = max((east - west) * squeeze, 1e-9), max(north - south, 1e-9)
    scale = SIDE / max(width, height)
    width, height = (
        max(width * scale, SIDE * MOST_SLENDER),
        max(height * scale, SIDE * MOST_SLENDER),
    )
    radius = 0.35 * np.sqrt(width * height / max(len(shapes), 1))

    def place(xy: Floats) -> Floats:
        return np.column_stack([(xy[:, 0] - west) * squeeze, north - xy[:, 1]]) * scale

    paths = "".join(
        f'<path data-i="{i}" d="{_path(shape, place, radius) if placed[i] else ""}"/>'
        for i, shape in enumerate(shapes)
    )
    return (
        f'<svg class="city" viewBox="-6 -6 {width + 12:.0f} {height + 12:.0f}" tabindex="0" '
        f'role="application" aria-roledescription="map" aria-label="Map of {titled(city.name)}: '
        f'{len(shapes)} regions. Arrow keys go from region to region."><g class="regions">{paths}'
        '</g><path class="cursor" d="" aria-hidden="true"/></svg>'
    )


def _path(shape: Any, place: Any, radius: float) -> str:
    if shape.geom_type == "Point":
        x, y = place(shapely.get_coordinates(shape))[0]
        half = f"a{radius:.1f} {radius:.1f} 0 1 0"
        return f"M{x - radius:.1f} {y:.1f}{half} {2 * radius:.1f} 0{half} -{2 * radius:.1f} 0z"
    parts = []
    for polygon in shapely.get_parts(shape):
        if polygon.geom_type == "Polygon":
            for ring in (polygon.exterior, *polygon.interiors):
                corners = place(shapely.get_coordinates(ring)[:-1])
                parts.append("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in corners) + "z")
    return "".join(parts)


def paint(city: ShownCity, view: str, indicator: str, layer: str) -> Painted:
    """A layer of an indicator.

    Args:
        city: which.
        view: whose vectors the probe sees.
        indicator: which.
        layer: one of [`LAYERS`].

    Raises:
        InputError: there is no such view or indicator.
    """
    k, target = city.target(indicator)
    probes = city.view(view).probes
    held_out = probes.held_out
    low, high = _limits(target.y)
    if layer == "residual":
        values = held_out.values[:, k] - target.y
        reach = (
            max(float(np.nanpercentile(np.abs(values), PERCENTILES[1])), 1e-9)
            if np.isfinite(values).any()
            else 1.0
        )
        low, high, palette = -reach, reach, RESIDUALS
        words = [_error_in_words(value, target) for value in values]
    else:
        values = target.y if layer == "truth" else held_out.values[:, k]
        palette = VALUES
        words = [number(raw(value, target)) for value in values]
    colours = matplotlib.colormaps[palette]
    share = np.clip((values - low) / (high - low), 0, 1)
    hexes = [
        matplotlib.colors.to_hex(colours(one)) if np.isfinite(one) else MISSING_COLOUR
        for one in share
    ]
    legend = _legend(low, high, palette, target, layer, missing=not np.isfinite(values).all())
    return Painted(hexes, words, legend, _note(city, view, k, target, layer))


def _limits(y: Floats) -> tuple[float, float]:
    known = y[np.isfinite(y)]
    if not len(known):
        return 0.0, 1.0
    low, high = map(float, np.percentile(known, PERCENTILES))
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def _error_in_words(value: float, target: Target) -> str:
    """On the logarithmic scale a difference is a factor."""
    if not np.isfinite(value):
        return "–"
    if target.transform != "ln1p":
        return f"{value:+.3g}"
    return f"{np.exp(abs(value)):.2f} times too {'high' if value > 0 else 'low'}"


def _legend(
    low: float, high: float, palette: str, target: Target, layer: str, missing: bool
) -> str:
    colours = matplotlib.colormaps[palette]
    gradient = ", ".join(
        matplotlib.colors.to_hex(colours(stop)) for stop in np.linspace(0, 1, STOPS)
    )
    ticks = []
    for position in np.linspace(0, 1, TICKS):
        value = low + position * (high - low)
        if layer != "residual":
            label = number(raw(value, target))
        elif target.transform == "ln1p":
            factor = number(np.exp(abs(value)))
            label = "right" if abs(value) < 1e-9 else f"{'×' if value > 0 else '÷'} {factor}"
        else:
            label = f"{value:+.3g}"
        ticks.append(f"<span>{text(label)}</span>")
    unit = text(target.unit)
    scale = "predicted ÷ true" if layer == "residual" and target.transform == "ln1p" else unit
    grey = f'<span class="grey"><i style="background:{MISSING_COLOUR}"></i>unknown</span>'
    return (
        f'<div class="legend-title">{scale}{grey if missing else ""}</div>'
        f'<div class="bar" style="background:linear-gradient(90deg, {gradient})"></div>'
        f'<div class="ticks">{"".join(ticks)}</div>'
    )


def _note(city: ShownCity, view: str, k: int, target: Target, layer: str) -> str:
    held_out = city.view(view).probes.held_out
    synthetic = f" {SYNTHETIC}" if city.synthetic else ""
    if layer == "truth":
        known = int(np.isfinite(target.y).sum())
        return f"{readable(target.name)} as the dataset has it, {known:,} regions{synthetic}"
    r2 = held_out.r2[k]
    score = f" R² <b>{r2:.2f}</b>." if np.isfinite(r2) else ""
    report = city.report.sentence(city.table.label, view, target.name, held_out.protocol)
    what = "Predicted" if layer == "prediction" else "Prediction less truth; predicted"
    return (
        f"{what} out of sample, protocol <b>{held_out.protocol}</b>: "
        f"{PROTOCOL_NOTES[held_out.protocol]}.{score} {text(report)}{synthetic}"
    )


__all__ = ["LAYERS", "Painted", "outline", "paint"]
