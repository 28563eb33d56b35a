import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.evaluation.analysis.bootstrap import MEAN, draw_blocks
from pipelines.evaluation.analysis.claims import draw_trainings, variant_differences
from pipelines.evaluation.embed.trainings import Training
from pipelines.evaluation.probe.results import read_rows
from tests.pipelines.evaluation.analysis.test_bootstrap import (  # noqa: F401
    noisy,
    place,
    probed,
)

DRAWS = 20_000


def drawn_means(seeds, blocks, rng):
    """`(S, 1 + draws)` differences with additive effects of seeds and blocks."""
    values = rng.normal(0, 1, seeds)[:, None] + rng.normal(0, 2, blocks)
    counts = np.concatenate([np.ones((1, blocks)), draw_blocks(blocks, DRAWS, 1)])
    return values, values @ counts.T / blocks


@settings(max_examples=15)
@given(st.integers(2, 6), st.integers(2, 12), st.integers(0, 1000))
def test_variance_of_draws_equals_that_of_the_estimate(seeds, blocks, number):
    """The variance is s2 / S between seeds plus s2 / B between blocks."""
    values, drawn = drawn_means(seeds, blocks, np.random.default_rng(number))
    found = draw_trainings(drawn)
    assert found[0] == pytest.approx(values.mean())
    expected = values.mean(1).var(ddof=1) / seeds + values.mean(0).var() / blocks
    assert found[1:].var() == pytest.approx(expected, rel=0.08)


def test_single_training_has_the_interval_over_blocks():
    _, drawn = drawn_means(1, 5, np.random.default_rng(0))
    np.testing.assert_array_equal(draw_trainings(drawn), drawn[0])


def test_equal_trainings_do_not_widen_the_interval():
    _, drawn = drawn_means(1, 5, np.random.default_rng(0))
    np.testing.assert_allclose(draw_trainings(np.repeat(drawn, 3, axis=0)), drawn[0])


def test_trainings_are_paired_by_seed(place, tmp_path):  # noqa: F811
    city, table = place
    tables = [
        noisy(table, f"{group}-s{seed}", 2 * seed + number, Training(group, seed, against))
        for number, (group, against) in enumerate([("net", None), ("less", "net")])
        for seed in (0, 1)
    ]
    folder = probed(
        tmp_path, city, [*tables, noisy(table, "less-s7", 9, Training("less", 7, "net"))]
    )
    found = variant_differences(folder, replicates=50)
    rows = list(read_rows(folder / "results.jsonl"))

    def r2(label, one):
        where = one.view, one.probe, one.protocol, one.indicator
        own = [row for row in rows if row.system == label]
        return np.mean([r.r2 for r in own if (r.view, r.probe, r.protocol, r.indicator) == where])

    assert {(one.system, one.reference) for one in found} == {("less", "net")}
    for one in found:
        assert one.difference.estimate == pytest.approx(np.mean(one.seeds))
        assert one.difference.low <= one.difference.estimate <= one.difference.high
        if one.indicator != MEAN:  # seed 7 has no reference
            expected = [r2(f"less-s{seed}", one) - r2(f"net-s{seed}", one) for seed in (0, 1)]
            assert one.seeds == pytest.approx(expected)
    assert sum(one.indicator == MEAN for one in found) == 2 * 2  # protocols, views
