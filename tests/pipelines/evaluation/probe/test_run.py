import json
from dataclasses import replace

import numpy as np
import pytest

from pipelines.common.encoders.colour_texture import ColourTextureEncoder
from pipelines.evaluation.embed.images import EmbedSettings, embed
from pipelines.evaluation.embed.sources import open_images
from pipelines.evaluation.embed.tables import read_embeddings
from pipelines.evaluation.errors import InputError
from pipelines.evaluation.probe import loop
from pipelines.evaluation.probe.city import open_city, transform_labels
from pipelines.evaluation.probe.models import MLPSettings
from pipelines.evaluation.probe.predictions import (
    PREDICTIONS_FOLDER,
    VALIDATION_FOLDER,
    read_predictions,
    unpredicted,
)
from pipelines.evaluation.probe.reach import covered_by_decile, unlike
from pipelines.evaluation.probe.results import KEY, code_revision, read_rows
from pipelines.evaluation.probe.run import ProbeSettings, probe
from pipelines.evaluation.probe.splits import BlockSplitter, geography
from pipelines.evaluation.report.frame import read_city
from pipelines.evaluation.urban_regression.metrics import regression_metrics
from tests.damage import damage
from tests.pipelines.evaluation.toy import CITY, build_toy

from .test_transfer import quiet

FAST = ProbeSettings(
    seeds=2,
    views=("satellite", "both"),
    mlp=MLPSettings(weight_decays=(1e-2,), max_epochs=8, patience=3, hidden_sizes=(16, 8)),
)
RIDGE = replace(FAST, probes=("ridge",), views=("satellite",))
ONE_SPLIT = replace(RIDGE, protocols=("random",), seeds=1)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> str:
    return str(build_toy(tmp_path_factory.mktemp("probe"), side=12, street_views=1))


@pytest.fixture(scope="module")
def city(dataset):
    return open_city(dataset, CITY)


@pytest.fixture(scope="module")
def tables(dataset, city, tmp_path_factory):
    """Colour and texture features, and an oracle computed from the labels."""
    folder = tmp_path_factory.mktemp("tables")
    source = open_images(dataset, CITY)
    simple = read_embeddings(embed(ColourTextureEncoder(), source, folder, "x", EmbedSettings()))
    simple = replace(simple, label="colour_texture")
    population = np.log1p(city.regions["population"].fillna(50))
    vectors = np.stack([population, population**2], axis=1).astype(np.float32)
    both = {"street_view": vectors, "satellite": vectors}
    return [simple, replace(simple, label="oracle", vectors=both, hash="0" * 16)]


@pytest.fixture(scope="module")
def results(city, tables, tmp_path_factory):
    return probe(city, tables, tmp_path_factory.mktemp("results") / CITY, FAST, quiet)


def summary_of(path):
    return json.loads((path.parent / "probe.json").read_text())


def test_all_systems_are_scored_on_the_same_cells(results):
    cells, hashes, uses = {}, {}, {}
    for row in read_rows(results):
        cell = (row.indicator, row.protocol, row.split_seed, row.n_train, row.n_validation)
        key = (row.system, row.view, row.probe)
        cells.setdefault(key, set()).add((*cell, row.n_test, row.label_sd_test))
        hashes.setdefault(row.probe, set()).add(row.config_hash)
        uses[row.system] = tuple(row.uses)
        assert (row.code_revision, row.source_city) == (code_revision(), "")
    tested = [(name, view) for name in ("colour_texture", "oracle") for view in FAST.views]
    assert set(cells) == {
        ("mean", "none", "mean"),
        *(("coordinates", "none", name) for name in ("knn", "gbm", "ridge")),
        *((*one, name) for one in tested for name in ("mlp", "ridge")),
        *((f"coordinates+{name}", view, "ridge") for name, view in tested),
    }
    assert len({frozenset(group) for group in cells.values()}) == 1
    assert len(next(iter(cells.values()))) == 2 * 2 * 2  # indicators, protocols, splits
    images = ("satellite", "street_view")
    assert uses == {
        "mean": (),
        "coordinates": ("coordinates",),
        **dict.fromkeys(("colour_texture", "oracle"), images),
        **dict.fromkeys(
            ("coordinates+colour_texture", "coordinates+oracle"), ("coordinates", *images)
        ),
    }
    assert all(len(found) == 1 for found in hashes.values())
    assert len(set.union(*hashes.values())) == len(hashes)
    summary = summary_of(results)
    # region 0 has no street view and is excluded for all views
    regions = summary["regions"]
    assert regions["dropped"] == {"no both vector in table colour_texture": 1}
    assert regions["compared"] == regions["all"] - 1
    assert {(item["indicator"], item["reason"]) for item in summary["skipped"]} == {
        ("nothing", "no region has a label"),
        ("same", "the labels in train are constant"),
    }
    assert len(summary["skipped"]) == 2 * 2 * 2


def test_predictions_reproduce_the_scores(results):
    rows = [row for row in read_rows(results) if row.system == "oracle"]
    rows = [row for row in rows if (row.probe, row.indicator) == ("ridge", "population")]
    for row in rows[:2]:
        wanted = {name: getattr(row, name) for name in KEY}
        frame = read_predictions(results.parent / VALIDATION_FOLDER, wanted)
        tested = read_predictions(results.parent / PREDICTIONS_FOLDER, wanted)
        assert len(frame) == row.n_validation
        assert set(frame["region_id"]).isdisjoint(tested["region_id"])
        scores = regression_metrics(tested["prediction"], tested["truth"])
        assert [scores["r2"], scores["spearman"]] == pytest.approx([row.r2, row.spearman])
        assert tested["truth"].std(ddof=0) == pytest.approx(row.label_sd_test)
        assert np.corrcoef(frame["prediction"], frame["truth"])[0, 1] > 0.99


def test_summary_has_coverage_and_regions_unlike_the_training_data(city, tables, tmp_path):
    """Outliers in a held-out district, and a region without embeddings."""
    held_out = BlockSplitter(city.regions, geography(city.regions)).split(0).test
    vectors = {view: own.copy() for view, own in tables[1].vectors.items()}
    for own in vectors.values():
        own[held_out[:4]] += 1000
        own[0] = np.nan
    odd = replace(tables[1], vectors=vectors)
    path = probe(city, [odd], tmp_path, replace(ONE_SPLIT, views=("both",)), quiet)
    measured = summary_of(path)["systems"]["oracle"]["reach"]["both"]["population"]
    assert measured["outside"] == len(set(held_out) - {0})
    assert 4 - (0 in held_out[:4]) <= measured["unlike"] < measured["outside"]
    has = np.arange(len(city.regions)) > 0
    population = next(one.y for one in city.targets if one.name == "population")
    assert measured["covered"] == list(covered_by_decile(population, has))
    assert min(measured["covered"]) < 1


def test_rerun_computes_only_new_seeds(city, tables, tmp_path, monkeypatch):
    path = probe(city, tables[:1], tmp_path, RIDGE, quiet)
    before, asked, fit = path.read_bytes(), [], loop._fit
    monkeypatch.setattr(loop, "_fit", lambda X, name, tasks, *rest: (
        asked.append(len(tasks)) or fit(X, name, tasks, *rest)
    ))  # fmt: skip
    probe(city, tables[:1], tmp_path, RIDGE, quiet)
    assert path.read_bytes() == before
    assert asked == []
    probe(city, tables[:1], tmp_path, replace(RIDGE, seeds=3), quiet)
    assert set(asked) == {2}  # indicators, of one more split
    assert path.read_bytes().startswith(before)


def test_interrupted_run_resumes_to_the_same_rows(city, tables, tmp_path, results):
    def interrupted(batches, **_):
        yield from batches[:7]
        raise KeyboardInterrupt

    settings = replace(FAST, probes=("ridge",))
    with pytest.raises(KeyboardInterrupt):
        probe(city, tables, tmp_path, settings, interrupted)
    path = tmp_path / "results.jsonl"
    path.write_bytes(path.read_bytes()[:-30])  # truncate the last row
    probe(city, tables, tmp_path, settings, quiet)
    rows, expected = (
        {row.key: row.r2 for row in read_rows(one) if row.probe != "mlp"} for one in (path, results)
    )
    assert rows == pytest.approx(expected, abs=1e-5)


def test_damaged_files_are_set_aside_and_recomputed(city, tables, tmp_path):
    probe(city, tables[1:], tmp_path, RIDGE, quiet)
    before = {row.key: row.r2 for row in read_rows(tmp_path / "results.jsonl")}
    predictions = sorted((tmp_path / PREDICTIONS_FOLDER).glob("*.parquet"))
    validation = sorted((tmp_path / VALIDATION_FOLDER).glob("*.parquet"))
    files = [*predictions[:2], validation[2], tmp_path / "probe.json"]
    for path, how in zip(files, ("flip", "gone", "zero", "truncate"), strict=True):
        damage(path, how)
    probe(city, tables[1:], tmp_path, RIDGE, quiet)
    assert {row.key: row.r2 for row in read_rows(tmp_path / "results.jsonl")} == before
    assert len(list(tmp_path.rglob("*.damaged-*"))) == 3
    found = read_predictions(tmp_path / PREDICTIONS_FOLDER, {})[list(KEY)]
    assert set(found.itertuples(index=False, name=None)) == set(before)
    assert unpredicted(tmp_path, read_rows(tmp_path / "results.jsonl")) == set()


def test_changed_embeddings_or_labels_outdate_rows(city, tables, tmp_path):
    for table in tables:  # in separate runs
        probe(city, [table], tmp_path, ONE_SPLIT, quiet)
    found = read_city(tmp_path)
    assert found.outdated == 0
    assert set(found.frame["system"]) >= {"colour_texture", "oracle", "mean"}
    probe(city, [replace(tables[1], hash="f" * 16)], tmp_path, ONE_SPLIT, quiet)
    found = read_city(tmp_path)
    assert found.outdated == 2 * 2  # indicators, alone and combined with coordinates
    hashes = found.frame.groupby("system")["embedding_hash"].unique()
    assert hashes["oracle"].tolist() == ["f" * 16]
    other = [replace(target, y=target.y + 1) for target in city.targets]
    probe(replace(city, targets=other), tables, tmp_path, ONE_SPLIT, quiet)
    current = read_city(tmp_path)
    assert current.outdated == len(found.frame) + found.outdated
    assert len(current.frame) == len(found.frame)


def test_probe_seeds_vary_only_the_mlp(city, tables, tmp_path):
    settings = replace(ONE_SPLIT, probes=FAST.probes, probe_seeds=2)
    rows = list(read_rows(probe(city, tables[:1], tmp_path, settings, quiet)))
    mlp = {(r.indicator, r.probe_seed): r.r2 for r in rows if r.probe == "mlp"}
    assert {seed for _, seed in mlp} == {0, 1000}
    assert mlp["population", 0] != mlp["population", 1000]
    assert {r.probe_seed for r in rows if r.probe != "mlp"} == {0}
    assert [ProbeSettings().for_regions(n).seeds for n in (999, 1000)] == [10, 5]


def test_regions_without_coordinates_have_no_blocks(city, tables, tmp_path):
    nowhere = replace(city, regions=city.regions.assign(lon=np.nan, lat=np.nan))
    path = probe(nowhere, tables[1:], tmp_path, RIDGE, quiet)
    assert {(row.system, row.protocol) for row in read_rows(path)} == {
        ("mean", "random"),
        ("oracle", "random"),
    }
    summary = summary_of(path)
    assert summary["without_coordinates"] == summary["regions"]["compared"]
    assert any("coordinates of all regions" in item["reason"] for item in summary["skipped"])


def test_inconsistent_tables_raise(city, tables, tmp_path):
    strange = replace(tables[0], region_ids=[f"x{i}" for i in tables[0].region_ids])
    street = replace(tables[0], vectors={"street_view": tables[0].vectors["street_view"]})
    for given, message in (
        ([tables[1], tables[1]], "Several tables are labelled 'oracle'"),
        ([replace(tables[0], label="mean")], "'mean' is that of a control"),
        ([strange], r"No region of 'toytown'.*not in table colour_texture"),
        ([street], "of view 'satellite' or 'both' in: colour_texture"),
    ):
        with pytest.raises(InputError, match=message):
            probe(city, given, tmp_path, FAST, quiet)


def test_systems_are_scored_in_their_views_on_common_regions(city, tables, tmp_path):
    features = tables[0].vectors["satellite"]
    satellite = replace(tables[0], label="one", vectors={"satellite": features})
    some = np.where(np.arange(len(features))[:, None] < 5, np.nan, features)
    fused = replace(tables[0], label="two", vectors={"both": some})
    settings = replace(ONE_SPLIT, views=None)
    path = probe(city, [satellite, fused, tables[1]], tmp_path, settings, quiet)
    rows = list(read_rows(path))
    seen = {(r.system, r.view) for r in rows if r.view != "none" and not r.beside}
    assert seen == {
        ("one", "satellite"),
        ("two", "both"),
        *(("oracle", view) for view in ("satellite", "street_view", "both")),
    }
    assert len({(row.n_train, row.n_test) for row in rows if row.indicator == "green_share"}) == 1
    summary = summary_of(path)
    assert summary["regions"]["dropped"] == {"no both vector in table two": 5}
    assert summary["systems"]["one"]["views"] == ["satellite"]


def test_transform_labels():
    raw = np.array([0.0, np.e - 1, np.nan, -2.0, np.inf])
    logged, invalid = transform_labels(raw, "ln1p")
    np.testing.assert_allclose(logged, [0, 1, np.nan, np.nan, np.nan])
    assert invalid == 2
    same, invalid = transform_labels(raw, "identity")
    np.testing.assert_allclose(same, [0, np.e - 1, np.nan, -2, np.nan])
    assert invalid == 1
    with pytest.raises(InputError, match="Unknown transform 'log10'"):
        transform_labels(raw, "log10")


def test_coverage_by_decile_equals_a_manual_calculation():
    labels = np.r_[np.arange(20.0), np.nan]
    has_image = np.r_[np.arange(20) >= 3, True]
    assert covered_by_decile(labels, has_image) == (0.0, 0.5, *[1.0] * 8)
    ties = np.r_[np.zeros(5), 1.0, 2, 3, 4, 5]
    covered = covered_by_decile(ties, np.r_[True, np.zeros(9, bool)])
    assert covered[2] == 0.2  # mean rank of five zeros among ten
    assert np.isnan([*covered[:2], *covered[3:5]]).all()
    assert covered[5:] == (0.0,) * 5


def test_outlier_is_outside_the_area_of_applicability():
    rng = np.random.default_rng(3)
    X = np.r_[rng.normal(size=(100, 4)), rng.normal(size=(3, 4)), [[30.0] * 4]]
    folds = np.r_[np.arange(100) % 5, [-1] * 4]
    assert unlike(X, folds, np.arange(100, 104)).tolist() == [False, False, False, True]
