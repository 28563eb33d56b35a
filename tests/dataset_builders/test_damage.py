"""Damaged files are set aside and recreated by the same command."""

import json
import sqlite3
from contextlib import closing

import pyarrow as pa
import pytest

from dataset_builders.database import open_database, row_checksum
from dataset_builders.errors import DatasetError
from dataset_builders.files import read_json, write_json, write_state
from dataset_builders.parquet import is_whole, read_parquet, write_parquet
from dataset_builders.publish import publish
from dataset_builders.synthetic import build_dataset
from tests.damage import HOW, altered, damage

SCHEMA = "CREATE TABLE IF NOT EXISTS one (x INTEGER PRIMARY KEY)"
UNITS = (
    "CREATE TABLE IF NOT EXISTS units (key TEXT PRIMARY KEY, text TEXT, took REAL) WITHOUT ROWID"
)
CITY = {"grid_size": 3, "street_views": 1, "num_workers": 1}


def aside(folder):
    return [path.name for path in folder.rglob("*.damaged-*")]


@pytest.mark.parametrize("how", HOW)
def test_a_table_is_whole_or_set_aside(tmp_path, how):
    path = tmp_path / "table.parquet"
    write_parquet(path, pa.table({"x": [float(i) for i in range(5000)]}))
    assert is_whole(path)
    damage(path, how)
    assert not is_whole(path)
    assert not path.exists()
    assert len(aside(tmp_path)) == (how != "gone")


def test_a_file_that_never_was_a_table_is_left_alone(tmp_path):
    path = tmp_path / "table.parquet"
    path.write_text("mine")
    assert is_whole(path)
    assert path.read_text() == "mine"


@pytest.mark.parametrize("how", ["truncate", "zero", "empty", "gone"])
def test_json_and_databases_are_read_whole_or_not_at_all(tmp_path, how, capsys):
    values, ledger = tmp_path / "values.json", tmp_path / "ledger.sqlite"
    write_json(values, {"some": list(range(100))})
    with open_database(ledger, SCHEMA) as database:
        database.executemany("INSERT INTO one (x) VALUES (?)", [(i,) for i in range(5000)])
    database.close()
    for path in (values, ledger):
        damage(path, how)
    assert read_json(values) is None
    database = open_database(ledger, SCHEMA)
    assert database.execute("SELECT count(*) FROM one").fetchone() == (0,)
    database.close()
    # SQLite takes an empty file for a new database
    lost = {"gone": 0, "empty": 1}.get(how, 2)
    assert len(aside(tmp_path)) == lost
    assert capsys.readouterr().err.count("is damaged: kept as") == lost


def test_no_altered_value_of_a_state_file_is_read(tmp_path):
    path, values = tmp_path / "state.json", {"done": 512, "left": [{"id": "a17", "at": 0.125}]}
    write_state(path, values)
    assert read_json(path) == values
    for content in altered(path.read_bytes()):
        path.write_bytes(content)
        found = read_json(path)
        # with a damaged name, the checksum is an additional entry
        assert found is None or {name: found.get(name) for name in values} == values
        assert path.exists() == (found is not None)
    assert len(aside(tmp_path)) > 60


def test_no_altered_row_of_a_database_is_read(tmp_path, capsys):
    path = tmp_path / "units.sqlite"
    rows = {(f"key-{n}", f"a house of {n} floors", n / 7) for n in range(12, 19)}
    with closing(open_database(path, UNITS)) as database:
        signed = [(*row, row_checksum(row)) for row in rows]
        database.executemany("INSERT INTO units VALUES (?, ?, ?, ?)", signed)
    whole, lost = path.read_bytes(), set()
    for content in altered(whole, only=b"0123456789"):
        path.write_bytes(content)
        with closing(open_database(path, UNITS)) as database:
            found = database.execute("SELECT key, text, took FROM units").fetchall()
        assert set(found) <= rows
        assert len(found) == len(set(found))
        lost.add(len(rows) - len(found))
    assert 1 in lost
    assert "units.sqlite: damaged rows deleted, to be recomputed: 1." in capsys.readouterr().err


def test_a_database_from_before_there_were_checksums_is_read_and_gets_them(tmp_path):
    path = tmp_path / "units.sqlite"
    with closing(sqlite3.connect(path)) as database:
        database.execute(UNITS)
        database.execute("INSERT INTO units VALUES ('a', 'old', 0.5)")
        database.commit()
    for _ in range(2):
        with closing(open_database(path, UNITS)) as database:
            row = ("b", "new", 1)
            query = "INSERT OR REPLACE INTO units VALUES (?, ?, ?, ?)"
            database.execute(query, (*row, row_checksum(row)))
            found = database.execute("SELECT key, digest IS NULL FROM units").fetchall()
            assert found == [("a", 1), ("b", 0)]


def test_no_altered_byte_of_a_table_is_read(tmp_path):
    path = tmp_path / "table.parquet"
    table = pa.table({"id": ["a17", "b18"], "x": [0.125, 7.5]})
    table = table.replace_schema_metadata({"urbanln": json.dumps({"seconds": 1234, "dim": 56})})
    write_parquet(path, table)
    before = read_parquet(path)
    for content in altered(path.read_bytes()):
        path.write_bytes(content)
        if is_whole(path):
            found = read_parquet(path)
            assert found.equals(before)
            # a damaged byte may hide the metadata and their checksum
            metadata = found.schema.metadata or before.schema.metadata
            assert metadata[b"urbanln"] == before.schema.metadata[b"urbanln"]


@pytest.mark.parametrize(
    "name",
    [
        "data/harborview-satellite/part-00000.parquet",
        "data/harborview-regions/part-00000.parquet",
        "truth/harborview/part-00000.parquet",
        "rejects.parquet",
    ],
)
def test_a_damaged_dataset_is_mended_by_its_build_and_not_published(tmp_path, name):
    build_dataset(tmp_path / "city", **CITY)
    before = (tmp_path / "city" / name).read_bytes()
    for how in ("flip", "truncate"):
        damage(tmp_path / "city" / name, how)
        with pytest.raises(DatasetError, match=f"has changed since it was built: {name}"):
            publish(tmp_path / "city", tmp_path / "published")
        build_dataset(tmp_path / "city", **CITY)
        assert (tmp_path / "city" / name).read_bytes() == before
    assert len(aside(tmp_path)) == 2
    assert json.loads((tmp_path / "city" / ".urbanln-dataset.jsonl").read_text().split("\n")[1])
    publish(tmp_path / "city", tmp_path / "published")
    assert not aside(tmp_path / "published")
