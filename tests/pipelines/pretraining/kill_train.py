"""train.py that sends itself a signal after a step; used by test_train.py.

python -m tests.pipelines.pretraining.kill_train SIGNAL STEP FLAGS...
"""

import os
import sys

import train
from pipelines.pretraining.loop import Pretrainer

number, step, *flags = int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]
due = Pretrainer._due


def due_or_signal(self: Pretrainer, every: int) -> bool:
    if self.state.step == step:
        os.kill(os.getpid(), number)
    return due(self, every)


Pretrainer._due = due_or_signal  # type: ignore[method-assign]
sys.exit(train.main(flags))
