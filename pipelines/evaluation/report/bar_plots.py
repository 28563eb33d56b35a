"""Differences drawn: bars with intervals, and curves with bands."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..analysis.bootstrap import Interval
from .plots import LINE_COLOUR, POINT_COLOUR, STYLE, readable, save

WORSE, BETTER = "#b5482f", POINT_COLOUR
COLOURS = ("#1f5f8b", "#c77700", "#3f7f4f", "#7a4b94")
PALE, BAND = 0.35, 0.18
MAX_COLUMNS = 4


@dataclass(frozen=True)
class Bar:
    """A difference, and what single training seeds say.

    Attributes:
        name: of the row.
        interval: of the difference.
        seeds: differences of the single seeds.
    """

    name: str
    interval: Interval
    seeds: tuple[float, ...] = ()


@dataclass(frozen=True)
class Curve:
    """Differences along a setting.

    Attributes:
        name: in the legend.
        x: of each point.
        intervals: of each point.
        printed: of a publication: dotted, without a band.
    """

    name: str
    x: tuple[float, ...]
    intervals: tuple[Interval, ...]
    printed: bool = False


def draw_bars(path: Path, title: str, panels: Mapping[str, Sequence[Bar]], label: str) -> None:
    """A panel an indicator, a bar a variant; all panels share the names on the left.

    Args:
        path: of the PNG.
        title: above all.
        panels: name -> bars, from above.
        label: of the axis.
    """
    columns = min(MAX_COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    names = list(dict.fromkeys(bar.name for bars in panels.values() for bar in bars))
    height = 0.27 * len(names) + 0.75
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(2.3 * columns + 1.7, height * rows + 0.7), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
        for axes, (name, bars) in zip(grid.flat, panels.items(), strict=False):
            _bar_panel(axes, name, bars, names)
        for axes in grid.flat[len(panels) :]:
            axes.set_axis_off()
        figure.suptitle(title, fontsize=11)
        figure.supxlabel(label, fontsize=10)
        save(figure, path)


def _bar_panel(axes: Axes, name: str, bars: Sequence[Bar], names: Sequence[str]) -> None:
    axes.axvline(0, color=LINE_COLOUR, linewidth=0.8, zorder=1)
    for bar in bars:
        y, one = names.index(bar.name), bar.interval
        colour = BETTER if one.estimate > 0 else WORSE
        axes.barh(
            y, one.estimate, 0.66, color=colour, alpha=1.0 if one.excludes_zero else PALE, zorder=2
        )
        axes.plot([one.low, one.high], [y, y], color=LINE_COLOUR, linewidth=1.2, zorder=3)
        axes.plot(
            bar.seeds, [y] * len(bar.seeds), "o", ms=3, mfc="white", mec="black", mew=0.7, zorder=4
        )
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.locator_params(axis="x", nbins=4)
    axes.set_title(readable(name), loc="left", fontweight="bold")


def draw_curves(
    path: Path, title: str, panels: Mapping[str, Sequence[Curve]], x_label: str, y_label: str
) -> None:
    """A panel an indicator, a curve with its band a view.

    Args:
        path: of the PNG.
        title: above all.
        panels: name -> curves.
        x_label: of the setting.
        y_label: of the differences.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(max(4.6 * len(panels), 6.5), 4.0), layout="constrained")
        grid = figure.subplots(1, len(panels), squeeze=False)
        for axes, (name, curves) in zip(grid.flat, panels.items(), strict=True):
            _curve_panel(axes, name, curves)
        handles = {
            text: line
            for axes in grid.flat
            for line, text in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        figure.legend(
            handles.values(), handles.keys(), loc="outside lower center", ncols=3, frameon=False
        )
        figure.suptitle(title, fontsize=11)
        for axes in grid.flat:
            axes.set_xlabel(x_label)
        figure.supylabel(y_label, fontsize=10)
        save(figure, path)


def _curve_panel(axes: Axes, name: str, curves: Sequence[Curve]) -> None:
    axes.axhline(0, color=LINE_COLOUR, linewidth=0.8, zorder=1)
    colours: dict[str, str] = {}
    for curve in curves:
        view = curve.name.partition(",")[0]
        colour = colours.setdefault(view, COLOURS[len(colours) % len(COLOURS)])
        y = [one.estimate for one in curve.intervals]
        if curve.printed:
            axes.plot(curve.x, y, ":s", ms=3, color=colour, label=curve.name, zorder=3)
            continue
        low, high = ([getattr(one, end) for one in curve.intervals] for end in ("low", "high"))
        axes.fill_between(curve.x, low, high, color=colour, alpha=BAND, linewidth=0, zorder=2)
        axes.plot(curve.x, y, "-o", ms=4, color=colour, label=curve.name, zorder=4)
    axes.set_xticks(sorted({x for curve in curves for x in curve.x}))
    axes.set_title(readable(name), loc="left", fontweight="bold")


__all__ = ["Bar", "Curve", "draw_bars", "draw_curves"]
