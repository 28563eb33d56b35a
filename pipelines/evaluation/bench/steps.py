"""A step of a long job: a command line, what it needs, and the mark it leaves when it is done.

A step's key is a hash of its command, of the settings that the command reads from files, and of
the keys of the steps it needs: all that its result depends on but the code, whose revision is
written beside it. A mark with that key, and the step's outputs on the disk, mean that it is done.
"""

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from dataset_builders.files import digest, write_json

PROJECT = Path(__file__).resolve().parents[3]
STEPS_FOLDER, LOGS_FOLDER = "steps", "logs"

State = Literal["todo", "started", "done", "failed"]


@dataclass(frozen=True)
class Step:
    """A command line, run from the project's folder.

    Attributes:
        name: unique; safe as a file's name.
        command: the program and its words.
        needs: names of the steps that must be done before.
        takes: names of steps that must have ended before, and the words each adds to the command
            if it is done: a table over ten systems is made of nine where one has failed.
        outputs: that must be there once it is done.
        completed: a JSON file whose `completed` must then be true: a command that was asked to stop
            may end well without having come to its end.
        clears: what is removed before it starts anew, with other settings; never what it shares.
        settings: that the command reads from files, as JSON has them.
    """

    name: str
    command: tuple[str, ...]
    needs: tuple[str, ...] = ()
    takes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    outputs: tuple[Path, ...] = ()
    completed: Path | None = None
    clears: tuple[Path, ...] = ()
    settings: Any = None

    @property
    def before(self) -> tuple[str, ...]:
        """All steps that must have ended before this one starts."""
        return (*self.needs, *self.takes)

    def words(self, done: Sequence[str]) -> list[str]:
        """The whole command, given which steps are done."""
        taken = [word for name, words in self.takes.items() if name in done for word in words]
        return [*self.command, *taken]

    def key(self, run: Path, keys: Mapping[str, str]) -> str:
        """Of all that the result depends on but the code.

        Args:
            run: folder of the job; the key is the same wherever it lies.
            keys: of the steps that are done, by name.
        """
        places = {str(run): "{run}", str(PROJECT): "{project}", sys.executable: "{python}"}
        words = self.words(list(keys))
        for place, name in places.items():
            words = [word.replace(place, name) for word in words]
        return digest(
            words, self.settings, {name: keys[name] for name in self.before if name in keys}
        )


@dataclass(frozen=True)
class Mark:
    """What is known of a step on the disk.

    Attributes:
        state: of its last attempt; "todo" where there was none.
        key: of that attempt.
        seconds: it took.
        attempts: with this key.
        code_revision: of the code that ran.
    """

    state: State = "todo"
    key: str = ""
    seconds: float = 0.0
    attempts: int = 0
    code_revision: str = ""


class Marks:
    """The marks of a job: `<run>/steps/<name>.json`, each whole or absent.

    Args:
        run: folder of the job.
    """

    def __init__(self, run: Path):
        self._folder = run / STEPS_FOLDER

    def read(self, step: Step) -> Mark:
        """The mark of a step; that of a step never begun where there is none."""
        try:
            values: dict[str, Any] = json.loads(self._path(step).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return Mark()
        return Mark(**values)

    def write(self, step: Step, mark: Mark) -> None:
        """Leave a mark."""
        write_json(self._path(step), vars(mark))

    def is_done(self, step: Step, key: str) -> bool:
        """Done with this very key, and what it made is still there."""
        mark = self.read(step)
        return (mark.state, mark.key) == ("done", key) and not what_lacks(step)

    def _path(self, step: Step) -> Path:
        return self._folder / f"{step.name}.json"


def what_lacks(step: Step) -> str:
    """Why a step cannot be called done, though its command ended well; empty if it can."""
    for path in step.outputs:
        if not path.exists():
            return f"{path} is not there"
    if step.completed is None:
        return ""
    try:
        done = json.loads(step.completed.read_text(encoding="utf-8")).get("completed")
    except FileNotFoundError:
        return f"{step.completed} is not there"
    return "" if done else f"it was stopped before its end, by {step.completed}"


def clear(step: Step) -> None:
    """Remove what an attempt with other settings has left."""
    for path in step.clears:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def log_path(run: Path, step: Step) -> Path:
    """Where a step's output goes."""
    return run / LOGS_FOLDER / f"{step.name}.log"


__all__ = [
    "LOGS_FOLDER",
    "PROJECT",
    "STEPS_FOLDER",
    "Mark",
    "Marks",
    "State",
    "Step",
    "clear",
    "log_path",
    "what_lacks",
]
