import numpy as np
import pytest

from pipelines.evaluation.embed.tables import read_embeddings, write_embeddings

IDS = ["a", "b", "c"]
COUNTS = {"street_view": np.array([2, 0, 1]), "satellite": np.array([1, 1, 0])}


def vectors(dim=4, seed=0):
    return np.random.default_rng(seed).normal(size=(3, dim)).astype(np.float32)


def write_and_read(path, columns, counts=COUNTS, **metadata):
    write_embeddings(path / "x.parquet", IDS, counts, columns, {"label": "x", **metadata})
    return read_embeddings(path / "x.parquet")


def test_both_views_stand_side_by_side_where_nothing_is_fused(tmp_path):
    columns = {"street_view": vectors(), "satellite": vectors(2, 1)}
    table = write_and_read(tmp_path, columns)
    assert table.views == ["street_view", "satellite", "both"]
    assert table.has("both").tolist() == [True, False, False]
    expected = np.concatenate([columns["street_view"][0], columns["satellite"][0]])
    np.testing.assert_array_equal(table.matrix("both")[0], expected)
    assert table.uses == ["satellite", "street_view"]


def test_a_fused_vector_is_its_own_and_needs_no_view(tmp_path):
    fused = vectors(5)
    fused[1] = np.nan
    table = write_and_read(tmp_path, {"both": fused}, uses=["street_view", "poi"])
    assert table.views == ["both"]
    assert table.has("both").tolist() == [True, False, True]
    assert not table.has("satellite").any()
    np.testing.assert_array_equal(table.matrix("both")[[0, 2]], fused[[0, 2]])
    assert table.uses == ["poi", "street_view"]


def test_fused_vectors_go_before_views_side_by_side(tmp_path):
    columns = {"street_view": vectors(), "satellite": vectors(), "both": vectors(7)}
    assert write_and_read(tmp_path, columns).matrix("both").shape == (3, 7)


def test_a_system_of_one_view_has_that_view_alone(tmp_path):
    table = write_and_read(tmp_path, {"satellite": vectors()}, {"satellite": np.array([1, 1, 0])})
    assert table.views == ["satellite"]
    assert table.has("satellite").tolist() == [True, True, False]


def test_equal_numbers_in_another_view_are_another_table(tmp_path):
    ones = {view: np.ones(3, np.int64) for view in COUNTS}
    hashes = {write_and_read(tmp_path, {view: vectors()}, ones).hash for view in (*COUNTS, "both")}
    assert len(hashes) == 3


@pytest.mark.parametrize("columns", [{"text": vectors()}, {"satellite": vectors()[:2]}])
def test_vectors_that_do_not_fit_are_named(tmp_path, columns):
    with pytest.raises(ValueError, match="of 3 regions, got"):
        write_and_read(tmp_path, columns)
