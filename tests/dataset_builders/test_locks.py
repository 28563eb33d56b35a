"""One run per folder, and cleanup after killed runs."""

import json
import os
import socket
import subprocess
import sys
from contextlib import contextmanager

import pytest

from dataset_builders import files
from dataset_builders.__main__ import main as dataset_builders
from dataset_builders.errors import InUseError
from dataset_builders.files import LOCK_FILE, atomic_path, contents, locked
from dataset_builders.importers.__main__ import main as importers
from tests.processes import ROOT

HOLD = """
import os, sys, time
from pathlib import Path
from dataset_builders.files import atomic_path, locked
folder, release = Path(sys.argv[1]), Path(sys.argv[2])
with locked(folder), atomic_path(folder / "a" / "table.parquet") as half:
    half.touch()
    if os.fork() == 0:  # a worker that outlives the run
        sys.stdout.close()
        while not release.exists():
            time.sleep(0.01)
        os._exit(0)
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(folder, release):
    """A process that holds the lock, and its worker, which ends when `release` exists."""
    command = [sys.executable, "-c", HOLD, str(folder), str(release)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, **pipes) as process:
        assert process.stdout.readline() == b"held\n"
        try:
            yield process
        finally:
            release.touch()
            process.kill()


def test_rejects_a_second_run_and_clears_a_killed_one(tmp_path, monkeypatch):
    folder, release, mine = tmp_path / "out", tmp_path / "release", ".mine.tmp"
    with holder(folder, release) as process:
        (folder / mine).touch()
        (half,) = (folder / "a").iterdir()
        half.with_suffix(".gpkg-journal").touch()  # of a library that requires its own suffix
        (tmp_path / half.name.replace("table.parquet", "out")).mkdir()  # a staging folder beside
        who = rf"{folder} \(host {socket.gethostname()}, pid {process.pid}, since \d{{4}}-"
        with pytest.raises(InUseError, match=who), locked(folder):
            pass
        with locked(folder, ".table.lock"):  # another lock in the same folder
            assert len(list((folder / "a").iterdir())) == 2
        process.kill()
        process.wait()
        monkeypatch.setattr(files, "ORPHANS_S", 0.0)  # the worker still holds the lock
        with pytest.raises(InUseError), locked(folder):
            pass
        release.touch()
        monkeypatch.setattr(files, "ORPHANS_S", 60.0)
        with locked(folder):
            assert json.loads((folder / LOCK_FILE).read_text())["pid"] == os.getpid()
            assert [path.name for path in contents(folder)] == [mine, "a"]
            assert not list((folder / "a").iterdir())
            assert not list(tmp_path.glob(".out.*"))
    assert not (folder / LOCK_FILE).exists()


def test_leaves_no_empty_folder_and_no_shared_temporary_file(tmp_path):
    with locked(tmp_path / "out"):
        pass
    assert not (tmp_path / "out").exists()
    with atomic_path(tmp_path / "a") as one, atomic_path(tmp_path / "a") as other:
        one.write_text("one")
        other.write_text("other")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize(
    ("main", "arguments"),
    [
        (importers, "image_folder --source . --output_dir OUT --city a --view satellite"),
        (dataset_builders, "build RECIPE --output_dir OUT"),
        (dataset_builders, "publish RECIPE --output_dir OUT"),
    ],
)
def test_commands_reject_a_folder_in_use(tmp_path, capsys, main, arguments):
    recipe, out = tmp_path / "recipe.yaml", tmp_path / "out"
    recipe.write_text("city: town\nboundary: {bbox: [13.3, 52.5, 13.31, 52.51]}\n")
    with locked(out):
        known = {"OUT": str(out), "RECIPE": str(recipe)}
        assert main([known.get(word, word) for word in arguments.split()]) == 2
    assert f"Another run writes to {out} (host " in capsys.readouterr().err
