"""Commands in a row, a few at a time: what is done is skipped, a failure stops dependants alone.

Beside the log of a step lies its stamp, logs/NAME.json, with a hash of what the result depends on
beside code and weights: the command, the settings it reads from files, and the same of the steps it
needs. A finished stamp with that hash, and the step's output on the disk, mean that it is done.
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
LEFT_BEHIND = "Wait until it ends, and the steps that it left behind if it was killed."
TAIL_LINES = 12

State = Literal["done", "redo", "run"]


@dataclass(frozen=True)
class Step:
    """A command, run from the project's folder.

    Attributes:
        name: Unique; safe as a file name.
        command: The program and its words.
        output: File that exists once the step is done.
        needs: Steps that must be done before.
        takes: Steps that must have ended before, and the words that each adds to the command if it
            is done: a table of ten systems is made of nine where one has failed.
        clears: What is removed before the step is redone with other settings.
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
        """The whole command, given the steps that are done."""
        taken = [words for name, words in self.takes.items() if name in done]
        return [*self.command, *chain(*taken)]

    def key(self, run: Path, done: Mapping[str, str]) -> str:
        """Hash of command, settings and the steps before, wherever the folder lies."""
        text = json.dumps(self.words(done))
        for place in (str(run), str(PROJECT), sys.executable):
            text = text.replace(place, "")
        before = (*self.needs, *self.takes)
        return digest(text, self.settings, {name: done[name] for name in before if name in done})


@dataclass
class Runner:
    """Runs steps.

    Attributes:
        run: Folder of everything.
        steps: In the order in which they start, where they do not wait for others.
        jobs: Steps that run at a time.
        threads: Threads per step.
        log: Takes a line for the user.
    """

    run: Path
    steps: Sequence[Step]
    jobs: int = 2
    threads: int = 1
    log: Callable[[str], None] = print

    def __call__(self) -> dict[str, str]:
        """Run what is left.

        Returns:
            Steps that failed or could not start -> why.

        Raises:
            InUseError: Another run works in the folder, or a step that one left behind.
        """
        done: dict[str, str] = {}
        lost: dict[str, str] = {}
        waiting = list(self.steps)
        running: dict[str, tuple[Step, str, subprocess.Popen[bytes], float]] = {}
        # steps inherit the lock, and keep it where this process is killed
        with locked(self.run, remedy=LEFT_BEHIND) as lock:
            try:
                while waiting or running:
                    for step in list(waiting):
                        if failed := _failed(step, lost):
                            lost[step.name] = f"{failed} is not done"
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
        """The state of each step, as if none failed; nothing is changed."""
        done: dict[str, str] = {}
        for step in self.steps:
            done[step.name] = step.key(self.run, done)
        return [(step, self.state(step, done[step.name])) for step in self.steps]

    def state(self, step: Step, key: str) -> State:
        """Whether a step is done, was begun with other settings, or is to be run."""
        stamp = self._stamp(step)
        if stamp and stamp["key"] != key:
            return "redo"
        return "done" if stamp.get("seconds") is not None and step.output.exists() else "run"

    def seconds(self) -> float:
        """Duration of all steps that are done, one after another."""
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
        """Say how a step ended; the reason if it failed."""
        reason = f"exit code {code}" if code > 0 else f"signal {-code}" if code else ""
        if not code and not step.output.exists():
            reason = f"{step.output} is not there"
        if reason:
            path = self._path(step, ".log")
            self.log(f"{step.name} FAILED ({reason}). The end of {path}:\n{_tail(path)}")
        else:
            write_state(self._path(step, ".json"), {"key": key, "seconds": seconds})
            self.log(f"{step.name}: {seconds:.0f} s; {left} of {len(self.steps)} steps left")
        return reason


def _failed(step: Step, lost: Mapping[str, str]) -> str:
    """A step for which this one waits in vain."""
    needed = [name for name in step.needs if name in lost]
    if step.takes and all(name in lost for name in step.takes):
        needed += step.takes
    return needed[0] if needed else ""


def _tail(path: Path) -> str:
    """The last lines of a log; of a progress bar its last state."""
    lines = path.read_bytes()[-65536:].decode(errors="replace").split("\n")
    lines = [line.rstrip().rsplit("\r", 1)[-1] for line in lines if line.strip()]
    return "\n".join(f"    | {line[:160]}" for line in lines[-TAIL_LINES:])


__all__ = ["PROJECT", "Runner", "Step"]
