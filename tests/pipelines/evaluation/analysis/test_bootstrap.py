from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.evaluation.analysis.bootstrap import (
    COORDINATES,
    MEAN,
    Reference,
    compare,
    draw_blocks,
    draw_cell,
    draw_counts,
    interval,
)
from pipelines.evaluation.analysis.claims import draw_trainings, variant_differences
from pipelines.evaluation.errors import InputError
from pipelines.evaluation.probe.predictions import PredictedSplit
from pipelines.evaluation.probe.results import read_rows
from pipelines.evaluation.urban_regression.metrics import regression_metrics

FIRST, SECOND = ("first", "both", "ridge"), ("second", "both", "ridge")


def make_splits(rng, regions=120, blocks=12, splits=3, share=0.4, shift=0.0, spread=0.0):
    """Splits of one population; `spread` is the SD of the error shared by a block."""
    of_region = np.arange(regions) % blocks
    truth = rng.normal(size=regions)
    common = rng.normal(0, spread, blocks)[of_region] if spread else 0.0
    first = truth + rng.normal(0, 0.5, regions) + common
    second = truth + rng.normal(0, 0.5 + shift, regions)
    made = []
    for seed in range(splits):
        rows = rng.permutation(regions)[: int(share * regions)]
        predictions = {FIRST: first[None, rows], SECOND: second[None, rows]}
        blocks_of = of_region[rows] * 7 + 3
        made.append(PredictedSplit("block", "gdp", seed, truth[rows], blocks_of, predictions))
    return made


def paired(splits, replicates=2000, seed=0):
    """Intervals of the difference between both; trainings are named `first-0`, `first-1`..."""
    names, counts = draw_counts((one.blocks for one in splits), replicates, seed)
    cell = draw_cell(splits, names, counts, lambda n: (n[0].partition("-")[0], *n[1:]))
    first, second = cell.systems[FIRST], cell.systems[SECOND]
    return {metric: interval(first.less(second, metric)) for metric in ("r2", "rmse")}


def trainings(split, *predictions):
    """Copy of a split with several trainings as the first system."""
    named = {(f"first-{i}", *FIRST[1:]): one[None] for i, one in enumerate(predictions)}
    return replace(split, predictions={**named, SECOND: split.predictions[SECOND]})


def difference(split, rows):
    first, second = (
        regression_metrics(split.predictions[name][0][rows], split.truth[rows])
        for name in (FIRST, SECOND)
    )
    return [first[metric] - second[metric] for metric in ("r2", "rmse")]


@settings(max_examples=10)
@given(st.integers(0, 1000))
def test_bootstrap_equals_a_loop_over_draws(seed):
    splits = make_splits(np.random.default_rng(seed), regions=60, blocks=6, shift=0.2)
    names = sorted({block for split in splits for block in split.blocks.tolist()})
    values = []
    for draw in draw_blocks(len(names), 60, seed):
        parts = []
        for split in splits:  # regions are repeated as often as their block is drawn
            rows = np.repeat(
                np.arange(len(split.truth)), draw[np.searchsorted(names, split.blocks)].astype(int)
            )
            parts += [difference(split, rows)] if len(rows) > 1 else []
        values.append(np.mean(parts, axis=0))
    low, high = np.quantile(values, [0.025, 0.975], axis=0)
    estimate = np.mean([difference(split, slice(None)) for split in splits], axis=0)
    for number, found in enumerate(paired(splits, 60, seed).values()):
        expected = estimate[number], low[number], high[number]
        assert (found.estimate, found.low, found.high) == pytest.approx(expected)


def test_equal_predictions_have_a_difference_of_zero():
    splits = make_splits(np.random.default_rng(0))
    twins = [replace(s, predictions=dict.fromkeys((FIRST, SECOND), s.truth[None])) for s in splits]
    for found in paired(twins, 100).values():
        assert (found.estimate, found.low, found.high) == (0, 0, 0)
        assert not found.excludes_zero


def test_errors_shared_by_blocks_widen_the_interval_and_duplicate_splits_do_not_narrow_it():
    splits = make_splits(np.random.default_rng(0), regions=400, blocks=20, spread=0.8)
    by_block = paired(splits)["rmse"]
    alone = paired([replace(s, blocks=np.arange(len(s.blocks))) for s in splits])["rmse"]
    assert by_block.high - by_block.low > 1.5 * (alone.high - alone.low)
    assert paired(splits[:1]) == paired([splits[0], replace(splits[0], split_seed=1)])
    with pytest.raises(InputError, match="in one block"):
        paired(make_splits(np.random.default_rng(0), blocks=1))


def coverage(draw_joint, runs=150):
    """Coverage of the population difference in RMSE."""
    blocks, size, spread = 30, 12, 0.6
    truth = np.sqrt(0.5**2 + spread**2) - 0.7
    hits = 0
    for run in range(runs):
        rng = np.random.default_rng(run)
        splits = make_splits(
            rng, blocks * size, blocks, splits=4, share=0.5, shift=0.2, spread=spread
        )
        if not draw_joint:  # treat splits as independent
            splits = [replace(s, blocks=s.blocks + 1000 * k) for k, s in enumerate(splits)]
        found = paired(splits, 200, seed=run)["rmse"]
        hits += found.low <= truth <= found.high
    return hits / runs


def test_intervals_have_their_nominal_coverage():
    honest, naive = coverage(draw_joint=True), coverage(draw_joint=False)
    assert 0.88 <= honest <= 0.99
    assert naive < honest - 0.1, "splits that share regions are not independent"


def test_scores_not_predictions_are_averaged_over_trainings():
    rng = np.random.default_rng(3)
    splits = make_splits(rng, regions=60, blocks=6)
    own = [(one := s.predictions[FIRST][0], one + rng.normal(0, 0.4, len(one))) for s in splits]
    joint, *single = (
        paired([trainings(s, *(o[i] for i in which)) for s, o in zip(splits, own, strict=True)], 80)
        for which in ((0, 1), (0,), (1,))
    )
    for metric, found in joint.items():
        assert found.estimate == pytest.approx(np.mean([one[metric].estimate for one in single]))
    ensemble = [trainings(s, np.mean(o, axis=0)) for s, o in zip(splits, own, strict=True)]
    assert paired(ensemble, 80)["r2"].estimate > joint["r2"].estimate, "an ensemble is more"


# ------------------------------------------------------------------------ a folder


def mean_r2(folder, systems, one, view, probe):
    wanted = one.protocol, one.indicator, view, probe
    rows = [row for row in read_rows(folder / "results.jsonl") if row.system in systems]
    return np.mean([r.r2 for r in rows if (r.protocol, r.indicator, r.view, r.probe) == wanted])


def test_compare_pairs_every_system_with_its_reference(results):
    labels = {"net": ("net-s0", "net-s1"), "less": ("less-s0", "less-s1", "less-s7")}
    found = compare(results, Reference("colour_texture"), replicates=100)
    names = {"net", "less", *(f"coordinates+{one}" for one in ("colour_texture", "net", "less"))}
    assert {(d.system, d.view, d.reference_view, d.reference_probe) for d in found} == {
        (name, view, view, "ridge") for name in names for view in ("satellite", "both")
    }
    parts = {}
    for one in (d for d in found if d.indicator != MEAN):
        who = labels.get(one.system, (one.system,))
        if not one.system.startswith("coordinates+"):
            expected = mean_r2(results, who, one, one.view, "ridge")
            expected -= mean_r2(results, ("colour_texture",), one, one.view, "ridge")
            assert one.intervals["r2"].estimate == pytest.approx(expected)
        assert one.splits == 2
        assert one.blocks > 3
        key = one.system, one.view, one.protocol
        parts.setdefault(key, []).append(one.intervals["r2"].estimate)
        if one.system == "net" and one.protocol == "random":
            assert one.intervals["r2"].high < 0 < one.intervals["rmse"].low
    for one in (d for d in found if d.indicator == MEAN):
        own = parts[one.system, one.view, one.protocol]
        assert len(own) == 2
        assert one.intervals["r2"].estimate == pytest.approx(np.mean(own))
        assert set(one.intervals) == {"r2"}
    # the other way round
    back = compare(results, Reference("net"), replicates=100)
    key = {"view": "both", "protocol": "block", "indicator": MEAN}
    (there,) = [d for d in found if {"system": "net", **key}.items() <= vars(d).items()]
    (here,) = [d for d in back if {"system": "colour_texture", **key}.items() <= vars(d).items()]
    one, other = there.intervals["r2"], here.intervals["r2"]
    assert (one.estimate, one.low) == pytest.approx((-other.estimate, -other.high))


def test_coordinates_are_the_reference_of_every_view(results):
    found = compare(results, COORDINATES, replicates=20)
    systems = {(d.system, d.view, d.probe) for d in found}
    assert ("mean", "none", "mean") in systems
    assert ("coordinates", "none", "gbm") in systems
    assert ("net", "both", "ridge") in systems
    assert ("coordinates", "none", "knn") not in systems


def test_unknown_references_raise(results, tmp_path):
    for name in ("clip", "net-s0"):
        with pytest.raises(InputError, match=f"No system '{name}'.*there are: .*colour_texture"):
            compare(results, Reference(name), replicates=2)
    with pytest.raises(InputError, match="No results in"):
        compare(tmp_path, COORDINATES)


# ------------------------------------------------------------------------ variants


@settings(max_examples=15)
@given(st.integers(2, 6), st.integers(2, 12), st.integers(0, 1000))
def test_variance_of_draws_equals_that_of_the_estimate(seeds, blocks, number):
    """The variance is s2 / S between seeds plus s2 / B between blocks."""
    rng = np.random.default_rng(number)
    values = rng.normal(0, 1, seeds)[:, None] + rng.normal(0, 2, blocks)
    counts = np.concatenate([np.ones((1, blocks)), draw_blocks(blocks, 20_000, 1)])
    drawn = values @ counts.T / blocks
    found = draw_trainings(drawn)
    assert found[0] == pytest.approx(values.mean())
    expected = values.mean(1).var(ddof=1) / seeds + values.mean(0).var() / blocks
    assert found[1:].var() == pytest.approx(expected, rel=0.08)
    # one training, and equal ones, have the interval over blocks
    np.testing.assert_array_equal(draw_trainings(drawn[:1]), drawn[0])
    np.testing.assert_allclose(draw_trainings(np.repeat(drawn[:1], 3, axis=0)), drawn[0])


def test_variants_are_paired_with_their_reference_by_seed(results):
    found = variant_differences(results, replicates=50)
    assert {(one.system, one.reference) for one in found} == {("less", "net")}
    for one in found:
        assert one.difference.estimate == pytest.approx(np.mean(one.seeds))
        assert one.difference.low <= one.difference.estimate <= one.difference.high
        if one.indicator != MEAN:  # seed 7 has no reference
            expected = [
                mean_r2(results, (f"less-s{seed}",), one, one.view, one.probe)
                - mean_r2(results, (f"net-s{seed}",), one, one.view, one.probe)
                for seed in (0, 1)
            ]
            assert one.seeds == pytest.approx(expected)
    assert sum(one.indicator == MEAN for one in found) == 2 * 2  # protocols, views
