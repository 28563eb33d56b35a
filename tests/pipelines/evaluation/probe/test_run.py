import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipelines.common.encoders.colour_texture import ColourTextureEncoder
from pipelines.evaluation.embed.images import EmbedSettings, embed
from pipelines.evaluation.embed.sources import open_images
from pipelines.evaluation.embed.tables import read_embeddings, write_embeddings
from pipelines.evaluation.errors import InputError
from pipelines.evaluation.probe.city import open_city, transform_labels
from pipelines.evaluation.probe.loop import default_seeds
from pipelines.evaluation.probe.models import MLPSettings
from pipelines.evaluation.probe.predictions import (
    PREDICTIONS_FOLDER,
    VALIDATION_FOLDER,
    read_predictions,
    unpredicted,
)
from pipelines.evaluation.probe.reach import covered_by_decile
from pipelines.evaluation.probe.results import KEY, code_revision, read_rows
from pipelines.evaluation.probe.run import ProbeSettings, probe
from pipelines.evaluation.probe.splits import BlockSplitter, geography
from pipelines.evaluation.report.frame import read_city
from pipelines.evaluation.urban_regression.metrics import regression_metrics
from tests.damage import damage
from tests.pipelines.evaluation.toy import CITY, build_toy

FAST = ProbeSettings(
    seeds=2,
    views=("satellite", "both"),
    mlp=MLPSettings(weight_decays=(1e-2,), max_epochs=8, patience=3, hidden_sizes=(16, 8)),
)


def quiet(batches, **_):
    return batches


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    return build_toy(tmp_path_factory.mktemp("probe"), side=12, street_views=1)


@pytest.fixture(scope="module")
def city(dataset):
    return open_city(str(dataset), CITY)


@pytest.fixture(scope="module")
def tables(dataset, tmp_path_factory):
    """Colour and texture features, and an oracle computed from the labels."""
    folder = tmp_path_factory.mktemp("tables")
    source = open_images(str(dataset), CITY)
    path = embed(ColourTextureEncoder(), source, folder, "colour_texture", EmbedSettings())
    simple = read_embeddings(path)
    population = np.log1p(open_city(str(dataset), CITY).regions["population"].fillna(50))
    vectors = np.stack([population, population**2], axis=1).astype(np.float32)
    counts = np.ones(len(vectors), dtype=np.int64)
    write_embeddings(
        folder / "oracle.parquet",
        simple.region_ids,
        {"street_view": counts, "satellite": counts},
        {"street_view": vectors, "satellite": vectors},
        {**simple.metadata, "label": "oracle", "encoder": "the answer", "dim": 2},
    )
    return [simple, read_embeddings(folder / "oracle.parquet")]


@pytest.fixture(scope="module")
def results(city, tables, tmp_path_factory):
    return probe(city, tables, tmp_path_factory.mktemp("results") / CITY, FAST, quiet)


def test_every_system_is_scored_on_the_same_cells(results):
    rows = list(read_rows(results))
    cells = {}
    for row in rows:
        cell = (row.indicator, row.protocol, row.split_seed, row.n_train, row.n_test)
        cells.setdefault((row.system, row.view, row.probe), set()).add(
            (*cell, row.n_validation, row.label_sd_test)
        )
    assert set(cells) == {
        ("mean", "none", "mean"),
        *(("coordinates", "none", name) for name in ("knn", "gbm", "ridge")),
        *(
            (system, view, name)
            for system in ("colour_texture", "oracle")
            for view in ("satellite", "both")
            for name in ("mlp", "ridge")
        ),
        *(
            (f"coordinates+{system}", view, "ridge")
            for system in ("colour_texture", "oracle")
            for view in ("satellite", "both")
        ),
    }
    assert len({frozenset(group) for group in cells.values()}) == 1
    assert len(next(iter(cells.values()))) == 2 * 2 * 2  # indicators, protocols, splits


def test_oracle_scores_high_and_mean_scores_zero(results):
    by_system = {}
    for row in read_rows(results):
        if row.indicator == "population" and row.probe in ("ridge", "mean"):
            by_system.setdefault((row.system, row.protocol), []).append(row.r2)
    for protocol in ("random", "block"):
        assert min(by_system["oracle", protocol]) > 0.99
        assert max(by_system["mean", protocol]) <= 0
    assert min(by_system["coordinates+oracle", "block"]) > 0.95
    assert max(by_system["coordinates", "block"]) < 0.9


def test_cells_without_labels_are_skipped_with_the_reason(results):
    skipped = json.loads((results.parent / "probe.json").read_text())["skipped"]
    reasons = {(item["indicator"], item["reason"]) for item in skipped}
    assert reasons == {
        ("nothing", "no region has a label"),
        ("same", "the labels in train are constant"),
    }
    assert len(skipped) == 2 * 2 * 2


def test_regions_without_an_embedding_are_excluded_for_all(results):
    regions = json.loads((results.parent / "probe.json").read_text())["regions"]
    # region 0 has no street view and is excluded for all views
    assert regions["dropped"] == {"no both vector in table colour_texture": 1}
    assert regions["compared"] == regions["all"] - 1


def test_summary_has_coverage_and_regions_outside_the_training_distribution(city, tables, tmp_path):
    """Outliers in a held-out district, and a region without embeddings."""
    place = geography(city.regions)
    held_out = BlockSplitter(city.regions, place).split(0).test
    vectors = {view: own.copy() for view, own in tables[1].vectors.items()}
    for own in vectors.values():
        own[held_out[:4]] += 1000
        own[0] = np.nan
    odd = replace(tables[1], vectors=vectors)
    settings = replace(FAST, seeds=1, probes=("ridge",), protocols=("random",))
    path = probe(city, [odd], tmp_path / CITY, settings, quiet)
    summary = json.loads((path.parent / "probe.json").read_text())
    measured = summary["systems"]["oracle"]["reach"]["both"]["population"]
    assert measured["outside"] == len(set(held_out) - {0})
    assert 4 - (0 in held_out[:4]) <= measured["unlike"] < measured["outside"]
    has = np.arange(len(city.regions)) > 0
    population = next(one.y for one in city.targets if one.name == "population")
    assert measured["covered"] == list(covered_by_decile(population, has))
    assert min(measured["covered"]) < 1


def test_second_run_computes_only_new_seeds(city, tables, tmp_path, monkeypatch):
    from pipelines.evaluation.probe import loop as module

    settings = replace(FAST, probes=("ridge",), views=("satellite",))
    path = probe(city, tables, tmp_path, settings, quiet)
    before = path.read_bytes()
    asked = []
    fit = module._fit

    def counting(X, name, tasks, *rest):
        asked.append(len(tasks))
        return fit(X, name, tasks, *rest)

    monkeypatch.setattr(module, "_fit", counting)
    probe(city, tables, tmp_path, settings, quiet)
    assert path.read_bytes() == before
    assert asked == []
    probe(city, tables, tmp_path, replace(settings, seeds=3), quiet)
    assert set(asked) == {2}  # indicators, of one more split
    assert path.read_bytes().startswith(before)


def test_interrupted_run_resumes_to_the_same_rows(city, tables, tmp_path, results):
    def interrupted(batches, **_):
        for index, batch in enumerate(batches):
            if index == 7:
                raise KeyboardInterrupt
            yield batch

    with pytest.raises(KeyboardInterrupt):
        probe(city, tables, tmp_path, FAST, interrupted)
    path = tmp_path / "results.jsonl"
    path.write_bytes(path.read_bytes()[:-30])  # truncate the last row
    probe(city, tables, tmp_path, FAST, quiet)
    rows, expected = ({r.key: r for r in read_rows(p)} for p in (path, results))
    assert set(rows) == set(expected)
    for key, row in rows.items():
        assert row.r2 == pytest.approx(expected[key].r2, abs=1e-5)


def test_damaged_files_are_set_aside_and_recomputed(city, tables, tmp_path):
    settings = replace(FAST, probes=("ridge",), views=("satellite",))
    probe(city, tables, tmp_path, settings, quiet)
    before = {row.key: row.r2 for row in read_rows(tmp_path / "results.jsonl")}
    predictions = sorted((tmp_path / PREDICTIONS_FOLDER).glob("*.parquet"))
    validation = sorted((tmp_path / VALIDATION_FOLDER).glob("*.parquet"))
    files = [*predictions[:2], validation[2], tmp_path / "probe.json"]
    for path, how in zip(files, ("flip", "gone", "zero", "truncate"), strict=True):
        damage(path, how)
    probe(city, tables, tmp_path, settings, quiet)
    assert {row.key: row.r2 for row in read_rows(tmp_path / "results.jsonl")} == before
    assert len(list(tmp_path.rglob("*.damaged-*"))) == 3
    found = read_predictions(tmp_path / PREDICTIONS_FOLDER, {})[list(KEY)]
    assert set(found.itertuples(index=False, name=None)) == set(before)
    assert unpredicted(tmp_path, read_rows(tmp_path / "results.jsonl")) == set()


def test_systems_of_separate_runs_share_a_table(city, tables, tmp_path):
    settings = replace(FAST, probes=("ridge",), views=("satellite",))
    for table in tables:
        probe(city, [table], tmp_path, settings, quiet)
    found = read_city(tmp_path)
    assert found.outdated == 0
    assert set(found.frame["system"]) >= {"colour_texture", "oracle", "mean"}
    # new embeddings under the same label: old rows are outdated
    changed = replace(tables[1], hash="f" * 16)
    probe(city, [changed], tmp_path, settings, quiet)
    found = read_city(tmp_path)
    assert found.outdated == 2 * 2 * 2 * 2  # alone and combined with coordinates
    hashes = found.frame.groupby("system")["embedding_hash"].unique()
    assert hashes["oracle"].tolist() == ["f" * 16]


def test_rows_of_other_labels_are_outdated(city, tables, tmp_path):
    settings = replace(FAST, probes=("ridge",), views=("satellite",))
    probe(city, tables[:1], tmp_path, settings, quiet)
    first = len(read_city(tmp_path).frame)
    other = [replace(target, y=target.y + 1) for target in city.targets]
    probe(replace(city, targets=other), tables[:1], tmp_path, settings, quiet)
    found = read_city(tmp_path)
    assert found.outdated == first == len(found.frame)


def test_probe_seeds_vary_only_the_mlp(city, tables, tmp_path):
    settings = replace(FAST, probe_seeds=2, seeds=1, protocols=("random",), views=("satellite",))
    rows = list(read_rows(probe(city, tables[:1], tmp_path, settings, quiet)))
    mlp = {(r.indicator, r.probe_seed): r.r2 for r in rows if r.probe == "mlp"}
    assert {seed for _, seed in mlp} == {0, 1000}
    assert mlp["population", 0] != mlp["population", 1000]
    assert {r.probe_seed for r in rows if r.probe != "mlp"} == {0}


def test_regions_without_coordinates_have_no_blocks_and_no_coordinate_control(
    city, tables, tmp_path
):
    nowhere = replace(city, regions=city.regions.assign(lon=np.nan, lat=np.nan))
    settings = replace(FAST, probes=("ridge",), views=("satellite",))
    rows = list(read_rows(probe(nowhere, tables, tmp_path, settings, quiet)))
    assert {row.protocol for row in rows} == {"random"}
    assert "coordinates" not in {row.system for row in rows}
    summary = json.loads((tmp_path / "probe.json").read_text())
    assert summary["without_coordinates"] == summary["regions"]["compared"]
    assert any("coordinates of all regions" in item["reason"] for item in summary["skipped"])


def test_inconsistent_tables_raise(city, tables, tmp_path):
    with pytest.raises(InputError, match="Several tables are labelled 'oracle'"):
        probe(city, [tables[1], tables[1]], tmp_path, FAST, quiet)
    with pytest.raises(InputError, match="'mean' is that of a control"):
        probe(city, [replace(tables[0], label="mean")], tmp_path, FAST, quiet)
    strange = replace(tables[0], region_ids=[f"x{i}" for i in tables[0].region_ids])
    with pytest.raises(InputError, match=r"No region of 'toytown'.*not in table colour_texture"):
        probe(city, [strange], tmp_path, FAST, quiet)
    blind = replace(
        tables[0], vectors={v: np.full_like(x, np.nan) for v, x in tables[0].vectors.items()}
    )
    with pytest.raises(InputError, match="No vectors in: colour_texture"):
        probe(city, [blind], tmp_path, replace(FAST, views=None), quiet)
    with pytest.raises(InputError, match="of view 'satellite' or 'both' in: colour_texture"):
        probe(city, [blind], tmp_path, FAST, quiet)
    with pytest.raises(InputError, match="Unknown view 'sea'"):
        probe(city, tables, tmp_path, replace(FAST, views=("sea",)), quiet)


def with_views(table, label, views, **metadata):
    """Copy of a table with the given views; `both` equals `satellite`."""
    columns = {"both": table.vectors["satellite"], **table.vectors}
    return replace(
        table,
        label=label,
        metadata={**table.metadata, "label": label, **metadata},
        vectors={view: columns[view] for view in views},
        hash=label * 3,
    )


def test_systems_are_scored_in_their_views_on_common_regions(city, tables, tmp_path):
    satellite = with_views(tables[0], "one", ["satellite"])
    fused = with_views(tables[0], "two", ["both"])
    some = np.where(np.arange(len(city.regions))[:, None] < 5, np.nan, fused.vectors["both"])
    fused = replace(fused, vectors={"both": some})
    settings = replace(FAST, probes=("ridge",), views=None, seeds=1, protocols=("random",))
    path = probe(city, [satellite, fused, tables[1]], tmp_path, settings, quiet)
    rows = list(read_rows(path))
    seen = {(r.system, r.view) for r in rows if r.view != "none" and "coordinates" not in r.uses}
    assert seen == {
        ("one", "satellite"),
        ("two", "both"),
        *(("oracle", view) for view in ("satellite", "street_view", "both")),
    }
    assert len({(row.n_train, row.n_test) for row in rows if row.indicator == "green_share"}) == 1
    summary = json.loads((tmp_path / "probe.json").read_text())
    assert summary["regions"]["dropped"] == {"no both vector in table two": 5}
    assert summary["systems"]["one"]["views"] == ["satellite"]


def test_rows_record_inputs_and_hashes(results):
    rows = list(read_rows(results))
    assert {row.code_revision for row in rows} == {code_revision()}
    assert {row.source_city for row in rows} == {""}
    uses = {(row.system, *row.uses) for row in rows}
    assert uses == {
        ("mean",),
        ("coordinates", "coordinates"),
        *((name, "satellite", "street_view") for name in ("colour_texture", "oracle")),
        *(
            (f"coordinates+{name}", "coordinates", "satellite", "street_view")
            for name in ("colour_texture", "oracle")
        ),
    }
    hashes = {}
    for row in rows:
        hashes.setdefault(row.probe, set()).add(row.config_hash)
    assert all(len(found) == 1 for found in hashes.values())
    assert len(set.union(*hashes.values())) == len(hashes)


def test_default_number_of_splits(city, tables, tmp_path):
    assert [default_seeds(regions) for regions in (999, 1000)] == [10, 5]
    settings = replace(
        FAST, probes=("ridge",), views=("satellite",), protocols=("random",), seeds=None
    )
    rows = read_rows(probe(city, tables[:1], tmp_path, settings, quiet))
    assert {row.split_seed for row in rows} == set(range(10))


def test_test_and_validation_predictions_are_disjoint(results):
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


def test_files_that_are_not_tables_raise(tmp_path, results):
    with pytest.raises(InputError, match="There is no embedding table"):
        read_embeddings(tmp_path / "none.parquet")
    with pytest.raises(InputError, match="no embedding table"):
        read_embeddings(results.parent / "regions.parquet")
    (tmp_path / "text.parquet").write_text("no Parquet")
    with pytest.raises(InputError, match="not Parquet"):
        read_embeddings(tmp_path / "text.parquet")


def test_view_without_images_is_missing(tmp_path):
    path = tmp_path / "x.parquet"
    vectors = {view: np.ones((3, 4), np.float32) for view in ("street_view", "satellite")}
    counts = {"street_view": np.array([2, 0, 1]), "satellite": np.zeros(3, np.int64)}
    write_embeddings(path, ["a", "b", "c"], counts, vectors, {"label": "x"})
    table = read_embeddings(path)
    assert table.has("street_view").tolist() == [True, False, True]
    assert not table.has("satellite").any()
    assert not table.has("both").any()
    assert table.vectors["satellite"].shape == (3, 4)
