"""Errors of commands: one line, an exit code, and no traceback."""

import errno
import os
import resource
import signal
import sqlite3
import subprocess
import sys

import numpy as np
import pytest

from dataset_builders.commands import run_command
from dataset_builders.errors import MissingExtraError
from dataset_builders.files import append, atomic_path
from tests.processes import ROOT

RESUME = "then rerun the command to resume."


def ended(error, capsys):
    """Exit code and printed line of a command that raises an error."""

    def work():
        raise error

    code = run_command(work, "name")
    said = capsys.readouterr().err.strip()
    assert "\n" not in said
    assert said.startswith("name: ")
    return code, said


def system_error(number, path="/some/file"):
    return OSError(number, os.strerror(number), path)


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (system_error(errno.ENOSPC), 1, "No space left on device: /some/file. Free some space"),
        (system_error(errno.EACCES), 1, "Permission denied: /some/file"),
        (system_error(errno.ECONNRESET), 1, "Check the network"),
        (system_error(errno.ENOENT), 2, "/some/file"),
        (sqlite3.OperationalError("database or disk is full"), 1, "Free some space"),
        (MemoryError(), 1, "MemoryError. There is not enough memory: use fewer workers"),
        (MissingExtraError("h3", "geo"), 2, r'pip install -e ".[geo]"'),
        (KeyboardInterrupt(), 130, "Rerun the command to resume."),
    ],
)
def test_user_errors_are_one_line(error, code, said, capsys):
    found, line = ended(error, capsys)
    assert found == code
    assert said in line
    assert line.endswith(RESUME) == (code == 1)


def test_full_disk_leaves_files_unchanged(tmp_path, capsys):
    rows, table = tmp_path / "rows.jsonl", tmp_path / "table.npy"
    rows.write_bytes(b'{"a": 1}\n')
    table.write_bytes(b"old")

    def write_table():
        with atomic_path(table) as temporary, temporary.open("wb") as file:
            np.save(file, np.zeros(10_000))

    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))
        for work in (lambda: append(rows, b"x" * 1000 + b"\n"), write_table):
            assert run_command(work) == 1
            said = capsys.readouterr().err
            assert "Free some space" in said
            assert said.count("\n") == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert rows.read_bytes() == b'{"a": 1}\n'
    assert table.read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.jsonl", "table.npy"]


def test_closed_output_ends_a_command_silently():
    code = (
        "import os, sys\n"
        "from dataset_builders.commands import run_command\n"
        "reader, writer = os.pipe()\n"
        "os.dup2(writer, 1); os.close(reader)\n"
        "sys.exit(run_command(lambda: print('line\\n' * 10_000)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (141, "")
