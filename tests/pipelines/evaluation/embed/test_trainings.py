import json

import pytest

from pipelines.evaluation.embed.tables import (
    read_embeddings,
    rename_training,
    write_embeddings,
)
from pipelines.evaluation.embed.trainings import (
    Training,
    check_trainings,
    groups,
    members,
    parse_training,
    training_of,
)
from pipelines.evaluation.errors import InputError

NET = Training("net", 1, "base", "less", {"mu": 0.3, "captions": "raw"})
SYSTEMS = {
    "b-s10": Training("b", 10).metadata(),
    "b-s2": Training("b", 2).metadata(),
    "alone": {"encoder": "x"},
}


def test_a_training_survives_the_metadata():
    assert training_of(json.loads(json.dumps({"label": "x", **NET.metadata()}))) == NET
    assert training_of({"label": "x"}) is None


def test_members_stand_in_the_order_of_seeds():
    assert members(SYSTEMS) == {"b": ["b-s2", "b-s10"], "alone": ["alone"]}
    assert groups(["b-s2", "mean"], SYSTEMS) == {"b-s2": "b", "mean": "mean"}


def test_trainings_that_cannot_be_told_apart_are_refused():
    check_trainings(SYSTEMS)
    with pytest.raises(InputError, match=r"b-s2 and again are both .* 'b' from seed 2"):
        check_trainings({**SYSTEMS, "again": Training("b", 2).metadata()})
    with pytest.raises(InputError, match="'b' is the label of one table and the group of others"):
        check_trainings({**SYSTEMS, "b": {}})


def test_parse_training_takes_json_alone():
    assert parse_training(None) is None
    assert parse_training('{"group": "net"}', seed=7) == Training("net", 7)
    assert parse_training('{"group": "net", "seed": 1}', seed=7) == Training("net", 1)
    for text, message in (
        ("net", "is not valid JSON"),
        ('{"groop": "net"}', "Did you mean 'group'"),
        ("{}", "lacks group"),
        ("[1]", "must be a mapping"),
        ('{"group": "net", "seed": "one"}', "must be a whole number"),
    ):
        with pytest.raises(InputError, match=message):
            parse_training(text)


def test_a_table_can_be_told_of_its_training_later(tmp_path):
    import numpy as np

    path = tmp_path / "x.parquet"
    vectors = {"satellite": np.ones((2, 3), np.float32)}
    write_embeddings(path, ["a", "b"], {"satellite": np.array([1, 0])}, vectors, {"label": "x"})
    before = read_embeddings(path)
    rename_training(path, NET)
    after = read_embeddings(path)
    assert training_of(after.metadata) == NET
    assert (after.hash, after.label) == (before.hash, "x")
    rename_training(path, None)
    assert read_embeddings(path).metadata == before.metadata
