"""Random and spatial block splits of regions.

"random" is the usual 6:2:2 over regions. Test regions have training regions as neighbours, so it
measures interpolation. "block" holds out square blocks, and drops regions too close to another
part, as defined by [`Neighbourhood`].
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
# block side in cells: about the correlation range of labels on 1-km cells
BLOCK_CELLS = 16
MIN_BLOCK_CELLS = 3
WANTED_BLOCKS = 25
# maximum distance between the centres of neighbours, in cells; includes diagonal neighbours
NEIGHBOUR_CELLS = 1.5
# maximum gap between touching geometries, in cells
TOUCH_CELLS = 0.01
ROUNDING = 1e-6
# longer edges get vertices: straight edges in degrees are curved in metres, by 0.1 m at 45 N
EDGE_DEGREES = 0.02
PAIRS_FROM = 10_000
COLUMNS = ("split_random", "split_block", "fold_block")

Ints = NDArray[np.int64]


def random_split(n: int, seed: int) -> np.ndarray:
    """Split n regions 6:2:2 at random, with at least one region per part.

    Args:
        n: Number of regions, in a reproducible order (sort by `region_id`).
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
    """Hold out square blocks, with a buffer between the parts.

    Blocks are drawn in random order, each for the part that lacks most cells; a cell belongs to the
    block of its centre. [`apply_buffer`] then drops cells too close to another part. The result
    does not depend on the order of the cells.

    Args:
        x_m: `(n,)` x coordinates of cell centres, in metres.
        y_m: `(n,)` y coordinates of cell centres, in metres.
        block_m: Side of a block in metres.
        seed: Seed of the draw.
        neighbourhood: Neighbourhood of the same cells; by default no cell is dropped.

    Returns:
        `(n,)` of "train" | "validation" | "test" | None, and `(n,)` fold numbers 0..4 by block
        (floats; all NaN if there are fewer than five blocks).

    Raises:
        SplitError: Fewer than three blocks, or the buffer leaves a part empty.
    """
    points = np.column_stack([x_m, y_m]).astype(np.float64)
    if len(points) == 0 or not np.isfinite(points).all():
        raise SplitError(
            f"A block split needs the coordinates of all regions; got {len(points)} regions, "
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
            f"With {len(sizes)} blocks of {block_m:.0f} m, the buffer leaves no region for "
            f"{', '.join(empty)}. Use other blocks, a smaller buffer, or the random split."
        )
    return split, folds


def block_numbers(
    x_m: np.ndarray, y_m: np.ndarray, block_m: float, neighbourhood: "Neighbourhood"
) -> np.ndarray:
    """`(n,)` block number of each cell, on the grid of [`block_split`]."""
    points = np.column_stack([x_m, y_m]).astype(np.float64)
    return _blocks(points, block_m, neighbourhood.centre_distance_m / 2)


def apply_buffer(split: np.ndarray, neighbourhood: "Neighbourhood") -> np.ndarray:
    """Drop the regions that are too close to another part of a split.

    Training regions close to a validation or test region, and validation regions close to a test
    region, are dropped; test regions are kept.

    Args:
        split: `(n,)` of "train" | "validation" | "test" | None.
        neighbourhood: Neighbourhood of the same regions, in the same order.

    Returns:
        A new `(n,)` array, None for dropped regions.
    """
    kept = split.copy()
    for name, others in (("train", NAMES[1:]), ("validation", NAMES[2:])):
        mine = np.flatnonzero(split == name)
        kept[mine[neighbourhood.near(mine, np.flatnonzero(np.isin(split, others)))]] = None
    return kept


class Neighbourhood:
    """Regions that are too close to each other to be in different parts of a split.

    Two regions are too close if their geometries are at most `buffer_m` apart, or their centres at
    most `buffer_m` plus one and a half typical sides. Without a buffer, these are the regions that
    touch, or would touch if all were squares of the typical side: the eight neighbours in a grid of
    squares or map tiles, the six of a hexagon. Points are compared by their centres.

    Geometries less than 1 % of a typical side apart count as touching, since borders of neighbours
    seldom agree to the last digit. For regions in degrees see [`region_neighbourhood`].

    Args:
        shapes: `(n,)` shapely geometries in a metric projection. None where the location is
            unknown: such a region is close to no other.
        cell_m: Side of a typical region, or spacing of the points, in metres.
        buffer_m: Largest gap between regions that are too close, in metres.
        centres: `(n, 2)` centres of the regions in the same projection; centroids by default and
            for NaN.

    Attributes:
        placed: `(n,)` whether the location of a region is known.

    Raises:
        SplitError: Negative side or buffer, or NaN.
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

    @property
    def gap_m(self) -> float:
        """Largest gap between geometries that are too close, tolerance included."""
        return (self.buffer_m + TOUCH_CELLS * self.cell_m) * (1 + ROUNDING) or ROUNDING

    @property
    def centre_distance_m(self) -> float:
        """Largest distance between centres that are too close."""
        return self.buffer_m + NEIGHBOUR_CELLS * self.cell_m

    def take(self, rows: ArrayLike) -> "Neighbourhood":
        """Neighbourhood of a subset of the regions, by row numbers."""
        rows = np.asarray(rows)
        return Neighbourhood(self._shapes[rows], self.cell_m, self.buffer_m, self._centres[rows])

    def near(self, rows: ArrayLike, others: ArrayLike) -> NDArray[np.bool_]:
        """Whether each of some regions is too close to one of the others.

        Args:
            rows: `(k,)` row numbers of the query regions.
            others: `(m,)` row numbers of the regions they are compared with.

        Returns:
            `(k,)`; False for regions of unknown location.
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
        """Distance in metres from each row to the nearest of the others, border to border.

        NaN where the location of the region or of all others is unknown.
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
        """Number of pairs from `rows` and `others` whose geometries are too close."""
        _, asked, theirs = self._placed_rows(rows, others)
        tree, total = shapely.STRtree(self._shapes[theirs]), 0
        for start in range(0, len(asked), PAIRS_FROM):
            shapes = self._shapes[asked[start : start + PAIRS_FROM]]
            total += tree.query(shapes, predicate="dwithin", distance=self.gap_m).shape[1]
        return total

    def _placed_rows(self, rows: ArrayLike, others: ArrayLike) -> tuple[Ints, Ints, Ints]:
        """Regions of known location: positions in `rows`, row numbers, and those of the others."""
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
    """[`Neighbourhood`] of regions in degrees, in the projection of [`local_xy`].

    Args:
        geometry: `(n,)` shapely geometries (also a GeoSeries), EPSG:4326; None for points. They may
            extend beyond 180 degrees or have parts on both sides of it.
        lon: `(n,)` longitudes of the centres; those of the centroids by default and for NaN.
        lat: `(n,)` latitudes of the centres.
        cell_m: Side of a typical region; by default the square root of the median area, or for
            points their [`spacing_m`].
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
    """Median nearest-neighbour distance of points, `(n, 2)` in metres; NaN for fewer than 2."""
    if len(points) < 2:
        return float("nan")
    return float(np.median(cKDTree(points).query(points, k=[2])[0]))  # the first is itself


def local_xy(lon: np.ndarray, lat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Metres east and north of the centre of the points' extent (equal-area), from EPSG:4326.

    Distances are accurate to 0.1 % within 400 km of the centre. Longitudes may exceed 180 degrees;
    points on both sides of the antimeridian are close to each other.
    """
    lon, lat = np.asarray(lon, dtype=np.float64), np.asarray(lat, dtype=np.float64)
    known = np.isfinite(lon) & np.isfinite(lat)
    if not known.any():
        return lon * np.nan, lat * np.nan
    # centre of the shorter of the two arcs that contain all longitudes
    east = np.where(lon[known] < 0, lon[known] + 360, lon[known])
    arc = east if np.ptp(east) < np.ptp(lon[known]) else lon[known]
    lon_0, lat_0 = (float(one.min() + one.max()) / 2 for one in (arc, lat[known]))
    plane = pyproj.CRS.from_proj4(f"+proj=laea +lon_0={lon_0!r} +lat_0={lat_0!r} +units=m")
    to_plane = pyproj.Transformer.from_crs("EPSG:4326", plane, always_xy=True)
    x, y = to_plane.transform(lon, lat)
    # pyproj returns infinity where the projection is undefined
    return np.where(np.isfinite(x), x, np.nan), np.where(np.isfinite(y), y, np.nan)


def default_block_m(x_m: np.ndarray, y_m: np.ndarray, cell_m: float) -> float:
    """Default side of a block in metres.

    16 cells if that gives 25 blocks, else a fifth of the extent, but at least 3 cells: with a
    buffer of one cell, smaller blocks leave no training data.
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
    """Split columns of a table of regions, and messages for splits that are impossible.

    Args:
        geometry: `(n,)` shapely geometries, EPSG:4326; None for points.
        lon: `(n,)` longitudes of the centres, EPSG:4326; NaN where unknown.
        lat: `(n,)` latitudes of the centres.
        cell_m: Side of a region in metres.
        seed: Seed of both splits.
        block_m: Side of a block in metres; [`default_block_m`] by default.
        buffer_m: As in [`Neighbourhood`]; None drops no region.

    Returns:
        `split_random`, `split_block` and `fold_block`, each `(n,)`, all None for an impossible
        split; and the message for each such split.
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
    if block_m is None:  # NaN without coordinates, for which block_split raises
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
    """Fold numbers as int, or None for NaN."""
    return np.array([None if np.isnan(fold) else int(fold) for fold in folds], dtype=object)


def _fill(sizes: np.ndarray, fractions: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Assign blocks in random order to the part that lacks most cells; no part stays empty."""
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
    """`(n,)` block number of each point, among the blocks that contain points.

    The grid starts `margin_m` off the outermost points, to keep rows of centres off the borders.
    """
    index = np.floor((points - points.min(axis=0) + margin_m) / block_m).astype(np.int64)
    return np.unique(index, axis=0, return_inverse=True)[1].ravel()


def _typical_side(shapes: NDArray[Any]) -> float:
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
