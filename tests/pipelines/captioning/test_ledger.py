import asyncio
from dataclasses import replace

import pytest

from pipelines.captioning.errors import RequestFailedError
from pipelines.captioning.inputs import InputShard
from pipelines.captioning.ledger import Ledger, ShardFolder, fingerprint, unit_key
from pipelines.captioning.recipe import make_recipe
from pipelines.captioning.records import Box, Sampling


def once(ledger, key, compute, **kwargs):
    return asyncio.run(ledger.once(key, "describe", "image", compute, **kwargs))


async def answer(value):
    return value


def test_unit_key_depends_on_every_part():
    key = unit_key("local", box=Box(1, 2, 3, 4), sampling=Sampling(seed=1), prompt="a")
    assert key == unit_key("local", prompt="a", sampling=Sampling(seed=1), box=Box(1, 2, 3, 4))
    others = [
        unit_key("merge", box=Box(1, 2, 3, 4), sampling=Sampling(seed=1), prompt="a"),
        unit_key("local", box=Box(1, 2, 3, 5), sampling=Sampling(seed=1), prompt="a"),
        unit_key("local", box=Box(1, 2, 3, 4), sampling=Sampling(seed=2), prompt="a"),
        unit_key("local", box=Box(1, 2, 3, 4), sampling=Sampling(seed=1), prompt="b"),
    ]
    assert len({key, *others}) == 5


def test_once_computes_a_unit_once_across_reopening(tmp_path):
    calls = []

    async def compute():
        calls.append(1)
        return {"text": "ü", "box": (1, 2)}

    with Ledger(tmp_path / "units.sqlite") as ledger:
        first = once(ledger, "k", compute)
    with Ledger(tmp_path / "units.sqlite") as ledger:
        second = once(ledger, "k", compute)
    assert len(calls) == 1
    # the first run gets the same value as a resumed one
    assert first.result == second.result == {"text": "ü", "box": [1, 2]}


def test_once_computes_a_unit_once_for_concurrent_coroutines(tmp_path):
    calls = []

    async def compute():
        calls.append(1)
        await asyncio.sleep(0.01)
        return 7

    async def both(ledger):
        return await asyncio.gather(
            *(ledger.once("k", "describe", "image", compute) for _ in range(5))
        )

    with Ledger(tmp_path / "units.sqlite") as ledger:
        assert {unit.result for unit in asyncio.run(both(ledger))} == {7}
    assert len(calls) == 1


def test_failures_are_stored_until_forgotten(tmp_path):
    async def fail():
        raise RequestFailedError("http_500", "x" * 2000, attempts=4)

    with Ledger(tmp_path / "units.sqlite") as ledger:
        unit = once(ledger, "k", fail, model="m")
        assert (unit.failed, unit.reason, unit.attempts) == (True, "http_500", 4)
        assert once(ledger, "k", lambda: answer(1)).failed
        assert len(next(iter(ledger.units())).detail) == 500
        assert ledger.forget_failures() == 1
        assert once(ledger, "k", lambda: answer(1)).result == 1


def test_an_unexpected_error_is_not_stored(tmp_path):
    async def broken():
        raise KeyError("a bug")

    with Ledger(tmp_path / "units.sqlite") as ledger:
        with pytest.raises(KeyError):
            once(ledger, "k", broken)
        assert ledger.get("k") is None


# ---- shards -------------------------------------------------------------------------------------

SHARD = InputShard("s", "c-satellite", "satellite", "folder", "x", 0, 3, "stamp")
RECIPE = make_recipe({"dataset_name": "d", "output_dir": "o", "models": [{"name": "a"}]})


def test_fingerprint_depends_on_inputs_but_not_on_execution_settings():
    given = {"recipe": RECIPE, "revisions": {"model a": "1"}, "shard": SHARD}
    changes = [
        {"recipe": RECIPE.model_copy(update={"seed": 1})},
        {"revisions": {"model a": "2"}},
        {"revisions": {"model a": "1", "model b": "1"}},
        {"shard": replace(SHARD, stamp="other")},
    ]
    assert len({fingerprint(**(given | change)) for change in [{}, *changes]}) == 5
    paced = make_recipe(RECIPE.model_dump() | {"run": {"images_in_flight": 1}, "output_dir": "b"})
    assert fingerprint(**(given | {"recipe": paced})) == fingerprint(**given)


def test_a_shard_is_done_only_for_its_fingerprint(tmp_path):
    folder = ShardFolder(tmp_path, SHARD)
    assert not folder.is_done("x")
    folder.candidates.parent.mkdir(parents=True)
    for path in (folder.candidates, folder.rejects):
        path.write_bytes(b"table")
    folder.finish("x", {"images": 3})
    assert folder.is_done("x")
    assert not folder.is_done("y")
    folder.marker.write_text("{")  # damaged file
    assert not folder.is_done("x")
    folder.reopen()
    assert folder.summary() == {}
