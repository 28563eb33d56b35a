"""Runs on a local Ray cluster with two actors, of which one, or the driver, is killed."""

import os
import shutil
import subprocess
import sys
import tempfile
import time

import psutil
import pytest

from pipelines.captioning.recipe import make_recipe
from pipelines.captioning.run import run, state
from tests.processes import ROOT

from .runs import recipe_values, table, write_recipe

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
pytest.importorskip("ray", reason="Ray is in the extra `ray`")


@pytest.fixture(scope="module")
def whole(city_with_truth, tmp_path_factory):
    """Table of a run in one process."""
    output = tmp_path_factory.mktemp("whole")
    assert run(make_recipe(recipe_values(city_with_truth, output))).finished
    return table(output)


@pytest.fixture
def start(city_with_truth, tmp_path):
    """Function that starts the command; remaining processes are killed."""
    recipe = write_recipe(tmp_path / "r.yaml", recipe_values(city_with_truth, tmp_path / "out"))
    arguments = ["run", str(recipe), "--backend", "ray", "--num_actors", "2"]
    started = []
    sockets = tempfile.mkdtemp(prefix="ray")  # socket paths must be short

    def start():
        process = subprocess.Popen(
            [sys.executable, "-m", "pipelines.captioning", *arguments],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"RAY_USAGE_STATS_ENABLED": "0", "RAY_TMPDIR": sockets},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
            process.kill()
        process.wait()
    shutil.rmtree(sockets, ignore_errors=True)


def wait_for_units(process, output):
    """Wait until an actor has stored units."""
    while not any(path.stat().st_size > 100_000 for path in output.glob("shards/*/*-wal")):
        assert process.poll() is None, process.stderr.read()[-2000:]
        time.sleep(0.05)


def test_survives_a_killed_actor(start, whole, tmp_path):
    process = start()
    wait_for_units(process, tmp_path / "out")
    children = psutil.Process(process.pid).children(recursive=True)
    actor = next(one for one in children if "MapWorker" in " ".join(one.cmdline()))
    actor.kill()
    _, said = process.communicate()
    assert process.returncode == 0, said[-2000:]
    assert table(tmp_path / "out") == whole


def test_resumes_after_a_killed_driver(start, whole, city_with_truth, tmp_path):
    process = start()
    wait_for_units(process, tmp_path / "out")
    process.kill()
    process.wait()
    assert not state(make_recipe(recipe_values(city_with_truth, tmp_path / "out"))).finished
    again = start()
    _, said = again.communicate()
    assert again.returncode == 0, said[-2000:]
    assert table(tmp_path / "out") == whole
