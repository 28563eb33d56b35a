"""Three small steps, run in a separate process so that it can be killed.

python -m tests.pipelines.evaluation.benchmark.fake_job RUN
"""

import sys
from pathlib import Path

from pipelines.evaluation.benchmark.runner import Runner, Step

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


def steps(run: Path) -> list[Step]:
    slow = run / "slow.txt"
    command = (sys.executable, "-c", SLOW, str(run / "attempts.txt"), str(slow))
    return [
        note(run, "first"),
        Step("slow", command, slow, ("first",)),
        note(run, "last", needs=("slow",)),
    ]


if __name__ == "__main__":
    Runner(Path(sys.argv[1]), steps(Path(sys.argv[1])))()
