"""Splits of CityRep, and its block split with a buffer.

`cityrep_random` and `cityrep_block` equal those of the release: scikit-learn's `train_test_split`
holds out 20 % of the cells, or of the non-empty blocks of a 10 x 10 grid over the span of rows and
columns, for testing and 10 % of the rest for validation. `block` has the test cells of
`cityrep_block`, but leaves out training cells near validation or test cells and validation cells
near test cells.

The buffer is a distance transform of the grid, which scales to 300,000 cells, unlike the geometries
of `pipelines/evaluation/probe/splits.py`.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from sklearn.model_selection import train_test_split

from dataset_builders.splits import NEIGHBOUR_CELLS
from pipelines.common.errors import InputError

from .tasks import Ints, Task

SEEDS = (42, 24, 7, 0, 100)
PROTOCOLS = ("cityrep_block", "cityrep_random", "block")
BLOCKS_A_SIDE = 10
TEST_SHARE, VALIDATION_SHARE = 0.2, 0.1
BUFFER_M = 1000.0  # the coarsest sources (MODIS, GDP) have cells of about a kilometre


@dataclass(frozen=True)
class Split:
    """Rows of a task for training, validation and testing."""

    train: Ints
    validation: Ints
    test: Ints


def block_ids(task: Task, side: int = BLOCKS_A_SIDE) -> Ints:
    """Block number of each cell, `(N,)`."""
    return _bins(task.row, side) * side + _bins(task.col, side)


def draw_split(task: Task, protocol: str, seed: int, buffer_m: float = BUFFER_M) -> Split:
    """Split the cells of a task.

    Args:
        task: Task to split.
        protocol: One of `PROTOCOLS`.
        seed: Random seed.
        buffer_m: Minimum distance between cell centres for `block`, in metres; at least one and a
            half cells.

    Raises:
        InputError: Fewer than three blocks hold cells, or the buffer leaves a part empty.
    """
    if protocol == "cityrep_random":
        return _draw(np.arange(len(task)), seed)
    blocks = block_ids(task)
    names = np.unique(blocks)
    drawn = _draw(names, seed)
    parts = [np.flatnonzero(np.isin(blocks, part)) for part in vars(drawn).values()]
    split = Split(*parts)
    return split if protocol == "cityrep_block" else _buffered(task, split, buffer_m)


def _draw(units: Ints, seed: int) -> Split:
    if len(units) < 3:
        raise InputError(f"A split needs at least 3 cells in 3 blocks, got {len(units)}.")
    rest, test = train_test_split(units, test_size=TEST_SHARE, random_state=seed)
    train, validation = train_test_split(rest, test_size=VALIDATION_SHARE, random_state=seed)
    return Split(train, validation, test)


def _bins(index: Ints, side: int) -> Ints:
    span = max(float(index.max() - index.min()), 1e-12)
    return np.clip(np.floor((index - index.min()) / span * side), 0, side - 1).astype(np.int64)


def _buffered(task: Task, split: Split, buffer_m: float) -> Split:
    distance = max(buffer_m, NEIGHBOUR_CELLS * max(task.cell_m))
    near_test = _near(task, split.test, distance)
    near_validation = _near(task, split.validation, distance)
    train = split.train[~(near_test | near_validation)[split.train]]
    kept = replace(split, train=train, validation=split.validation[~near_test[split.validation]])
    empty = [name for name, rows in vars(kept).items() if not len(rows)]
    if empty:
        raise InputError(
            f"{task.task_id}: a buffer of {distance:.0f} m leaves no cell for {', '.join(empty)}. "
            "Use a smaller --buffer_m or omit the protocol `block`."
        )
    return kept


def _near(task: Task, rows: Ints, distance_m: float) -> NDArray[np.bool_]:
    """Whether each cell centre is within the distance of one of these rows' centres, `(N,)`."""
    row, col = task.row - task.row.min(), task.col - task.col.min()
    outside = np.ones((row.max() + 1, col.max() + 1), dtype=bool)
    outside[row[rows], col[rows]] = False
    return (distance_transform_edt(outside, sampling=task.cell_m) <= distance_m)[row, col]


__all__ = ["BUFFER_M", "PROTOCOLS", "SEEDS", "Split", "block_ids", "draw_split"]
