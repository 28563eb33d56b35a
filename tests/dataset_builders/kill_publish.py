"""Publish a dataset and kill the process at a chosen rename; run by test_publish.py."""

import os
import signal
import sys

from dataset_builders.publish import publish

dataset, output, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
calls = 0
replace = os.replace


def replace_or_die(*args):
    global calls
    replace(*args)
    calls += 1
    if calls == count:
        os.kill(os.getpid(), signal.SIGKILL)


os.replace = replace_or_die
publish(dataset, output, target_bytes=50_000)
