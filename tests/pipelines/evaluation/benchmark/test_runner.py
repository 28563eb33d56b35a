import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from dataset_builders import files
from dataset_builders.errors import InUseError
from pipelines.evaluation.benchmark.plan import run_benchmark
from pipelines.evaluation.benchmark.runner import Runner, Step, raise_for_failures, tail
from pipelines.evaluation.errors import InputError

from . import fake_job

ROOT = Path(__file__).resolve().parents[4]
APPEND = """
import pathlib, sys
path = pathlib.Path(sys.argv[1])
path.parent.mkdir(parents=True, exist_ok=True)
with path.open("a") as file:
    file.write(" ".join(sys.argv[2:]) + "\\n")
"""


def append(run: Path, name: str, *words: str, **fields) -> Step:
    """A step that adds a line to <run>/<name>.txt."""
    path = run / f"{name}.txt"
    command = (sys.executable, "-c", APPEND, str(path), *words)
    return Step(name, command, outputs=(path,), **fields)


def broken(name: str, code: str, **fields) -> Step:
    return Step(name, (sys.executable, "-c", code), **fields)


def lines(run: Path, name: str) -> list[str]:
    return (run / f"{name}.txt").read_text().splitlines()


def go(run: Path, steps: list[Step], **settings):
    said: list[str] = []
    outcome = Runner(run, steps, log=said.append, **settings).run()
    return outcome, "\n".join(said)


def test_runner_passes_by_what_is_done(tmp_path):
    steps = [append(tmp_path, "a"), append(tmp_path, "b", needs=("a",))]
    first, said = go(tmp_path, steps)
    assert first.ran == ["a", "b"]
    assert "[2/2] b done in" in said
    again, said = go(tmp_path, steps)
    assert (again.ran, list(again.keys)) == ([], ["a", "b"])
    assert said == ""
    assert lines(tmp_path, "a") == lines(tmp_path, "b") == [""]


def test_runner_does_again_what_has_changed_and_what_hangs_on_it(tmp_path):
    def steps(word: str) -> list[Step]:
        a = append(tmp_path, "a", word, clears=(tmp_path / "a.txt",))
        return [a, append(tmp_path, "b", needs=("a",)), append(tmp_path, "c")]

    go(tmp_path, steps("one"))
    outcome, _ = go(tmp_path, steps("two"))
    assert outcome.ran == ["a", "b"]
    assert lines(tmp_path, "a") == ["two"]  # cleared before
    assert lines(tmp_path, "b") == ["", ""]  # shared: added to
    assert lines(tmp_path, "c") == [""]


def test_runner_clears_nothing_before_its_first_attempt(tmp_path):
    (tmp_path / "a.txt").write_text("mine\n")
    go(tmp_path, [append(tmp_path, "a", "one", clears=(tmp_path / "a.txt",))])
    assert lines(tmp_path, "a") == ["mine", "one"]


def test_runner_does_again_what_was_removed(tmp_path):
    steps = [append(tmp_path, "a"), append(tmp_path, "b", needs=("a",))]
    go(tmp_path, steps)
    (tmp_path / "a.txt").unlink()
    outcome, _ = go(tmp_path, steps)
    assert outcome.ran == ["a"]  # the same command makes the same: b still stands


def test_settings_read_from_files_are_part_of_the_key(tmp_path):
    one = append(tmp_path, "a", settings={"steps": 1})
    two = append(tmp_path, "a", settings={"steps": 2})
    assert one.key(tmp_path, {}) != two.key(tmp_path, {})


def test_a_job_that_was_moved_is_still_done(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    go(here, [append(here, "a")])
    here.rename(there)
    outcome, _ = go(there, [append(there, "a")])
    assert outcome.ran == []


def test_a_failure_holds_up_only_what_needs_it(tmp_path):
    steps = [
        broken("bad", "import sys; print('the reason\\nwhy'); sys.exit(3)"),
        append(tmp_path, "other"),
        append(tmp_path, "after", needs=("bad",)),
        append(tmp_path, "beyond", needs=("after",)),
        append(tmp_path, "table", "of", takes={"bad": ("bad",), "other": ("other",)}),
    ]
    outcome, said = go(tmp_path, steps)
    assert outcome.ran == ["other", "table"]
    assert outcome.failed == {"bad": "exit code 3"}
    assert outcome.blocked == {"after": "bad is not done", "beyond": "after is not done"}
    assert "bad FAILED: exit code 3" in said
    assert "    | the reason\n    | why" in said
    assert lines(tmp_path, "table") == ["of other"]
    summary = json.loads((tmp_path / "benchmark.json").read_text())
    assert summary["failed"] == outcome.failed
    assert summary["steps"]["bad"]["state"] == "failed"
    with pytest.raises(InputError, match=r"1 step\(s\) failed: bad; 2 could not start: after"):
        raise_for_failures(outcome)


def test_a_table_is_made_anew_once_what_it_lacked_is_there(tmp_path):
    def steps(code: str) -> list[Step]:
        takes = {"shaky": ("shaky",), "other": ("other",)}
        shaky = broken("shaky", code)
        return [shaky, append(tmp_path, "other"), append(tmp_path, "table", takes=takes)]

    go(tmp_path, steps("raise SystemExit(1)"))
    outcome, _ = go(tmp_path, steps("pass"))
    assert outcome.ran == ["shaky", "table"]
    assert lines(tmp_path, "table") == ["other", "shaky other"]


def test_a_table_of_nothing_is_not_made(tmp_path):
    steps = [broken("bad", "raise SystemExit(1)"), append(tmp_path, "table", takes={"bad": ()})]
    outcome, said = go(tmp_path, steps)
    assert outcome.blocked == {"table": "none of bad is done"}
    assert "table cannot start: none of bad is done" in said


def test_a_command_that_ends_well_without_its_output_has_failed(tmp_path):
    outcome, _ = go(tmp_path, [broken("a", "pass", outputs=(tmp_path / "nothing",))])
    assert outcome.failed == {"a": f"{tmp_path / 'nothing'} is not there"}


@pytest.mark.parametrize(("content", "done"), [("true", True), ("false", False)])
def test_a_command_that_was_asked_to_stop_is_not_done(tmp_path, content, done):
    path = tmp_path / "summary.json"
    write = f"open({str(path)!r}, 'w').write('{{\"completed\": {content}}}')"
    outcome, _ = go(tmp_path, [broken("a", write, completed=path)])
    assert ("a" in outcome.keys) == done
    if not done:
        assert "was stopped before its end" in outcome.failed["a"]


def test_a_step_that_is_killed_says_so(tmp_path):
    outcome, _ = go(tmp_path, [broken("a", "import os; os.kill(os.getpid(), 9)")])
    assert outcome.failed == {"a": "ended by signal 9 (out of memory?)"}


def test_plan_says_what_would_be_done_and_does_nothing(tmp_path):
    steps = [
        append(tmp_path, "done"),
        broken("bad", "raise SystemExit(1)"),
        append(tmp_path, "later", needs=("bad",)),
    ]
    go(tmp_path, steps)
    changed = [append(tmp_path, "done", "other"), *steps[1:]]
    before = sorted(tmp_path.rglob("*"))
    assert [state for _, state in Runner(tmp_path, steps).plan()] == ["done", "resume", "run"]
    assert [state for _, state in Runner(tmp_path, changed).plan()] == ["rerun", "resume", "run"]
    assert sorted(tmp_path.rglob("*")) == before


def test_runner_refuses_steps_that_cannot_be_ordered(tmp_path):
    with pytest.raises(InputError, match="'b' waits for 'a', an unknown step"):
        Runner(tmp_path, [append(tmp_path, "b", needs=("a",))])
    with pytest.raises(InputError, match="Two steps are called 'a'"):
        Runner(tmp_path, [append(tmp_path, "a"), append(tmp_path, "a")])


# ---- killed -------------------------------------------------------------------------------------


def start_job(run: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", fake_job.__name__, str(run)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    attempts = run / "attempts.txt"
    while not (attempts.exists() and attempts.read_text() and steps_left_behind(run)):
        assert process.poll() is None, "the job ended before it could be killed"
        time.sleep(0.02)
    return process


def steps_left_behind(run: Path) -> list[int]:
    """Children of jobs in this folder, by their command lines."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if f"{run / 'attempts.txt'}".encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found


def wait_until_gone(pid: int) -> None:
    with suppress(FileNotFoundError, ProcessLookupError):
        while ") Z " not in Path(f"/proc/{pid}/stat").read_text():
            time.sleep(0.02)


def test_a_job_killed_in_a_step_goes_on_and_does_nothing_twice(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "ORPHANS_S", 0.1)
    process = start_job(tmp_path)
    process.kill()
    process.wait()
    (orphan,) = steps_left_behind(tmp_path)
    with pytest.raises(InUseError, match="and the step that it left behind"):
        Runner(tmp_path, fake_job.steps(tmp_path)).run()
    os.kill(orphan, signal.SIGKILL)
    wait_until_gone(orphan)
    outcome, said = go(tmp_path, fake_job.steps(tmp_path))
    assert outcome.ran == ["slow", "last"]
    assert "slow resumes" in said
    assert lines(tmp_path, "first") == lines(tmp_path, "last") == ["attempt"]
    assert lines(tmp_path, "attempts") == ["attempt", "attempt"]
    mark = json.loads((tmp_path / "steps" / "slow.json").read_text())
    assert (mark["state"], mark["attempts"]) == ("done", 2)


@pytest.mark.parametrize("number", [signal.SIGTERM])
def test_a_job_that_is_asked_to_stop_takes_its_steps_with_it(tmp_path, number):
    process = start_job(tmp_path)
    (step,) = steps_left_behind(tmp_path)
    process.send_signal(number)
    assert process.wait() != 0
    wait_until_gone(step)
    outcome, _ = go(tmp_path, fake_job.steps(tmp_path))
    assert outcome.ran == ["slow", "last"]


# ---- small things -------------------------------------------------------------------------------


def test_tail_shows_the_last_state_of_a_progress_bar(tmp_path):
    log = tmp_path / "a.log"
    log.write_bytes(b"first\n 10%|#\r 50%|###\r100%|######\nlast \xff\n")
    assert tail(log).splitlines() == ["    | first", "    | 100%|######", "    | last �"]


def test_the_recipes_of_the_project_can_be_planned(tmp_path, capsys):
    recipe = ROOT / "configs" / "benchmark" / "synthetic_fast.yaml"
    run_benchmark(recipe, tmp_path, dry_run=True, log=print)
    told = capsys.readouterr().out
    assert "run    train-full-s0\n" in told
    assert told.splitlines()[-1].startswith("55 of 55 steps to do")
    assert not list(tmp_path.iterdir())
