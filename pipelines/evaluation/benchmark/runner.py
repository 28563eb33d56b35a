"""Run commands with dependencies, some in parallel; skip finished ones.

logs/NAME.json holds a hash of a step's command, settings and dependencies (not of code or weights).
A step is finished if that hash is unchanged and the step's output exists.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from dataset_builders.files import digest, locked, read_json, write_state

PROJECT = Path(__file__).resolve().parents[3]
LEFT_BEHIND = "Wait until it ends; if it was killed, also wait for its leftover steps."
TAIL_LINES = 12

State = Literal["done", "redo", "run"]


@dataclass(frozen=True)
class Step:
    """Command that is run from the project folder.

    Attributes:
        name: Unique name, valid as a file name.
        command: Program and arguments.
        output: File that exists once the step is finished.
        needs: Steps that must succeed first.
        takes: Steps that must end first, with the arguments that each adds if it succeeds.
        clears: File or folder to delete before rerunning the step with other settings.
        settings: Settings that the command reads from files.
    """

    name: str
    command: tuple[str, ...]
    output: Path
    needs: tuple[str, ...] = ()
    takes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    clears: Path | None = None
    settings: Any = None

    def words(self, done: Mapping[str, str]) -> list[str]:
        """Full command, given the finished steps."""
        taken = [words for name, words in self.takes.items() if name in done]
        return [*self.command, *chain(*taken)]

    def key(self, run: Path, done: Mapping[str, str]) -> str:
        """Hash of command, settings and dependencies, independent of the location of `run`."""
        text = json.dumps(self.words(done))
        for place in (str(run), str(PROJECT), sys.executable):
            text = text.replace(place, "")
        before = (*self.needs, *self.takes)
        return digest(text, self.settings, {name: done[name] for name in before if name in done})


@dataclass
class Runner:
    """Runs steps in parallel.

    Attributes:
        run: Output folder.
        steps: Steps in order of priority.
        jobs: Number of concurrent steps.
        threads: Threads per step.
        log: Receives progress messages.
    """

    run: Path
    steps: Sequence[Step]
    jobs: int = 2
    threads: int = 1
    log: Callable[[str], None] = print

    def __call__(self) -> dict[str, str]:
        """Run all unfinished steps.

        Returns:
            Steps that failed or could not start, with the reason.

        Raises:
            InUseError: Another run, or a leftover step of one, is using the folder.
        """
        done: dict[str, str] = {}
        lost: dict[str, str] = {}
        waiting = list(self.steps)
        running: dict[str, tuple[Step, str, subprocess.Popen[bytes], float]] = {}
        # steps inherit the lock and hold it even if this process is killed
        with locked(self.run, remedy=LEFT_BEHIND) as lock:
            try:
                while waiting or running:
                    for step in list(waiting):
                        if failed := _failed(step, lost):
                            lost[step.name] = f"{failed} did not finish"
                            self.log(f"{step.name} cannot start: {lost[step.name]}")
                        elif not {*step.needs, *step.takes} <= {*done, *lost}:
                            continue
                        elif self.state(step, key := step.key(self.run, done)) == "done":
                            done[step.name] = key
                        elif len(running) < self.jobs:
                            process = self._start(step, key, done, lock)
                            running[step.name] = step, key, process, time.monotonic()
                        else:
                            continue
                        waiting.remove(step)
                    for name, (step, key, process, started) in list(running.items()):
                        if (code := process.poll()) is not None:
                            del running[name]
                            left = len(waiting) + len(running)
                            seconds = round(time.monotonic() - started, 1)
                            if reason := self._finish(step, key, code, seconds, left):
                                lost[name] = reason
                            else:
                                done[name] = key
                    time.sleep(0.05 if running else 0)
            finally:
                for _, _, process, _ in running.values():
                    os.killpg(process.pid, signal.SIGTERM)
                    process.wait()
        return lost

    def plan(self) -> list[tuple[Step, State]]:
        """State of each step, assuming that none fails; changes nothing."""
        done: dict[str, str] = {}
        for step in self.steps:
            done[step.name] = step.key(self.run, done)
        return [(step, self.state(step, done[step.name])) for step in self.steps]

    def state(self, step: Step, key: str) -> State:
        """Whether a step is finished, must be rerun with new settings, or has to run."""
        stamp = self._stamp(step)
        if stamp and stamp["key"] != key:
            return "redo"
        return "done" if stamp.get("seconds") is not None and step.output.exists() else "run"

    def seconds(self) -> float:
        """Total duration of the finished steps."""
        return sum(self._stamp(step).get("seconds") or 0 for step in self.steps)

    def _path(self, step: Step, ending: str) -> Path:
        return self.run / "logs" / f"{step.name}{ending}"

    def _stamp(self, step: Step) -> dict[str, Any]:
        return dict(read_json(self._path(step, ".json")) or {})

    def _start(
        self, step: Step, key: str, done: Mapping[str, str], lock: int
    ) -> subprocess.Popen[bytes]:
        if self.state(step, key) == "redo" and step.clears and step.clears.exists():
            shutil.rmtree(step.clears) if step.clears.is_dir() else step.clears.unlink()
        write_state(self._path(step, ".json"), {"key": key, "seconds": None})
        words = step.words(done)
        environment = {
            "OMP_NUM_THREADS": str(self.threads),
            "OMP_WAIT_POLICY": "PASSIVE",
            "TOKENIZERS_PARALLELISM": "false",
            "PYTHONUNBUFFERED": "1",
        }
        with self._path(step, ".log").open("a", encoding="utf-8") as output:
            print("$", *words, file=output, flush=True)
            return subprocess.Popen(
                words,
                cwd=PROJECT,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=(lock,),
            )

    def _finish(self, step: Step, key: str, code: int, seconds: float, left: int) -> str:
        """Log how a step ended and return the reason if it failed."""
        reason = f"exit code {code}" if code > 0 else f"signal {-code}" if code else ""
        if not code and not step.output.exists():
            reason = f"{step.output} is missing"
        if reason:
            path = self._path(step, ".log")
            self.log(f"{step.name} FAILED ({reason}). Last lines of {path}:\n{_tail(path)}")
        else:
            write_state(self._path(step, ".json"), {"key": key, "seconds": seconds})
            self.log(f"{step.name}: {seconds:.0f} s; {left} of {len(self.steps)} steps left")
        return reason


def _failed(step: Step, lost: Mapping[str, str]) -> str:
    """Name of a failed step that this one depends on, if any."""
    needed = [name for name in step.needs if name in lost]
    if step.takes and all(name in lost for name in step.takes):
        needed += step.takes
    return needed[0] if needed else ""


def _tail(path: Path) -> str:
    """Last lines of a log, with only the last state of progress bars."""
    lines = path.read_bytes()[-65536:].decode(errors="replace").split("\n")
    lines = [line.rstrip().rsplit("\r", 1)[-1] for line in lines if line.strip()]
    return "\n".join(f"    | {line[:160]}" for line in lines[-TAIL_LINES:])


__all__ = ["PROJECT", "Runner", "Step"]
