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
from pipelines.evaluation.benchmark.runner import Runner, Step
from pipelines.evaluation.benchmark.steps import read_recipe, run_benchmark
from pipelines.evaluation.errors import InputError

ROOT = Path(__file__).resolve().parents[4]
RECIPE = ROOT / "configs" / "benchmark" / "synthetic_fast.yaml"
NOTE = """
import pathlib, sys
with pathlib.Path(sys.argv[1]).open("a") as file:
    file.write(" ".join(sys.argv[2:]) + "\\n")
"""
# the first attempt waits to be killed; every attempt writes a line
SLOW = """
import pathlib, sys, time
count = pathlib.Path(sys.argv[1])
with count.open("a") as file:
    file.write("attempt\\n")
while len(count.read_text().splitlines()) < 2:
    time.sleep(0.02)
pathlib.Path(sys.argv[2]).write_text("done")
"""


def note(run: Path, name: str, *words: str, **fields) -> Step:
    """Step that appends a line to <run>/<name>.txt."""
    path = run / f"{name}.txt"
    return Step(name, (sys.executable, "-c", NOTE, str(path), *words), path, **fields)


def broken(run: Path, name: str, code: str) -> Step:
    return Step(name, (sys.executable, "-c", code), run / f"{name}.txt")


def lines(run: Path, name: str) -> list[str]:
    return (run / f"{name}.txt").read_text().splitlines()


def go(run: Path, steps: list[Step]) -> tuple[dict[str, str], str]:
    said: list[str] = []
    lost = Runner(run, steps, log=said.append)()
    return lost, "\n".join(said)


def test_finished_steps_are_skipped_and_changed_ones_rerun_with_their_dependants(tmp_path):
    def steps(run: Path, word: str, settings: int) -> list[Step]:
        a = note(run, "a", word, clears=run / "a.txt", settings=settings)
        return [a, note(run, "b", needs=("a",)), note(run, "c")]

    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    (here / "a.txt").write_text("mine\n")
    lost, said = go(here, steps(here, "one", 1))
    assert lost == {}
    assert "0 of 3 steps left" in said
    assert lines(here, "a") == ["mine", "one"]  # nothing is cleared before the first attempt
    here.rename(there)
    assert go(there, steps(there, "one", 1)) == ({}, "")
    (there / "b.txt").unlink()
    assert go(there, steps(there, "one", 1))[1].startswith("b: ")
    go(there, steps(there, "two", 1))
    go(there, steps(there, "two", 2))
    assert lines(there, "a") == ["two"]  # cleared before each
    assert lines(there, "b") == ["", "", ""]
    assert lines(there, "c") == [""]
    states = [state for _, state in Runner(there, steps(there, "three", 2)).plan()]
    assert states == ["redo", "redo", "done"]


def test_failed_steps_stop_only_their_dependants(tmp_path):
    def steps(code: str) -> list[Step]:
        return [
            broken(tmp_path, "bad", code),
            note(tmp_path, "other"),
            note(tmp_path, "after", needs=("bad",)),
            note(tmp_path, "table", takes={"bad": ("bad",), "other": ("other",)}),
            note(tmp_path, "nothing", takes={"bad": ()}),
        ]

    progress = r"print('the reason\n 1%|#\r99%|##\nwhy'); raise SystemExit(3)"
    missing = dict.fromkeys(("after", "nothing"), "bad did not finish")
    lost, said = go(tmp_path, steps(progress))
    assert lost == {"bad": "exit code 3", **missing}
    assert "bad FAILED (exit code 3). Last lines of" in said
    assert "    | the reason\n    | 99%|##\n    | why" in said
    assert "after cannot start: bad did not finish" in said
    assert lines(tmp_path, "table") == ["other"]
    for code, reason in (
        ("pass", f"{tmp_path / 'bad.txt'} is missing"),
        ("import os; os.kill(os.getpid(), 9)", "signal 9"),
    ):
        assert go(tmp_path, steps(code))[0] == {"bad": reason, **missing}
    write = f"open({str(tmp_path / 'bad.txt')!r}, 'w')"
    assert go(tmp_path, steps(write))[0] == {}
    assert lines(tmp_path, "table") == ["other", "bad other"]
    assert lines(tmp_path, "other") == [""]


def steps_left_behind(run: Path) -> list[int]:
    """Process ids of steps in this folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if f"{run / 'attempts.txt'}".encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found


def interrupted(run: Path) -> list[Step]:
    """Three steps, the second of which waits to be killed."""
    slow = run / "slow.txt"
    command = (sys.executable, "-c", SLOW, str(run / "attempts.txt"), str(slow))
    return [
        note(run, "first"),
        Step("slow", command, slow, ("first",)),
        note(run, "last", needs=("slow",)),
    ]


def test_resumes_after_sigkill(tmp_path, monkeypatch):
    process = subprocess.Popen([sys.executable, "-m", __name__, str(tmp_path)], cwd=ROOT)
    attempts = tmp_path / "attempts.txt"
    while not (attempts.exists() and attempts.read_text() and steps_left_behind(tmp_path)):
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.02)
    process.kill()
    process.wait()
    (orphan,) = steps_left_behind(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(files, "ORPHANS_S", 0.0)
        with pytest.raises(InUseError, match="wait for its leftover steps"):
            Runner(tmp_path, interrupted(tmp_path))()
    os.kill(orphan, signal.SIGKILL)
    while steps_left_behind(tmp_path):
        time.sleep(0.02)
    lost, said = go(tmp_path, interrupted(tmp_path))
    assert lost == {}
    assert [line.partition(":")[0] for line in said.splitlines()] == ["slow", "last"]
    assert lines(tmp_path, "first") == lines(tmp_path, "last") == [""]
    assert lines(tmp_path, "attempts") == ["attempt", "attempt"]


def test_dry_run_lists_every_command(tmp_path, capsys):
    run_benchmark(RECIPE, tmp_path, dry_run=True)
    told = capsys.readouterr().out.splitlines()
    (train,) = [line for line in told if line.startswith("run train-noise-30-in-batch-s0: ")]
    assert f"--dataset_name {tmp_path}/captioned/noise-30 " in train
    assert "--contrastive_keys student" in train
    (probe,) = [line for line in told if line.startswith("run probe: ")]
    assert probe.endswith("--embeddings ...")
    assert told[-1].startswith(f"{len(told) - 1} of {len(told) - 1} steps to run")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("variants: {x: {differs: a, captions: raw, train: {momentun: 1}}}", "'momentum'"),
        ("variants: {x: {differs: a, captions: raw, against: ful}}", "'full'"),
        ("baselines: [tile3vec]", "'tile2vec'"),
        ("training: {recipe: gone.yaml}", "gone.yaml cannot be read"),
        ("seeds: []", "needs `world.cities`, `seeds`"),
    ],
)
def test_invalid_recipes_raise(tmp_path, text, message):
    recipe = tmp_path / "recipe.yaml"
    base = os.path.relpath(RECIPE.with_name("synthetic.yaml"), tmp_path)
    recipe.write_text(f"base: {base}\n{text}")
    with pytest.raises(InputError, match=message):
        read_recipe(recipe)


if __name__ == "__main__":
    Runner(Path(sys.argv[1]), interrupted(Path(sys.argv[1])))()
