"""evaluate.py and the library `evaluate`: each is met where it is meant."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
METRIC = ROOT / "pipelines" / "evaluation" / "urban_regression"
IS_LIBRARY = "assert evaluate.__version__ and 'site-packages' in evaluate.__file__, evaluate"


def run(arguments: list[str], cwd: Path = ROOT, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_from_the_root_gives_the_library_with_its_submodules():
    code = f"""
import evaluate.loading  # a submodule first
from evaluate import load
import evaluate, importlib, importlib.util, sys
{IS_LIBRARY}
assert evaluate.loading.load is load
assert sys.modules["evaluate"] is evaluate
assert importlib.util.find_spec("evaluate").origin == evaluate.__file__
assert importlib.import_module("evaluate.utils.logging").get_logger
metric = evaluate.load({str(METRIC)!r})
assert metric.compute(predictions=[1.0, 2.0, 4.0], references=[1.0, 2.0, 3.0])["r2"] == 0.5
"""
    run(["-c", code])


def test_import_from_elsewhere_with_the_root_first_on_the_path(tmp_path):
    run(["-c", f"import evaluate\n{IS_LIBRARY}"], cwd=tmp_path, PYTHONPATH=str(ROOT))


def test_pytest_puts_the_root_first_and_still_gets_the_library():
    import evaluate

    assert str(ROOT) in sys.path
    assert evaluate.load.__module__ == "evaluate.loading"


@pytest.mark.parametrize("command", [["evaluate.py"], ["-m", "evaluate"]])
def test_run_as_a_script_or_module_it_is_the_command_line(command):
    assert "images -> one vector a region" in run([*command, "--help"])


def test_within_the_running_script_the_name_is_the_librarys():
    code = f"""
import runpy, sys
sys.argv = ["evaluate.py", "--help"]
try:
    runpy.run_path("evaluate.py", run_name="__main__")
except SystemExit as stop:
    assert stop.code == 0
import evaluate
{IS_LIBRARY}
"""
    run(["-c", code])


def test_accelerate_launch_runs_the_command_line():
    launch = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1"]
    assert "images -> one vector a region" in run([*launch, "evaluate.py", "--help"])


def test_spawned_workers_get_the_library(tmp_path):
    script = tmp_path / "spawn.py"
    script.write_text(
        "import multiprocessing\n"
        "def version(_):\n"
        "    import evaluate\n"
        f"    {IS_LIBRARY}\n"
        "    return evaluate.__version__\n"
        "if __name__ == '__main__':\n"
        "    with multiprocessing.get_context('spawn').Pool(1) as pool:\n"
        "        print(pool.map(version, [0])[0])\n"
    )
    assert run([str(script)], cwd=tmp_path, PYTHONPATH=str(ROOT)).strip()


def test_spawned_workers_of_the_script_do_not_run_it_again():
    # a worker imports its parent's main file as __mp_main__
    code = (
        "import runpy\n"
        "names = runpy.run_path('evaluate.py', run_name='__mp_main__')\n"
        "assert 'main' not in names"
    )
    assert run(["-c", code]) == ""


def test_without_the_library_the_error_names_it():
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import evaluate"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, timeout=60
    )
    assert "ModuleNotFoundError" in done.stderr
    assert "pip install evaluate" in done.stderr
