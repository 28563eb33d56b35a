"""Combinations of embeddings with coordinates, POI counts, GeoCLIP and other tables."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from pipelines.common.encoders.geoclip import encode_places
from pipelines.evaluation import cli
from pipelines.evaluation.analysis.added import added_rows, added_table
from pipelines.evaluation.analysis.bootstrap import DrawnCell, DrawnScores, draw_blocks
from pipelines.evaluation.embed.tables import EmbeddingTable, read_embeddings
from pipelines.evaluation.embed.trainings import Training
from pipelines.evaluation.errors import InputError
from pipelines.evaluation.probe.city import City, open_city
from pipelines.evaluation.probe.controls import coordinate_basis
from pipelines.evaluation.probe.models import RidgeSettings
from pipelines.evaluation.probe.predictions import PREDICTIONS_FOLDER, current_predictions
from pipelines.evaluation.probe.results import read_rows
from pipelines.evaluation.probe.run import ProbeSettings, compared_regions, probe
from pipelines.evaluation.probe.splits import BlockSplitter, geography
from pipelines.evaluation.report.frame import read_city
from pipelines.evaluation.report.summary import added_tables
from pipelines.evaluation.urban_regression.metrics import regression_metrics
from tests.pipelines.evaluation.toy import CITY, build_toy

from .test_transfer import make_city

ALPHA = 3.0
SETTINGS = ProbeSettings(
    protocols=("block",),
    probes=("ridge",),
    seeds=2,
    ridge=RidgeSettings((ALPHA,)),
    beside=("earth",),
)


def quiet(batches, **_):
    return batches


def table(label, seed, n, width=3, **metadata) -> EmbeddingTable:
    vectors = np.random.default_rng(seed).normal(seed, 1 + seed, (n, width)).astype(np.float32)
    ids = [f"r{i}" for i in range(n)]
    metadata = {"uses": ["satellite"], **metadata}
    return EmbeddingTable(label, metadata, ids, {"satellite": vectors}, f"{label:0<16}")


@pytest.fixture(scope="module")
def place() -> tuple[City, list[EmbeddingTable]]:
    """City with two indicators that depend on two embedding tables."""
    made = make_city("alpha", side=14)
    clip, earth = made.tables[0], table("earth", 1, 196)
    (target,) = made.city.targets
    y = target.y + earth.vectors["satellite"][:, 0]
    targets = [replace(target, y=y), replace(target, name="gdp", y=y**2)]
    return replace(made.city, targets=targets), [clip, earth]


@pytest.fixture(scope="module")
def folder(place, tmp_path_factory):
    folder = tmp_path_factory.mktemp("beside")
    probe(*place, folder, SETTINGS, quiet)
    return folder


def test_combination_equals_scikit_learn_ridge(place, folder):
    city, (clip, earth) = place
    vectors = {one.label: one.vectors["satellite"].astype(float) for one in (clip, earth)}
    where = geography(city.regions, city.block_m)
    inputs = {
        "earth+clip": np.concatenate([vectors["clip"], vectors["earth"]], axis=1),
        "coordinates+earth": np.concatenate([vectors["earth"], coordinate_basis(where.xy)], axis=1),
    }
    rows = {(row.system, row.split_seed, row.indicator): row for row in _rows(folder)}
    for name, X in inputs.items():
        for seed in range(2):
            split = BlockSplitter(city.regions, where).split(seed)
            x = StandardScaler().fit(X[split.train]).transform(X)
            for target in city.targets:
                model = Ridge(ALPHA).fit(x[split.train], target.y[split.train])
                expected = regression_metrics(model.predict(x[split.test]), target.y[split.test])
                assert rows[name, seed, target.name].r2 == pytest.approx(expected["r2"])


def _rows(folder):
    return list(read_rows(folder / "results.jsonl"))


def test_rows_name_the_combined_input(folder):
    found = {(row.system, row.beside, row.view, row.probe, *row.uses) for row in _rows(folder)}
    assert {row for row in found if row[1]} == {
        ("coordinates+clip", "coordinates", "satellite", "ridge", "coordinates", "satellite"),
        ("coordinates+earth", "coordinates", "satellite", "ridge", "coordinates", "satellite"),
        ("earth+clip", "earth", "satellite", "ridge", "satellite"),
    }
    assert {row[0] for row in found if not row[1]} == {"mean", "coordinates", "clip", "earth"}


def test_existing_rows_are_kept_until_the_other_table_changes(place, tmp_path):
    city, (clip, earth) = place
    probe(city, [clip, earth], tmp_path, replace(SETTINGS, beside=()), quiet)
    alone = (tmp_path / "results.jsonl").read_bytes()
    probe(city, [clip, earth], tmp_path, SETTINGS, quiet)
    assert (tmp_path / "results.jsonl").read_bytes().startswith(alone)
    assert read_city(tmp_path).outdated == 0
    probe(city, [clip, replace(earth, hash="e" * 16)], tmp_path, SETTINGS, quiet)
    # earth, coordinates+earth, earth+clip; indicators and splits
    assert read_city(tmp_path).outdated == 3 * 2 * 2


# ---- added value --------------------------------------------------------------------------------


def test_added_rows_equal_a_manual_calculation():
    def scores(*draws):
        return DrawnScores((0,), {"r2": np.array([draws])})

    # the first number is the sample itself, the other three are draws
    alone, other = scores(0.3, 0.2, 0.3, 0.4), scores(0.5, 0.4, 0.5, 0.6)
    names = {"earth": ("earth", "satellite", "ridge")}
    systems = {
        ("clip", "street_view", "ridge"): alone,
        ("earth", "satellite", "ridge"): other,
        ("earth+clip", "street_view", "ridge"): scores(0.6, 0.5, 0.7, 0.7),
    }
    less = {**systems, ("earth+clip", "street_view", "ridge"): other}
    cells = [DrawnCell("block", "gdp", 7, systems), DrawnCell("block", "carbon", 9, less)]
    found = added_rows(cells, names, level=0.5).set_index(["system", "beside", "indicator"])
    # differences of the draws: 0.1, 0.2, 0.1; their quartiles are 0.1 and 0.15
    gdp = found.loc["clip", "earth", "gdp"]
    assert gdp[["r2", "without", "added", "low", "high"]].tolist() == pytest.approx(
        [0.6, 0.5, 0.1, 0.1, 0.15]
    )
    assert gdp[["splits", "blocks"]].tolist() == [1, 7]
    # over both indicators, draw by draw: 0.05, 0.1, 0.05
    mean = found.loc["clip", "earth", "mean"]
    assert mean[["r2", "without", "added", "low", "high"]].tolist() == pytest.approx(
        [0.55, 0.5, 0.05, 0.05, 0.075]
    )
    alone_row = found.loc["clip", "", "gdp"]
    assert alone_row["r2"] == pytest.approx(0.3)
    assert alone_row[["without", "added", "low", "high"]].isna().all()
    assert found.index.get_level_values("system")[0] == "earth"  # the best alone comes first


def test_added_table_equals_a_loop_over_blocks(folder):
    found = added_table(folder, replicates=60).set_index(["system", "beside", "indicator"])
    frame = current_predictions(folder, PREDICTIONS_FOLDER)
    frame = frame[frame["indicator"] == "gdp"]
    blocks = np.unique(frame["block_id"])
    for beside in ("earth", "coordinates"):
        differences = []
        for draw in [np.ones(len(blocks)), *draw_blocks(len(blocks), 60, seed=0)]:
            times = dict(zip(blocks, draw.astype(int), strict=True))
            by_split = [
                _r2(part, f"{beside}+clip", times) - _r2(part, beside, times)
                for _, part in frame.groupby("split_seed")
            ]
            differences.append(np.nanmean(by_split))
        row = found.loc["clip", beside, "gdp"]
        expected = differences[0], *np.quantile(differences[1:], [0.025, 0.975])
        assert row[["added", "low", "high"]].tolist() == pytest.approx(expected)
        assert row["added"] == pytest.approx(row["r2"] - row["without"])
    assert found.loc["clip", "earth", "mean"]["low"] > 0  # the labels follow from both


def test_report_shows_added_value(folder):
    city = read_city(folder)
    (shown,) = added_tables(city)
    assert "Added value of embeddings" in shown.title
    parts = ("alone", "added to location", "added to earth")
    groups = ("mean", "population", "gdp")
    names = [column.full_name for column in shown.columns]
    assert names == ["system", "view", *(f"{group} {part}" for group in groups for part in parts)]
    row = list(shown.columns[0].text).index("clip")
    written = pd.read_csv(folder / "added.csv", keep_default_na=False)
    own = written.query("system == 'clip' and beside == 'earth' and indicator == 'gdp'").iloc[0]
    estimate, low, high = (float(own[name]) for name in ("added", "low", "high"))
    assert shown.columns[-1].text[row] == f"{estimate:+.3f} [{low:+.3f}, {high:+.3f}]"
    assert shown.columns[-1].text[list(shown.columns[0].text).index("earth")] == "–"


def _r2(frame: pd.DataFrame, system: str, times: dict[int, int]) -> float:
    own = frame[(frame["system"] == system) & (frame["probe"] == "ridge")]
    drawn = own.loc[own.index.repeat(own["block_id"].map(times))]
    if drawn.empty:
        return np.nan
    return float(regression_metrics(drawn["prediction"], drawn["truth"])["r2"])


# ---- controls -----------------------------------------------------------------------------------


def test_poi_counts_are_combined_without_leaking_columns(place, tmp_path):
    city, tables = place
    n = len(city.regions)
    counts = np.random.default_rng(0).poisson(5.0, (2, n)).astype(float)
    counts[0, 3] = np.nan
    regions = city.regions.assign(poi_food=counts[0], poi_shop=counts[1])
    food = replace(city.targets[0], name="poi_food", y=np.log1p(counts[0]))
    rich = replace(city, regions=regions, targets=[city.targets[0], food])
    probe(rich, tables[:1], tmp_path, replace(SETTINGS, beside=("poi_counts",)), quiet)
    rows = [row for row in _rows(tmp_path) if row.system == "poi_counts+clip"]
    assert {(row.indicator, row.beside) for row in rows} == {
        ("population", "poi_counts"),
        ("poi_food", "poi_counts"),
    }
    # poi_food is predicted without its own column
    assert max(row.r2 for row in rows if row.indicator == "poi_food") < 0.5
    assert "1 no points of interest counted" in compared_regions(tmp_path)
    found = added_table(tmp_path, replicates=20)
    assert {"", "coordinates", "poi_counts"} == set(found["beside"])


def test_geoclip_is_an_optional_control(place, tmp_path):
    pytest.importorskip("geoclip")
    city, tables = place
    regions = city.regions.assign(lon=city.regions["lon"].where(city.regions.index != 5))
    settings = replace(SETTINGS, controls=("geoclip",), beside=("geoclip",), protocols=("random",))
    probe(replace(city, regions=regions), tables, tmp_path, settings, quiet)
    rows = [row for row in _rows(tmp_path) if row.system == "geoclip"]
    assert {(row.view, row.probe, *row.uses) for row in rows} == {
        ("none", "ridge", "coordinates", "geoclip")
    }
    assert {row.system for row in _rows(tmp_path)} >= {"coordinates+geoclip", "geoclip+clip"}
    assert compared_regions(tmp_path) == (
        "Compared: 195 of 196 regions. Left out: 1 no coordinates, for geoclip."
    )
    assert read_city(tmp_path).outdated == 0


# ---- bad input ----------------------------------------------------------------------------------


def test_regions_missing_in_a_table_are_excluded_for_all(place, tmp_path):
    city, (clip, earth) = place
    half = earth.vectors["satellite"][:98].copy()
    half[0] = np.nan
    half[1, 2] = np.nan
    halved = replace(earth, region_ids=earth.region_ids[:98], vectors={"satellite": half})
    settings = replace(SETTINGS, protocols=("random",))
    probe(city, [clip, halved], tmp_path, settings, quiet)
    assert compared_regions(tmp_path) == (
        "Compared: 96 of 196 regions. Left out: 98 not in table earth; 1 missing values in the "
        "satellite vector in table earth; 1 no satellite vector in table earth."
    )
    assert {row.n_train + row.n_validation + row.n_test for row in _rows(tmp_path)} == {96}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"beside": ("erth",)}, "no table is labelled 'erth'; there are clip, earth, coordinates"),
        ({"beside": ("earth", "earth")}, "takes each name once, got earth earth"),
        ({"beside": ("poi_counts",)}, "regions of 'alpha' have no column poi_<category>"),
        ({"beside": ("geoclip",)}, "add `--controls geoclip`"),
        ({"probes": ("mlp",)}, "measured by the ridge probe: add it to --probes"),
    ],
)
def test_invalid_beside_raises(place, tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        probe(*place, tmp_path, replace(SETTINGS, **changes), quiet)
    assert not list(tmp_path.iterdir())


def test_beside_itself_or_one_of_several_trainings_raises(place, tmp_path):
    city, (clip, earth) = place
    with pytest.raises(InputError, match="earth: a table adds nothing to itself"):
        probe(city, [earth], tmp_path, SETTINGS, quiet)
    twice = [
        replace(earth, label=f"earth-s{seed}", metadata=Training("earth", seed).metadata())
        for seed in (0, 1)
    ]
    with pytest.raises(InputError, match="one of 2 trainings of 'earth'"):
        probe(city, [clip, *twice], tmp_path, replace(SETTINGS, beside=("earth-s0",)), quiet)
    with pytest.raises(InputError, match=r"'a\+b' must not contain '\+'"):
        probe(city, [replace(clip, label="a+b")], tmp_path, replace(SETTINGS, beside=()), quiet)


def test_unknown_control_is_a_one_line_error(capsys):
    words = ["probe", "--embeddings", "e", "--dataset_name", "d", "--city", "c"]
    assert cli.main([*words, "--output_dir", "o", "--controls", "satclip"]) == 2
    error = capsys.readouterr().err
    assert "--controls takes some of geoclip, each once; got ['satclip']." in error
    assert error.count("\n") == 1


def test_summary_names_combined_inputs(folder):
    summary = json.loads((folder / "probe.json").read_text())
    earth = {"view": "satellite", "hash": "earth00000000000/satellite"}
    assert summary["beside"] == {"earth": earth}
    assert summary["controls"] == {}


def test_geoclip_embeddings_of_regions_are_a_table(tmp_path, capsys):
    pytest.importorskip("geoclip")
    dataset = build_toy(tmp_path / "dataset", side=6, street_views=1)
    words = ["--dataset_name", str(dataset), "--city", CITY, "--output_dir"]
    assert cli.main(["embed", "--encoder", "geoclip", *words, str(tmp_path)]) == 0
    table = read_embeddings(tmp_path / CITY / "geoclip.parquet")
    assert (table.label, table.views, table.uses) == (
        "geoclip",
        ["both"],
        ["coordinates", "geoclip"],
    )
    regions = open_city(str(dataset), CITY).regions
    expected, _ = encode_places(regions["lon"].to_numpy(), regions["lat"].to_numpy())
    np.testing.assert_array_equal(table.vectors["both"], expected)
    path = str(tmp_path / CITY / "geoclip.parquet")
    words = ["probe", "--embeddings", path, *words, str(tmp_path / "results"), "--probes", "ridge"]
    assert cli.main([*words, "--protocols", "random", "--seeds", "1"]) == 0
    assert "Compared: 36 of 36 regions." in capsys.readouterr().out
    assert cli.main([*words, "--controls", "geoclip"]) == 2
    assert "The label 'geoclip' is that of a control" in capsys.readouterr().err
