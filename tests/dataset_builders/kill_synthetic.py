"""Builds a synthetic city and kills itself before or after a rename; run by test_synthetic.py."""

import os
import signal
import sys

from dataset_builders.synthetic.__main__ import main

kill_at, when, *arguments = sys.argv[1:]
replace, renames = os.replace, iter(range(1, 10**6))


def replace_or_die(*args):
    last = next(renames) == int(kill_at)
    if not last or when == "after":
        replace(*args)
    if last:
        os.kill(os.getpid(), signal.SIGKILL)


os.replace = replace_or_die  # type: ignore[assignment]
sys.exit(main(arguments))
