"""Run steps, several at a time; what is done is passed by, what fails holds up only its own.

Killed at any point, the same call goes on: a step is done when its mark says so, and a mark is
written after its step has ended well.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen

from dataset_builders.files import write_json

from ..errors import InputError
from ..results import code_revision
from .processes import Lock, start, stop, stoppable, tail
from .schedule import Durations, check_steps, expected_end
from .steps import Mark, Marks, Step, clear, log_path, what_lacks

SUMMARY_FILE = "benchmark.json"
POLL_SECONDS = 0.05


@dataclass
class _Running:
    step: Step
    key: str
    process: "Popen[bytes]"
    started: float
    attempts: int


@dataclass
class Outcome:
    """How a job ended.

    Attributes:
        keys: of the steps that are done, by name.
        ran: names of those that ran now and are done.
        failed: name -> why.
        blocked: name -> what it waited for in vain.
    """

    keys: dict[str, str] = field(default_factory=dict)
    ran: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    blocked: dict[str, str] = field(default_factory=dict)

    def ended(self, name: str) -> bool:
        """Nothing more happens to this step."""
        return name in self.keys or name in self.failed or name in self.blocked


class Runner:
    """Runs the steps of a job.

    Args:
        run: folder of the job: marks, logs, and what the steps make.
        steps: each behind those it waits for.
        workers: steps at a time.
        threads: that a step computes with.
        log: takes a line.

    Raises:
        InputError: two steps of one name, or a step that waits for none.
    """

    def __init__(
        self,
        run: Path,
        steps: Sequence[Step],
        workers: int = 1,
        threads: int = 1,
        log: Callable[[str], None] = print,
    ):
        check_steps(steps)
        self.root, self.steps, self.workers, self.log = run, list(steps), workers, log
        self.environment = _environment(threads)
        self.marks, self.outcome = Marks(run), Outcome()
        self._running: dict[str, _Running] = {}
        self._durations = Durations()
        for step in steps:
            if (mark := self.marks.read(step)).state == "done":
                self._durations.add(step.name, mark.seconds)

    def run(self) -> Outcome:
        """Do all that is not done yet.

        Returns:
            What is done, what failed, and what could not start because of it.

        Raises:
            InputError: another job works in the folder.
            KeyboardInterrupt: stopped; so are the steps.
        """
        lock = Lock(self.root)
        try:
            with stoppable():
                while not all(self.outcome.ended(step.name) for step in self.steps):
                    self._start_ready(lock)
                    if not self._collect():
                        time.sleep(POLL_SECONDS)
        finally:
            stop([one.process for one in self._running.values()])
            lock.release()
            self._write_summary()
        return self.outcome

    def plan(self) -> list[tuple[Step, str]]:
        """Each step with what would be done about it: "done", "go on", "again", or "run"."""
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
                states.append((step, "go on" if mark.key == key else "again"))
        return states

    # ---- starting -------------------------------------------------------------------------------

    def _start_ready(self, lock: Lock) -> None:
        for step in self.steps:
            if self.outcome.ended(step.name) or step.name in self._running:
                continue
            if not all(self.outcome.ended(name) for name in step.before):
                continue
            if reason := self._blocked_by(step):
                self.outcome.blocked[step.name] = reason
                self._say(step, f"cannot start: {reason}")
                continue
            key = step.key(self.root, self.outcome.keys)
            if self.marks.is_done(step, key):
                self.outcome.keys[step.name] = key
            elif len(self._running) < self.workers:
                self._start(step, key, lock)

    def _blocked_by(self, step: Step) -> str:
        lost = [name for name in step.needs if name not in self.outcome.keys]
        if lost:
            return f"{lost[0]} is not done"
        if step.takes and not any(name in self.outcome.keys for name in step.takes):
            return f"none of {', '.join(step.takes)} is done"
        return ""

    def _start(self, step: Step, key: str, lock: Lock) -> None:
        before = self.marks.read(step)
        attempts = before.attempts + 1 if before.key == key else 1
        # what is there though no attempt was made is somebody else's
        if before.state != "todo" and before.key != key:
            clear(step)
        self.marks.write(step, Mark("started", key, 0.0, attempts, code_revision()))
        words = step.words(list(self.outcome.keys))
        log = log_path(self.root, step)
        process = start(words, log, self.environment, lock)
        self._running[step.name] = _Running(step, key, process, time.monotonic(), attempts)
        lock.note([one.process.pid for one in self._running.values()])
        self._say(step, "goes on" if attempts > 1 else "starts")

    # ---- ending ---------------------------------------------------------------------------------

    def _collect(self) -> bool:
        ended = [one for one in self._running.values() if one.process.poll() is not None]
        for one in ended:
            del self._running[one.step.name]
            self._finish(one)
        return bool(ended)

    def _finish(self, one: _Running) -> None:
        step, seconds = one.step, time.monotonic() - one.started
        reason = _why_failed(one.process.returncode, step)
        state = Mark(
            "failed" if reason else "done",
            one.key,
            round(seconds, 2),
            one.attempts,
            code_revision(),
        )
        self.marks.write(step, state)
        if reason:
            self.outcome.failed[step.name] = reason
            log = log_path(self.root, step)
            self._say(step, f"FAILED: {reason}. The end of {log}:\n{tail(log)}")
            return
        self.outcome.keys[step.name] = one.key
        self.outcome.ran.append(step.name)
        self._durations.add(step.name, seconds)
        self._say(step, f"done in {duration(seconds)}{self._time_left()}")

    def _time_left(self) -> str:
        left = [step for step in self.steps if not self.outcome.ended(step.name)]
        return f"; {self.time_needed(left)} left" if left else ""

    def time_needed(self, steps: Sequence[Step]) -> str:
        """For people: how long the steps may take, by what steps like them took in this folder."""
        now = time.monotonic()
        running = {
            name: max(0.0, self._expected(one.step) - (now - one.started))
            for name, one in self._running.items()
        }
        known = all(self._durations.expected(step.name) is not None for step in steps)
        end = expected_end(steps, self.workers, self._expected, running)
        return f"{'about' if known else 'more than'} {duration(end)}"

    def _expected(self, step: Step) -> float:
        """Seconds; what is done already, or quite unknown, counts nothing."""
        if self.marks.read(step).state == "done":
            return 0.0
        return self._durations.expected(step.name) or 0.0

    def _say(self, step: Step, what: str) -> None:
        ended = sum(self.outcome.ended(other.name) for other in self.steps)
        width = len(str(len(self.steps)))
        self.log(f"[{ended:>{width}}/{len(self.steps)}] {step.name} {what}")

    def _write_summary(self) -> None:
        steps = {}
        for step in self.steps:
            mark = self.marks.read(step)
            steps[step.name] = vars(mark)
        values = {
            "code_revision": code_revision(),
            "failed": self.outcome.failed,
            "blocked": self.outcome.blocked,
            "steps": steps,
        }
        write_json(self.root / SUMMARY_FILE, values)


def raise_for_failures(outcome: Outcome) -> None:
    """Say what is missing in what was made.

    Raises:
        InputError: a step failed or could not start.
    """
    if not outcome.failed and not outcome.blocked:
        return
    parts = [f"{len(outcome.failed)} step(s) failed: {', '.join(outcome.failed)}"]
    if outcome.blocked:
        parts.append(f"{len(outcome.blocked)} could not start: {', '.join(outcome.blocked)}")
    raise InputError("; ".join(parts) + ". What is done stays done: the same command goes on.")


def duration(seconds: float) -> str:
    """For people: 42 s, 12 min, 2 h 05 min."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


def _environment(threads: int) -> Mapping[str, str]:
    return {
        "OMP_NUM_THREADS": str(threads),
        # threads that wait give way to the other steps
        "OMP_WAIT_POLICY": "PASSIVE",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
    }


def _why_failed(code: int, step: Step) -> str:
    if code < 0:
        return f"ended by signal {-code}" + (" (out of memory?)" if code == -9 else "")
    if code > 0:
        return f"exit code {code}"
    return what_lacks(step)


__all__ = ["SUMMARY_FILE", "Outcome", "Runner", "duration", "raise_for_failures"]
