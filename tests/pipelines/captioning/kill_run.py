"""Run a recipe in a process that sends itself a signal after UNITS units; used by test_run.py.

python -m tests.pipelines.captioning.kill_run SIGNAL UNITS RECIPE
"""

import os
import sys

from pipelines.captioning.__main__ import main
from pipelines.captioning.ledger import Ledger, Unit

number, last, recipe = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
put, units = Ledger.put, 0


def put_and_signal(self: Ledger, unit: Unit) -> None:
    global units
    put(self, unit)
    units += 1
    if units == last:
        os.kill(os.getpid(), number)


Ledger.put = put_and_signal  # type: ignore[method-assign]
sys.exit(main(["run", recipe]))
