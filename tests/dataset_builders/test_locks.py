"""One run per folder, and cleanup after killed runs."""

import json
import os
import signal
import socket
import time

import pytest

from dataset_builders import files
from dataset_builders.__main__ import main as dataset_builders
from dataset_builders.errors import InUseError
from dataset_builders.files import LOCK_FILE, atomic_path, contents, locked
from dataset_builders.importers.__main__ import main as importers
from dataset_builders.synthetic.__main__ import main as synthetic
from tests.processes import start_python
from train import main as train

HOLD = """
import os, sys, time
from pathlib import Path
from dataset_builders.files import atomic_path, locked
with locked(Path(sys.argv[1])), atomic_path(Path(sys.argv[1]) / "a" / "table.parquet") as half:
    half.touch()
    if len(sys.argv) > 2 and os.fork() == 0:  # a worker that outlives the run
        time.sleep(float(sys.argv[2]))
        os._exit(0)
    print("held", flush=True)
    time.sleep(600)
"""


def start_holder(folder, tmp_path, *more):
    process = start_python("-c", HOLD, folder, *more, output=tmp_path / "said")
    while not (tmp_path / "said.out").exists() or not (tmp_path / "said.out").read_text():
        assert process.is_alive()
        time.sleep(0.01)
    return process


def test_a_second_run_is_refused_by_name_and_a_killed_one_is_cleared_away(tmp_path):
    folder, mine = tmp_path / "out", ".mine.tmp"
    holder = start_holder(folder, tmp_path)
    (folder / mine).touch()
    (half,) = (folder / "a").iterdir()
    half.with_suffix(".gpkg-journal").touch()  # of a library that requires its own suffix
    (tmp_path / half.name.replace("table.parquet", "out")).mkdir()  # a staging folder beside
    who = rf"{folder} \(host {socket.gethostname()}, pid {holder.pid}, since \d{{4}}-"
    with pytest.raises(InUseError, match=who), locked(folder):
        pass
    with locked(folder, ".table.lock"):  # another lock in the same folder
        assert len(list((folder / "a").iterdir())) == 2
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    with locked(folder):
        assert json.loads((folder / LOCK_FILE).read_text())["pid"] == os.getpid()
        assert [path.name for path in contents(folder)] == [mine, "a"]
        assert not list((folder / "a").iterdir())
        assert not list(tmp_path.glob(".out.*"))
    assert not (folder / LOCK_FILE).exists()


def test_workers_of_a_killed_run_are_waited_for(tmp_path, monkeypatch):
    holder = start_holder(tmp_path / "out", tmp_path, 1.0)
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    monkeypatch.setattr(files, "ORPHANS_S", 0.0)
    with pytest.raises(InUseError), locked(tmp_path / "out"):
        pass
    monkeypatch.setattr(files, "ORPHANS_S", 60.0)
    with locked(tmp_path / "out"):
        pass


def test_a_new_folder_in_which_nothing_was_written_is_not_left(tmp_path):
    with locked(tmp_path / "out"):
        pass
    assert not (tmp_path / "out").exists()


def test_two_writers_of_a_file_do_not_share_a_temporary_one(tmp_path):
    with atomic_path(tmp_path / "a") as one, atomic_path(tmp_path / "a") as other:
        one.write_text("one")
        other.write_text("other")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize(
    ("main", "arguments"),
    [
        (synthetic, "--output_dir OUT"),
        (importers, "image_folder --source SOURCE --output_dir OUT --city a --view satellite"),
        (dataset_builders, "build RECIPE --output_dir OUT"),
        (dataset_builders, "publish RECIPE --output_dir OUT"),
        (dataset_builders, "retry-failed RECIPE --output_dir OUT"),
        (train, "--dataset_name SOURCE --output_dir OUT --config_overrides {}"),
    ],
)
def test_every_command_refuses_a_folder_in_use(tmp_path, capsys, main, arguments):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "city: town\nboundary: {bbox: [13.3, 52.5, 13.31, 52.51]}\n"
        "regions: {scheme: squares, side_m: 500}\n"
    )
    known = {"OUT": tmp_path / "out", "SOURCE": tmp_path, "RECIPE": recipe}
    with locked(tmp_path / "out"):
        assert main([str(known.get(word, word)) for word in arguments.split()]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"Another run writes to {tmp_path / 'out'} (host " in said
