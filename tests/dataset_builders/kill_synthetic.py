"""Builds a synthetic city and kills itself at the given rename; run by test_synthetic.py."""

import os
import signal
import sys

from dataset_builders.synthetic.__main__ import main

kill_at, when, *arguments = sys.argv[1:]
renames = 0
replace = os.replace


def replace_or_die(*args):
    global renames
    renames += 1
    if renames == int(kill_at) and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    replace(*args)
    if renames == int(kill_at):
        os.kill(os.getpid(), signal.SIGKILL)


os.replace = replace_or_die  # type: ignore[assignment]
main(arguments)
