"""Which region a point lies in: every point in one region at most, none lost between two.

On grids of squares and tiles a point's column and row follow from its place, so no search is
needed; only the few points next to an edge are held against the outlines themselves. Edges are
half-open: a point on one belongs to the region east or north of it, one on the outer east or
north rim to none.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import geopandas as gpd
import numpy as np
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
# of a cell, up to which an approximate place is good enough to pass over the exact one
MARGIN = 0.01
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
    if len(regions) == 0 or len(lon) == 0:
        return np.full(len(lon), -1, dtype=np.int64)
    assign = _assigner(regions)
    finite = np.isfinite(lon) & np.isfinite(lat)
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
        table: `(columns + 2, rows + 2)` row of the region in each cell, -1 where there is none;
            a rim of -1 lies around.
        origin: column and row of `table[0, 0]`.
        position: column and row of a place, fractions included, about.
        margin: how far off `position` may be, edges' own bend included; in cells.
        west: longitudes are turned to lie within [west, west + 360); None leaves them.
    """

    shapes: NDArray[Any]
    table: Ints
    origin: tuple[int, int]
    position: Position
    margin: float
    west: float | None

    @classmethod
    def of(cls, regions: gpd.GeoDataFrame, shapes: NDArray[Any]) -> "_Grid | None":
        """The grid that the ids name, if they all name one and the outlines bear it out."""
        if "region_id" not in regions:
            return None
        parts = [str(name).rsplit("_", 2) for name in regions["region_id"].tolist()]
        heads = {part[0] for part in parts}
        exact = _position_of(str(regions["region_id"].iloc[0]))
        if exact is None or len(heads) > 1 or shapely.is_missing(shapes).any():
            return None
        try:
            column = np.array([part[1] for part in parts]).astype(np.int64)
            row = np.array([part[2] for part in parts]).astype(np.int64)
        except ValueError:
            return None
        bounds = shapely.bounds(shapes)
        west, east = bounds[:, 0].min(), bounds[:, 2].max()
        turned = None
        if east - west > 180:  # on both sides of the antimeridian
            turned = 0.0
        columns, rows = int(np.ptp(column)) + 3, int(np.ptp(row)) + 3
        if columns * rows > MAX_TABLE:
            return None
        origin = int(column.min()) - 1, int(row.min()) - 1
        table = np.full((columns, rows), -1, dtype=np.int64)
        table[column - origin[0], row - origin[1]] = np.arange(len(column))
        if np.count_nonzero(table >= 0) < len(column):
            return None  # one cell twice
        bend = _bend(shapes, column, row, exact, turned)
        if bend is None:
            return None
        box = (west, bounds[:, 1].min(), east, bounds[:, 3].max())
        if turned is not None:
            lon = bounds[:, [0, 2]] % 360.0
            box = (lon.min(), box[1], lon.max(), box[3])
        position, error = _quick_position(exact, box)
        return cls(shapes, table, origin, position, 1.5 * bend + 2 * error + 1e-9, turned)

    def assign(self, lon: Floats, lat: Floats) -> Ints:
        """Rows of the regions of points, -1 outside."""
        found = np.empty(len(lon), dtype=np.int64)
        near: list[Ints] = []
        flat, rows = self.table.ravel(), self.table.shape[1]
        for start in range(0, len(lon), POINTS_AT_ONCE):
            part = slice(start, start + POINTS_AT_ONCE)
            u, v = self._place(lon[part], lat[part])
            i, j = _whole(u), _whole(v)
            np.take(flat, i * rows + j, out=found[part])
            # in place: these passes are most of the work
            for value, cell in ((u, i), (v, j)):
                value -= cell
                value -= 0.5
                np.abs(value, out=value)
            edge = np.flatnonzero(np.maximum(u, v) > 0.5 - self.margin)
            near.append(edge + start)
        chosen = np.concatenate(near)
        if len(chosen):
            found[chosen] = self._decide(lon[chosen], lat[chosen])
        return found

    def _place(self, lon: Floats, lat: Floats) -> tuple[Floats, Floats]:
        """Column and row in the table, fractions included."""
        if self.west is not None:
            lon = (lon - self.west) % 360.0 + self.west
        u, v = self.position(lon, lat)
        u, v = u - self.origin[0], v - self.origin[1]
        # the rim of the table holds no region; there every place beyond is as good as another
        return np.clip(u, 0.5, self.table.shape[0] - 0.5), np.clip(
            v, 0.5, self.table.shape[1] - 0.5
        )

    def _decide(self, lon: Floats, lat: Floats) -> Ints:
        """Regions of points next to an edge, by the outlines."""
        u, v = self._place(lon, lat)
        middle = self.table[_whole(u), _whole(v)]
        found = np.full(len(lon), -1, dtype=np.int64)
        around = np.ones(len(lon), dtype=bool)
        for du in (-self.margin, self.margin):
            for dv in (-self.margin, self.margin):
                i = _whole(np.clip(u + du, 0, self.table.shape[0] - 1))
                j = _whole(np.clip(v + dv, 0, self.table.shape[1] - 1))
                candidate = self.table[i, j]
                around &= candidate >= 0
                ask = np.flatnonzero((candidate >= 0) & (found < 0))
                held = _holds(self.shapes, candidate[ask], lon[ask], lat[ask])
                found[ask[held]] = candidate[ask[held]]
        # between regions on all sides there is no outside: rounding alone could lose a point
        return np.where((found < 0) & around, middle, found)


def _whole(value: Floats) -> Ints:
    """Floors of numbers that are not negative."""
    return value.astype(np.int64)


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
                lon, lat = convert(lon, np.clip(lat, -90, 90), "wgs84", "bd09")
            else:
                lat = np.clip(lat, -89.9, 89.9)
            return tile_position(lon, lat, zoom, scheme)

        return on_tiles
    return None


def _bend(
    shapes: NDArray[Any], column: Ints, row: Ints, exact: Position, west: float | None
) -> float | None:
    """How far straight edges lie off the lines of the grid, in cells; None if they are others."""
    chosen = np.unique(np.linspace(0, len(shapes) - 1, SAMPLE).astype(np.int64))
    vertices, owner = shapely.get_coordinates(shapes[chosen], return_index=True)
    if west is not None:
        vertices = np.column_stack([(vertices[:, 0] - west) % 360.0 + west, vertices[:, 1]])
    same = np.flatnonzero(owner[:-1] == owner[1:])
    worst = 0.0
    for part in (0.0, 0.25, 0.5, 0.75):
        lon, lat = (vertices[same] * (1 - part) + vertices[same + 1] * part).T
        u, v = exact(lon, lat)
        u, v = u - column[chosen][owner[same]], v - row[chosen][owner[same]]
        off = np.minimum.reduce([np.abs(u), np.abs(u - 1), np.abs(v), np.abs(v - 1)])
        outside = np.maximum(np.abs(u - 0.5), np.abs(v - 0.5)) - 0.5
        off = np.maximum(off, outside)
        if not (off < 0.1).all():  # other cells than the ids say, or unplaceable
            return None
        worst = max(worst, float(off.max()))
    return worst


def _quick_position(
    exact: Position, box: tuple[float, float, float, float]
) -> tuple[Position, float]:
    """A polynomial that stands in for the exact position within a box, and its error in cells.

    The exact position itself, without error, where no polynomial comes near enough.
    """
    west, south, east, north = box
    middle = np.array([(west + east) / 2, (south + north) / 2])
    half = np.array([max(east - west, 1e-9), max(north - south, 1e-9)]) / 2 * 1.02
    nodes = np.cos(np.pi * (np.arange(16) + 0.5) / 16)
    fit = np.stack(np.meshgrid(nodes, nodes), axis=-1).reshape(-1, 2)
    ticks = np.linspace(-1, 1, 41)
    test = np.stack(np.meshgrid(ticks, ticks), axis=-1).reshape(-1, 2)
    wanted, expected = (np.stack(exact(*(xy * half + middle).T)) for xy in (fit, test))
    if not (np.isfinite(wanted).all() and np.isfinite(expected).all()):
        return exact, 0.0
    for degree in range(1, MAX_DEGREE + 1):
        powers = [(i, j) for j in range(degree + 1) for i in range(degree + 1 - j)]
        terms = np.stack([fit[:, 0] ** i * fit[:, 1] ** j for i, j in powers], axis=1)
        coefficients = np.linalg.lstsq(terms, wanted.T, rcond=None)[0].T
        coefficients[np.abs(coefficients) < MARGIN / 1000] = 0.0
        tables = []
        for row in coefficients:
            table = np.zeros((degree + 1, degree + 1))
            for (i, j), value in zip(powers, row, strict=True):
                table[j, i] = value
            tables.append(table)

        def quick(
            lon: Floats, lat: Floats, tables: Sequence[Floats] = tuple(tables)
        ) -> tuple[Floats, Floats]:
            x, y = (lon - middle[0]) / half[0], (lat - middle[1]) / half[1]
            return _horner(tables[0], x, y), _horner(tables[1], x, y)

        got = np.stack(quick(*(test * half + middle).T))
        error = float(np.abs(got - expected).max())
        if error < MARGIN / 2:
            return quick, error
    return exact, 0.0


def _horner(table: Floats, x: Floats, y: Floats) -> Floats:
    """Sum of table[j, i] x^i y^j, with few passes."""
    total: Any = 0.0
    for line in table[::-1]:
        inner: Any = 0.0
        for value in line[::-1]:
            if np.ndim(inner):
                inner *= x
                if value:
                    inner += value
            else:
                inner = inner * x + value if inner else value
        if np.ndim(total):
            total *= y
            total += inner
        else:
            total = total * y + inner if total else inner
    return total if np.ndim(total) else np.full(x.shape, total)


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
        return lambda lon, lat: convert(lon, lat, source, target)

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
