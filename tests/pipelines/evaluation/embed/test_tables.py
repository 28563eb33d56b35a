import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.evaluation.embed.tables import read_embeddings, rename_training, write_embeddings
from pipelines.evaluation.embed.trainings import (
    Training,
    check_trainings,
    groups,
    members,
    parse_training,
    training_of,
)
from pipelines.evaluation.errors import InputError

COUNTS = {"street_view": np.array([2, 0, 1]), "satellite": np.array([1, 1, 0])}
NET = Training("net", 1, "base", "less", {"mu": 0.3, "captions": "raw"})
SYSTEMS = {
    "b-s10": Training("b", 10).metadata(),
    "b-s2": Training("b", 2).metadata(),
    "alone": {"encoder": "x"},
}


def vectors(dim=4, seed=0):
    return np.random.default_rng(seed).normal(size=(3, dim)).astype(np.float32)


def write_and_read(path, columns, counts=COUNTS, ids=("a", "b", "c"), **metadata):
    write_embeddings(path / "x.parquet", ids, counts, columns, {"label": "x", **metadata})
    return read_embeddings(path / "x.parquet")


def test_both_is_fused_or_the_concatenated_views(tmp_path):
    columns = {"street_view": vectors(), "satellite": vectors(2, 1)}
    table = write_and_read(tmp_path, columns)
    assert table.views == ["street_view", "satellite", "both"]
    assert table.has("both").tolist() == [True, False, False]
    expected = np.concatenate([columns["street_view"][0], columns["satellite"][0]])
    np.testing.assert_array_equal(table.matrix("both")[0], expected)
    assert table.uses == ["satellite", "street_view"]
    fused = vectors(5)
    fused[1] = np.nan
    table = write_and_read(tmp_path, {"both": fused}, uses=["street_view", "poi"])
    assert table.views == ["both"]
    assert table.has("both").tolist() == [True, False, True]
    assert not table.has("satellite").any()
    np.testing.assert_array_equal(table.matrix("both")[[0, 2]], fused[[0, 2]])
    assert table.uses == ["poi", "street_view"]
    assert write_and_read(tmp_path, {**columns, "both": vectors(7)}).matrix("both").shape == (3, 7)


def test_files_that_are_not_tables_raise(tmp_path):
    path = tmp_path / "x.parquet"
    with pytest.raises(InputError, match="There is no embedding table"):
        read_embeddings(path)
    path.write_text("no Parquet")
    with pytest.raises(InputError, match="not Parquet"):
        read_embeddings(path)
    pq.write_table(pa.table({"region_id": ["a"]}), path)
    with pytest.raises(InputError, match="no `urbanln` metadata"):
        read_embeddings(path)


def test_duplicate_regions_raise(tmp_path):
    path, columns = tmp_path / "x.parquet", {"satellite": vectors()}
    with pytest.raises(InputError, match=r"1 row repeats the region_id .*\(a; 1 id"):
        write_and_read(tmp_path, columns, ids=["a", "b", "a"])
    assert not path.exists()
    write_and_read(tmp_path, columns)
    table = pq.read_table(path)
    doubled = pa.concat_tables([table, table])
    pq.write_table(doubled, path)
    with pytest.raises(InputError, match="If you edited it, remove the key `digest`"):
        read_embeddings(path)
    kept = {key: value for key, value in table.schema.metadata.items() if key != b"digest"}
    pq.write_table(doubled.replace_schema_metadata(kept), path)
    with pytest.raises(InputError, match=r"3 rows repeat .*evaluate\.py embed"):
        read_embeddings(path)


# ---- trainings ----


def test_training_of_a_table_can_be_changed(tmp_path):
    before = write_and_read(tmp_path, {"satellite": vectors()})
    assert training_of(before.metadata) is None
    rename_training(tmp_path / "x.parquet", NET)
    after = read_embeddings(tmp_path / "x.parquet")
    assert training_of(after.metadata) == NET
    assert (after.hash, after.label) == (before.hash, "x")
    rename_training(tmp_path / "x.parquet", None)
    assert read_embeddings(tmp_path / "x.parquet").metadata == before.metadata


def test_trainings_are_grouped_and_sorted_by_seed():
    assert members(SYSTEMS) == {"b": ["b-s2", "b-s10"], "alone": ["alone"]}
    assert groups(["b-s2", "mean"], SYSTEMS) == {"b-s2": "b", "mean": "mean"}
    check_trainings(SYSTEMS)
    with pytest.raises(InputError, match=r"b-s2 and again are both .* 'b' from seed 2"):
        check_trainings({**SYSTEMS, "again": Training("b", 2).metadata()})
    with pytest.raises(InputError, match="'b' is the label of one table and the group of others"):
        check_trainings({**SYSTEMS, "b": {}})


def test_parse_training():
    assert parse_training(None) is None
    assert parse_training('{"group": "net"}', seed=7) == Training("net", 7)
    assert parse_training('{"group": "net", "seed": 1}', seed=7) == Training("net", 1)
    for text, message in (
        ("net", "is not valid JSON"),
        ('{"groop": "net"}', "Did you mean 'group'"),
        ("[1]", "must be a mapping"),
        ('{"group": "net", "seed": "one"}', "must be a whole number"),
    ):
        with pytest.raises(InputError, match=message):
            parse_training(text)
