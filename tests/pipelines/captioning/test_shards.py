from dataclasses import replace

import pytest

from pipelines.captioning.inputs import InputShard
from pipelines.captioning.recipe import make_recipe
from pipelines.captioning.shards import ShardFolder, fingerprint

SHARD = InputShard("s", "c-satellite", "satellite", "folder", "x", 0, 3, "stamp")


def recipe_with(*names, **run):
    models = [{"name": name} for name in names]
    return make_recipe({"dataset_name": "d", "output_dir": "o", "models": models, "run": run})


GIVEN = {"recipe": recipe_with("a"), "revisions": {"model a": "1"}, "shard": SHARD}


@pytest.mark.parametrize(
    "change",
    [
        {"recipe": make_recipe(GIVEN["recipe"].model_dump() | {"seed": 1})},
        {"revisions": {"model a": "2"}},
        {"revisions": {"model a": "1", "model b": "1"}},
        {"shard": replace(SHARD, stamp="other")},
    ],
)
def test_fingerprint_changes_with_whatever_the_tables_depend_on(change):
    assert fingerprint(**(GIVEN | change)) != fingerprint(**GIVEN)


def test_fingerprint_does_not_change_with_the_pace():
    paced = GIVEN | {"recipe": recipe_with("a", images_in_flight=1)}
    assert fingerprint(**paced) == fingerprint(**GIVEN)


def test_a_shard_is_done_only_for_its_fingerprint(tmp_path):
    folder = ShardFolder(tmp_path, SHARD)
    assert not folder.is_done("x")
    folder.finish("x", {"images": 3})
    assert folder.is_done("x")
    assert not folder.is_done("y")
    assert folder.summary()["images"] == 3
    folder.marker.write_text("{")  # damaged from outside
    assert not folder.is_done("x")
    folder.reopen()
    assert folder.summary() == {}
