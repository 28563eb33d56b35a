from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from examples.cityrep.splits import PROTOCOLS, SEEDS, block_ids, draw_split
from examples.cityrep.tasks import read_task
from pipelines.common.errors import InputError


@pytest.fixture
def task(release):
    return read_task(release / "labels" / "north.pm25.2022")


@pytest.mark.parametrize("protocol", PROTOCOLS[:2])
def test_every_cell_is_in_one_part(task, protocol):
    split = draw_split(task, protocol, SEEDS[0])
    parts = np.concatenate(list(vars(split).values()))
    assert np.array_equal(np.sort(parts), np.arange(len(task)))
    assert np.array_equal(draw_split(task, protocol, SEEDS[0]).test, split.test)
    assert not np.array_equal(draw_split(task, protocol, SEEDS[1]).test, split.test)


def test_blocks_are_held_out_whole(task):
    blocks = block_ids(task)
    assert blocks.min() >= 0
    assert blocks.max() == 99
    split = draw_split(task, "cityrep_block", 42)
    train, validation, test = (set(blocks[rows]) for rows in vars(split).values())
    assert not train & validation
    assert not train & test
    assert not validation & test
    assert len(test) == np.ceil(0.2 * len(np.unique(blocks)))


def test_buffer_equals_brute_force_distances(task):
    buffer_m = 2500.0
    block = draw_split(task, "cityrep_block", 7)
    split = draw_split(task, "block", 7, buffer_m)
    assert np.array_equal(split.test, block.test)
    # cells are slightly narrower in the north, but one grid spacing is used for all rows
    height, width = task.cell_m
    xy = np.column_stack([task.row * height, task.col * width])
    for rows, kept, others in (
        (block.train, split.train, np.concatenate([block.test, block.validation])),
        (block.validation, split.validation, block.test),
    ):
        far = cdist(xy[rows], xy[others]).min(1) > buffer_m
        assert np.array_equal(kept, rows[far])
    assert 0 < len(split.train) < len(block.train)


def test_impossible_splits_are_errors(task):
    with pytest.raises(InputError, match="a buffer of 90000 m leaves no cell for train"):
        draw_split(task, "block", 42, 90_000)
    arrays = {name: getattr(task, name)[:2] for name in ("values", "row", "col", "x", "y")}
    small = replace(task, **arrays)
    with pytest.raises(InputError, match="A split needs at least 3 cells in 3 blocks"):
        draw_split(small, "cityrep_block", 42)
