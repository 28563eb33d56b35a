"""Splits of regions; the only module that draws them.

"random" is the usual 6:2:2 over regions: neighbours of a test region are in training, so it
measures interpolation. "block" holds out whole square blocks and leaves out the regions that are
too near to another part, which [`Neighbourhood`] alone decides.
"""

from typing import Any

import numpy as np
import pyproj
import shapely
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from .errors import SplitError

NAMES = ("train", "validation", "test")
FRACTIONS = (0.6, 0.2, 0.2)
NUM_FOLDS = 5
# side in cells: labels of 1-km cells correlate over about this distance
BLOCK_CELLS = 16
MIN_BLOCK_CELLS = 3
WANTED_BLOCKS = 25
# distance of centres, in cells, up to which squares are neighbours: includes the diagonal ones
NEIGHBOUR_CELLS = 1.5
# gap, in cells, up to which geometries touch
TOUCH_CELLS = 0.01
ROUNDING = 1e-6
# longer edges get vertices: what is straight in degrees is bent in metres, here by 0.1 m at 45 N
EDGE_DEGREES = 0.02
PAIRS_FROM = 10_000
COLUMNS = ("split_random", "split_block", "fold_block")

Ints = NDArray[np.int64]


def random_split(n: int, seed: int) -> np.ndarray:
    """Split n regions 6:2:2 at random; each part has its share to the nearest region, at least one.

    Args:
        n: Number of regions, in an order that does not change (sort by `region_id`).
        seed: Seed of the shuffle.

    Returns:
        `(n,)` of "train" | "validation" | "test".

    Raises:
        SplitError: Fewer than three regions.
    """
    if n < len(NAMES):
        raise SplitError(f"A split into {', '.join(NAMES)} needs 3 regions at least, got {n}.")
    num_validation, num_test = (max(1, round(n * fraction)) for fraction in FRACTIONS[1:])
    order = np.random.default_rng((seed, n)).permutation(n)
    split = np.full(n, NAMES[0], dtype=object)
    split[order[: num_test + num_validation]] = NAMES[1]
    split[order[:num_test]] = NAMES[2]
    return split


def block_split(
    x_m: np.ndarray,
    y_m: np.ndarray,
    block_m: float,
    seed: int,
    neighbourhood: "Neighbourhood | None" = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Hold out whole square blocks, with a buffer between the parts.

    Blocks are drawn in random order, each for the part that lacks most cells; a cell lies in the
    block of its centre. Then [`apply_buffer`] leaves out what is too near to another part. The
    result does not depend on the order of the cells.

    Args:
        x_m: `(n,)` cell centres east, metres.
        y_m: `(n,)` cell centres north, metres.
        block_m: Side of a block in metres.
        seed: Seed of the draw.
        neighbourhood: Which of the same cells are too near to be in different parts; by default no
            cell is left out.

    Returns:
        `(n,)` of "train" | "validation" | "test" | None, and `(n,)` fold numbers 0..4 by whole
        blocks (floats; all NaN if there are fewer than five blocks).

    Raises:
        SplitError: Fewer than three blocks, or the buffer leaves a part empty.
    """
    points = np.column_stack([x_m, y_m]).astype(np.float64)
    if len(points) == 0 or not np.isfinite(points).all():
        raise SplitError(
            f"A block split needs the place of every region; {len(points)} regions, "
            f"{int((~np.isfinite(points)).any(axis=1).sum())} without coordinates."
        )
    if not block_m > 0:
        raise SplitError(f"A block needs a side above 0 m, got {block_m}.")
    margin_m = 0.0 if neighbourhood is None else neighbourhood.centre_distance_m / 2
    members = _blocks(points, block_m, margin_m)
    sizes = np.bincount(members)
    if len(sizes) < len(NAMES):
        raise SplitError(
            f"{len(points)} regions fall into {len(sizes)} block(s) of {block_m:.0f} m; three "
            "are needed at least. Use smaller blocks, or the random split."
        )
    rng = np.random.default_rng((seed, len(sizes)))
    split = np.array(NAMES, dtype=object)[_fill(sizes, np.asarray(FRACTIONS), rng)[members]]
    folds = np.full(len(points), np.nan)
    if len(sizes) >= NUM_FOLDS:
        folds = _fill(sizes, np.full(NUM_FOLDS, 1 / NUM_FOLDS), rng)[members].astype(np.float64)
    if neighbourhood is not None:
        split = apply_buffer(split, neighbourhood)
    empty = [name for name in NAMES if not (split == name).any()]
    if empty:
        raise SplitError(
            f"{len(sizes)} blocks of {block_m:.0f} m, less the regions that are too near to "
            f"another part, leave no region for {', '.join(empty)}. Use other blocks, a smaller "
            "buffer, or the random split."
        )
    return split, folds


def block_numbers(
    x_m: np.ndarray, y_m: np.ndarray, block_m: float, neighbourhood: "Neighbourhood"
) -> np.ndarray:
    """`(n,)` number of the block of each cell, on the grid of [`block_split`]."""
    points = np.column_stack([x_m, y_m]).astype(np.float64)
    return _blocks(points, block_m, neighbourhood.centre_distance_m / 2)


def apply_buffer(split: np.ndarray, neighbourhood: "Neighbourhood") -> np.ndarray:
    """The split less the regions that are too near to another part.

    Training regions near a validation or test region and validation regions near a test region are
    left out; test regions stay. A split that keeps its distance is returned unchanged.

    Args:
        split: `(n,)` of "train" | "validation" | "test" | None.
        neighbourhood: The same regions, in the same order.

    Returns:
        A new `(n,)` array.
    """
    kept = split.copy()
    for name, others in (("train", NAMES[1:]), ("validation", NAMES[2:])):
        mine = np.flatnonzero(split == name)
        kept[mine[neighbourhood.near(mine, np.flatnonzero(np.isin(split, others)))]] = None
    return kept


class Neighbourhood:
    """Which regions are too near to one another to be in different parts of a split.

    Two regions are too near if their geometries are at most `buffer_m` apart, or their centres at
    most `buffer_m` and one and a half typical sides. Without a buffer, these are the regions that
    touch, and those that would if all were squares of the typical side: on a grid of squares, map
    tiles or hexagons the eight or six around a cell. For points the centres decide.

    Geometries less than 1 % of a typical side apart touch, since the borders of neighbours seldom
    agree to the last digit. For regions in degrees see [`region_neighbourhood`].

    Args:
        shapes: `(n,)` shapely geometries in a metric plane. None where the place of a region is
            unknown: such a region is near to none.
        cell_m: Side of a typical region, or spacing of the points, in metres.
        buffer_m: Gap between two regions up to which they are too near, in metres.
        centres: `(n, 2)` centres of the regions in the same plane; centroids by default and for
            NaN.

    Attributes:
        placed: `(n,)` whether the place of a region is known.

    Raises:
        SplitError: The side or the buffer is negative or not a number.
    """

    def __init__(
        self,
        shapes: ArrayLike,
        cell_m: float,
        buffer_m: float = 0.0,
        centres: NDArray[np.float64] | None = None,
    ):
        if not (cell_m >= 0 and buffer_m >= 0):
            raise SplitError(f"Side and buffer must not be negative, got {cell_m} and {buffer_m}.")
        self.cell_m, self.buffer_m = float(cell_m), float(buffer_m)
        self._shapes = np.asarray(shapes, dtype=object)
        centroids = _centroids(self._shapes)
        given = centroids if centres is None else centres
        self._centres = np.where(np.isfinite(given), given, centroids)
        places = np.column_stack([shapely.bounds(self._shapes), self._centres])
        self.placed = np.isfinite(places).all(axis=1)

    def __len__(self) -> int:
        return len(self._shapes)

    @property
    def gap_m(self) -> float:
        """Gap between two geometries up to which they are too near, tolerance included."""
        return (self.buffer_m + TOUCH_CELLS * self.cell_m) * (1 + ROUNDING) or ROUNDING

    @property
    def centre_distance_m(self) -> float:
        """Distance of two centres up to which regions are too near."""
        return self.buffer_m + NEIGHBOUR_CELLS * self.cell_m

    def take(self, rows: ArrayLike) -> "Neighbourhood":
        """The neighbourhood of some of the regions, in the order of their row numbers."""
        rows = np.asarray(rows)
        return Neighbourhood(self._shapes[rows], self.cell_m, self.buffer_m, self._centres[rows])

    def near(self, rows: ArrayLike, others: ArrayLike) -> NDArray[np.bool_]:
        """Which of some regions are too near to at least one of some others.

        Args:
            rows: `(k,)` row numbers of the regions asked about.
            others: `(m,)` row numbers of the regions that they must keep away from.

        Returns:
            `(k,)`; False for a region whose place is unknown.
        """
        position, asked, theirs = self._placed_rows(rows, others)
        found = np.zeros(np.size(rows), dtype=bool)
        if len(asked) and len(theirs):
            reach = self.centre_distance_m * (1 + ROUNDING)
            tree = cKDTree(self._centres[theirs])
            distance, _ = tree.query(self._centres[asked], distance_upper_bound=reach)
            hits, _ = shapely.STRtree(self._shapes[theirs]).query_nearest(
                self._shapes[asked], max_distance=self.gap_m, all_matches=False
            )
            found[position] = np.isfinite(distance)
            found[position[hits]] = True
        return found

    def gaps_m(self, rows: ArrayLike, others: ArrayLike) -> NDArray[np.float64]:
        """Metres from each region to the nearest of some others, border to border.

        As [`near`]; NaN where the place of the region, or of all others, is unknown.
        """
        position, asked, theirs = self._placed_rows(rows, others)
        gaps = np.full(np.size(rows), np.nan)
        if len(asked) and len(theirs):
            (hits, _), distance = shapely.STRtree(self._shapes[theirs]).query_nearest(
                self._shapes[asked], all_matches=False, return_distance=True
            )
            gaps[position[hits]] = distance
        return gaps

    def count_touching(self, rows: ArrayLike, others: ArrayLike) -> int:
        """Pairs of one region of `rows` and one of `others` whose geometries are too near."""
        _, asked, theirs = self._placed_rows(rows, others)
        tree, total = shapely.STRtree(self._shapes[theirs]), 0
        for start in range(0, len(asked), PAIRS_FROM):
            shapes = self._shapes[asked[start : start + PAIRS_FROM]]
            total += tree.query(shapes, predicate="dwithin", distance=self.gap_m).shape[1]
        return total

    def _placed_rows(self, rows: ArrayLike, others: ArrayLike) -> tuple[Ints, Ints, Ints]:
        """Of the regions that have a place: positions in `rows`, row numbers, and the others'."""
        asked, theirs = (np.asarray(numbers, dtype=np.int64) for numbers in (rows, others))
        position = np.flatnonzero(self.placed[asked])
        return position, asked[position], theirs[self.placed[theirs]]


def region_neighbourhood(
    geometry: ArrayLike,
    lon: ArrayLike | None = None,
    lat: ArrayLike | None = None,
    *,
    cell_m: float | None = None,
    buffer_m: float = 0.0,
) -> Neighbourhood:
    """The [`Neighbourhood`] of regions in degrees, on the plane of [`local_xy`].

    Args:
        geometry: `(n,)` shapely geometries (also a GeoSeries), EPSG:4326; None where a region is a
            point. They may reach beyond 180 degrees or have parts on both sides of it.
        lon: `(n,)` longitudes of the centres; by default, and where NaN, those of the centroids.
        lat: `(n,)` latitudes.
        cell_m: Side of a typical region; by default the square root of the median area, or for
            points the median distance to the nearest other.
        buffer_m: As in [`Neighbourhood`].
    """
    shapes = np.array(geometry, dtype=object)
    missing = shapely.is_missing(shapes) | shapely.is_empty(shapes)
    shapes[missing] = None
    places = np.full((len(shapes), 2), np.nan)
    if lon is not None and lat is not None:
        places = np.column_stack([lon, lat]).astype(np.float64)
        points = missing & np.isfinite(places).all(axis=1)
        shapes[points] = shapely.points(places[points])
    shapes = shapely.segmentize(shapes, EDGE_DEGREES)
    vertices, owner = shapely.get_coordinates(shapes, return_index=True)
    plane = np.column_stack(local_xy(*np.concatenate([vertices, places]).T))
    on_plane, centres = plane[: len(vertices)], plane[len(vertices) :]
    shapes = shapely.set_coordinates(shapes, on_plane)
    shapes[owner[~np.isfinite(on_plane).all(axis=1)]] = None  # the far side of the globe
    cell_m = _typical_side(shapes) if cell_m is None else cell_m
    return Neighbourhood(shapes, cell_m, buffer_m, centres)


def spacing_m(points: np.ndarray) -> float:
    """Median distance of points, `(n, 2)` in metres, to the nearest other; NaN for fewer than 2."""
    if len(points) < 2:
        return float("nan")
    return float(np.median(cKDTree(points).query(points, k=[2])[0]))  # the first is itself


def local_xy(lon: np.ndarray, lat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Metres east and north of the middle of the points' extent (equal-area; EPSG:4326 in).

    Distances are true to 0.1 % within 400 km of the middle. Longitudes may be beyond 180 degrees;
    points on both sides of the antimeridian are near to one another.
    """
    lon, lat = np.asarray(lon, dtype=np.float64), np.asarray(lat, dtype=np.float64)
    known = np.isfinite(lon) & np.isfinite(lat)
    if not known.any():
        return lon * np.nan, lat * np.nan
    lon_0, lat_0 = _middle_lon(lon[known]), float(lat[known].min() + lat[known].max()) / 2
    plane = pyproj.CRS.from_proj4(f"+proj=laea +lon_0={lon_0!r} +lat_0={lat_0!r} +units=m")
    to_plane = pyproj.Transformer.from_crs("EPSG:4326", plane, always_xy=True)
    x, y = to_plane.transform(lon, lat)
    # pyproj gives infinity where it cannot project
    return np.where(np.isfinite(x), x, np.nan), np.where(np.isfinite(y), y, np.nan)


def default_block_m(x_m: np.ndarray, y_m: np.ndarray, cell_m: float) -> float:
    """Side of a block in metres: 16 cells where that gives 25 blocks, else a fifth of the extent.

    At least 3 cells: with a buffer of one cell, smaller blocks leave no training data.
    """
    width = float(np.ptp(x_m)) + cell_m
    height = float(np.ptp(y_m)) + cell_m
    wanted = BLOCK_CELLS * cell_m
    if (width // wanted) * (height // wanted) >= WANTED_BLOCKS:
        return wanted
    return max(min(wanted, np.sqrt(width * height) / 5), MIN_BLOCK_CELLS * cell_m)


def region_splits(
    geometry: ArrayLike,
    lon: np.ndarray,
    lat: np.ndarray,
    cell_m: float,
    seed: int,
    block_m: float | None = None,
    buffer_m: float | None = 0.0,
) -> tuple[dict[str, np.ndarray], list[str]]:
    """The split columns of a table of regions, with what could not be made and why.

    Args:
        geometry: `(n,)` shapely geometries, EPSG:4326; None where a region is a point.
        lon: `(n,)` longitudes of the centres, EPSG:4326; NaN where unknown.
        lat: `(n,)` latitudes.
        cell_m: Side of a region in metres.
        seed: Seed of both splits.
        block_m: Side of a block; [`default_block_m`] by default.
        buffer_m: As in [`Neighbourhood`]; None leaves no region out.

    Returns:
        `split_random`, `split_block` and `fold_block`, each `(n,)`, all None where a split is
        impossible; and a sentence for each such split.
    """
    n = len(lon)
    columns = {name: np.full(n, None, dtype=object) for name in COLUMNS}
    problems = []
    try:
        columns["split_random"] = random_split(n, seed)
    except SplitError as error:
        problems.append(f"No random split: {error}")
    x, y = local_xy(lon, lat)
    usual_m = default_block_m(x, y, cell_m) if n else cell_m
    if block_m is None:  # an extent without coordinates is NaN; block_split says what is wrong
        block_m = usual_m if np.isfinite(usual_m) else cell_m
    try:
        near = None
        if buffer_m is not None:
            near = region_neighbourhood(geometry, lon, lat, cell_m=cell_m, buffer_m=buffer_m)
        columns["split_block"], folds = block_split(x, y, block_m, seed, near)
        columns["fold_block"] = whole_numbers(folds)
    except SplitError as error:
        problems.append(f"No block split: {error}")
    return columns, problems


def whole_numbers(folds: np.ndarray) -> np.ndarray:
    """Fold numbers to store: int, or None for NaN."""
    return np.array([None if np.isnan(fold) else int(fold) for fold in folds], dtype=object)


def _fill(sizes: np.ndarray, fractions: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A part for each block: in random order, the one that lacks most cells; none stays empty."""
    missing = fractions * sizes.sum()
    part = np.zeros(len(sizes), dtype=np.int64)
    empty = set(range(len(fractions)))
    order = rng.permutation(len(sizes))
    for position, block in enumerate(order):
        left = len(order) - position
        choices = sorted(empty) if left <= len(empty) else range(len(fractions))
        chosen = max(choices, key=lambda index: missing[index])
        part[block] = chosen
        missing[chosen] -= sizes[block]
        empty.discard(chosen)
    return part


def _blocks(points: np.ndarray, block_m: float, margin_m: float) -> np.ndarray:
    """`(n,)` number of the block of each point, among the blocks that hold any.

    The grid starts `margin_m` off the outermost points, so that no row of centres lies on a border.
    """
    index = np.floor((points - points.min(axis=0) + margin_m) / block_m).astype(np.int64)
    return np.unique(index, axis=0, return_inverse=True)[1].ravel()


def _middle_lon(lon: np.ndarray) -> float:
    """The middle of the shorter of the two arcs that hold all longitudes."""
    east = np.where(lon < 0, lon + 360, lon)
    lon = east if np.ptp(east) < np.ptp(lon) else lon
    return float(lon.min() + lon.max()) / 2


def _typical_side(shapes: NDArray[Any]) -> float:
    """Square root of the median area, or the spacing of points; 0 where neither is known."""
    area = shapely.area(shapes)
    if (area > 0).any():
        return float(np.sqrt(np.median(area[area > 0])))
    points = _centroids(shapes)
    return float(np.nan_to_num(spacing_m(points[np.isfinite(points).all(axis=1)])))


def _centroids(shapes: NDArray[Any]) -> NDArray[np.float64]:
    return np.column_stack(
        [get(shapely.centroid(shapes)) for get in (shapely.get_x, shapely.get_y)]
    )


__all__ = [
    "Neighbourhood",
    "apply_buffer",
    "block_numbers",
    "block_split",
    "default_block_m",
    "local_xy",
    "random_split",
    "region_neighbourhood",
    "region_splits",
    "spacing_m",
    "whole_numbers",
]
