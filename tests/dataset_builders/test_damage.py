"""Damaged files are set aside, and made again by the same command."""

import json

import pyarrow as pa
import pytest

from dataset_builders.errors import DatasetError
from dataset_builders.files import open_database, read_json, write_json
from dataset_builders.parquet import is_whole, write_parquet
from dataset_builders.publish import publish
from dataset_builders.synthetic import build_dataset
from tests.damage import HOW, damage

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
    with open_database(ledger) as database:
        database.execute("CREATE TABLE one (x)")
        database.executemany("INSERT INTO one VALUES (?)", [(i,) for i in range(5000)])
    database.close()
    for path in (values, ledger):
        damage(path, how)
    assert read_json(values) is None
    database = open_database(ledger)
    assert database.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
    database.close()
    # SQLite takes an empty file for a new database
    lost = {"gone": 0, "empty": 1}.get(how, 2)
    assert len(aside(tmp_path)) == lost
    assert capsys.readouterr().err.count("is damaged: kept as") == lost


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
        with pytest.raises(DatasetError, match=f"is not as it was built: {name}"):
            publish(tmp_path / "city", tmp_path / "published")
        build_dataset(tmp_path / "city", **CITY)
        assert (tmp_path / "city" / name).read_bytes() == before
    assert len(aside(tmp_path)) == 2
    assert json.loads((tmp_path / "city" / ".urbanln-dataset.jsonl").read_text().split("\n")[1])
    publish(tmp_path / "city", tmp_path / "published")
    assert not aside(tmp_path / "published")
