"""Steps of a long job, one after another: what is done is skipped, what fails stops only its own.

A step is a command line. Its key is a hash of the command, of the settings that the command reads
from files, and of the keys of the steps it needs: all that its result depends on but the code. Once
it has ended well its mark, `steps/NAME.json`, holds the key; a mark with that key, and the step's
outputs on the disk, mean that it is done. So the same call resumes an interrupted job.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from dataset_builders.files import digest, locked, write_json

from ..errors import InputError
from ..probe.results import code_revision

PROJECT = Path(__file__).resolve().parents[3]
SUMMARY_FILE = "benchmark.json"
LEFT_BEHIND = "Wait until it ends, and the step that it left behind if it was killed."
TAIL_LINES, TAIL_BYTES = 12, 1 << 16


@dataclass(frozen=True)
class Step:
    """A command line, run from the project's folder.

    Attributes:
        name: Unique; safe as a file's name.
        command: The program and its words.
        needs: Names of the steps that must be done before.
        takes: Names of steps that must have ended before, and the words each adds to the command
            if it is done: a table over ten systems is made of nine where one has failed.
        outputs: Files that must exist once it is done.
        completed: JSON file whose `completed` must then be true: a command that was asked to stop
            may end well without having come to its end.
        clears: What is removed before it starts anew with other settings; never what it shares.
        settings: Those that the command reads from files.
    """

    name: str
    command: tuple[str, ...]
    needs: tuple[str, ...] = ()
    takes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    outputs: tuple[Path, ...] = ()
    completed: Path | None = None
    clears: tuple[Path, ...] = ()
    settings: Any = None

    def words(self, done: Mapping[str, str]) -> list[str]:
        """The whole command, given the keys of the steps that are done."""
        taken = [word for name, words in self.takes.items() if name in done for word in words]
        return [*self.command, *taken]

    def key(self, run: Path, done: Mapping[str, str]) -> str:
        """Hash of all that the result depends on but the code, wherever the job lies."""
        places = {str(run): "{run}", str(PROJECT): "{project}", sys.executable: "{python}"}
        words = self.words(done)
        for place, name in places.items():
            words = [word.replace(place, name) for word in words]
        before = (*self.needs, *self.takes)
        return digest(words, self.settings, {name: done[name] for name in before if name in done})

    def lacks(self) -> str:
        """Why it cannot be called done, though its command ended well; empty if it can."""
        wanted = (*self.outputs, *([self.completed] if self.completed else []))
        for path in wanted:
            if not path.exists():
                return f"{path} is not there"
        if self.completed and not json.loads(self.completed.read_text("utf-8")).get("completed"):
            return f"it was stopped before its end, by {self.completed}"
        return ""


@dataclass(frozen=True)
class Mark:
    """What is known of a step on the disk.

    Attributes:
        state: Of its last attempt; "todo" where there was none.
        key: Of that attempt.
        seconds: Duration.
        attempts: With this key.
        code_revision: Of the code that ran.
    """

    state: Literal["todo", "started", "done", "failed"] = "todo"
    key: str = ""
    seconds: float = 0.0
    attempts: int = 0
    code_revision: str = ""


@dataclass
class Outcome:
    """How a job ended.

    Attributes:
        keys: Of the steps that are done, by name.
        ran: Names of those that ran now and are done.
        failed: Name -> why.
        blocked: Name -> what it waited for in vain.
    """

    keys: dict[str, str] = field(default_factory=dict)
    ran: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    blocked: dict[str, str] = field(default_factory=dict)


class Runner:
    """Runs the steps of a job.

    Args:
        run: Folder of the job: marks, logs, and what the steps make.
        steps: Each after those it waits for.
        threads: Threads per step.
        log: Takes messages for the user.

    Raises:
        InputError: Two steps have one name, or a step waits for an unknown one.
    """

    def __init__(
        self,
        run: Path,
        steps: Sequence[Step],
        threads: int = 1,
        log: Callable[[str], None] = print,
    ):
        _check(steps)
        self.root, self.steps, self.threads, self.log = run, list(steps), threads, log

    def run(self) -> Outcome:
        """Run all steps that are not done yet.

        Raises:
            InUseError: Another job works in the folder, or a step that one left behind.
            KeyboardInterrupt: Stopped; so is the current step.
        """
        outcome = Outcome()
        # steps inherit the lock, and keep it where the job itself is killed
        with locked(self.root, remedy=LEFT_BEHIND) as lock, _stoppable():
            try:
                for number, step in enumerate(self.steps, 1):
                    label = f"[{number}/{len(self.steps)}] {step.name}"
                    if reason := _blocked_by(step, outcome):
                        outcome.blocked[step.name] = reason
                        self.log(f"{label} cannot start: {reason}")
                        continue
                    key = step.key(self.root, outcome.keys)
                    if self.state(step, key) != "done":
                        if reason := self._run_step(step, key, outcome, lock, label):
                            outcome.failed[step.name] = reason
                            continue
                        outcome.ran.append(step.name)
                    outcome.keys[step.name] = key
            finally:
                self._write_summary(outcome)
        return outcome

    def plan(self) -> list[tuple[Step, str]]:
        """What would be done about each step: "done", "resume", "rerun" or "run"."""
        keys: dict[str, str] = {}
        states: list[tuple[Step, str]] = []
        for step in self.steps:
            keys[step.name] = step.key(self.root, keys)
            states.append((step, self.state(step, keys[step.name])))
        return states

    def state(self, step: Step, key: str) -> Literal["done", "resume", "rerun", "run"]:
        """Whether a step is done with this key, and if not how it begins."""
        mark = self.mark(step)
        if mark.state == "todo":
            return "run"
        if mark.key != key:
            return "rerun"
        return "done" if mark.state == "done" and not step.lacks() else "resume"

    def mark(self, step: Step) -> Mark:
        """The mark of a step; that of a step never begun where there is none."""
        try:
            return Mark(**json.loads(self._path("steps", step, ".json").read_text("utf-8")))
        except FileNotFoundError:
            return Mark()

    def log_path(self, step: Step) -> Path:
        """Where a step's output goes."""
        return self._path("logs", step, ".log")

    def _path(self, folder: str, step: Step, ending: str) -> Path:
        return self.root / folder / f"{step.name}{ending}"

    def _run_step(self, step: Step, key: str, outcome: Outcome, lock: int, label: str) -> str:
        """Why it failed; empty if it is done."""
        state = self.state(step, key)
        attempts = self.mark(step).attempts + 1 if state == "resume" else 1
        if state == "rerun":  # what is there although no attempt was made belongs to somebody else
            for path in step.clears:
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        mark, log = self._path("steps", step, ".json"), self.log_path(step)
        write_json(mark, asdict(Mark("started", key, 0.0, attempts, code_revision())))
        self.log(f"{label} {'resumes' if attempts > 1 else 'starts'}")
        started = time.monotonic()
        code = _call(step.words(outcome.keys), log, self.threads, lock)
        reason = _why_failed(code) or step.lacks()
        seconds = round(time.monotonic() - started, 2)
        ended = Mark("failed" if reason else "done", key, seconds, attempts, code_revision())
        write_json(mark, asdict(ended))
        if reason:
            self.log(f"{label} FAILED: {reason}. The end of {log}:\n{tail(log)}")
        else:
            self.log(f"{label} done in {seconds:.0f} s")
        return reason

    def _write_summary(self, outcome: Outcome) -> None:
        values = {
            "code_revision": code_revision(),
            "failed": outcome.failed,
            "blocked": outcome.blocked,
            "steps": {step.name: asdict(self.mark(step)) for step in self.steps},
        }
        write_json(self.root / SUMMARY_FILE, values)


def raise_for_failures(outcome: Outcome) -> None:
    """Say which steps are missing.

    Raises:
        InputError: A step failed or could not start.
    """
    if not outcome.failed and not outcome.blocked:
        return
    parts = [f"{len(outcome.failed)} step(s) failed: {', '.join(outcome.failed)}"]
    if outcome.blocked:
        parts.append(f"{len(outcome.blocked)} could not start: {', '.join(outcome.blocked)}")
    raise InputError("; ".join(parts) + ". Rerun the command to resume.")


def tail(log: Path) -> str:
    """The last lines of a log; of a progress bar its last state."""
    with log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
        lines = file.read().decode(errors="replace").split("\n")
    lines = [line.rstrip().rsplit("\r", 1)[-1] for line in lines if line.strip()]
    return "\n".join(f"    | {line[:160]}" for line in lines[-TAIL_LINES:])


def _check(steps: Sequence[Step]) -> None:
    seen: set[str] = set()
    for step in steps:
        if step.name in seen:
            raise InputError(f"Two steps are called {step.name!r}.")
        for name in (*step.needs, *step.takes):
            if name not in seen:
                raise InputError(f"The step {step.name!r} waits for {name!r}, an unknown step.")
        seen.add(step.name)


def _blocked_by(step: Step, outcome: Outcome) -> str:
    lost = [name for name in step.needs if name not in outcome.keys]
    if lost:
        return f"{lost[0]} is not done"
    if step.takes and not any(name in outcome.keys for name in step.takes):
        return f"none of {', '.join(step.takes)} is done"
    return ""


def _call(words: Sequence[str], log: Path, threads: int, lock: int) -> int:
    """Run a command from the project's folder, its output appended to a log; its exit code."""
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "PASSIVE",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
    }
    with log.open("ab") as output:
        output.write(f"$ {' '.join(words)}\n".encode())
        output.flush()
        process = subprocess.Popen(
            list(words),
            cwd=PROJECT,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=(lock,),  # held until the last process has ended
        )
        try:
            return process.wait()
        except BaseException:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()
            raise


def _why_failed(code: int) -> str:
    if code < 0:
        return f"ended by signal {-code}" + (" (out of memory?)" if code == -9 else "")
    return f"exit code {code}" if code else ""


@contextmanager
def _stoppable() -> Iterator[None]:
    """Within, a signal to end is a KeyboardInterrupt, so that the current step is ended too."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signals = (signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, interrupt) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


__all__ = ["PROJECT", "Mark", "Outcome", "Runner", "Step", "raise_for_failures", "tail"]
