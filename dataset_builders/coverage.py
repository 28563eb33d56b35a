"""How much of each cell of a grid polygons cover, exactly and in double precision.

Polygons are walked along their edges, cut at every line of the grid. A piece of an edge covers the
part of its cell that lies to its right, and all cells further to the right by its height; pieces
going up and down cancel where the polygon ends. Cells without a piece are one run, so the work
follows the length of the outlines and not the number of cells.

Neighbours that share an edge cut it at the same places whichever way they walk it: what they
cover of a cell adds up to 1 to the last few bits.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.int64]
ROUNDING = 1e-12


@dataclass(frozen=True)
class Edges:
    """Edges of polygons on the plane of a grid whose cells are 1 x 1.

    Attributes:
        start: `(e, 2)` column and row, fractions of a cell included.
        stop: `(e, 2)`.
        owner: `(e,)` the polygon of each edge, from 0.
        sign: `(e,)` 1 where the polygon lies to the left of the edge, -1 to the right.
    """

    start: Floats
    stop: Floats
    owner: Ints
    sign: Floats

    def areas(self, count: int) -> Floats:
        """`(count,)` areas of the polygons in cells."""
        lean = (self.stop[:, 1] - self.start[:, 1]) * (self.start[:, 0] + self.stop[:, 0]) / 2
        return sum_by(self.owner, self.sign * lean, count)


@dataclass(frozen=True)
class Cover:
    """Cells that polygons cover: single ones, and runs of them along a row.

    Attributes:
        owner: `(k,)` the polygon.
        row: `(k,)`.
        column: `(k,)`.
        share: `(k,)` of the cell that is covered, in [0, 1].
        run_owner: `(m,)` the polygon.
        run_row: `(m,)`.
        run_start: `(m,)` first column of the run.
        run_stop: `(m,)` the column after its last.
        run_share: `(m,)` of each cell of the run.
    """

    owner: Ints
    row: Ints
    column: Ints
    share: Floats
    run_owner: Ints
    run_row: Ints
    run_start: Ints
    run_stop: Ints
    run_share: Floats


def make_edges(vertices: Floats, of_ring: Ints, owner: Ints, sign: Floats) -> Edges:
    """Edges of rings that have been brought to the plane of a grid.

    Args:
        vertices: `(v, 2)` columns and rows.
        of_ring: `(v,)` the ring of each.
        owner: `(r,)` the polygon of each ring.
        sign: `(r,)` 1 for an outline, -1 for a hole.
    """
    same = of_ring[:-1] == of_ring[1:]
    start, stop, ring = vertices[:-1][same], vertices[1:][same], of_ring[:-1][same]
    lean = (stop[:, 1] - start[:, 1]) * (start[:, 0] + stop[:, 0])
    turn = np.where(sum_by(ring, lean, len(owner)) < 0, -sign, sign)
    return Edges(start, stop, owner[ring], turn[ring])


def cell_cover(edges: Edges, width: int, height: int) -> Cover:
    """The cells of a grid of `width` x `height` that polygons cover.

    Args:
        edges: of valid polygons; they may reach beyond the grid.
        width: columns.
        height: rows.
    """
    owner, row, column, cover, area = _pieces(edges, width, height)
    # columns -1 and `width` hold what lies beside the grid
    line = owner * height + row
    key = line * (width + 2) + column + 1
    order = np.argsort(key, kind="stable")
    key = key[order]
    first = np.flatnonzero(np.r_[True, key[1:] != key[:-1]]) if len(key) else np.zeros(0, np.int64)
    if len(first) == 0:
        ints, floats = np.zeros(0, np.int64), np.zeros(0)
        return Cover(ints, ints, ints, floats, ints, ints, ints, ints, floats)
    cover, area = np.add.reduceat(cover[order], first), np.add.reduceat(area[order], first)
    picked = order[first]
    owner, row, column, line = owner[picked], row[picked], column[picked], line[picked]
    # every line of a polygon sums to 0, so this never drifts
    after = np.cumsum(cover)
    share = np.clip(area + after - cover, 0.0, 1.0)
    inside = (column >= 0) & (column < width) & (share > 0)
    weight = np.where(np.abs(after - 1) < ROUNDING, 1.0, after)[:-1]
    run = (line[1:] == line[:-1]) & (column[1:] > column[:-1] + 1) & (weight > ROUNDING)
    return Cover(
        owner[inside],
        row[inside],
        column[inside],
        share[inside],
        owner[:-1][run],
        row[:-1][run],
        column[:-1][run] + 1,
        column[1:][run],
        weight[run],
    )


def _pieces(edges: Edges, width: int, height: int) -> tuple[Ints, Ints, Ints, Floats, Floats]:
    """Edges cut at the lines of the grid: polygon, row, column, height, and area to the right."""
    up = edges.stop[:, 1] > edges.start[:, 1]
    # always upwards, so that both neighbours cut a shared edge alike
    low = np.where(up[:, None], edges.start, edges.stop)
    high = np.where(up[:, None], edges.stop, edges.start)
    sign = np.where(up, -edges.sign, edges.sign)
    bottom = np.clip(np.floor(low[:, 1]), 0, height).astype(np.int64)
    top = np.clip(np.ceil(high[:, 1]), 0, height).astype(np.int64)
    edge, row = _ranges(bottom, np.where(high[:, 1] > low[:, 1], top, bottom))
    low, high, owner, sign = low[edge], high[edge], edges.owner[edge], sign[edge]
    y_a, y_b = np.maximum(low[:, 1], row), np.minimum(high[:, 1], row + 1)
    slope = (high[:, 0] - low[:, 0]) / (high[:, 1] - low[:, 1])
    x_a = np.where(y_a == low[:, 1], low[:, 0], low[:, 0] + (y_a - low[:, 1]) * slope)
    x_b = np.where(y_b == high[:, 1], high[:, 0], low[:, 0] + (y_b - low[:, 1]) * slope)
    left, right, rise = np.minimum(x_a, x_b), np.maximum(x_a, x_b), y_b - y_a
    west = np.clip(np.floor(left), -1, width).astype(np.int64)
    east = np.maximum(np.clip(np.ceil(right), 0, width + 1).astype(np.int64), west + 1)
    piece, column = _ranges(west, east)
    left, right, rise = left[piece], right[piece], (sign * rise)[piece]
    # the columns beside the grid take all that lies there
    x_l = np.where(column < 0, left, np.maximum(left, column))
    x_r = np.where(column == width, right, np.minimum(right, column + 1.0))
    span = right - left
    with np.errstate(invalid="ignore", divide="ignore"):
        part = np.where(span > 0, (x_r - left) / span - (x_l - left) / span, 1.0)
    cover = rise * part
    return (
        owner[piece],
        row[piece],
        column,
        cover,
        cover * (column + 1 - (x_l + x_r) / 2),
    )


def _ranges(start: Ints, stop: Ints) -> tuple[Ints, Ints]:
    """For each i the numbers start[i] .. stop[i] - 1, with their i."""
    count = np.maximum(stop - start, 0)
    index = np.repeat(np.arange(len(count)), count)
    offset = np.arange(len(index)) - np.repeat(np.cumsum(count) - count, count)
    return index, start[index] + offset


def sum_by(owner: Ints, values: Floats, count: int) -> Floats:
    """`(count,)` sums of the values of each owner."""
    return np.bincount(owner, values, minlength=count).astype(np.float64)


__all__ = ["Cover", "Edges", "cell_cover", "make_edges", "sum_by"]
