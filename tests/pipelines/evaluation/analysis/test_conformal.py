import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.evaluation.analysis import conformal
from pipelines.evaluation.analysis.conformal import block_half_width, split_half_width
from pipelines.evaluation.errors import InputError


def test_split_conformal_rank():
    residuals = np.arange(1.0, 20.0)[::-1]  # 19: 90 % of 20 is the 18th
    assert split_half_width(residuals, np.zeros(19, int), 0.9) == (18.0, True)
    assert split_half_width(residuals[:8], np.zeros(8, int), 0.9) == (19.0, False)


def test_block_half_width_weighs_blocks_equally():
    # nine blocks and the unseen one weigh a tenth each: 80 % is the eighth block
    residuals = np.concatenate([np.arange(1.0, 10.0), np.full(500, 1.0)])
    blocks = np.concatenate([np.arange(9), np.zeros(500, int)])
    assert block_half_width(residuals, blocks, 0.8) == (8.0, True)
    assert block_half_width(residuals, blocks, 0.95) == (9.0, False)
    assert split_half_width(residuals, blocks, 0.8)[0] == 1.0


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=60), st.floats(0.05, 0.99))
def test_blocks_of_one_region_are_split_conformal(residuals, level):
    values, blocks = np.array(residuals), np.arange(len(residuals))
    assert block_half_width(values, blocks, level) == split_half_width(values, blocks, level)


def test_block_intervals_cover_new_blocks():
    """Error scales differ between blocks, so regions are not exchangeable."""
    rng = np.random.default_rng(0)
    covered = {"split": [], "block": []}
    for _ in range(400):
        scale = rng.lognormal(0, 1.2, 16)
        blocks = np.repeat(np.arange(15), rng.choice([2, 60], 15))
        # large blocks are the easy ones
        easy = np.bincount(blocks, minlength=15) == 60
        scale[:15][easy] *= 0.2
        residuals = np.abs(rng.normal(0, scale[blocks]))
        new = np.abs(rng.normal(0, scale[15] * rng.choice([0.2, 1.0]), 20))
        for name, method in (("split", split_half_width), ("block", block_half_width)):
            covered[name].append((new <= method(residuals, blocks, 0.8)[0]).mean())
    assert np.mean(covered["split"]) < 0.75
    assert 0.78 <= np.mean(covered["block"]) <= 0.9


def test_coverage_of_all_systems_is_stored(results, tmp_path):
    found = conformal.measure_coverage(results, 0.8)
    stored = json.loads((results / "intervals.json").read_text())
    assert [vars(one) for one in found] == stored
    assert {one.splits for one in found} == {2}
    assert {one.method for one in found} == {"split", "block"}
    for one in found:
        assert 0 <= one.coverage_low <= one.coverage <= 1
    with pytest.raises(InputError, match="No results in"):
        conformal.measure_coverage(tmp_path)
