"""Damaged files are set aside and recreated by the same command."""

import json
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

UNITS = (
    "CREATE TABLE IF NOT EXISTS units (key TEXT PRIMARY KEY, text TEXT, took REAL) WITHOUT ROWID"
)


def aside(folder):
    return [path.name for path in folder.rglob("*.damaged-*")]


@pytest.mark.parametrize("how", HOW)
def test_damaged_files_are_set_aside(tmp_path, how, capsys):
    table, values, units = (tmp_path / name for name in ("a.parquet", "b.json", "c.sqlite"))
    write_parquet(table, pa.table({"x": [float(i) for i in range(5000)]}))
    assert is_whole(table)
    damage(table, how)
    assert not is_whole(table)
    assert not table.exists()
    assert len(aside(tmp_path)) == (how != "gone")
    if how == "flip":  # may go unnoticed without a checksum
        return
    write_json(values, {"some": list(range(100))})
    with closing(open_database(units, UNITS)) as database:
        rows = [(f"{i}", "a house", i / 7) for i in range(2000)]
        signed = [(*row, row_checksum(row)) for row in rows]
        database.executemany("INSERT INTO units VALUES (?, ?, ?, ?)", signed)
    for path in (values, units):
        damage(path, how)
    assert read_json(values) is None
    with closing(open_database(units, UNITS)) as database:
        assert database.execute("SELECT count(*) FROM units").fetchone() == (0,)
    # SQLite takes an empty file for a new database
    lost = {"gone": 0, "empty": 1}.get(how, 2)
    assert capsys.readouterr().err.count("is damaged: kept as") == lost + (how != "gone")


def test_altered_values_of_a_state_file_are_not_read(tmp_path):
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


def test_altered_rows_of_a_database_are_not_read(tmp_path, capsys):
    path = tmp_path / "units.sqlite"
    rows = {(f"key-{n}", f"a house of {n} floors", n / 7) for n in range(12, 16)}
    with closing(open_database(path, UNITS)) as database:
        signed = [(*row, row_checksum(row)) for row in rows]
        database.executemany("INSERT INTO units VALUES (?, ?, ?, ?)", signed)
    whole, numbers_lost = path.read_bytes(), set()
    for content in altered(whole, only=b"0123456789"):
        path.write_bytes(content)
        with closing(open_database(path, UNITS)) as database:
            found = database.execute("SELECT key, text, took FROM units").fetchall()
        assert set(found) <= rows
        assert len(found) == len(set(found))
        numbers_lost.add(len(rows) - len(found))
    assert 1 in numbers_lost  # an altered row alone is deleted, the others are kept
    assert "units.sqlite: damaged rows deleted, to be recomputed: 1." in capsys.readouterr().err


def test_altered_bytes_of_a_table_are_not_read(tmp_path):
    path = tmp_path / "table.parquet"
    path.write_text("mine")
    assert is_whole(path)  # a file that never was a table is left alone
    assert path.read_text() == "mine"
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


def test_rebuild_restores_damaged_tables_and_publishing_rejects_them(tmp_path):
    def build():
        build_dataset(tmp_path / "city", grid_size=3, street_views=1, num_workers=1)

    build()
    names = ["truth/harborview/part-00000.parquet", "rejects.parquet"]
    names += [f"data/harborview-{table}/part-00000.parquet" for table in ("satellite", "regions")]
    before = {name: (tmp_path / "city" / name).read_bytes() for name in names}
    for name, how in zip(names, ("flip", "truncate", "flip", "truncate"), strict=True):
        damage(tmp_path / "city" / name, how)
    with pytest.raises(DatasetError, match="has changed since it was built") as refused:
        publish(tmp_path / "city", tmp_path / "published")
    assert all(name in str(refused.value) for name in names)
    build()
    assert {name: (tmp_path / "city" / name).read_bytes() for name in names} == before
    assert len(aside(tmp_path)) == len(names)
    publish(tmp_path / "city", tmp_path / "published")
    assert not aside(tmp_path / "published")
