import json
from dataclasses import replace

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from pipelines.evaluation.embed.tables import EmbeddingTable, write_embeddings
from pipelines.evaluation.errors import InputError
from pipelines.evaluation.probe import transfer
from pipelines.evaluation.probe.city import City, Target
from pipelines.evaluation.probe.models import RidgeSettings
from pipelines.evaluation.probe.predictions import VALIDATION_FOLDER, read_predictions
from pipelines.evaluation.probe.results import read_rows
from pipelines.evaluation.probe.run import ProbeSettings
from pipelines.evaluation.probe.splits import RandomSplitter, geography
from pipelines.evaluation.probe.transfer import CityTables, transfer_encoder, transfer_probe

WEIGHTS = np.array([1.0, -2.0, 0.5, 0.0])
FAST = ProbeSettings(seeds=2, probes=("ridge",), ridge=RidgeSettings((1.0,)))


def quiet(batches, **_):
    return batches


def make_city(city_name, /, shift=0.0, seed=0, side=12, **target):
    """City whose labels are linear in its embeddings, which are shifted by `shift`."""
    rng = np.random.default_rng(seed)
    row, column = np.divmod(np.arange(side * side), side)
    ids = [f"r{i}" for i in range(side * side)]
    lon, lat = 10 + 0.01 * column, 50 + 0.01 * row
    columns = {"region_id": ids, "lon": lon, "lat": lat}
    regions = gpd.GeoDataFrame(columns, geometry=gpd.points_from_xy(lon, lat), crs="EPSG:4326")
    X = rng.normal(shift, 1.0, (side * side, 4))
    y = X @ WEIGHTS + rng.normal(0, 0.1, side * side)
    wanted = {"name": "population", "unit": "people", "transform": "ln1p", "y": y, **target}
    vectors = {"satellite": X.astype(np.float32)}
    table = EmbeddingTable("clip", {"uses": ["satellite"]}, ids, vectors, f"{city_name:0<16}")
    return CityTables(City(city_name, "made", True, regions, [Target(**wanted)]), [table])


@pytest.fixture
def cities():
    shifts = {"alpha": 0.0, "beta": 1.0, "gamma": 3.0}
    return [make_city(name, shift, i) for i, (name, shift) in enumerate(shifts.items())]


def test_transfer_probe_equals_scikit_learn(cities, tmp_path):
    *sources, target = cities
    found = transfer_probe(sources, target, tmp_path, FAST)
    rows = {row.split_seed: row for row in found.rows if row.probe == "ridge"}
    assert found.skipped == []
    for seed in range(2):
        X, y = [], []
        for source in sources:
            regions = source.city.regions
            split = RandomSplitter(regions, geography(regions)).split(seed)
            trained = [*split.train, *split.test]
            X.append(source.tables[0].matrix("satellite")[trained])
            y.append(source.city.targets[0].y[trained])
        scaler = StandardScaler().fit(np.concatenate(X))
        model = Ridge(1.0).fit(scaler.transform(np.concatenate(X)), np.concatenate(y))
        predictions = model.predict(scaler.transform(target.tables[0].matrix("satellite")))
        truth = target.city.targets[0].y
        expected = 1 - np.square(predictions - truth).sum() / np.square(truth - truth.mean()).sum()
        row = rows[seed]
        assert row.r2 == pytest.approx(expected)
        assert (row.protocol, row.city, row.source_city) == ("city", "gamma", "alpha+beta")
        assert (row.n_train, row.n_validation, row.n_test) == (230, 58, 144)
        assert row.synthetic
    means = [row for row in found.rows if row.system == "mean"]
    assert max(row.r2 for row in means) < 0  # the target's labels are shifted
    # equal region ids of the sources are kept apart
    frame = read_predictions(tmp_path / VALIDATION_FOLDER, {"split_seed": 0, "system": "clip"})
    assert len(frame) == 58
    assert {name.split("/")[0] for name in frame["region_id"]} == {"alpha", "beta"}


def test_transfer_encoder_trains_the_probe_in_the_target(cities, tmp_path):
    rows = transfer_encoder("alpha", cities[2], tmp_path, FAST).rows
    assert {(r.protocol, r.city, r.source_city, r.n_test) for r in rows} == {
        ("city-encoder", "gamma", "alpha", 29)
    }
    assert min(row.r2 for row in rows if row.probe == "ridge") > 0.95
    blocks = transfer_encoder("alpha", cities[2], tmp_path, FAST, within="block").rows
    assert {row.table_hash for row in rows}.isdisjoint(row.table_hash for row in blocks)
    assert {row.n_test for row in blocks} != {29}


def test_inconsistent_cities_raise(cities, tmp_path):
    first, second, _ = cities
    (table,) = first.tables
    wide = {"satellite": np.ones((144, 5), np.float32)}
    street = {"street_view": table.vectors["satellite"]}
    for sources, target, message in (
        ([first], first, "needs a target and other cities"),
        ([], first, "needs a target and other cities"),
        ([replace(first, tables=[replace(table, label="dino")])], second,
         r"same encoders under the same labels.*alpha: dino"),
        ([replace(first, tables=[replace(table, vectors=wide)])], second,
         r"different dimensions in different cities, \[4, 5\]"),
        ([replace(first, tables=[replace(table, vectors=street)])], second,
         "clip has no view that all of alpha, beta have"),
        ([make_city("alpha", transform="identity")], second,
         r"people \(identity\) in alpha, but in people \(ln1p\)"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=message):
            transfer_probe(sources, target, tmp_path, FAST)


def test_indicator_missing_in_a_source_is_skipped(cities, tmp_path):
    first, second, _ = cities
    (label,) = second.city.targets
    richer = replace(second.city, targets=[label, replace(label, name="crime")])
    found = transfer_probe([first], replace(second, city=richer), tmp_path, FAST)
    assert {row.indicator for row in found.rows} == {"population"}
    assert {(s["indicator"], s["reason"]) for s in found.skipped} == {
        ("crime", "a source has no such indicator")
    }


# ---- transfer matrix ----


@pytest.fixture
def embeddings(tmp_path, cities, monkeypatch):
    made = {one.city.name: one for one in cities}
    monkeypatch.setattr(transfer, "open_city", lambda dataset, name: made[name].city)
    for source in ("alpha", "beta", "alpha+beta"):
        for city, one in made.items():
            table = one.tables[0]
            counts = {"satellite": np.ones(len(table.region_ids), int)}
            path = tmp_path / "from" / source / city / "net-s0.parquet"
            write_embeddings(path, table.region_ids, counts, table.vectors, {"label": "net-s0"})
    path.with_name("net-s0.rejects.parquet").write_bytes(b"no table")
    return tmp_path / "from"


def matrix_of(embeddings, **settings):
    output = embeddings.parent / "out"
    path = transfer.transfer_matrix(embeddings, "made", output, settings=FAST, **settings)
    return pd.read_csv(path)


def test_matrix_has_all_sources_targets_and_protocols(embeddings, tmp_path):
    table = matrix_of(embeddings)
    pairs = {
        protocol: set(zip(part["source"], part["target"], strict=True))
        for protocol, part in table.groupby("protocol")
    }
    sources, targets = ("alpha", "beta", "alpha+beta"), ("alpha", "beta", "gamma")
    assert pairs["city-encoder"] == {(s, t) for s in sources for t in targets}
    # probes are transferred to other cities only
    assert pairs["city"] == {
        *(("alpha", "beta"), ("alpha", "gamma"), ("beta", "alpha"), ("beta", "gamma")),
        ("alpha+beta", "gamma"),
    }
    assert set(table.loc[table["protocol"] == "city-encoder", "within"]) == {"random"}
    assert table["synthetic"].all()
    # a cell is the mean of its rows
    cell = table.query(
        "protocol == 'city' and source == 'alpha+beta' and target == 'gamma' and probe == 'ridge'"
    ).iloc[0]
    path = tmp_path / "out" / "gamma" / "results.jsonl"
    r2 = [
        row.r2
        for row in read_rows(path)
        if (row.protocol, row.source_city, row.probe) == ("city", "alpha+beta", "ridge")
    ]
    assert cell["runs"] == len(r2) == 2
    assert cell["r2"] == pytest.approx(np.mean(r2))
    assert cell["r2_sd"] == pytest.approx(np.std(r2, ddof=1))
    assert cell["r2"] > 0.9  # same relation in all cities
    before = path.read_bytes()
    pd.testing.assert_frame_equal(matrix_of(embeddings), table)
    assert path.read_bytes() == before


def test_sources_and_targets_can_be_chosen(embeddings, tmp_path, cities):
    chosen = {"sources": ["beta"], "within": "block"}
    cities[1].city.targets[0].y[:] = 3.0
    table = matrix_of(embeddings, **chosen, targets=["beta", "gamma"])
    assert set(zip(table["source"], table["target"], strict=True)) == {("beta", "gamma")}
    assert set(table["within"].dropna()) == {"block"}
    skipped = json.loads((tmp_path / "out" / "transfer_skipped.json").read_text())
    assert {one["target"] for one in skipped} == {"beta", "gamma"}
    assert {"source", "indicator", "reason"} <= set(skipped[0])
    for settings, message in (
        ({"sources": ["delta"]}, "--sources: no vectors of 'delta'; there are: alpha, alpha"),
        ({"targets": ["delta"]}, "--targets: alpha has no vectors of 'delta', only of alpha, beta"),
    ):
        with pytest.raises(InputError, match=message):
            matrix_of(embeddings, **settings)
    with pytest.raises(InputError, match=r"expected SOURCE/CITY/LABEL.parquet"):
        matrix_of(tmp_path / "none")
