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
from pipelines.evaluation.embed.trainings import Training
from pipelines.evaluation.errors import InputError
from pipelines.evaluation.probe.city import open_city
from pipelines.evaluation.probe.predictions import PredictedSplit
from pipelines.evaluation.probe.results import read_rows
from pipelines.evaluation.probe.run import ProbeSettings, probe
from pipelines.evaluation.urban_regression.metrics import regression_metrics
from tests.pipelines.evaluation.toy import CITY, build_toy

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


def scores_of(split, rows, name):
    return regression_metrics(split.predictions[name][0][rows], split.truth[rows])


def by_a_plain_loop(splits, replicates, seed):
    """Reference implementation: regions are repeated as often as their block is drawn."""
    names = sorted({block for split in splits for block in split.blocks.tolist()})
    values = {"r2": [], "rmse": []}
    for draw in draw_blocks(len(names), replicates, seed):
        scores = {"r2": [], "rmse": []}
        for split in splits:
            rows = []
            for name, times in zip(names, draw, strict=True):
                rows += np.flatnonzero(split.blocks == name).tolist() * int(times)
            if len(rows) < 2:
                continue
            first, second = (scores_of(split, rows, name) for name in (FIRST, SECOND))
            for metric, found in scores.items():
                found.append(first[metric] - second[metric])
        for metric, found in scores.items():
            values[metric].append(np.mean(found))
    return {metric: np.quantile(v, [0.025, 0.975]) for metric, v in values.items()}


@settings(max_examples=10)
@given(st.integers(0, 1000))
def test_bootstrap_equals_a_loop_over_draws(seed):
    splits = make_splits(np.random.default_rng(seed), regions=60, blocks=6, shift=0.2)
    fast = paired(splits, 60, seed=seed)
    slow = by_a_plain_loop(splits, 60, seed)
    for metric, found in fast.items():
        assert (found.low, found.high) == pytest.approx(tuple(slow[metric]))
        first, second = (
            np.mean([scores_of(s, slice(None), name)[metric] for s in splits])
            for name in (FIRST, SECOND)
        )
        assert found.estimate == pytest.approx(first - second)


def test_equal_predictions_have_a_difference_of_zero():
    splits = make_splits(np.random.default_rng(0))
    twins = [replace(s, predictions=dict.fromkeys((FIRST, SECOND), s.truth[None])) for s in splits]
    for found in paired(twins, 100).values():
        assert (found.estimate, found.low, found.high) == (0, 0, 0)
        assert not found.excludes_zero


def test_errors_shared_by_blocks_widen_the_interval():
    splits = make_splits(np.random.default_rng(0), regions=400, blocks=20, spread=0.8)
    by_block = paired(splits)["rmse"]
    alone = paired([replace(s, blocks=np.arange(len(s.blocks))) for s in splits])["rmse"]
    assert by_block.high - by_block.low > 1.5 * (alone.high - alone.low)


def test_duplicate_splits_do_not_narrow_the_interval():
    split = make_splits(np.random.default_rng(0), splits=1)[0]
    assert paired([split]) == paired([split, replace(split, split_seed=1)])


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
        found = paired(splits, 300, seed=run)["rmse"]
        hits += found.low <= truth <= found.high
    return hits / runs


def test_intervals_have_their_nominal_coverage():
    honest, naive = coverage(draw_joint=True), coverage(draw_joint=False)
    assert 0.88 <= honest <= 0.99
    assert naive < honest - 0.1, "splits that share regions are not independent"


def test_single_block_raises():
    with pytest.raises(InputError, match="in one block"):
        paired(make_splits(np.random.default_rng(0), blocks=1))


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


def noisy(table, label, seed, training=None):
    """Copy of a table with noise added."""
    noise = np.random.default_rng(seed).normal(0, 30, table.vectors["satellite"].shape)
    vectors = {view: (x + noise).astype(np.float32) for view, x in table.vectors.items()}
    metadata = {**table.metadata, **(training.metadata() if training else {})}
    return replace(table, label=label, metadata=metadata, vectors=vectors, hash=label * 2)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """City and its embedding table."""
    from pipelines.common.encoders.colour_texture import ColourTextureEncoder
    from pipelines.evaluation.embed.images import EmbedSettings, embed
    from pipelines.evaluation.embed.sources import open_images
    from pipelines.evaluation.embed.tables import read_embeddings

    base = tmp_path_factory.mktemp("statistics")
    dataset = str(build_toy(base / "dataset", side=12, street_views=1))
    path = embed(
        ColourTextureEncoder(), open_images(dataset, CITY), base, "colour_texture", EmbedSettings()
    )
    return open_city(dataset, CITY), read_embeddings(path)


def probed(folder, city, tables):
    chosen = ProbeSettings(seeds=3, probes=("ridge",), views=("satellite", "both"))
    probe(city, tables, folder, chosen, lambda batches, **_: batches)
    return folder


@pytest.fixture(scope="module")
def folder(place, tmp_path_factory):
    city, table = place
    return probed(tmp_path_factory.mktemp("r"), city, [table, noisy(table, "noisy", 0)])


@pytest.fixture(scope="module")
def trained(place, tmp_path_factory):
    """Results of a table and of a system with two trainings."""
    city, table = place
    twice = [
        noisy(table, f"net-s{seed}", seed, Training("net", seed, differs="noise"))
        for seed in (0, 1)
    ]
    return probed(tmp_path_factory.mktemp("r"), city, [table, *twice])


def test_compare_averages_over_the_trainings_of_a_group(trained):
    found = compare(trained, COORDINATES, replicates=50)
    assert {d.system for d in found} == {
        "mean", "coordinates", "colour_texture", "net",
        "coordinates+colour_texture", "coordinates+net",
    }  # fmt: skip
    rows = list(read_rows(trained / "results.jsonl"))
    assert {row.system for row in rows} >= {"net-s0", "net-s1"}, "rows stay by training"

    def mean_r2(systems, one, view, probe_name):
        return np.mean(
            [
                row.r2
                for row in rows
                if row.system in systems
                and (row.view, row.probe, row.protocol, row.indicator)
                == (view, probe_name, one.protocol, one.indicator)
            ]
        )

    checked = 0
    for one in found:
        if one.system == "net" and one.indicator != MEAN:
            expected = mean_r2(("net-s0", "net-s1"), one, one.view, "ridge")
            expected -= mean_r2(("coordinates",), one, "none", "knn")
            assert one.intervals["r2"].estimate == pytest.approx(expected)
            checked += 1
    assert checked == 2 * 2 * 2


def test_a_group_can_be_the_reference(trained):
    to_group = compare(trained, Reference("net"), replicates=50)
    back = compare(trained, Reference("colour_texture"), replicates=50)
    for one in (d for d in to_group if d.system == "colour_texture"):
        (other,) = [
            d
            for d in back
            if (d.system, d.view, d.protocol, d.indicator)
            == ("net", one.view, one.protocol, one.indicator)
        ]
        assert one.intervals["r2"].estimate == pytest.approx(-other.intervals["r2"].estimate)
        assert one.intervals["r2"].low == pytest.approx(-other.intervals["r2"].high)
    with pytest.raises(InputError, match="No system 'net-s0'"):
        compare(trained, Reference("net-s0"))


def test_compare_pairs_every_system_with_the_reference(folder):
    found = compare(folder, Reference("colour_texture"), replicates=200)
    assert {(d.system, d.view, d.reference_view, d.reference_probe) for d in found} == {
        (name, view, view, "ridge")
        for name in ("noisy", "coordinates+colour_texture", "coordinates+noisy")
        for view in ("satellite", "both")
    }
    rows = list(read_rows(folder / "results.jsonl"))
    averages = [d for d in found if d.indicator == MEAN]
    assert len(averages) == 6 * 2
    for average in averages:
        parts = [
            d.intervals["r2"].estimate
            for d in found
            if d.indicator != MEAN
            and (d.system, d.view, d.protocol) == (average.system, average.view, average.protocol)
        ]
        assert len(parts) == 2
        assert average.intervals["r2"].estimate == pytest.approx(np.mean(parts))
        assert set(average.intervals) == {"r2"}
    for difference in (d for d in found if d.indicator != MEAN):
        means = [
            np.mean(
                [
                    row.r2
                    for row in rows
                    if (row.system, row.view, row.probe, row.protocol, row.indicator)
                    == (*who, difference.protocol, difference.indicator)
                ]
            )
            for who in (
                (difference.system, difference.view, difference.probe),
                (difference.reference, difference.reference_view, difference.reference_probe),
            )
        ]
        assert difference.splits == 3
        assert difference.blocks > 3
        assert difference.intervals["r2"].estimate == pytest.approx(means[0] - means[1])
    noisy = [
        d for d in found if d.system == "noisy" and d.protocol == "random" and d.indicator != MEAN
    ]
    assert noisy
    assert all(d.intervals["r2"].high < 0 and d.intervals["rmse"].low > 0 for d in noisy)


def test_coordinates_are_the_reference_of_every_view(folder):
    found = compare(folder, COORDINATES, replicates=50)
    systems = {(d.system, d.view, d.probe) for d in found}
    assert ("mean", "none", "mean") in systems
    assert ("coordinates", "none", "gbm") in systems
    assert ("noisy", "both", "ridge") in systems
    assert ("coordinates", "none", "knn") not in systems


def test_unknown_reference_raises(folder, tmp_path):
    with pytest.raises(InputError, match=r"No system 'clip'.*there are: .*colour_texture.*noisy"):
        compare(folder, Reference("clip"))
    with pytest.raises(InputError, match="No results in"):
        compare(tmp_path, COORDINATES)
