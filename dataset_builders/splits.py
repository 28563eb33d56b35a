"""Splits of regions; the only place where they are made.

"random" is the usual 6:2:2 over regions: neighbours of a test region are in training, which
measures interpolation. "block" holds out whole square blocks and drops the cells around them.
"""

import numpy as np
import pyproj
from scipy.spatial import cKDTree

from .errors import SplitError

NAMES = ("train", "validation", "test")
FRACTIONS = (0.6, 0.2, 0.2)
NUM_FOLDS = 5
# cells a side; labels of neighbouring 1-km cells correlate over about this distance
BLOCK_CELLS = 16
MIN_BLOCK_CELLS = 3
WANTED_BLOCKS = 25
# takes the diagonal neighbours too
BUFFER_CELLS = 1.5
COLUMNS = ("split_random", "split_block", "fold_block")


def random_split(
    n: int, seed: int, fractions: tuple[float, float, float] = FRACTIONS
) -> np.ndarray:
    """Split n regions at random; each split gets its share to the nearest region, one at least.

    Args:
        n: regions, in an order that does not change (sort by `region_id`).
        seed: of the shuffle.
        fractions: of train, validation and test.

    Returns:
        `(n,)` of "train" | "validation" | "test".

    Raises:
        SplitError: fewer than three regions.
    """
    _check_fractions(fractions)
    if n < len(NAMES):
        raise SplitError(f"A split into {', '.join(NAMES)} needs 3 regions at least, got {n}.")
    counts = [max(1, round(n * fraction)) for fraction in fractions[1:]]
    while n - sum(counts) < 1:
        counts[int(np.argmax(counts))] -= 1
    split = np.full(n, NAMES[0], dtype=object)
    order = np.random.default_rng((seed, n)).permutation(n)
    split[order[: counts[1]]] = NAMES[2]
    split[order[counts[1] : sum(counts)]] = NAMES[1]
    return split


def block_split(
    x_m: np.ndarray,
    y_m: np.ndarray,
    block_m: float,
    seed: int,
    fractions: tuple[float, float, float] = FRACTIONS,
    buffer_m: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Hold out whole square blocks, with a buffer between the splits.

    Blocks are drawn in random order, each for the split that lacks most cells. Then training
    cells within the buffer of a validation or test cell, and validation cells within the buffer
    of a test cell, get no split. The result does not depend on the order of the cells.

    Args:
        x_m: `(n,)` cell centres east, metres.
        y_m: `(n,)` cell centres north, metres.
        block_m: side of a block.
        seed: of the draw.
        fractions: of train, validation and test, in cells before the buffer.
        buffer_m: distance between centres up to which cells of two splits are too near; 1.5 cells
            take the eight neighbours of a cell on a square grid.

    Returns:
        `(n,)` of "train" | "validation" | "test" | None, and `(n,)` fold numbers 0..4 by whole
        blocks (floats; all NaN if there are fewer than five blocks).

    Raises:
        SplitError: fewer than three blocks, or the buffer leaves a split empty.
    """
    _check_fractions(fractions)
    points = np.column_stack([x_m, y_m]).astype(np.float64)
    if len(points) == 0 or not np.isfinite(points).all():
        raise SplitError(
            f"A block split needs the place of every region; {len(points)} regions, "
            f"{int((~np.isfinite(points)).any(axis=1).sum())} without coordinates."
        )
    if not block_m > 0:
        raise SplitError(f"A block needs a side above 0 m, got {block_m}.")
    # half a buffer off the outermost centres, so that no row of centres lies on a border
    index = np.floor((points - points.min(axis=0) + buffer_m / 2) / block_m).astype(np.int64)
    blocks, members = np.unique(index, axis=0, return_inverse=True)
    members = members.ravel()
    if len(blocks) < len(NAMES):
        raise SplitError(
            f"{len(points)} regions fall into {len(blocks)} block(s) of {block_m:.0f} m; three "
            "are needed at least. Take smaller blocks, or the random split."
        )
    sizes = np.bincount(members)
    rng = np.random.default_rng((seed, len(blocks)))
    names = np.array(NAMES, dtype=object)
    split = names[_fill(sizes, np.asarray(fractions), rng)[members]]
    folds = np.full(len(points), np.nan)
    if len(blocks) >= NUM_FOLDS:
        folds = _fill(sizes, np.full(NUM_FOLDS, 1 / NUM_FOLDS), rng)[members].astype(np.float64)
    split = _apply_buffer(points, split, buffer_m)
    empty = [name for name in NAMES if not (split == name).any()]
    if empty:
        raise SplitError(
            f"{len(blocks)} blocks of {block_m:.0f} m with a buffer of {buffer_m:.0f} m leave no "
            f"region for {', '.join(empty)}. Take other blocks, a smaller buffer, or the random "
            "split."
        )
    return split, folds


def local_xy(lon: np.ndarray, lat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Metres east and north of the middle of the points' extent (equal-area; EPSG:4326 in).

    Distances are true to 0.1 % within 400 km of the middle.
    """
    lon, lat = np.asarray(lon, dtype=np.float64), np.asarray(lat, dtype=np.float64)
    known = np.isfinite(lon) & np.isfinite(lat)
    if not known.any():
        return np.full(lon.shape, np.nan), np.full(lat.shape, np.nan)
    # from the extremes, which do not depend on the order of the points
    lon_0, lat_0 = (float(v[known].min() + v[known].max()) / 2 for v in (lon, lat))
    plane = pyproj.CRS.from_proj4(f"+proj=laea +lon_0={lon_0!r} +lat_0={lat_0!r} +units=m")
    to_plane = pyproj.Transformer.from_crs("EPSG:4326", plane, always_xy=True)
    x, y = to_plane.transform(lon, lat)
    # pyproj marks what it cannot place with infinity
    return np.where(np.isfinite(x), x, np.nan), np.where(np.isfinite(y), y, np.nan)


def default_block_m(x_m: np.ndarray, y_m: np.ndarray, cell_m: float) -> float:
    """Side of a block in metres: 16 cells where that gives 25 blocks, else a fifth of the extent.

    The extent is the side of the square as large as the cells' bounding box. Blocks are never
    under 3 cells, for with a buffer of one cell smaller ones leave nothing to train on.
    """
    width = float(np.ptp(x_m)) + cell_m
    height = float(np.ptp(y_m)) + cell_m
    wanted = BLOCK_CELLS * cell_m
    if (width // wanted) * (height // wanted) >= WANTED_BLOCKS:
        return wanted
    return max(min(wanted, np.sqrt(width * height) / 5), MIN_BLOCK_CELLS * cell_m)


def region_splits(
    lon: np.ndarray,
    lat: np.ndarray,
    cell_m: float,
    seed: int,
    block_m: float | None = None,
    buffer_m: float | None = None,
) -> tuple[dict[str, np.ndarray], list[str]]:
    """The split columns of a table of regions, with what could not be made and why.

    Args:
        lon: `(n,)` of the region centres, EPSG:4326; NaN where unknown.
        lat: `(n,)`.
        cell_m: side of a region.
        seed: of both splits.
        block_m: side of a block; [`default_block_m`] by default.
        buffer_m: as in [`block_split`]; by default it takes a region's eight neighbours.

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
    try:
        if block_m is None:
            block_m = default_block_m(x, y, cell_m) if n else cell_m
        # an extent without coordinates is not a number; block_split says what is wrong
        block_m = block_m if np.isfinite(block_m) else cell_m
        buffer_m = BUFFER_CELLS * cell_m if buffer_m is None else buffer_m
        split, folds = block_split(x, y, block_m, seed, buffer_m=buffer_m)
        columns["split_block"], columns["fold_block"] = split, whole_numbers(folds)
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


def _apply_buffer(points: np.ndarray, split: np.ndarray, buffer_m: float) -> np.ndarray:
    if buffer_m <= 0:
        return split
    kept = split.copy()
    for name, others in (("train", ("validation", "test")), ("validation", ("test",))):
        near = cKDTree(points[np.isin(split, others)])
        mine = np.flatnonzero(split == name)
        distance, _ = near.query(points[mine], distance_upper_bound=buffer_m * (1 + 1e-6))
        kept[mine[np.isfinite(distance)]] = None
    return kept


def _check_fractions(fractions: tuple[float, float, float]) -> None:
    if len(fractions) != 3 or min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-9:
        raise SplitError(f"Three fractions above 0 that sum to 1 are needed, got {fractions}.")


__all__ = [
    "block_split",
    "default_block_m",
    "local_xy",
    "random_split",
    "region_splits",
    "whole_numbers",
]
