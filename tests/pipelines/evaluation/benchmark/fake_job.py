"""A job of three small steps, run as a process of its own so that it can be killed.

python -m tests.pipelines.evaluation.benchmark.fake_job RUN
"""

import signal
import sys
from pathlib import Path

from pipelines.evaluation.benchmark.runner import Runner, Step

# its first attempt waits to be killed; every attempt leaves a line
SLOW = """
import pathlib, sys, time
count = pathlib.Path(sys.argv[1])
with count.open("a") as file:
    file.write("attempt\\n")
while len(count.read_text().splitlines()) < 2:
    time.sleep(0.02)
pathlib.Path(sys.argv[2]).write_text("done")
"""
NOTE = """
import pathlib, sys
with pathlib.Path(sys.argv[1]).open("a") as file:
    file.write("attempt\\n")
"""


def steps(run: Path) -> list[Step]:
    first, slow, last = run / "first.txt", run / "slow.txt", run / "last.txt"
    return [
        Step("first", (sys.executable, "-c", NOTE, str(first)), outputs=(first,)),
        Step(
            "slow",
            (sys.executable, "-c", SLOW, str(run / "attempts.txt"), str(slow)),
            needs=("first",),
            outputs=(slow,),
        ),
        Step("last", (sys.executable, "-c", NOTE, str(last)), needs=("slow",), outputs=(last,)),
    ]


if __name__ == "__main__":
    # a suite in the background of a shell ignores it, and so would all that it starts
    signal.signal(signal.SIGINT, signal.default_int_handler)
    folder = Path(sys.argv[1])
    Runner(folder, steps(folder)).run()
