"""Which region a point lies in: every point in one region at most, none lost between two.

On grids of squares and tiles a point's column and row follow from its place, so no search is
needed; only the few points next to an edge are held against the outlines themselves. Edges are
half-open: a point on one belongs to the region east or north of it, one on the outer east or
north rim to none.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import shapely
from numpy.typing import NDArray

from .coordinates import convert, tile_position
from .errors import DatasetError
from .planes import Plane

SQUARE_ID = re.compile(r"(epsg\d+|laea\d+[ns]\d+[ew])_([0-9.e+]+)_-?\d+_-?\d+")
TILE_ID = re.compile(r"(xyz|tms|baidu)_(\d+)_-?\d+_-?\d+")
POINTS_AT_ONCE = 16_384
POLYGON_POINTS_AT_ONCE = 200_000
SAMPLE = 256
MAX_DEGREE = 5
# of a cell, up to which an approximate place is good enough: so few points need a closer look
MAX_ERROR = 0.002
MAX_TABLE = 50_000_000
MIN_POINTS_TO_JUDGE = 10
EARTH_RADIUS_M = 6378137.0

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.int64]
Position = Callable[[Floats, Floats], tuple[Floats, Floats]]


def assign_points(lon: Any, lat: Any, regions: gpd.GeoDataFrame, *, check: bool = True) -> Ints:
    """The region of each point.

    Regions are known as squares or tiles by their `region_id`; for any others polygons are
    searched, and of several that hold a point (overlaps, shared edges) the one of the first
    `region_id` takes it.

    Args:
        lon: `(n,)`, EPSG:4326; NaN where unknown.
        lat: `(n,)`.
        regions: with `region_id` and geometry in EPSG:4326.
        check: look for another coordinate system if most of the points lie outside.

    Returns:
        `(n,)` positions of rows of `regions`, -1 for points outside all of them.

    Raises:
        DatasetError: no CRS or another one; or most points lie outside and would not, were they
            in another coordinate system, which is named.
    """
    lon, lat = np.asarray(lon, dtype=np.float64), np.asarray(lat, dtype=np.float64)
    if lon.shape != lat.shape or lon.ndim != 1:
        raise DatasetError(
            f"`lon` and `lat` are two arrays of one length, got shapes {lon.shape} and {lat.shape}."
        )
    if regions.crs is None or not regions.crs.equals("EPSG:4326", ignore_axis_order=True):
        name = "no CRS" if regions.crs is None else regions.crs.name
        raise DatasetError(f"Points are assigned to regions in EPSG:4326, got {name}.")
    finite = np.isfinite(lon) & np.isfinite(lat)
    if len(regions) == 0 or not finite.any():
        return np.full(len(lon), -1, dtype=np.int64)
    assign = _assigner(regions)
    if finite.all():
        found = assign(lon, lat)
    else:
        found = np.full(len(lon), -1, dtype=np.int64)
        found[finite] = assign(lon[finite], lat[finite])
    if check and finite.sum() >= MIN_POINTS_TO_JUDGE:
        inside = np.count_nonzero(found >= 0) / np.count_nonzero(finite)
        if inside < 0.5:
            _explain(lon[finite], lat[finite], inside, assign)
    return found


def _assigner(regions: gpd.GeoDataFrame) -> Callable[[Floats, Floats], Ints]:
    shapes = regions.geometry.to_numpy()
    grid = _Grid.of(regions, shapes)
    if grid is not None:
        return grid.assign
    ids = regions.get("region_id", regions.index)
    order = np.argsort(np.asarray(ids, dtype=object).astype(str), kind="stable")
    return lambda lon, lat: _search(lon, lat, shapes, order)


@dataclass(frozen=True)
class _Grid:
    """Regions that are the cells of a grid.

    Attributes:
        shapes: `(n,)` their outlines.
        table: `(columns, rows)` row of the region in each cell, -1 where there is none.
        locate: place in the table, nearly: the middle of `table[i, j]` is at (i, j).
        margin: how far off `locate` may be, edges' own bend included; in cells.
    """

    shapes: NDArray[Any]
    table: Ints
    locate: Position
    margin: float

    @classmethod
    def of(cls, regions: gpd.GeoDataFrame, shapes: NDArray[Any]) -> "_Grid | None":
        """The grid that the ids name, if they all name one and the outlines bear it out."""
        if "region_id" not in regions:
            return None
        exact = _position_of(str(regions["region_id"].iloc[0]))
        cells = None if exact is None else _cells_of(regions["region_id"])
        if exact is None or cells is None or shapely.is_missing(shapes).any():
            return None
        bounds = shapely.bounds(shapes)
        # on both sides of the antimeridian longitudes are counted from 0 to 360
        across = bool(np.ptp(bounds[:, [0, 2]]) > 180)
        if across:
            bounds[:, [0, 2]] %= 360.0
        bend = _bend(shapes, *cells, exact, across)
        if bend is None:
            return None
        box = bounds[:, :2].min(axis=0), bounds[:, 2:].max(axis=0)
        found = _locator(exact, *box, across)
        if found is None:
            return None
        locate, origin, size, error = found
        if np.prod(size, dtype=float) > MAX_TABLE:
            return None
        table = np.full(size, -1, dtype=np.int64)
        table[cells[0] - origin[0], cells[1] - origin[1]] = np.arange(len(shapes))
        if np.count_nonzero(table >= 0) < len(shapes):
            return None  # one cell twice
        return cls(shapes, table, locate, 1.5 * bend + 2 * error + 1e-9)

    def assign(self, lon: Floats, lat: Floats) -> Ints:
        """Rows of the regions of points, -1 outside."""
        found = np.empty(len(lon), dtype=np.int64)
        near: list[Ints] = []
        flat, rows = self.table.ravel(), float(self.table.shape[1])
        # few passes over little memory at a time: they are all the work
        for start in range(0, len(lon), POINTS_AT_ONCE):
            part = slice(start, start + POINTS_AT_ONCE)
            u, v = self.locate(lon[part], lat[part])
            i, j = np.rint(u), np.rint(v)
            u -= i
            v -= j
            i *= rows
            i += j
            np.take(flat, i.astype(np.int64), out=found[part], mode="clip")
            off = np.maximum(np.abs(u, out=u), np.abs(v, out=v), out=u)
            near.append(np.flatnonzero(off > 0.5 - self.margin) + start)
        chosen = np.concatenate(near)
        if len(chosen):
            found[chosen] = self._decide(lon[chosen], lat[chosen])
        return found

    def _decide(self, lon: Floats, lat: Floats) -> Ints:
        """Regions of points next to an edge, by the outlines."""
        u, v = self.locate(lon, lat)
        middle = self._at(u, v)
        found = np.full(len(lon), -1, dtype=np.int64)
        around = np.ones(len(lon), dtype=bool)
        for du in (-self.margin, self.margin):
            for dv in (-self.margin, self.margin):
                candidate = self._at(u + du, v + dv)
                around &= candidate >= 0
                ask = np.flatnonzero((candidate >= 0) & (found < 0))
                held = _holds(self.shapes, candidate[ask], lon[ask], lat[ask])
                found[ask[held]] = candidate[ask[held]]
        # between regions on all sides there is no outside: rounding alone could lose a point
        return np.where((found < 0) & around, middle, found)

    def _at(self, u: Floats, v: Floats) -> Ints:
        i, j = np.rint(u).astype(np.int64), np.rint(v).astype(np.int64)
        columns, rows = self.table.shape
        return self.table[i.clip(0, columns - 1), j.clip(0, rows - 1)]


def _cells_of(ids: pd.Series) -> tuple[Ints, Ints] | None:
    """Columns and rows that ids end in; None if they do not all name the same grid."""
    try:
        parts = pc.split_pattern(pa.array(ids, pa.string()), "_", max_splits=2, reverse=True)
        flat = parts.combine_chunks() if isinstance(parts, pa.ChunkedArray) else parts
        if flat.null_count or len(flat.flatten()) != 3 * len(flat):
            return None
        words = flat.flatten()
        heads, column, row = (words.take(pa.array(np.arange(k, len(words), 3))) for k in range(3))
        if len(heads.unique()) > 1:
            return None
        return tuple(one.cast(pa.int64()).to_numpy() for one in (column, row))  # type: ignore
    except pa.ArrowInvalid:
        return None


def _position_of(region_id: str) -> Position | None:
    """Column and row, fractions included, on the grid that an id names."""
    if match := SQUARE_ID.fullmatch(region_id):
        plane, side = Plane(match[1]), float(match[2])

        def on_plane(lon: Floats, lat: Floats) -> tuple[Floats, Floats]:
            x, y = plane.to_plane(lon, lat)
            return np.asarray(x) / side, np.asarray(y) / side

        return on_plane
    if match := TILE_ID.fullmatch(region_id):
        scheme, zoom = match[1], int(match[2])

        def on_tiles(lon: Floats, lat: Floats) -> tuple[Floats, Floats]:
            if scheme == "baidu":
                lon, lat = convert(lon, np.clip(lat, -90, 90), "wgs84", "bd09", outside="nan")
            else:
                lat = np.clip(lat, -89.9, 89.9)
            return tile_position(lon, lat, zoom, scheme)

        return on_tiles
    return None


def _bend(
    shapes: NDArray[Any], column: Ints, row: Ints, exact: Position, across: bool
) -> float | None:
    """How far straight edges lie off the lines of the grid, in cells; None if they are others."""
    whole = np.flatnonzero(shapely.get_num_coordinates(shapes) == 5)
    if len(whole) == 0:
        return None
    chosen = whole[np.unique(np.linspace(0, len(whole) - 1, SAMPLE).astype(np.int64))]
    rings = shapely.get_coordinates(shapes[chosen]).reshape(-1, 5, 2)
    if across:
        rings[:, :, 0] %= 360.0
    worst = 0.0
    for part in (0.0, 0.25, 0.5, 0.75):
        at = rings[:, :-1] * (1 - part) + rings[:, 1:] * part
        u, v = (value.reshape(-1, 4) for value in exact(at[..., 0].ravel(), at[..., 1].ravel()))
        u, v = np.abs(u - column[chosen, None] - 0.5), np.abs(v - row[chosen, None] - 0.5)
        # on an edge the larger of the two is a half
        off = np.abs(np.maximum(u, v) - 0.5)
        if not (off < 0.1).all():  # other cells than the ids say, or unplaceable
            return None
        worst = max(worst, float(off.max()))
    return worst


def _locator(
    exact: Position, low: Floats, high: Floats, across: bool
) -> tuple[Position, Ints, Ints, float] | None:
    """A quick way to places in a table of cells.

    Within the box a polynomial stands in for the exact position if one comes near enough. Points
    beyond the box, which is a little larger than the regions, are moved to its rim: there no
    region lies, whereas far away a polynomial could lead back into the table.

    Args:
        exact: column and row on the grid.
        low: west and south of the regions.
        high: east and north.
        across: longitudes are counted from 0 to 360.

    Returns:
        The place, the cell of the table's corner, the table's size, and the error in cells; None
        if the box cannot be placed.
    """
    middle, half = (low + high) / 2, np.maximum((high - low) / 2 * 1.02, 1e-9)
    nodes = np.cos(np.pi * (np.arange(16) + 0.5) / 16)
    fit = np.stack(np.meshgrid(nodes, nodes), axis=-1).reshape(-1, 2)
    ticks = np.linspace(-1, 1, 41)
    test = np.stack(np.meshgrid(ticks, ticks), axis=-1).reshape(-1, 2)
    wanted, expected = (np.stack(exact(*(xy * half + middle).T)) for xy in (fit, test))
    if not (np.isfinite(wanted).all() and np.isfinite(expected).all()):
        return None
    origin = np.floor(expected.min(axis=1)).astype(np.int64) - 1
    size = np.ceil(expected.max(axis=1)).astype(np.int64) + 1 - origin
    shift = origin + 0.5

    def scaled(lon: Floats, lat: Floats) -> tuple[Floats, Floats]:
        if across:
            lon = lon % 360.0
        # as numbers, which are quicker than arrays of one
        return tuple(
            np.clip((value - float(centre)) * float(1 / width), -1.0, 1.0)
            for value, centre, width in zip((lon, lat), middle, half, strict=True)
        )  # type: ignore[return-value]

    for degree in range(1, MAX_DEGREE + 1):
        tables = _fit(fit, wanted - shift[:, None], degree)

        def quick(lon: Floats, lat: Floats, tables: Any = tables) -> tuple[Floats, Floats]:
            x, y = scaled(lon, lat)
            return _horner(tables[0], x, y), _horner(tables[1], x, y)

        got = np.stack(quick(*(test * half + middle).T))
        error = float(np.abs(got + shift[:, None] - expected).max())
        if error < MAX_ERROR:
            return quick, origin, size, error

    def slow(lon: Floats, lat: Floats) -> tuple[Floats, Floats]:
        x, y = scaled(lon, lat)
        u, v = exact(x * half[0] + middle[0], y * half[1] + middle[1])
        return u - shift[0], v - shift[1]

    return slow, origin, size, 0.0


def _fit(xy: Floats, wanted: Floats, degree: int) -> list[list[list[float]]]:
    """Coefficients [j][i] of x^i y^j of a polynomial for each of two values."""
    powers = [(i, j) for j in range(degree + 1) for i in range(degree + 1 - j)]
    terms = np.stack([xy[:, 0] ** i * xy[:, 1] ** j for i, j in powers], axis=1)
    tables = []
    for values in wanted:
        table = [[0.0] * (degree + 1 - j) for j in range(degree + 1)]
        for (i, j), found in zip(powers, np.linalg.lstsq(terms, values)[0], strict=True):
            # what is nothing costs no pass
            table[j][i] = float(found) if abs(found) > MAX_ERROR / 100 else 0.0
        tables.append(table)
    return tables


def _horner(table: list[list[float]], x: Floats, y: Floats) -> Floats:
    """Sum of table[j][i] x^i y^j, with few passes."""
    total: Any = 0.0
    for line in reversed(table):
        inner: Any = 0.0
        for value in reversed(line):
            inner = _step(inner, x, value)
        total = _step(total, y, inner)
    return total if isinstance(total, np.ndarray) else np.full(x.shape, total)


def _step(so_far: Any, factor: Floats, value: Any) -> Any:
    """so_far * factor + value, in place where it can be."""
    if isinstance(so_far, np.ndarray):
        so_far *= factor
    elif so_far:
        so_far = so_far * factor
    if isinstance(value, np.ndarray) or value:
        so_far += value
    return so_far


def _holds(shapes: NDArray[Any], which: Ints, lon: Floats, lat: Floats) -> NDArray[np.bool_]:
    """Whether shapes[which] holds each point; edges to the west and south count, others do not."""
    if len(which) == 0:
        return np.zeros(0, dtype=bool)
    needed, of = np.unique(which, return_inverse=True)
    corners = shapely.get_num_coordinates(shapes[needed]) == 5
    held = np.zeros(len(which), dtype=bool)
    plain = corners[of]
    if plain.any():
        rings = shapely.get_coordinates(shapes[needed[corners]]).reshape(-1, 5, 2)
        ring = rings[(np.cumsum(corners) - 1)[of[plain]]]
        held[plain] = _in_ring(ring, lon[plain], lat[plain])
    odd = ~plain
    if odd.any():  # cut in two by the antimeridian
        wrapped = (lon[odd] + 180.0) % 360.0 - 180.0
        held[odd] = shapely.intersects_xy(shapes[which[odd]], wrapped, lat[odd])
    return held


def _in_ring(ring: Floats, lon: Floats, lat: Floats) -> NDArray[np.bool_]:
    """By the parity of edges east of the point; neighbours see a shared edge alike."""
    inside = np.zeros(len(lon), dtype=bool)
    for k in range(ring.shape[1] - 1):
        one, two = ring[:, k], ring[:, k + 1]
        swap = (one[:, 1] > two[:, 1])[:, None]
        low, high = np.where(swap, two, one), np.where(swap, one, two)
        crosses = (low[:, 1] <= lat) & (lat < high[:, 1])
        with np.errstate(invalid="ignore", divide="ignore"):
            part = (lat - low[:, 1]) / (high[:, 1] - low[:, 1])
        at = np.where(part == 0, low[:, 0], low[:, 0] + part * (high[:, 0] - low[:, 0]))
        inside ^= crosses & (lon < at)
    return inside


def _search(lon: Floats, lat: Floats, shapes: NDArray[Any], order: Ints) -> Ints:
    """Regions of points by a search tree; of several the first in `order`."""
    ordered = shapes[order]
    shapely.prepare(ordered)
    tree = shapely.STRtree(ordered)
    lon = (lon + 180.0) % 360.0 - 180.0 if np.abs(lon).max() > 180 else lon
    found = np.full(len(lon), -1, dtype=np.int64)
    for start in range(0, len(lon), POLYGON_POINTS_AT_ONCE):
        part = slice(start, start + POLYGON_POINTS_AT_ONCE)
        point, candidate = tree.query(shapely.points(lon[part], lat[part]))
        held = shapely.intersects_xy(ordered[candidate], lon[part][point], lat[part][point])
        point, candidate = point[held], candidate[held]
        # the last one written stays
        first = np.lexsort((-candidate, point))
        found[start + point[first]] = order[candidate[first]]
    return found


def _explain(
    lon: Floats, lat: Floats, inside: float, assign: Callable[[Floats, Floats], Ints]
) -> None:
    """Raise if points would lie within the regions, were they of another coordinate system."""
    chosen = np.unique(np.linspace(0, len(lon) - 1, 5000).astype(np.int64))
    lon, lat = lon[chosen], lat[chosen]
    shares: dict[str, float] = {}
    for name, reading in _readings().items():
        try:
            x, y = reading(lon, lat)
        except ValueError:
            continue
        good = np.isfinite(x) & np.isfinite(y)
        if good.any():
            shares[name] = float(np.count_nonzero(assign(x[good], y[good]) >= 0)) / len(lon)
    if not shares:
        return
    likely = max(shares, key=lambda name: shares[name])
    if shares[likely] > max(0.5, inside):
        raise DatasetError(
            f"{inside:.0%} of the points lie in the regions, and {shares[likely]:.0%} if {likely}. "
            "Say which system they are in when they are read; nothing is converted by guess."
        )


def _readings() -> dict[str, Position]:
    """Other coordinate systems that points may turn out to be in."""

    def of(source: str, target: str) -> Position:
        return lambda lon, lat: convert(lon, lat, source, target, outside="nan")

    def mercator(x: Floats, y: Floats) -> tuple[Floats, Floats]:
        lat = np.degrees(np.arctan(np.sinh(y / EARTH_RADIUS_M)))
        return np.degrees(x / EARTH_RADIUS_M), lat

    return {
        "lon and lat are swapped": lambda lon, lat: (lat, lon),
        "they are in gcj02 (as AMap's and Tencent's are)": of("gcj02", "wgs84"),
        "they are in bd09 (as Baidu's are)": of("bd09", "wgs84"),
        "they are in bd09mc (Baidu's metres)": of("bd09mc", "wgs84"),
        "they are metres of Web Mercator (EPSG:3857)": mercator,
        "they were in wgs84 and not in gcj02 as was said": of("wgs84", "gcj02"),
        "they were in wgs84 and not in bd09 as was said": of("wgs84", "bd09"),
    }


__all__ = ["assign_points"]
