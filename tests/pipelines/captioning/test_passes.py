from dataclasses import replace
from types import SimpleNamespace

import pytest

from pipelines.captioning.inputs import InputShard
from pipelines.captioning.passes import Pass, ShardFolder, fingerprint, plan_passes
from pipelines.captioning.recipe import make_recipe

SHARD = InputShard("s", "c-satellite", "satellite", "folder", "x", 0, 3, "stamp")
STEP = Pass("all", "consensus", ("a",))


def recipe_with(*names, **run):
    models = [{"name": name} for name in names]
    return make_recipe({"dataset_name": "d", "output_dir": "o", "models": models, "run": run})


def models(**in_process):
    return {name: SimpleNamespace(in_process=local) for name, local in in_process.items()}


def test_servers_alone_need_one_pass():
    passes = plan_passes(recipe_with("a", "b"), models(a=False, b=False))
    assert passes == [Pass("all", "consensus", ("a", "b"))]


def test_models_of_this_process_come_one_after_another():
    recipe = recipe_with("a", "b", "c")
    passes = plan_passes(recipe, models(a=True, b=False, c=False))
    assert [(one.name, one.models) for one in passes] == [
        ("describe-b+c", ("b", "c")),
        ("describe-a", ("a",)),
        ("filter", ()),
        ("merge-b+c", ("b", "c")),
        ("merge-a", ("a",)),
        ("consensus", ()),
    ]


def test_one_model_at_a_time_can_be_told_off():
    recipe = recipe_with("a", "b", one_model_at_a_time=False)
    assert len(plan_passes(recipe, models(a=True, b=True))) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"recipe": recipe_with("a", "b", images_in_flight=1)},
        {"recipe": recipe_with("a"), "same": True},
        {"revisions": {"a": "2"}},
        {"shard": replace(SHARD, stamp="other")},
        {"step": replace(STEP, name="filter")},
    ],
    ids=lambda change: next(iter(change)),
)
def test_fingerprint_follows_what_matters(change):
    given = {"recipe": recipe_with("a"), "revisions": {"a": "1"}, "shard": SHARD, "step": STEP}
    before = fingerprint(**given)
    same = change.pop("same", False) or "recipe" in change
    assert (fingerprint(**(given | change)) == before) == same


def test_a_pass_is_done_only_for_its_fingerprint(tmp_path):
    folder = ShardFolder(tmp_path, SHARD)
    assert not folder.is_done(STEP, "x")
    folder.finish(STEP, "x", {"images": 3})
    assert folder.is_done(STEP, "x")
    assert not folder.is_done(STEP, "y")
    assert folder.summary(STEP)["images"] == 3
    folder.marker(STEP).write_text("{")  # torn by another hand
    assert not folder.is_done(STEP, "x")
    folder.forget([STEP])
    assert folder.summary(STEP) == {}
