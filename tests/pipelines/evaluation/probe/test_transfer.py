import json
from dataclasses import replace

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
from shapely.geometry import Point
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from pipelines.evaluation import cli
from pipelines.evaluation.embed.tables import EmbeddingTable, write_embeddings
from pipelines.evaluation.errors import InputError
from pipelines.evaluation.probe import transfer
from pipelines.evaluation.probe.city import City, Target
from pipelines.evaluation.probe.models import MLPSettings, RidgeSettings
from pipelines.evaluation.probe.predictions import VALIDATION_FOLDER, read_predictions
from pipelines.evaluation.probe.results import read_rows
from pipelines.evaluation.probe.run import ProbeSettings
from pipelines.evaluation.probe.splits import RandomSplitter, geography
from pipelines.evaluation.probe.transfer import CityTables, transfer_encoder, transfer_probe

WEIGHTS = np.array([1.0, -2.0, 0.5, 0.0])
FAST = ProbeSettings(
    seeds=2,
    probes=("ridge",),
    ridge=RidgeSettings((1.0,)),
    mlp=MLPSettings(weight_decays=(1e-2,), max_epochs=3, hidden_sizes=(8,)),
)


def make_city(city_name, /, shift=0.0, seed=0, side=12, uses=("satellite",), **target):
    """City whose labels are linear in its embeddings, which are shifted by `shift`."""
    rng = np.random.default_rng(seed)
    row, column = np.divmod(np.arange(side * side), side)
    ids = [f"r{i}" for i in range(side * side)]
    lon, lat = 10 + 0.01 * column, 50 + 0.01 * row
    geometry = [Point(x, y) for x, y in zip(lon, lat, strict=True)]
    regions = gpd.GeoDataFrame(
        {"region_id": ids, "lon": lon, "lat": lat}, geometry=geometry, crs="EPSG:4326"
    )
    X = rng.normal(shift, 1.0, (side * side, 4))
    y = X @ WEIGHTS + rng.normal(0, 0.1, side * side)
    wanted = {"name": "population", "unit": "people", "transform": "ln1p", "y": y, **target}
    table = EmbeddingTable(
        "clip", {"uses": list(uses)}, ids, {"satellite": X.astype(np.float32)}, f"{city_name:0<16}"
    )
    return CityTables(City(city_name, "made", True, regions, [Target(**wanted)]), [table])


SHIFTS = {"alpha": 0.0, "beta": 1.0, "gamma": 3.0}


@pytest.fixture
def cities():
    return [make_city(name, shift, i) for i, (name, shift) in enumerate(SHIFTS.items())]


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


def test_transfer_encoder_trains_the_probe_in_the_target(cities, tmp_path):
    rows = transfer_encoder("alpha", cities[2], tmp_path, FAST).rows
    assert {(r.protocol, r.city, r.source_city) for r in rows} == {
        ("city-encoder", "gamma", "alpha")
    }
    assert {row.n_test for row in rows} == {29}
    assert min(row.r2 for row in rows if row.probe == "ridge") > 0.95
    blocks = transfer_encoder("alpha", cities[2], tmp_path, FAST, within="block").rows
    assert {row.table_hash for row in rows}.isdisjoint(row.table_hash for row in blocks)
    assert {row.n_test for row in blocks} != {29}


def test_transfers_share_a_file_and_are_not_recomputed(cities, tmp_path):
    first, second, third = cities
    found = [
        transfer_probe([first], third, tmp_path, FAST).rows,
        transfer_probe([second], third, tmp_path, FAST).rows,
        transfer_probe([second, first], third, tmp_path, FAST).rows,
        transfer_encoder("alpha", third, tmp_path, FAST).rows,
    ]
    path = tmp_path / "results.jsonl"
    before = path.read_bytes()
    assert len(list(read_rows(path))) == sum(map(len, found))
    assert {row.source_city for rows in found for row in rows} == {"alpha", "beta", "alpha+beta"}
    # the order of the sources does not matter
    again = transfer_probe([first, second], third, tmp_path, FAST).rows
    assert again == found[2]
    assert path.read_bytes() == before
    more = transfer_probe([first], third, tmp_path, replace(FAST, seeds=3)).rows
    assert len(more) == len(found[0]) + 2


def test_equal_region_ids_of_two_sources_are_kept_apart(cities, tmp_path):
    *sources, target = cities
    (row, *_) = [
        r for r in transfer_probe(sources, target, tmp_path, FAST).rows if r.view != "none"
    ]
    wanted = {"split_seed": row.split_seed, "system": row.system}
    frame = read_predictions(tmp_path / VALIDATION_FOLDER, wanted)
    assert len(frame) == row.n_validation
    assert {name.split("/")[0] for name in frame["region_id"]} == {"alpha", "beta"}


def test_target_labels_do_not_affect_predictions(cities, tmp_path):
    *sources, target = cities
    (label,) = target.city.targets
    other = replace(target, city=replace(target.city, targets=[replace(label, y=-label.y)]))
    truths = {}
    for name, city in (("one", target), ("other", other)):
        transfer_probe(sources, city, tmp_path / name, FAST)
        truths[name] = read_predictions(tmp_path / name / "predictions", {"probe": "ridge"})
    np.testing.assert_array_equal(truths["one"]["prediction"], truths["other"]["prediction"])
    np.testing.assert_array_equal(truths["one"]["truth"], -truths["other"]["truth"])


def test_inconsistent_cities_raise(cities, tmp_path):
    first, second, _ = cities
    with pytest.raises(InputError, match="needs a target and other cities"):
        transfer_probe([first], first, tmp_path, FAST)
    with pytest.raises(InputError, match="needs a target and other cities"):
        transfer_probe([], first, tmp_path, FAST)
    strange = replace(first, tables=[replace(first.tables[0], label="dino")])
    with pytest.raises(InputError, match=r"same encoders under the same labels.*alpha: dino"):
        transfer_probe([strange], second, tmp_path, FAST)
    wide = np.ones((144, 5), np.float32)
    wider = replace(first, tables=[replace(first.tables[0], vectors={"satellite": wide})])
    with pytest.raises(InputError, match=r"different dimensions in different cities, \[4, 5\]"):
        transfer_probe([wider], second, tmp_path, FAST)
    street = {"street_view": first.tables[0].vectors["satellite"]}
    other = replace(first, tables=[replace(first.tables[0], vectors=street)])
    with pytest.raises(InputError, match="clip has no view that all of alpha, beta have"):
        transfer_probe([other], second, tmp_path, FAST)
    raw = make_city("alpha", transform="identity")
    with pytest.raises(InputError, match=r"people \(identity\) in alpha, but in people \(ln1p\)"):
        transfer_probe([raw], second, tmp_path, FAST)


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
def opened(cities, monkeypatch):
    made = {one.city.name: one for one in cities}
    monkeypatch.setattr(transfer, "open_city", lambda dataset, name: made[name].city)
    return made


def write(folder, source, city, one, label="urbanln-full-s0"):
    table = one.tables[0]
    counts = {"satellite": pd.Series(1, index=range(len(table.region_ids))).to_numpy()}
    path = folder / source / city / f"{label}.parquet"
    write_embeddings(path, table.region_ids, counts, table.vectors, {"label": label})


@pytest.fixture
def embeddings(tmp_path, opened):
    folder = tmp_path / "from"
    for source in ("alpha", "beta", "alpha+beta"):
        for city in ("alpha", "beta", "gamma"):
            write(folder, source, city, opened[city])
    (folder / "alpha" / "beta" / "urbanln-full-s0.rejects.parquet").write_bytes(b"no table")
    return folder


def run(embeddings, tmp_path, **settings):
    said: list[str] = []
    path = transfer.transfer_matrix(
        embeddings, "made", tmp_path / "out", settings=FAST, echo=said.append, **settings
    )
    return pd.read_csv(path), "\n".join(said)


def test_matrix_has_all_sources_targets_and_protocols(embeddings, tmp_path):
    table, said = run(embeddings, tmp_path)
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
    title = "Encoder and probe trained in the source (synthetic): urbanln-full-s0, satellite, ridge"
    assert title in said
    assert "| trained in | alpha | beta | gamma |" in said


def test_a_cell_is_the_mean_of_its_rows(embeddings, tmp_path):
    table, _ = run(embeddings, tmp_path)
    cell = table.query(
        "protocol == 'city' and source == 'alpha+beta' and target == 'gamma' and probe == 'ridge'"
    ).iloc[0]
    rows = [
        row
        for row in read_rows(tmp_path / "out" / "gamma" / "results.jsonl")
        if (row.protocol, row.source_city, row.probe) == ("city", "alpha+beta", "ridge")
    ]
    assert cell["runs"] == len(rows) == 2
    assert cell["r2"] == pytest.approx(sum(row.r2 for row in rows) / 2)
    assert cell["r2_sd"] == pytest.approx(pd.Series([row.r2 for row in rows]).std())
    assert cell["r2"] > 0.9  # same relation in all cities


def test_existing_rows_are_not_recomputed(embeddings, tmp_path):
    first, _ = run(embeddings, tmp_path)
    path = tmp_path / "out" / "gamma" / "results.jsonl"
    before = path.read_bytes()
    second, _ = run(embeddings, tmp_path)
    assert path.read_bytes() == before
    pd.testing.assert_frame_equal(first, second)


def test_sources_and_targets_can_be_chosen(embeddings, tmp_path):
    table, _ = run(embeddings, tmp_path, sources=["beta"], targets=["gamma"], within="block")
    assert set(table["source"]) == {"beta"}
    assert set(table["target"]) == {"gamma"}
    assert set(table["within"].dropna()) == {"block"}


def test_skipped_cells_are_listed(embeddings, tmp_path, opened):
    opened["gamma"].city.targets[0].y[:] = 3.0
    table, _ = run(embeddings, tmp_path)
    assert "gamma" not in set(table["target"])
    skipped = json.loads((tmp_path / "out" / "transfer_skipped.json").read_text())
    assert {one["target"] for one in skipped} == {"gamma"}
    assert {"source", "indicator", "reason"} <= set(skipped[0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sources": ["delta"]}, "--sources: no vectors of 'delta'; there are: alpha, alpha"),
        ({"targets": ["delta"]}, "--targets: alpha has no vectors of 'delta', only of alpha, beta"),
    ],
)
def test_unknown_source_or_target_raises(embeddings, tmp_path, settings, message):
    with pytest.raises(InputError, match=message):
        run(embeddings, tmp_path, **settings)


def test_empty_folder_error_names_the_layout(tmp_path):
    with pytest.raises(InputError, match=r"expected SOURCE/CITY/LABEL.parquet"):
        transfer.transfer_matrix(tmp_path, "made", tmp_path / "out")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dataset_name", "d", "--output_dir", "o"], "--embeddings is missing"),
        (["--embeddings", "e", "--output_dir", "o"], "--dataset_name is missing"),
        (
            ["--embeddings", "e", "--dataset_name", "d", "--output_dir", "o", "--seeds", "0"],
            "--seeds must be at least 1, got 0",
        ),
    ],
)
def test_invalid_flags_are_errors(capsys, words, message):
    assert cli.main(["transfer", *words]) == 2
    assert message in capsys.readouterr().err
