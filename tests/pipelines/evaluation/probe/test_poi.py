"""Exclusion of POI counts that leak an indicator."""

import json
from dataclasses import replace

import geopandas as gpd
import numpy as np
import pytest
from shapely.geometry import Point
from sklearn.linear_model import LinearRegression

from dataset_builders.schema import DatasetMetadata, Indicator
from dataset_builders.writer import DatasetWriter
from pipelines.evaluation.baselines.data import load_region_data
from pipelines.evaluation.baselines.run import run_baseline
from pipelines.evaluation.embed.poi import gives_away, poi_columns, training_columns
from pipelines.evaluation.embed.tables import EmbeddingTable, read_embeddings
from pipelines.evaluation.errors import InputError
from pipelines.evaluation.probe.city import City, Target, open_city
from pipelines.evaluation.probe.results import read_rows
from pipelines.evaluation.probe.run import ProbeSettings, probe
from pipelines.evaluation.probe.transfer import CityTables, transfer_probe
from pipelines.evaluation.report.frame import read_city
from pipelines.evaluation.report.limits import limits
from tests.pipelines.evaluation.toy import picture

SIDE = 12
N = SIDE * SIDE
EXTRA = {"poi_food_cafe": "float64", "poi_shop": "float64"}
FAST = ProbeSettings(seeds=2, probes=("ridge",), protocols=("random",))


def quiet(batches, **_):
    return batches


def counts() -> dict[str, np.ndarray]:
    """Random POI counts; half of the food places are cafes."""
    rng = np.random.default_rng(0)
    food, shop = (rng.integers(0, 50, N).astype(float) for _ in range(2))
    cafe = np.floor(food / 2)
    return {"poi_food": food, "poi_food_cafe": cafe, "poi_shop": shop, "poi": food + shop}


def build(folder, predicted=("poi_food", "poi"), extra=tuple(EXTRA)):
    """City whose images are unrelated to its POI counts."""
    metadata = DatasetMetadata(
        "T",
        "T.",
        "tests",
        "CC0-1.0",
        synthetic=True,
        indicators=tuple(Indicator(name, "places", "count", "Places.") for name in predicted),
        extra_columns={"regions": {name: EXTRA[name] for name in extra}},
    )
    writer = DatasetWriter(folder, metadata)
    values = {name: column for name, column in counts().items() if name in (*predicted, *extra)}
    rng = np.random.default_rng(1)
    ids = [f"r{number:03}" for number in range(N)]
    regions = [
        {"region_id": name, "city": "t", "area_m2": 6e5}
        | {"lon": 8 + 0.01 * (number % SIDE), "lat": 47 + 0.01 * (number // SIDE)}
        | {column: float(of[number]) for column, of in values.items()}
        for number, name in enumerate(ids)
    ]
    writer.write_shard("t", "regions", 0, regions)
    images = [
        {"image": {"bytes": picture(rng.random(2), number), "path": None}}
        | {"image_id": f"s{number}", "region_id": name}
        for number, name in enumerate(ids)
    ]
    writer.write_shard("t", "satellite", 0, images)
    writer.finish()
    return folder


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return build(tmp_path_factory.mktemp("poi") / "dataset")


@pytest.fixture(scope="module")
def pg_simclr(dataset, tmp_path_factory):
    """Trained baseline with POI counts as input, and its log."""
    lines: list[str] = []
    overrides = {"image_size": 16, "widths": [8], "depths": [1], "epochs": 1, "simclr_epochs": 0}
    path = run_baseline(
        "pg-simclr",
        "cpu",
        str(dataset),
        "t",
        tmp_path_factory.mktemp("tables"),
        overrides=overrides,
        log=lines.append,
    )
    return read_embeddings(path), "\n".join(lines)


def scored(path) -> dict[tuple[str, str], list[float]]:
    """System and indicator to R2 of each split."""
    found: dict[tuple[str, str], list[float]] = {}
    for row in read_rows(path):
        found.setdefault((row.system, row.indicator), []).append(row.r2)
    return found


@pytest.mark.parametrize(
    ("column", "indicator", "expected"),
    [
        ("poi_food", "poi_food", True),
        ("poi_food_cafe", "poi_food", True),
        ("poi_food", "poi_food_cafe", True),
        ("poi_food", "poi", True),
        ("poi_foodstuff", "poi_food", False),
        ("poi_shop", "poi_food", False),
        ("poi_shop", "population", False),
    ],
)
def test_columns_leak_themselves_their_total_and_their_parts(column, indicator, expected):
    assert gives_away(column, indicator) is expected


def test_training_columns_do_not_leak_indicators():
    columns = ["poi_bar", "poi_food", "poi_food_cafe", "poi_shop"]
    every = tuple(columns)
    assert training_columns(columns, ["population", "gdp"]) == every
    assert training_columns(columns, ["population", "poi_food"]) == ("poi_bar", "poi_shop")
    assert training_columns(columns, ["poi_food_cafe", "poi_bar"]) == ("poi_shop",)
    # every column leaks the total, so all are kept and the system is not scored on it
    assert training_columns(columns, ["poi"]) == every
    assert training_columns(columns, ["poi", "poi_shop"]) == every[:3]
    assert training_columns(["poi_food"], ["poi_food"]) == ()
    assert training_columns([], ["poi"]) == ()


def test_baseline_inputs_do_not_predict_the_indicator(dataset, tmp_path):
    data = load_region_data(str(dataset), "t", 8, tmp_path)
    food = np.log1p(counts()["poi_food"])
    train, test = slice(None, 100), slice(100, None)
    X = np.log1p(data.poi)
    r2 = LinearRegression().fit(X[train], food[train]).score(X[test], food[test])
    assert r2 < 0.2  # 1 with the leaking column
    assert data.poi_categories == ("shop",)
    assert data.poi_left_out == ("poi_food", "poi_food_cafe")


def test_city_with_all_counts_as_indicators_has_no_poi_input(tmp_path):
    folder = build(tmp_path / "dataset", ("poi_food", "poi_shop"), ("poi_food_cafe",))
    data = load_region_data(str(folder), "t", 8, tmp_path)
    assert data.poi is None
    with pytest.raises(InputError, match=r"those of t would leak.*poi_food_cafe, poi_shop\."):
        run_baseline("pg-simclr", "cpu", str(folder), "t", tmp_path)


def test_table_metadata_lists_used_and_excluded_columns(pg_simclr):
    table, told = pg_simclr
    assert table.metadata["poi_columns"] == table.inputs == ["poi_shop"]
    assert table.metadata["poi_left_out"] == ["poi_food", "poi_food_cafe"]
    assert "without poi_food, poi_food_cafe, which would leak" in told


def test_systems_are_not_scored_on_leaked_indicators(dataset, pg_simclr, tmp_path):
    city, (table, _) = open_city(str(dataset), "t"), pg_simclr
    # table of an earlier version, without poi_columns
    unsaid = {"label": "unsaid", "uses": ["satellite", "poi"]}
    earlier = replace(table, label="unsaid", hash="0" * 16, metadata=unsaid)
    r2 = scored(probe(city, [table, earlier], tmp_path / "t", FAST, quiet))
    assert {name for name, indicator in r2 if indicator == "poi_food"} == {
        *("mean", "coordinates", "poi_counts", "pg-simclr", "coordinates+pg-simclr")
    }
    assert {name for name, indicator in r2 if indicator == "poi"} == {"mean", "coordinates"}
    # 0.9 with the leaking column
    assert max(r2["poi_counts", "poi_food"]) < 0.3
    summary = json.loads((tmp_path / "t" / "probe.json").read_text())
    assert summary["left_out_inputs"] == {"poi_food": ["poi_food", "poi_food_cafe"]}
    assert {item["reason"] for item in summary["skipped"]} == {
        "poi_counts was given poi_food, poi_food_cafe, poi_shop, so it is not scored on poi",
        "pg-simclr was given poi_shop, so it is not scored on poi",
        "coordinates+pg-simclr was given poi_shop, so it is not scored on poi",
        *(
            f"{name} was given poi, so it is not scored on {indicator}"
            for name in ("unsaid", "coordinates+unsaid")
            for indicator in ("poi", "poi_food")
        ),
    }
    told = limits(read_city(tmp_path / "t"))
    assert (
        "poi_food: the POI control excludes poi_food, poi_food_cafe, which would leak the label."
        in told
    )
    assert (
        "pg-simclr: trained without poi_food, poi_food_cafe, which would leak an indicator." in told
    )


def test_poi_control_excludes_columns_per_indicator(tmp_path):
    values = counts()
    target = {"unit": "places", "transform": "ln1p"}
    targets = [
        Target("poi_food", y=np.log1p(values["poi_food"]), **target),
        Target("comments", y=np.log1p(3 * values["poi_food"]), **target),
    ]
    ids = [f"r{number}" for number in range(N)]
    places = [Point(8 + 0.01 * (n % SIDE), 47 + 0.01 * (n // SIDE)) for n in range(N)]
    regions = gpd.GeoDataFrame({"region_id": ids, **values}, geometry=places, crs="EPSG:4326")
    regions = regions.assign(lon=regions.geometry.x, lat=regions.geometry.y)
    assert poi_columns(regions) == ["poi_food", "poi_food_cafe", "poi_shop"]
    vectors = {"satellite": np.random.default_rng(2).normal(size=(N, 3)).astype(np.float32)}
    table = EmbeddingTable("noise", {"uses": ["satellite"]}, ids, vectors, "1" * 16)
    city = City("t", "made", True, regions, targets)
    path = probe(city, [table], tmp_path, FAST, quiet)
    r2 = scored(path)
    assert max(r2["poi_counts", "poi_food"]) < 0.3
    assert min(r2["poi_counts", "comments"]) > 0.7
    # changed counts change the table hash
    other = replace(city, regions=regions.assign(poi_shop=2.0))
    probe(other, [table], tmp_path, FAST, quiet)
    assert len({row.table_hash for row in read_rows(path)}) == 2


def test_transfer_combines_the_inputs_of_all_cities(dataset, pg_simclr, tmp_path):
    city, (table, _) = open_city(str(dataset), "t"), pg_simclr
    food = {**table.metadata, "poi_columns": ["poi_food"]}
    sources = [CityTables(replace(city, name="s"), [replace(table, metadata=food)])]
    found = transfer_probe(sources, CityTables(city, [table]), tmp_path, FAST)
    assert {row.system for row in found.rows} == {"mean"}
