"""Short run within the test suite; `make fuzz` sets the factor URBANLN_FUZZ to 100."""

import os

import pytest

from . import harness

harness.TIMES = float(os.environ.get("URBANLN_FUZZ", harness.TIMES))


def pytest_collection_modifyitems(items):
    """Ignore warnings of libraries about damaged files."""
    for item in items:
        if item.path.parent == harness.FOLDER:
            item.add_marker(pytest.mark.filterwarnings("ignore"))


def pytest_terminal_summary(terminalreporter):
    if harness.TIMES < 1 or not harness.COUNTS:
        return
    line = "{:<44} {:>8} {:>9} {:>8} {:>11} {:>7}".format
    terminalreporter.write_sep("=", "fuzzing")
    terminalreporter.write_line(line("door", "inputs", "accepted", "refused", "tracebacks", "+MB"))
    total = harness.Count()
    for door, one in sorted(harness.COUNTS.items()):
        for name in vars(total):
            setattr(total, name, getattr(total, name) + getattr(one, name))
        terminalreporter.write_line(line(door, *map(round, vars(one).values())))
    terminalreporter.write_line(line("all", *map(round, vars(total).values())))
