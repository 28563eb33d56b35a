"""Matrices of R2 drawn as heat maps, source by target."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from .plots import MISSING_COLOUR, STYLE, readable, save

COLOURS = "RdBu"
REACH = 1.0  # of the colours, either way: R2 ends at 1, and below -1 it is all the same
DARK = 0.6  # beyond which a number is written in white
MAX_COLUMNS = 4


@dataclass(frozen=True)
class Matrix:
    """Values of rows by columns.

    Attributes:
        rows: their names.
        columns: their names.
        values: `(rows, columns)`; nan where there is none.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: NDArray[np.float64]


def draw_matrices(
    path: Path, title: str, panels: Mapping[str, Matrix], x_label: str, y_label: str
) -> None:
    """A panel a matrix, all in one scale of colours, each number written in its place.

    Args:
        path: of the PNG.
        title: above all.
        panels: name -> matrix.
        x_label: of the columns.
        y_label: of the rows.
    """
    columns = min(MAX_COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    first = next(iter(panels.values()))
    wide = max(0.75 * len(first.columns) + 0.6, 2.1)
    tall = 0.42 * len(first.rows) + 1.3
    names = 0.075 * max(len(name) for name in first.rows)
    norm = TwoSlopeNorm(0, -REACH, REACH)
    with matplotlib.rc_context({**STYLE, "axes.spines.left": False, "axes.spines.bottom": False}):
        size = max(wide * columns + names + 0.9, 5.5), tall * rows + 0.8
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False)
        for index, (name, matrix) in enumerate(panels.items()):
            axes = grid.flat[index]
            _panel(axes, name, matrix, norm)
            if index % columns:
                axes.set_yticklabels([])
        for axes in grid.flat[len(panels) :]:
            axes.set_axis_off()
        bar = figure.colorbar(
            ScalarMappable(norm, COLOURS), ax=grid, shrink=0.8, pad=0.02, extend="min"
        )
        bar.set_label("R²")
        bar.outline.set_visible(False)
        figure.suptitle(title, fontsize=10, wrap=True)
        figure.supxlabel(x_label, fontsize=10)
        figure.supylabel(y_label, fontsize=10)
        save(figure, path)


def _panel(axes: Axes, name: str, matrix: Matrix, norm: TwoSlopeNorm) -> None:
    axes.imshow(np.ma.masked_invalid(matrix.values), cmap=COLOURS, norm=norm, aspect="auto")
    for row, column in np.ndindex(*matrix.values.shape):
        value = matrix.values[row, column]
        if np.isfinite(value):
            colour = "white" if abs(value) > DARK else "black"
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour)
        else:
            axes.add_patch(
                matplotlib.patches.Rectangle(
                    (column - 0.5, row - 0.5), 1, 1, fill=False, hatch="////",
                    edgecolor=MISSING_COLOUR, linewidth=0,
                )
            )  # fmt: skip
    axes.set_xticks(range(len(matrix.columns)), matrix.columns, rotation=30, ha="right")
    axes.set_yticks(range(len(matrix.rows)), matrix.rows)
    axes.tick_params(length=0)
    axes.set_title(readable(name), loc="left", fontweight="bold")


__all__ = ["Matrix", "draw_matrices"]
