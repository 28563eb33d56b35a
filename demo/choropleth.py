"""Choropleth map of a city: inline SVG, and colours, legend and text of its layers.

Measured and estimated values share one colour scale, clipped at the 2nd and 98th percentile of the
measured values; errors have a diverging scale around 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import matplotlib
import numpy as np
import shapely
from numpy.typing import NDArray

from pipelines.evaluation.report.figures import MISSING_COLOUR, PERCENTILES, RESIDUALS, VALUES
from pipelines.prediction.estimate import UNLIKE
from pipelines.prediction.labels import Indicator
from pipelines.prediction.predict import Predictions
from pipelines.prediction.verdict import Verdict

from .amounts import amounts_of, rounded
from .cities import ShownCity, find
from .page import render

LAYERS = {
    "measured": "Values in the dataset.",
    "estimated": "Values predicted from images by a model trained without the region.",
    "error": "Estimated compared with measured values.",
}
SIDE = 1000.0  # longest side of the SVG
MOST_SLENDER = 0.35
STOPS = 9  # of the legend's gradient
TICKS = 5
PROTOCOL_NOTES = {
    "block": "Each region is estimated by a model trained without its district and the regions "
    "next to it.",
    "random": "Each region is estimated by a model trained on other regions, including its "
    "neighbours, so scores measure interpolation.",
}

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Painted:
    """A map layer.

    Attributes:
        colours: Colour of each region as `#rrggbb`, `(N,)`.
        values: Value of each region as text, `(N,)`.
        legend: Legend as HTML.
        note: Description and quality of the layer as HTML.
    """

    colours: list[str]
    values: list[str]
    legend: str
    note: str


def outline(city: ShownCity, colours: Sequence[str] = (), hits: Sequence[int] = ()) -> str:
    """Draw the map as `<svg>` with one `<path>` per region, in their order.

    Regions without a geometry are circles at their coordinates; without coordinates, empty paths.

    Args:
        city: City to show.
        colours: Colour of each region, for a map that is not interactive.
        hits: Row numbers of regions to outline.
    """
    regions = city.inputs.regions
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
    width, height = (max(side * scale, SIDE * MOST_SLENDER) for side in (width, height))
    radius = 0.35 * np.sqrt(width * height / max(len(shapes), 1))

    def place(xy: Floats) -> Floats:
        return np.column_stack([(xy[:, 0] - west) * squeeze, north - xy[:, 1]]) * scale

    paths = [
        _path(shape, place, radius) if known else ""
        for shape, known in zip(shapes, placed, strict=True)
    ]
    size = {"width": width + 12, "height": height + 12}
    return render("map", city=city, paths=paths, colours=colours, hits=hits, **size)


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
    """Colour the regions by a layer of an indicator.

    Args:
        city: City to show.
        view: View whose embeddings the estimates use.
        indicator: Name of the indicator.
        layer: One of [`LAYERS`].

    Raises:
        InputError: There is no such view or indicator.
    """
    own = find(city.indicators, indicator, "indicator")
    shown = find(city.views, view, "view")
    # measured values are shown without waiting for a model fit
    found = None if layer == "measured" else shown.predictions
    estimated = _estimates(found, indicator, len(own.raw))
    y, fitted = own.y, replace(own, raw=estimated).y
    amounts = amounts_of(own)
    if layer == "error":
        values = fitted - y
        reach = _reach(values)
        low, high, palette = -reach, reach, RESIDUALS
        texts = [
            f"estimated {amounts.estimated(one)}, measured {amounts.measured(raw)}"
            for one, raw in zip(estimated, own.raw, strict=True)
        ]
    else:
        values = y if layer == "measured" else fitted
        (low, high), palette = _limits(y), VALUES
        write = amounts.measured if layer == "measured" else amounts.estimated
        texts = [write(one) for one in (own.raw if layer == "measured" else estimated)]
    colours = matplotlib.colormaps[palette]
    hexes = [
        matplotlib.colors.to_hex(colours(one)) if np.isfinite(one) else MISSING_COLOUR
        for one in np.clip((values - low) / (high - low), 0, 1)
    ]
    legend = render(
        "legend",
        unit="estimated ÷ measured" if layer == "error" and own.transform == "ln1p" else own.unit,
        missing=MISSING_COLOUR if not np.isfinite(values).all() else "",
        stops=[matplotlib.colors.to_hex(colours(stop)) for stop in np.linspace(0, 1, STOPS)],
        ticks=[_tick(value, own, layer) for value in np.linspace(low, high, TICKS)],
    )
    return Painted(hexes, texts, legend, _note(city, shown.name, own, layer, found))


def _estimates(found: Predictions | None, indicator: str, regions: int) -> Floats:
    """Estimates in raw units, `(N,)`; NaN if missing or outside the training distribution."""
    column = f"{indicator}_predicted"
    if found is None or column not in found.table:
        return np.full(regions, np.nan)
    unlike = found.table[f"{indicator}_status"].to_numpy() == UNLIKE
    return np.where(unlike, np.nan, found.table[column].to_numpy(float))


def _limits(y: Floats) -> tuple[float, float]:
    known = y[np.isfinite(y)]
    if not len(known):
        return 0.0, 1.0
    low, high = map(float, np.percentile(known, PERCENTILES))
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def _reach(errors: Floats) -> float:
    known = np.abs(errors[np.isfinite(errors)])
    return max(float(np.percentile(known, PERCENTILES[1])), 1e-9) if len(known) else 1.0


def _tick(value: float, indicator: Indicator, layer: str) -> str:
    if layer != "error":
        return amounts_of(indicator).estimated(float(indicator.to_raw(np.array(value))))
    if abs(value) < 1e-9:
        return "equal"
    if indicator.transform == "ln1p":  # a difference of logarithms is a factor
        return f"{'×' if value > 0 else '÷'} {rounded(float(np.exp(abs(value))), 2)}"
    return f"{'+' if value > 0 else '−'}{rounded(abs(value), 2)}"


def _note(
    city: ShownCity, view: str, indicator: Indicator, layer: str, found: Predictions | None
) -> str:
    verdicts: list[Verdict] = [] if found is None else found.verdicts
    verdict = next((one for one in verdicts if one.indicator == indicator.name), None)
    protocol = "" if verdict is None else verdict.protocol
    return render(
        "note",
        city=city,
        layer=layer,
        indicator=indicator,
        known=int(np.isfinite(indicator.raw).sum()),
        verdict=verdict,
        protocol_note=PROTOCOL_NOTES.get(protocol),
        report=city.report.sentence(city.table.label, view, indicator.name, protocol),
    )


__all__ = ["LAYERS", "Painted", "outline", "paint"]
