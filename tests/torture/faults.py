"""Fault injection and classification of the outcomes."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.damage import HOW, damage
from tests.processes import start_python

from .artefacts import artefacts, differences, files
from .subjects import Provider, Subject

KINDS = ("kill", "term", "disk_full", "read_only", *HOW, "two", "clock", "network")
GOOD = ("survived", "told")
BAD = ("lost", "silently wrong", "stuck", "traceback", "unclear")
PATIENCE_S = 600.0
REFUSAL = re.compile(r"^(error|evaluate\.py[ \w]*|train\.py: error): \S")
PAGE, SPARE = 4096, 64 * 4096


@dataclass(frozen=True)
class Fault:
    """Fault, with `at` and `which` in [0, 1) selecting the step and the file.

    Attributes:
        finished: Whether files are damaged after a complete run or after a killed one.
    """

    number: int
    subject: str
    kind: str
    at: float
    which: float
    finished: bool


@dataclass(frozen=True)
class Ended:
    """Result of a process; `code` is None if it had to be stopped."""

    code: int | None
    said: str

    @property
    def last(self) -> str:
        lines = self.said.strip().splitlines()
        return lines[-1] if lines else ""

    @property
    def refused(self) -> bool:
        """Whether it ended with an error message on one line and a defined exit code."""
        return self.code in (1, 2, 3) and bool(REFUSAL.match(self.last))


def plan(number: int, names: list[str], seed: int) -> list[Fault]:
    """Random faults that cover each pair of subject and kind before repeating one."""
    made: list[Fault] = []
    while len(made) < number:
        rng = random.Random(f"{seed}/{len(made)}")
        pairs = [(s, k) for s in names for k in KINDS if k != "network" or s == "build"]
        rng.shuffle(pairs)
        made += [
            Fault(len(made) + i, s, k, rng.random(), rng.random(), rng.random() < 0.6)
            for i, (s, k) in enumerate(pairs)
        ]
    return made[:number]


@contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """Mount an in-memory file system at a folder if possible; yields whether it is mounted."""
    folder.mkdir(parents=True)
    mounted = _mount("-t", "tmpfs", "torture", str(folder))
    try:
        yield mounted
    finally:
        _unmount(folder)


def _unmount(folder: Path) -> None:
    if folder.is_mount():
        subprocess.run(["umount", "-l", str(folder)], check=False)


def _mount(*arguments: str) -> bool:
    if shutil.which("mount") is None:
        return False
    return subprocess.run(["mount", *arguments], check=False, capture_output=True).returncode == 0


class Torture:
    """Runs subjects undisturbed and then with faults.

    Args:
        subjects: Subjects of the faults, and those that they start from.
        work: Folder for outputs, which are removed except after bad outcomes.
        provider: Provider of the town, if a subject needs it.
    """

    def __init__(self, subjects: dict[str, Subject], work: Path, provider: Provider | None = None):
        self.subjects, self.work, self.provider = subjects, work, provider
        self.steps: dict[str, int] = {}
        self.expected: dict[str, dict[str, str]] = {}
        self._providers, self._starting = threading.Lock(), threading.Lock()

    def prepare(self, times: int = 2) -> dict[str, float]:
        """Run each subject undisturbed and return the seconds of a run.

        Raises:
            AssertionError: A run fails, or two runs differ.
        """
        seconds = {}
        for name in self.subjects:
            found = []
            for folder in [self.work / "whole" / name, self.work / "again"][:times]:
                shutil.rmtree(folder, ignore_errors=True)
                self._fill(name, folder)
                count, start = self.work / f"{name}.steps", time.monotonic()
                done = self.run(name, folder, {"steps": str(count)})
                assert done.code == 0, f"{name}: {done.said}"
                seconds[name] = time.monotonic() - start
                found.append(artefacts(folder / "out"))
            assert found[0] == found[-1], f"{name}: two runs differ: {differences(*found)}"
            self.expected[name], self.steps[name] = found[0], int(count.read_text())
        return seconds

    def suffer(self, fault: Fault) -> dict[str, Any]:
        """The fault with `outcome`, one of `GOOD` or `BAD`, and `note`."""
        folder = self.work / f"{fault.number:04d}"
        _unmount(folder)  # left by an interrupted run
        shutil.rmtree(folder, ignore_errors=True)
        exclusive = self._providers if self.subjects[fault.subject].provider else nullcontext()
        in_memory = fault.kind in ("disk_full", "read_only")
        with exclusive, small_disk(folder) if in_memory else nullcontext(False) as mounted:
            self._fill(fault.subject, folder)
            ordeal = _Ordeal(self, fault, folder, bool(mounted))
            outcome = ordeal.outcome()
            if outcome in BAD:
                bad = self.work / "bad" / folder.name
                shutil.rmtree(bad, ignore_errors=True)
                shutil.copytree(folder, bad, symlinks=True)
        shutil.rmtree(folder, ignore_errors=True)
        return {**asdict(fault), "outcome": outcome, "note": "; ".join(ordeal.notes)}

    def _fill(self, name: str, folder: Path) -> None:
        (folder / "out").mkdir(parents=True, exist_ok=True)
        if first := self.subjects[name].start_from:
            shutil.copytree(self.work / "whole" / first / "out", folder / "out", dirs_exist_ok=True)
        elif not any((folder / "out").iterdir()):
            (folder / "out").rmdir()

    def start(self, name: str, folder: Path, spec: dict[str, Any], mark: str = "") -> Any:
        """Start a command with its fault; its output goes to `folder` + `mark` + .said."""
        command = self.subjects[name].command
        arguments = ("-m", "tests.torture.child", json.dumps(spec), *command)
        output = self.work / f"{folder.name}{mark}.said"
        with self._starting:
            return start_python(*arguments, output=output, cwd=folder)

    def end(self, process: Any, folder: Path, mark: str = "") -> Ended:
        process.join(PATIENCE_S)
        code = process.exitcode
        if code is None:
            process.kill()
            process.join()
        paths = [self.work / f"{folder.name}{mark}.said{end}" for end in (".out", ".err")]
        texts = [path.read_text(errors="replace") for path in paths if path.exists()]
        for path in paths:
            path.unlink(missing_ok=True)
        return Ended(code, "".join(texts))

    def run(self, name: str, folder: Path, spec: dict[str, Any]) -> Ended:
        return self.end(self.start(name, folder, spec), folder)


class _Ordeal:
    """One fault in one folder."""

    def __init__(self, torture: Torture, fault: Fault, folder: Path, mounted: bool):
        self.torture, self.fault, self.folder, self.mounted = torture, fault, folder, mounted
        self.name, self.out = fault.subject, folder / "out"
        self.rng = random.Random(f"{fault.number}/{fault.which}")
        self.step = 1 + int(fault.at * torture.steps[self.name])
        self.notes: list[str] = []
        self.damaged = ""

    def outcome(self) -> str:
        kind = "damage" if self.fault.kind in HOW else self.fault.kind
        return self._worst(getattr(self, f"_{kind}")()) or self._rerun()

    def run(self, **spec: Any) -> Ended:
        return self.torture.run(self.name, self.folder, spec)

    def _worst(self, ended: list[Ended]) -> str | None:
        """Bad outcome of the processes, if any."""
        for one in ended:
            if "Traceback (most recent call last)" in one.said:
                self.notes.append(one.said[-1500:])
                return "traceback"
            if one.code is None:
                self.notes.append("did not end")
                return "stuck"
            if one.code not in (0, -signal.SIGKILL, -signal.SIGTERM) and not one.refused:
                self.notes.append(f"exit code {one.code}: {one.last[-300:]}")
                return "unclear"
            if self.fault.kind in ("disk_full", "read_only") and one.code in (2, 3):
                self.notes.append(f"exit code {one.code} where the machine is at fault")
                return "unclear"
        return None

    def _rerun(self) -> str:
        """Rerun the command undisturbed, twice if the first rerun ends with an error message."""
        for _ in range(2):
            ended = self.run()
            if wrong := self._worst([ended]):
                return wrong
            if ended.code == 0:
                return self._compare()
            self.notes.append(ended.last[-300:])
        return "told" if self.damaged and self.fault.kind in HOW else "stuck"

    def _compare(self) -> str:
        missing, other = differences(artefacts(self.out), self.torture.expected[self.name])
        if not missing and not other:
            return "survived"
        self.notes.append(f"missing: {missing[:5]}" if missing else f"differ: {other[:5]}")
        return "lost" if missing else "silently wrong"

    def _kill(self) -> list[Ended]:
        self.notes.append(f"step {self.step}")
        return [self.run(step=self.step, action=self.fault.kind)]

    _term = _kill

    def _disk_full(self) -> list[Ended]:
        whole = files(self.torture.work / "whole" / self.name / "out")
        before = sum(map(_on_disk, files(self.folder)))
        room = int(self.fault.at * (sum(map(_on_disk, whole)) - before))
        if self.mounted:
            self._remount(f"size={before + room + SPARE}")
            ended = self.run()
            self._remount("size=2g")
        else:
            largest = max(path.stat().st_size for path in whole)
            ended = self.run(file_bytes=1 + int(self.fault.at * largest))
        self.notes.append(f"room for {room} bytes: {ended.last[-200:]}")
        return [ended]

    def _read_only(self) -> list[Ended]:
        first = self.run(step=self.step, action="kill")
        self._set_writable(False)
        ended = self.run()
        self._set_writable(True)
        self.notes.append(f"after step {self.step}: {ended.last[-200:]}")
        return [first, ended]

    def _set_writable(self, writable: bool) -> None:
        if self.mounted:
            self._remount("rw" if writable else "ro")
            return
        for path in (self.folder, *self.folder.rglob("*")):
            if path.is_dir():
                path.chmod(0o755 if writable else 0o555)

    def _remount(self, options: str) -> None:
        for _ in range(100):  # processes of a killed run may still have files open
            if _mount("-o", f"remount,{options}", str(self.folder)):
                return
            time.sleep(0.2)
        raise RuntimeError(f"{self.folder} cannot be remounted with {options}.")

    def _damage(self) -> list[Ended]:
        ended = [] if self.fault.finished else [self.run(step=self.step, action="kill")]
        if self.fault.finished:
            whole = self.torture.work / "whole" / self.name / "out"
            shutil.copytree(whole, self.out, dirs_exist_ok=True)
        own = self._own_files()
        if own:
            path = own[int(self.fault.which * len(own))]
            self.damaged = path.relative_to(self.out).as_posix()
            damage(path, self.fault.kind)
        when = "the end" if self.fault.finished else f"step {self.step}"
        self.notes.append(f"{self.damaged or 'nothing there'}, after {when}")
        return ended

    def _own_files(self) -> list[Path]:
        """Non-empty files of this run, without those that it started from."""
        first = self.torture.subjects[self.name].start_from
        start = self.torture.work / "whole" / first / "out" if first else None
        found = [path for path in files(self.out) if path.stat().st_size]
        if start is None:
            return found
        return [path for path in found if not (start / path.relative_to(self.out)).exists()]

    def _two(self) -> list[Ended]:
        gate = self.torture.work / f"{self.folder.name}.gate"
        gate.unlink(missing_ok=True)
        torture, spec = self.torture, {"step": self.step, "action": "pause", "gate": str(gate)}
        first = torture.start(self.name, self.folder, spec)
        while not gate.exists() and first.is_alive():
            time.sleep(0.02)
        second = torture.start(self.name, self.folder, {}, "-second")
        second.join(20)  # it may wait for the first
        gate.unlink(missing_ok=True)
        ended = [torture.end(first, self.folder), torture.end(second, self.folder, "-second")]
        self.notes.append(f"at step {self.step}: {ended[1].code} {ended[1].last[-200:]}")
        return ended

    def _clock(self) -> list[Ended]:
        seconds = self.rng.choice((-1, 1)) * self.rng.choice((3600, 86400 * 40, 86400 * 3650))
        first = self.run(step=self.step, action="jump", seconds=seconds)
        moment = time.time() + seconds
        for path in files(self.out) if self.out.exists() else []:
            os.utime(path, (moment, moment))
        self.notes.append(f"step {self.step}, {seconds} s")
        return [first, self.run(step=1, action="jump", seconds=-seconds)]

    def _network(self) -> list[Ended]:
        provider = self.torture.provider
        assert provider is not None
        provider.left = left = int(self.fault.at * 40)
        ended = self.run()
        provider.left = None
        self.notes.append(f"after {left} requests: {ended.last[-200:]}")
        return [ended]


def _on_disk(path: Path) -> int:
    return -(-path.stat().st_size // PAGE) * PAGE


__all__ = ["BAD", "GOOD", "KINDS", "Fault", "Torture", "plan"]
