"""Coexistence of the script evaluate.py and the library `evaluate`."""

import importlib
import importlib.util
import runpy
import subprocess
import sys

import pytest
from accelerate.commands.launch import launch_command, launch_command_parser

from tests.processes import ROOT

HELP = "python evaluate.py embed "
RUNS = {
    "script": lambda: runpy.run_path("evaluate.py", run_name="__main__"),
    "module": lambda: runpy.run_module("evaluate", run_name="__main__", alter_sys=True),
}


def take_library() -> dict:
    names = [name for name in sys.modules if name.split(".")[0] == "evaluate"]
    return {name: sys.modules.pop(name) for name in names}


@pytest.fixture(autouse=True)
def _not_imported_yet(monkeypatch):
    monkeypatch.chdir(ROOT)
    imported = take_library()
    yield
    take_library()
    sys.modules.update(imported)


def is_library() -> bool:
    import evaluate

    return bool(evaluate.__version__) and "site-packages" in evaluate.__file__


@pytest.mark.parametrize("first", [str(ROOT), ""], ids=["PYTHONPATH", "python -c"])
def test_import_gives_library_if_checkout_is_first_on_path(monkeypatch, first):
    monkeypatch.setattr(sys, "path", [first, *sys.path])
    import evaluate.loading  # a submodule first
    from evaluate import load

    assert is_library()
    assert evaluate.loading.load is load
    assert sys.modules["evaluate"] is evaluate
    assert importlib.util.find_spec("evaluate").origin == evaluate.__file__
    assert importlib.import_module("evaluate.utils.logging").get_logger


@pytest.mark.parametrize("run", RUNS)
def test_command_line_runs_and_can_import_library(run, monkeypatch, capsys):
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])
    monkeypatch.setattr(sys, "argv", ["evaluate.py", "--help"])
    with pytest.raises(SystemExit) as stopped:
        RUNS[run]()
    assert stopped.value.code == 0
    assert HELP in capsys.readouterr().out
    take_library()
    assert is_library()


def test_spawned_worker_does_not_rerun_script():
    assert "main" not in runpy.run_path("evaluate.py", run_name="__mp_main__")


def test_accelerate_launch_runs_script(capfd):
    flags = ["--cpu", "--num_processes", "1", "evaluate.py", "--help"]
    launch_command(launch_command_parser().parse_args(flags))
    assert HELP in capfd.readouterr().out


def test_error_without_library_names_it():
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import evaluate"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=False
    )
    assert "ModuleNotFoundError" in done.stderr
    assert "pip install evaluate" in done.stderr
