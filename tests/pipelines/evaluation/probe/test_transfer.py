import json

import pandas as pd
import pytest

from pipelines.evaluation import cli
from pipelines.evaluation.embed.tables import write_embeddings
from pipelines.evaluation.errors import InputError
from pipelines.evaluation.probe import transfer
from pipelines.evaluation.probe.results import read_rows

from .test_city_transfer import FAST, make_city

SHIFTS = {"alpha": 0.0, "beta": 1.0, "gamma": 3.0}


@pytest.fixture
def cities(monkeypatch):
    made = {name: make_city(name, shift, i) for i, (name, shift) in enumerate(SHIFTS.items())}
    monkeypatch.setattr(transfer, "open_city", lambda dataset, name: made[name].city)
    return made


def write(folder, source, city, one, label="urbanln-full-s0"):
    table = one.tables[0]
    counts = {"satellite": pd.Series(1, index=range(len(table.region_ids))).to_numpy()}
    path = folder / source / city / f"{label}.parquet"
    write_embeddings(path, table.region_ids, counts, table.vectors, {"label": label})


@pytest.fixture
def embeddings(tmp_path, cities):
    folder = tmp_path / "from"
    for source in ("alpha", "beta", "alpha+beta"):
        for city in ("alpha", "beta", "gamma"):
            write(folder, source, city, cities[city])
    (folder / "alpha" / "beta" / "urbanln-full-s0.rejects.parquet").write_bytes(b"no table")
    return folder


def run(embeddings, tmp_path, **settings):
    said: list[str] = []
    path = transfer.transfer_matrix(
        embeddings, "made", tmp_path / "out", settings=FAST, echo=said.append, **settings
    )
    return pd.read_csv(path), "\n".join(said)


def test_every_source_is_carried_to_every_target_in_both_ways(embeddings, tmp_path):
    table, said = run(embeddings, tmp_path)
    pairs = {
        protocol: set(zip(part["source"], part["target"], strict=True))
        for protocol, part in table.groupby("protocol")
    }
    sources, targets = ("alpha", "beta", "alpha+beta"), ("alpha", "beta", "gamma")
    assert pairs["city-encoder"] == {(s, t) for s in sources for t in targets}
    # a probe is carried over to other cities only
    assert pairs["city"] == {
        *(("alpha", "beta"), ("alpha", "gamma"), ("beta", "alpha"), ("beta", "gamma")),
        ("alpha+beta", "gamma"),
    }
    assert set(table.loc[table["protocol"] == "city-encoder", "within"]) == {"random"}
    assert table["synthetic"].all()
    assert "Encoder and probe of the source (synthetic): urbanln-full-s0, satellite, ridge" in said
    assert "| learnt in | alpha | beta | gamma |" in said


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
    assert cell["r2"] > 0.9  # the label follows the vectors in all cities alike


def test_rows_that_are_there_are_not_computed_again(embeddings, tmp_path):
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


def test_what_cannot_be_scored_is_listed(embeddings, tmp_path, cities):
    cities["gamma"].city.targets[0].y[:] = 3.0
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
def test_a_wrong_name_is_refused(embeddings, tmp_path, settings, message):
    with pytest.raises(InputError, match=message):
        run(embeddings, tmp_path, **settings)


def test_an_empty_folder_says_how_tables_must_lie(tmp_path):
    with pytest.raises(InputError, match=r"must lie there as SOURCE/CITY/LABEL.parquet"):
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
def test_flags_are_checked(capsys, words, message):
    assert cli.main(["transfer", *words]) == 2
    assert message in capsys.readouterr().err
