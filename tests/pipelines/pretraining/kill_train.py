"""train.py that kills itself after a step; used by test_train.py.

python -m tests.pipelines.pretraining.kill_train STEP FLAGS...
"""

import os
import signal
import sys

import train
from pipelines.pretraining.loop import Pretrainer

step, *flags = int(sys.argv[1]), *sys.argv[2:]
due = Pretrainer._due


def due_or_kill(self: Pretrainer, every: int) -> bool:
    if self.state.step == step:
        os.kill(os.getpid(), signal.SIGKILL)
    return due(self, every)


Pretrainer._due = due_or_kill  # type: ignore[method-assign]
sys.exit(train.main(flags))
