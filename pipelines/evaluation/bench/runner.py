"""Run steps one after another: what is done is skipped, what fails holds up only its own.

A step is done when its mark says so, and a mark is written after its step has ended well. So a run
that is interrupted at any point is resumed by the same call.
"""

import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from dataset_builders.files import write_json

from ..errors import InputError
from ..probe.results import code_revision
from .steps import PROJECT, Mark, Marks, Step, clear, log_path, what_lacks

SUMMARY_FILE, LOCK_FILE = "benchmark.json", ".lock"
TAIL_LINES, TAIL_BYTES = 12, 1 << 16


@dataclass
class Outcome:
    """How a job ended.

    Attributes:
        keys: of the steps that are done, by name.
        ran: names of those that ran now and are done.
        failed: name -> why.
        blocked: name -> the step it waited for in vain.
    """

    keys: dict[str, str] = field(default_factory=dict)
    ran: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    blocked: dict[str, str] = field(default_factory=dict)


class Runner:
    """Runs the steps of a job.

    Args:
        run: folder of the job: marks, logs, and what the steps make.
        steps: each after those it waits for.
        threads: threads per step.
        log: takes a line.

    Raises:
        InputError: two steps of one name, or a step that waits for an unknown one.
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
        self.marks = Marks(run)

    def run(self) -> Outcome:
        """Run all steps that are not done yet.

        Raises:
            InputError: another job works in the folder.
            KeyboardInterrupt: stopped; so is the current step.
        """
        outcome = Outcome()
        with _locked(self.root) as lock, _stoppable():
            try:
                for number, step in enumerate(self.steps, 1):
                    label = f"[{number}/{len(self.steps)}] {step.name}"
                    if reason := _blocked_by(step, outcome):
                        outcome.blocked[step.name] = reason
                        self.log(f"{label} cannot start: {reason}")
                        continue
                    key = step.key(self.root, outcome.keys)
                    if not self.marks.is_done(step, key):
                        reason = self._run_step(step, key, list(outcome.keys), lock, label)
                        if reason:
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
        states = []
        for step in self.steps:
            key = keys[step.name] = step.key(self.root, keys)
            mark = self.marks.read(step)
            if self.marks.is_done(step, key):
                states.append((step, "done"))
            elif mark.state == "todo":
                states.append((step, "run"))
            else:
                states.append((step, "resume" if mark.key == key else "rerun"))
        return states

    def _run_step(self, step: Step, key: str, done: list[str], lock: int, label: str) -> str:
        """Why it failed; empty if it is done."""
        before = self.marks.read(step)
        attempts = before.attempts + 1 if before.key == key else 1
        # what is there although no attempt was made belongs to somebody else
        if before.state != "todo" and before.key != key:
            clear(step)
        self.marks.write(step, Mark("started", key, 0.0, attempts, code_revision()))
        self.log(f"{label} {'resumes' if attempts > 1 else 'starts'}")
        started = time.monotonic()
        log = log_path(self.root, step)
        reason = _why_failed(_call(step.words(done), log, self.threads, lock), step)
        seconds = round(time.monotonic() - started, 2)
        state = Mark("failed" if reason else "done", key, seconds, attempts, code_revision())
        self.marks.write(step, state)
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
            "steps": {step.name: vars(self.marks.read(step)) for step in self.steps},
        }
        write_json(self.root / SUMMARY_FILE, values)


def raise_for_failures(outcome: Outcome) -> None:
    """Say which steps are missing.

    Raises:
        InputError: a step failed or could not start.
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
        for name in step.before:
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


def _why_failed(code: int, step: Step) -> str:
    if code < 0:
        return f"ended by signal {-code}" + (" (out of memory?)" if code == -9 else "")
    if code > 0:
        return f"exit code {code}"
    return what_lacks(step)


@contextmanager
def _locked(run: Path) -> Iterator[int]:
    """Hold the folder; steps inherit the lock, and keep it where the job itself was killed."""
    run.mkdir(parents=True, exist_ok=True)
    with (run / LOCK_FILE).open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"Another job works in {run}, or a step that one left behind when it was killed. "
                "Wait for it, or end it."
            ) from None
        yield file.fileno()


@contextmanager
def _stoppable() -> Iterator[None]:
    """Within, a signal to end is a KeyboardInterrupt, so that the current step is ended too."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {
        number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


__all__ = ["LOCK_FILE", "SUMMARY_FILE", "Outcome", "Runner", "raise_for_failures", "tail"]
