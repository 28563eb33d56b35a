import asyncio
from dataclasses import replace

import pytest

from pipelines.captioning.errors import RequestFailedError
from pipelines.captioning.inputs import InputShard
from pipelines.captioning.ledger import Ledger, fingerprint, unit_key
from pipelines.captioning.recipe import make_recipe
from pipelines.captioning.records import Box, Sampling


def once(ledger, key, compute, **kwargs):
    return asyncio.run(ledger.once(key, "describe", "image", compute, **kwargs))


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
        again = once(ledger, "k", compute)
    # the first run gets the same value as a resumed one
    assert [unit.result for unit in (*first, again)] == [{"text": "ü", "box": [1, 2]}] * 6
    assert len(calls) == 1


def test_stores_failures_until_forgotten_but_no_unexpected_errors(tmp_path):
    async def fail():
        raise RequestFailedError("http_500", "x" * 2000, attempts=4)

    async def broken():
        raise KeyError("a bug")

    async def answer():
        return 1

    with Ledger(tmp_path / "units.sqlite") as ledger:
        unit = once(ledger, "k", fail, model="m")
        assert (unit.failed, unit.reason, unit.attempts) == (True, "http_500", 4)
        assert once(ledger, "k", answer).failed
        assert len(next(iter(ledger.units())).detail) == 500
        assert ledger.forget_failures() == 1
        with pytest.raises(KeyError):
            once(ledger, "k", broken)
        assert once(ledger, "k", answer).result == 1


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
