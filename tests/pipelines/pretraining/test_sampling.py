import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.common.errors import InputError
from pipelines.pretraining.sampling import BatchPlan


def make_plan(n=100, batch_size=4, **settings):
    lengths = np.random.default_rng(0).integers(5, 249, n)
    return BatchPlan(np.arange(n) + 1000, lengths, batch_size, **settings)


@given(
    n=st.integers(1, 200),
    batch_size=st.integers(1, 9),
    world_size=st.integers(1, 3),
    accumulation=st.integers(1, 3),
    seed=st.integers(0, 5),
    group=st.booleans(),
)
def test_an_epoch_has_whole_steps_and_no_pair_twice(
    n, batch_size, world_size, accumulation, seed, group
):
    per_step = batch_size * world_size * accumulation
    settings = {
        "world_size": world_size,
        "accumulation": accumulation,
        "seed": seed,
        "group_by_length": group,
    }
    if n < per_step:
        with pytest.raises(InputError, match=f"A step needs {per_step} pairs"):
            make_plan(n, batch_size, **settings)
        return
    plan = make_plan(n, batch_size, **settings)
    steps = plan.steps_per_epoch
    assert steps == n // per_step
    seen = [
        batch.indices
        for rank in range(world_size)
        for batch in plan.process_batches(rank, 0, steps)
    ]
    assert all(len(indices) == batch_size for indices in seen)
    seen = np.concatenate(seen)
    assert len(seen) == steps * per_step == len(np.unique(seen))
    assert seen.min() >= 1000
    assert seen.max() < 1000 + n


@given(start=st.integers(0, 60), group=st.booleans())
def test_a_run_begun_anywhere_goes_on_as_if_never_stopped(start, group):
    whole = list(make_plan(group_by_length=group, accumulation=2).process_batches(0, 0, 60))
    rest = list(make_plan(group_by_length=group, accumulation=2).process_batches(0, start, 60))
    assert len(rest) == 2 * (60 - start)
    for expected, got in zip(whole[2 * start :], rest, strict=True):
        assert expected.epoch == got.epoch
        assert np.array_equal(expected.indices, got.indices)


def test_processes_share_what_one_process_would_take():
    one = list(make_plan(batch_size=8).process_batches(0, 0, 30))
    two = [list(make_plan(batch_size=4, world_size=2).process_batches(r, 0, 30)) for r in (0, 1)]
    for whole, first, second in zip(one, *two, strict=True):
        assert np.array_equal(whole.indices, np.concatenate([first.indices, second.indices]))


def test_grouping_by_length_saves_most_of_the_padding():
    def padding(plan):
        batches = [plan.num_tokens[plan.step_batches(step)[0]] for step in range(60)]
        return sum((batch.max() - batch).sum() for batch in batches)

    grouped = make_plan(2000, 16, group_by_length=True)
    mixed = make_plan(2000, 16, group_by_length=False)
    assert padding(grouped) < 0.3 * padding(mixed)


def test_grouped_batches_still_mix_from_epoch_to_epoch():
    plan = make_plan(2000, 16)
    met = [
        {frozenset((a, b)) for batch in plan.process_batches(0, first, first + 125)
         for a in batch.indices for b in batch.indices if a < b}
        for first in (0, 125)
    ]  # fmt: skip
    assert len(met[0] & met[1]) < 0.1 * len(met[0])
