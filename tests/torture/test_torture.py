"""Four faults; `make torture` runs hundreds."""

import pytest

from .artefacts import artefacts, differences
from .faults import Fault, Torture, plan
from .subjects import MAKERS, subjects

KINDS = (("disk_full", 0.4), ("read_only", 0.6), ("two", 0.5), ("flip", 0.9))


@pytest.fixture(scope="module")
def torture(tmp_path_factory):
    work = tmp_path_factory.mktemp("torture")
    made = Torture(subjects(work / "inputs", ["synthetic"], "unused"), work)
    made.prepare(times=1)
    return made


@pytest.mark.parametrize(("kind", "at"), KINDS)
def test_rerun_after_a_fault_equals_an_undisturbed_run(torture, kind, at):
    fault = Fault(0, "synthetic", kind, at, which=at, finished=True)
    assert torture.suffer(fault)["outcome"] == "survived"


def test_finds_lost_and_altered_artefacts(tmp_path):
    table = tmp_path / "a.json"
    table.write_text('{"seconds": 1, "value": 2}')
    before = artefacts(tmp_path)
    table.write_text('{"seconds": 3, "value": 2}')
    assert differences(artefacts(tmp_path), before) == ([], [])
    table.write_text('{"seconds": 3, "value": 6}')
    assert differences(artefacts(tmp_path), before) == ([], ["a.json"])
    table.unlink()
    assert differences(artefacts(tmp_path), before) == (["a.json"], [])


def test_plan_is_seeded_and_covers_every_pair():
    names = [*MAKERS]
    faults = plan(300, names, seed=0)
    assert faults == plan(300, names, seed=0) != plan(300, names, seed=1)
    assert [one.number for one in faults] == list(range(300))
    assert plan(100, names, seed=0) == faults[:100]
    pairs = {(one.subject, one.kind) for one in faults[:100]}
    assert pairs == {(one.subject, one.kind) for one in faults}
