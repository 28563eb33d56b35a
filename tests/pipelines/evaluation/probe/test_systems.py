"""Combinations of embeddings with other inputs, and exclusion of inputs that leak an indicator."""

import json
from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from dataset_builders.schema import DatasetMetadata, Indicator
from dataset_builders.writer import DatasetWriter
from pipelines.common.encoders.geoclip import encode_places
from pipelines.evaluation.analysis.added import added_table
from pipelines.evaluation.analysis.bootstrap import draw_blocks
from pipelines.evaluation.baselines.data import load_region_data
from pipelines.evaluation.cli import main
from pipelines.evaluation.embed.poi import gives_away, training_columns
from pipelines.evaluation.embed.tables import EmbeddingTable, read_embeddings
from pipelines.evaluation.embed.trainings import Training
from pipelines.evaluation.errors import InputError
from pipelines.evaluation.probe.city import City, Target, open_city
from pipelines.evaluation.probe.controls import coordinate_basis
from pipelines.evaluation.probe.models import RidgeSettings
from pipelines.evaluation.probe.predictions import PREDICTIONS_FOLDER, current_predictions
from pipelines.evaluation.probe.results import read_rows
from pipelines.evaluation.probe.run import ProbeSettings, compared_regions, probe
from pipelines.evaluation.probe.splits import BlockSplitter, geography
from pipelines.evaluation.probe.transfer import CityTables, transfer_probe
from pipelines.evaluation.report.frame import read_city
from pipelines.evaluation.report.limits import limits
from pipelines.evaluation.urban_regression.metrics import regression_metrics
from tests.pipelines.evaluation.toy import CITY, picture

from .test_transfer import make_city, quiet

ALPHA = 3.0
SETTINGS = ProbeSettings(
    protocols=("block",),
    probes=("ridge",),
    seeds=2,
    ridge=RidgeSettings((ALPHA,)),
    beside=("earth",),
)
ALONE = replace(SETTINGS, beside=())
RANDOM = ProbeSettings(seeds=2, probes=("ridge",), protocols=("random",))
rng = np.random.default_rng(0)
FOOD, SHOP = (rng.integers(0, 50, 144).astype(float) for _ in range(2))
COUNTS = {"poi_food": FOOD, "poi_food_cafe": FOOD // 2, "poi_shop": SHOP}


@pytest.fixture(scope="module")
def place() -> tuple[City, list[EmbeddingTable]]:
    """City with two indicators that depend on two embedding tables."""
    made = make_city("alpha", side=14)
    vectors = np.random.default_rng(1).normal(1, 2, (196, 3)).astype(np.float32)
    earth = replace(made.tables[0], label="earth", vectors={"satellite": vectors}, hash="e" * 16)
    (target,) = made.city.targets
    y = target.y + vectors[:, 0]
    targets = [replace(target, y=y), replace(target, name="gdp", y=y**2)]
    return replace(made.city, targets=targets), [made.tables[0], earth]


@pytest.fixture(scope="module")
def folder(place, tmp_path_factory):
    folder = tmp_path_factory.mktemp("beside")
    probe(*place, folder, SETTINGS, quiet)
    return folder


def rows_of(folder):
    return list(read_rows(folder / "results.jsonl"))


def test_combination_equals_scikit_learn_ridge(place, folder):
    city, (clip, earth) = place
    vectors = {one.label: one.vectors["satellite"].astype(float) for one in (clip, earth)}
    where = geography(city.regions, city.block_m)
    inputs = {
        "earth+clip": np.concatenate([vectors["clip"], vectors["earth"]], axis=1),
        "coordinates+earth": np.concatenate([vectors["earth"], coordinate_basis(where.xy)], axis=1),
    }
    rows = {(row.system, row.split_seed, row.indicator): row for row in rows_of(folder)}
    for name, X in inputs.items():
        for seed in range(2):
            split = BlockSplitter(city.regions, where).split(seed)
            x = StandardScaler().fit(X[split.train]).transform(X)
            for target in city.targets:
                model = Ridge(ALPHA).fit(x[split.train], target.y[split.train])
                expected = regression_metrics(model.predict(x[split.test]), target.y[split.test])
                assert rows[name, seed, target.name].r2 == pytest.approx(expected["r2"])


def test_rows_name_the_combined_input(folder):
    found = {(row.system, row.beside, row.view, row.probe, *row.uses) for row in rows_of(folder)}
    assert {row for row in found if row[1]} == {
        ("coordinates+clip", "coordinates", "satellite", "ridge", "coordinates", "satellite"),
        ("coordinates+earth", "coordinates", "satellite", "ridge", "coordinates", "satellite"),
        ("earth+clip", "earth", "satellite", "ridge", "satellite"),
    }
    assert {row[0] for row in found if not row[1]} == {"mean", "coordinates", "clip", "earth"}
    summary = json.loads((folder / "probe.json").read_text())
    assert summary["beside"] == {"earth": {"view": "satellite", "hash": f"{'e' * 16}/satellite"}}
    assert summary["controls"] == {}


def test_rows_are_kept_until_the_other_table_changes(place, tmp_path):
    city, (clip, earth) = place
    probe(city, [clip, earth], tmp_path, ALONE, quiet)
    alone = (tmp_path / "results.jsonl").read_bytes()
    probe(city, [clip, earth], tmp_path, SETTINGS, quiet)
    assert (tmp_path / "results.jsonl").read_bytes().startswith(alone)
    assert read_city(tmp_path).outdated == 0
    probe(city, [clip, replace(earth, hash="f" * 16)], tmp_path, SETTINGS, quiet)
    # earth, coordinates+earth, earth+clip; indicators and splits
    assert read_city(tmp_path).outdated == 3 * 2 * 2


def test_added_table_equals_a_loop_over_blocks(folder):
    def r2(frame, system):
        own = frame[(frame["system"] == system) & (frame["probe"] == "ridge")]
        drawn = own.loc[own.index.repeat(own["block_id"].map(times))]
        if drawn.empty:
            return np.nan
        return float(regression_metrics(drawn["prediction"], drawn["truth"])["r2"])

    found = added_table(folder, replicates=20).set_index(["system", "beside", "indicator"])
    frame = current_predictions(folder, PREDICTIONS_FOLDER)
    frame = frame[frame["indicator"] == "gdp"]
    blocks = np.unique(frame["block_id"])
    for beside in ("earth", "coordinates"):
        differences = []
        for draw in [np.ones(len(blocks)), *draw_blocks(len(blocks), 20, seed=0)]:
            times = dict(zip(blocks, draw.astype(int), strict=True))
            parts = [part for _, part in frame.groupby("split_seed")]
            by_split = [r2(part, f"{beside}+clip") - r2(part, beside) for part in parts]
            differences.append(np.nanmean(by_split))
        row = found.loc["clip", beside, "gdp"]
        expected = differences[0], *np.quantile(differences[1:], [0.025, 0.975])
        assert row[["added", "low", "high"]].tolist() == pytest.approx(expected)
        assert row["added"] == pytest.approx(row["r2"] - row["without"])
    assert found.loc["clip", "earth", "mean"]["low"] > 0  # the labels follow from both


def test_geoclip_is_a_control_or_a_table(place, toy_dataset, tmp_path, capsys):
    pytest.importorskip("geoclip")
    city, tables = place
    regions = city.regions.assign(lon=city.regions["lon"].where(city.regions.index != 5))
    settings = replace(SETTINGS, controls=("geoclip",), beside=("geoclip",), protocols=("random",))
    probe(replace(city, regions=regions), tables, tmp_path / "r", settings, quiet)
    rows = rows_of(tmp_path / "r")
    assert {(row.view, row.probe, *row.uses) for row in rows if row.system == "geoclip"} == {
        ("none", "ridge", "coordinates", "geoclip")
    }
    assert {row.system for row in rows} >= {"coordinates+geoclip", "geoclip+clip"}
    assert compared_regions(tmp_path / "r") == (
        "Compared: 195 of 196 regions. Left out: 1 no coordinates, for geoclip."
    )
    assert read_city(tmp_path / "r").outdated == 0
    words = ["--dataset_name", str(toy_dataset), "--city", CITY, "--output_dir", str(tmp_path)]
    assert main(["embed", "--encoder", "geoclip", *words]) == 0
    path = tmp_path / CITY / "geoclip.parquet"
    table = read_embeddings(path)
    assert (table.views, table.uses) == (["both"], ["coordinates", "geoclip"])
    regions = open_city(str(toy_dataset), CITY).regions
    expected, _ = encode_places(regions["lon"].to_numpy(), regions["lat"].to_numpy())
    np.testing.assert_array_equal(table.vectors["both"], expected)
    assert main(["probe", "--embeddings", str(path), *words, "--controls", "geoclip"]) == 2
    assert "The label 'geoclip' is that of a control" in capsys.readouterr().err


def test_regions_missing_in_a_table_are_excluded_for_all(place, tmp_path):
    city, (clip, earth) = place
    half = earth.vectors["satellite"][:98].copy()
    half[0] = np.nan
    half[1, 2] = np.nan
    halved = replace(earth, region_ids=earth.region_ids[:98], vectors={"satellite": half})
    probe(city, [clip, halved], tmp_path, replace(ALONE, protocols=("random",)), quiet)
    assert compared_regions(tmp_path) == (
        "Compared: 96 of 196 regions. Left out: 98 not in table earth; 1 missing values in the "
        "satellite vector in table earth; 1 no satellite vector in table earth."
    )
    assert {row.n_train + row.n_validation + row.n_test for row in rows_of(tmp_path)} == {96}


def test_invalid_beside_raises(place, tmp_path):
    city, (clip, earth) = place
    twice = [
        replace(earth, label=f"earth-s{seed}", metadata=Training("earth", seed).metadata())
        for seed in (0, 1)
    ]
    for tables, changes, message in (
        ([clip, earth], {"beside": ("erth",)}, "labelled 'erth'; there are clip, earth, coord"),
        ([clip, earth], {"beside": ("poi_counts",)}, "of 'alpha' have no column poi_<category>"),
        ([clip, earth], {"probes": ("mlp",)}, "measured by the ridge probe: add it to --probes"),
        ([earth], {}, "earth: a table adds nothing to itself"),
        ([clip, *twice], {"beside": ("earth-s0",)}, "one of 2 trainings of 'earth'"),
        ([replace(clip, label="a+b")], {"beside": ()}, r"'a\+b' must not contain '\+'"),
    ):
        with pytest.raises(InputError, match=message):
            probe(city, tables, tmp_path, replace(SETTINGS, **changes), quiet)
    assert not list(tmp_path.iterdir())


# ---- leakage from POI counts ----


@pytest.fixture
def poi_city():
    """City with indicators that are POI counts, or follow from them; images are unrelated."""
    made = make_city("town")
    values = {"poi_food": FOOD, "poi": FOOD + SHOP, "comments": 3 * FOOD}
    targets = [Target(name, "places", "ln1p", np.log1p(y)) for name, y in values.items()]
    regions = made.city.regions.assign(**COUNTS)
    return CityTables(replace(made.city, regions=regions, targets=targets), made.tables)


def scored(path) -> dict[tuple[str, str], list[float]]:
    """System and indicator to R2 of each split."""
    found: dict[tuple[str, str], list[float]] = {}
    for row in read_rows(path):
        found.setdefault((row.system, row.indicator), []).append(row.r2)
    return found


def test_columns_leak_themselves_their_total_and_their_parts():
    for column, indicator, expected in (
        ("poi_food", "poi_food", True),
        ("poi_food_cafe", "poi_food", True),
        ("poi_food", "poi_food_cafe", True),
        ("poi_food", "poi", True),
        ("poi_foodstuff", "poi_food", False),
        ("poi_shop", "population", False),
    ):
        assert gives_away(column, indicator) is expected, (column, indicator)
    every = ("poi_bar", "poi_food", "poi_food_cafe", "poi_shop")
    for indicators, kept in (
        (["population", "gdp"], every),
        (["population", "poi_food"], ("poi_bar", "poi_shop")),
        (["poi_food_cafe", "poi_bar"], ("poi_shop",)),
        # every column leaks the total, so all are kept and the system is not scored on it
        (["poi"], every),
        (["poi", "poi_shop"], every[:3]),
    ):
        assert training_columns(every, indicators) == kept
    assert training_columns(["poi_food"], ["poi_food"]) == ()


def test_baselines_do_not_see_leaking_columns(tmp_path):
    columns = {"regions": dict.fromkeys(("poi_food_cafe", "poi_shop"), "float64")}
    indicators = (Indicator("poi_food", "places", "count", "Places."),)
    about = {"indicators": indicators, "extra_columns": columns}
    writer = DatasetWriter(tmp_path / "d", DatasetMetadata("T", "T.", "s", "CC0-1.0", **about))
    region = {"region_id": "r", "city": "t", "area_m2": 6e5, "lon": 8.0, "lat": 47.0}
    writer.write_shard("t", "regions", 0, [region | dict.fromkeys(COUNTS, 2.0)])
    image = {"bytes": picture(np.ones(2) / 2, 0), "path": None}
    writer.write_shard("t", "satellite", 0, [{"image": image, "image_id": "s", "region_id": "r"}])
    writer.finish()
    data = load_region_data(str(tmp_path / "d"), "t", 8, tmp_path)
    assert data.poi_categories == ("shop",)
    assert data.poi_left_out == ("poi_food", "poi_food_cafe")


def test_systems_are_not_scored_on_leaked_indicators(poi_city, tmp_path):
    (table,) = poi_city.tables
    about = {"poi_columns": ["poi_shop"], "poi_left_out": ["poi_food", "poi_food_cafe"]}
    fitted = replace(table, label="fitted", metadata={"uses": ["satellite", "poi"], **about})
    # table of an earlier version, without poi_columns
    earlier = replace(table, label="earlier", metadata={"uses": ["satellite", "poi"]})
    path = probe(poi_city.city, [fitted, earlier], tmp_path / "t", RANDOM, quiet)
    r2 = scored(path)
    assert {name for name, indicator in r2 if indicator == "poi_food"} == {
        *("mean", "coordinates", "poi_counts", "fitted", "coordinates+fitted")
    }
    assert {name for name, indicator in r2 if indicator == "poi"} == {"mean", "coordinates"}
    assert max(r2["poi_counts", "poi_food"]) < 0.3  # 0.9 with the leaking column
    assert min(r2["poi_counts", "comments"]) > 0.7
    summary = json.loads((tmp_path / "t" / "probe.json").read_text())
    assert summary["left_out_inputs"] == {"poi_food": ["poi_food", "poi_food_cafe"]}
    assert {item["reason"] for item in summary["skipped"]} == {
        "poi_counts was given poi_food, poi_food_cafe, poi_shop, so it is not scored on poi",
        "fitted was given poi_shop, so it is not scored on poi",
        "coordinates+fitted was given poi_shop, so it is not scored on poi",
        *(
            f"{name} was given poi, so it is not scored on {indicator}"
            for name in ("earlier", "coordinates+earlier")
            for indicator in ("poi", "poi_food")
        ),
    }
    shown = "\n".join(limits(read_city(tmp_path / "t")))
    assert "poi_food: the POI control excludes poi_food, poi_food_cafe, which would" in shown
    assert "fitted: trained without poi_food, poi_food_cafe, which would leak" in shown
    # changed counts change the table hash
    other = replace(poi_city.city, regions=poi_city.city.regions.assign(poi_shop=2.0))
    probe(other, [fitted], tmp_path / "t", RANDOM, quiet)
    assert len({row.table_hash for row in read_rows(path)}) == 2
    # the inputs of all cities of a transfer count
    food = replace(fitted, metadata={**fitted.metadata, "poi_columns": ["poi_food"]})
    source = CityTables(replace(poi_city.city, name="s", targets=poi_city.city.targets[:1]), [food])
    target = replace(poi_city.city, targets=poi_city.city.targets[:1])
    found = transfer_probe([source], CityTables(target, [fitted]), tmp_path / "s", RANDOM)
    assert {row.system for row in found.rows} == {"mean"}


def test_poi_counts_are_combined_without_leaking_columns(poi_city, tmp_path):
    counts = poi_city.city.regions["poi_food"].where(poi_city.city.regions.index != 3)
    known = replace(poi_city.city, regions=poi_city.city.regions.assign(poi_food=counts))
    probe(known, poi_city.tables, tmp_path, replace(RANDOM, beside=("poi_counts",)), quiet)
    r2 = scored(tmp_path / "results.jsonl")
    combined = {indicator for name, indicator in r2 if name == "poi_counts+clip"}
    assert combined == {"poi_food", "comments"}
    assert max(r2["poi_counts+clip", "poi_food"]) < 0.5 < min(r2["poi_counts+clip", "comments"])
    assert "1 no points of interest counted" in compared_regions(tmp_path)
