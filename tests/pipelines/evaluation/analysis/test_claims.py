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
    """Differences that are means over blocks, `(S, 1 + draws)`: a seed's effect plus a block's."""
    values = rng.normal(0, 1, seeds)[:, None] + rng.normal(0, 2, blocks)
    counts = np.concatenate([np.ones((1, blocks)), draw_blocks(blocks, DRAWS, 1)])
    return values, values @ counts.T / blocks


@settings(max_examples=15)
@given(st.integers(2, 6), st.integers(2, 12), st.integers(0, 1000))
def test_draws_vary_as_the_estimate_does(seeds, blocks, number):
    """Of a mean over seeds and blocks: s2 / S of seeds and, by the bootstrap, s2 / B of blocks."""
    values, drawn = drawn_means(seeds, blocks, np.random.default_rng(number))
    found = draw_trainings(drawn)
    assert found[0] == pytest.approx(values.mean())
    expected = values.mean(1).var(ddof=1) / seeds + values.mean(0).var() / blocks
    assert found[1:].var() == pytest.approx(expected, rel=0.08)


def test_one_training_has_the_interval_of_its_blocks():
    _, drawn = drawn_means(1, 5, np.random.default_rng(0))
    np.testing.assert_array_equal(draw_trainings(drawn), drawn[0])


def test_equal_trainings_add_nothing():
    _, drawn = drawn_means(1, 5, np.random.default_rng(0))
    np.testing.assert_allclose(draw_trainings(np.repeat(drawn, 3, axis=0)), drawn[0])


def test_trainings_of_one_seed_are_compared_with_one_another(place, tmp_path):  # noqa: F811
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
        if one.indicator != MEAN:  # seed 7 has nobody to be compared with
            expected = [r2(f"less-s{seed}", one) - r2(f"net-s{seed}", one) for seed in (0, 1)]
            assert one.seeds == pytest.approx(expected)
    assert sum(one.indicator == MEAN for one in found) == 2 * 2  # protocols, views
