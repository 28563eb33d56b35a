import asyncio
from dataclasses import replace

from pipelines.captioning.inputs import InputShard
from pipelines.captioning.ledger import Ledger, fingerprint, unit_key
from pipelines.captioning.recipe import make_recipe
from pipelines.captioning.records import Box, Sampling


def test_unit_key_depends_on_every_part():
    parts = {"box": Box(1, 2, 3, 4), "sampling": Sampling(seed=1), "prompt": "a"}
    key = unit_key("local", **parts)
    assert key == unit_key("local", **dict(reversed(parts.items())))
    changes = [{"box": Box(1, 2, 3, 5)}, {"sampling": Sampling(seed=2)}, {"prompt": "b"}]
    others = [unit_key("local", **(parts | change)) for change in changes]
    assert len({key, unit_key("merge", **parts), *others}) == 5


def test_once_computes_a_unit_once(tmp_path):
    calls = []

    async def compute():
        calls.append(1)
        await asyncio.sleep(0)
        return {"text": "ü", "box": (1, 2)}

    async def concurrently(ledger):
        tasks = [ledger.once("k", "describe", "image", compute) for _ in range(5)]
        return await asyncio.gather(*tasks)

    with Ledger(tmp_path / "units.sqlite") as ledger:
        first = asyncio.run(concurrently(ledger))
    with Ledger(tmp_path / "units.sqlite") as ledger:
        again = asyncio.run(ledger.once("k", "describe", "image", compute))
    # the first run gets the same value as a resumed one
    assert [unit.result for unit in (*first, again)] == [{"text": "ü", "box": [1, 2]}] * 6
    assert len(calls) == 1


def test_fingerprint_depends_on_inputs_but_not_on_execution_settings():
    recipe = make_recipe({"dataset_name": "d", "output_dir": "o", "models": [{"name": "a"}]})
    shard = InputShard("s", "c-satellite", "satellite", "folder", "x", 0, 3, "stamp")
    given = {"recipe": recipe, "revisions": {"model a": "1"}, "shard": shard}
    changes = [
        {"recipe": recipe.model_copy(update={"seed": 1})},
        {"revisions": {"model a": "2"}},
        {"shard": replace(shard, stamp="other")},
    ]
    assert len({fingerprint(**(given | change)) for change in [{}, *changes]}) == 4
    paced = make_recipe(recipe.model_dump() | {"run": {"images_in_flight": 1}, "output_dir": "b"})
    assert fingerprint(**(given | {"recipe": paced})) == fingerprint(**given)
