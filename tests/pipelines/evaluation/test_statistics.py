from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.evaluation.errors import InputError
from pipelines.evaluation.predictions import PREDICTIONS_FOLDER, current_predictions
from pipelines.evaluation.probe import ProbeSettings, probe
from pipelines.evaluation.results import read_rows
from pipelines.evaluation.sources import open_city
from pipelines.evaluation.statistics import (
    COORDINATES,
    PairedSplit,
    Reference,
    compare,
    draw_blocks,
    paired_bootstrap,
)
from pipelines.evaluation.urban_regression.metrics import regression_metrics
from tests.pipelines.evaluation.toy import CITY, build_toy


def make_splits(rng, regions=120, blocks=12, splits=3, share=0.4, shift=0.0, spread=0.0):
    """Splits of one population; `spread` is the error that a block has in common."""
    of_region = np.arange(regions) % blocks
    truth = rng.normal(size=regions)
    common = rng.normal(0, spread, blocks)[of_region] if spread else 0.0
    first = truth + rng.normal(0, 0.5, regions) + common
    second = truth + rng.normal(0, 0.5 + shift, regions)
    made = []
    for _ in range(splits):
        rows = rng.permutation(regions)[: int(share * regions)]
        made.append(PairedSplit(truth[rows], first[rows], second[rows], of_region[rows] * 7 + 3))
    return made


def by_a_plain_loop(splits, replicates, seed, level=0.95):
    """The same draws, each region written down as often as its block was drawn."""
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
            first, second = (
                regression_metrics(p[rows], split.truth[rows]) for p in (split.first, split.second)
            )
            for metric, found in scores.items():
                found.append(first[metric] - second[metric])
        for metric, found in scores.items():
            values[metric].append(np.mean(found))
    tail = (1 - level) / 2
    return {metric: np.quantile(v, [tail, 1 - tail]) for metric, v in values.items()}


@settings(max_examples=10)
@given(st.integers(0, 1000))
def test_bootstrap_equals_a_plain_loop(seed):
    splits = make_splits(np.random.default_rng(seed), regions=60, blocks=6)
    fast = paired_bootstrap(splits, 60, seed=seed)
    slow = by_a_plain_loop(splits, 60, seed)
    for metric, interval in fast.items():
        assert (interval.low, interval.high) == pytest.approx(tuple(slow[metric]))


def test_estimate_is_the_mean_difference_of_the_scores():
    splits = make_splits(np.random.default_rng(1), shift=0.2)
    intervals = paired_bootstrap(splits, 50)
    for metric, interval in intervals.items():
        differences = [
            regression_metrics(s.first, s.truth)[metric]
            - regression_metrics(s.second, s.truth)[metric]
            for s in splits
        ]
        assert interval.estimate == pytest.approx(np.mean(differences))


def test_equal_predictions_differ_by_nothing():
    splits = [replace(s, second=s.first) for s in make_splits(np.random.default_rng(0))]
    for interval in paired_bootstrap(splits, 100).values():
        assert (interval.estimate, interval.low, interval.high) == (0, 0, 0)
        assert not interval.excludes_zero


@settings(max_examples=20)
@given(st.integers(0, 1000))
def test_exchanging_the_two_turns_the_sign(seed):
    splits = make_splits(np.random.default_rng(seed), shift=0.3)
    one = paired_bootstrap(splits, 50)
    other = paired_bootstrap([replace(s, first=s.second, second=s.first) for s in splits], 50)
    for metric, interval in one.items():
        assert interval.estimate == pytest.approx(-other[metric].estimate)
        assert interval.low == pytest.approx(-other[metric].high)


def test_common_errors_of_blocks_widen_the_interval():
    splits = make_splits(np.random.default_rng(0), regions=400, blocks=20, spread=0.8)
    by_block = paired_bootstrap(splits)["rmse"]
    alone = paired_bootstrap([replace(s, blocks=np.arange(len(s.blocks))) for s in splits])["rmse"]
    assert by_block.high - by_block.low > 1.5 * (alone.high - alone.low)


def test_a_split_told_twice_is_no_more_certain():
    split = make_splits(np.random.default_rng(0), splits=1)[0]
    once, twice = paired_bootstrap([split]), paired_bootstrap([split, split])
    assert once == twice


def coverage(draw_joint, runs=150):
    """How often the interval holds the difference in RMSE of all regions there could be."""
    blocks, size, spread = 30, 12, 0.6
    truth = np.sqrt(0.5**2 + spread**2) - 0.7
    hits = 0
    for run in range(runs):
        rng = np.random.default_rng(run)
        splits = make_splits(
            rng, blocks * size, blocks, splits=4, share=0.5, shift=0.2, spread=spread
        )
        if not draw_joint:  # as if no two splits had a block in common
            splits = [replace(s, blocks=s.blocks + 1000 * k) for k, s in enumerate(splits)]
        interval = paired_bootstrap(splits, 300, seed=run)["rmse"]
        hits += interval.low <= truth <= interval.high
    return hits / runs


def test_intervals_hold_the_truth_as_often_as_they_say():
    honest, naive = coverage(draw_joint=True), coverage(draw_joint=False)
    assert 0.88 <= honest <= 0.99
    assert naive < honest - 0.1, "splits that share regions are not independent"


def test_what_cannot_be_compared_is_told():
    with pytest.raises(InputError, match="share no split"):
        paired_bootstrap([])
    one = make_splits(np.random.default_rng(0), blocks=1)
    with pytest.raises(InputError, match="in one block"):
        paired_bootstrap(one)


# ------------------------------------------------------------------------ a folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from pipelines.evaluation.embed import EmbedSettings, embed
    from pipelines.evaluation.embedding_tables import read_embeddings
    from pipelines.evaluation.encoders import ColourTextureEncoder
    from pipelines.evaluation.sources import open_images

    base = tmp_path_factory.mktemp("statistics")
    dataset = str(build_toy(base / "dataset", side=12, street_views=1))
    path = embed(
        ColourTextureEncoder(), open_images(dataset, CITY), base, "colour_texture", EmbedSettings()
    )
    table = read_embeddings(path)
    noise = np.random.default_rng(0).normal(0, 30, table.vectors["satellite"].shape)
    vectors = {view: (x + noise).astype(np.float32) for view, x in table.vectors.items()}
    worse = replace(table, label="noisy", vectors=vectors, hash="n" * 16)
    chosen = ProbeSettings(seeds=3, probes=("ridge",), views=("satellite", "both"))
    city = open_city(dataset, CITY)
    probe(city, [table, worse], base / "results", chosen, lambda batches, **_: batches)
    return base / "results"


def test_compare_pairs_every_system_with_the_reference(folder):
    found = compare(folder, Reference("colour_texture"), replicates=200)
    assert {(d.system, d.view, d.reference_view, d.reference_probe) for d in found} == {
        (name, view, view, "ridge")
        for name in ("noisy", "coordinates+colour_texture", "coordinates+noisy")
        for view in ("satellite", "both")
    }
    rows = list(read_rows(folder / "results.jsonl"))
    for difference in found:
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
    noisy = [d for d in found if d.system == "noisy" and d.protocol == "random"]
    assert noisy
    assert all(d.intervals["r2"].high < 0 and d.intervals["rmse"].low > 0 for d in noisy)


def test_coordinates_are_the_reference_of_every_view(folder):
    found = compare(folder, COORDINATES, replicates=50)
    systems = {(d.system, d.view, d.probe) for d in found}
    assert ("mean", "none", "mean") in systems
    assert ("coordinates", "none", "gbm") in systems
    assert ("noisy", "both", "ridge") in systems
    assert ("coordinates", "none", "knn") not in systems


def test_blocks_are_those_of_the_block_protocol(folder):
    frame = current_predictions(folder, PREDICTIONS_FOLDER)
    blocks = frame.groupby("region_id")["block_id"].nunique()
    assert (blocks == 1).all()
    assert frame["block_id"].nunique() > 3


def test_a_reference_that_is_not_there_is_told(folder, tmp_path):
    with pytest.raises(InputError, match=r"No system 'clip'.*there are: .*colour_texture.*noisy"):
        compare(folder, Reference("clip"))
    with pytest.raises(InputError, match="No results in"):
        compare(tmp_path, COORDINATES)
