"""Ten faults; `make torture` runs hundreds."""

import pytest

from .artefacts import artefacts, differences
from .faults import Fault, Torture, plan
from .subjects import MAKERS, subjects

FAULTS = [
    ("synthetic", "kill", 0.5), ("embed", "kill", 0.3), ("synthetic", "term", 0.8),
    ("synthetic", "disk_full", 0.4), ("embed", "read_only", 0.6), ("embed", "two", 0.5),
    ("synthetic", "clock", 0.4),
    *(("embed", how, 0.9) for how in ("flip", "truncate", "gone")),
]  # fmt: skip


@pytest.fixture(scope="module")
def torture(tmp_path_factory):
    work = tmp_path_factory.mktemp("torture")
    made = Torture(subjects(work / "inputs", ["synthetic", "embed"], "unused"), work)
    made.prepare(times=1)
    return made


@pytest.mark.parametrize(("subject", "kind", "at"), FAULTS)
def test_a_fault_and_a_rerun_end_as_an_undisturbed_run(torture, subject, kind, at):
    fault = Fault(0, subject, kind, at, which=at, finished=False)
    assert torture.suffer(fault).outcome == "survived"


def test_what_is_lost_or_altered_is_seen(tmp_path):
    table = tmp_path / "a.json"
    table.write_text('{"seconds": 1, "value": 2}')
    before = artefacts(tmp_path)
    table.write_text('{"seconds": 3, "value": 2}')
    assert differences(artefacts(tmp_path), before) == ([], [])
    table.write_text('{"seconds": 3, "value": 6}')
    assert differences(artefacts(tmp_path), before) == ([], ["a.json"])
    table.unlink()
    assert differences(artefacts(tmp_path), before) == (["a.json"], [])


def test_a_plan_depends_on_its_seed_alone_and_covers_every_pair():
    names = [*MAKERS]
    faults = plan(300, names, seed=0)
    assert faults == plan(300, names, seed=0) != plan(300, names, seed=1)
    assert [one.number for one in faults] == list(range(300))
    assert plan(100, names, seed=0) == faults[:100]
    pairs = {(one.subject, one.kind) for one in faults[:100]}
    assert pairs == {(one.subject, one.kind) for one in faults}
