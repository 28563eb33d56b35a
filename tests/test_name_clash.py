"""Coexistence of the script evaluate.py and the library `evaluate`."""

import os
import subprocess
import sys
from pathlib import Path

from tests.processes import ROOT

METRIC = ROOT / "pipelines" / "evaluation" / "urban_regression"
HELP = "python evaluate.py embed "

EVERY_WAY = f"""
import contextlib, importlib, importlib.util, io, multiprocessing, runpy, sys

def is_library():
    import evaluate
    return bool(evaluate.__version__) and "site-packages" in evaluate.__file__

def worker(_):
    return is_library()

def forget():
    for name in [name for name in sys.modules if name.split(".")[0] == "evaluate"]:
        del sys.modules[name]

def command_line(run, *arguments, **options):
    sys.argv = ["evaluate.py", "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as said:
        try:
            run(*arguments, run_name="__main__", **options)
        except SystemExit as stop:
            assert stop.code == 0
    assert {HELP!r} in said.getvalue()

def main():
    assert {str(ROOT)!r} in sys.path
    for first in ({str(ROOT)!r}, ""):  # as `PYTHONPATH` has it, and `python -c` in the checkout
        sys.path.insert(0, first)
        forget()
        import evaluate.loading  # a submodule first
        from evaluate import load
        import evaluate
        assert is_library()
        assert evaluate.loading.load is load
        assert sys.modules["evaluate"] is evaluate
        assert importlib.util.find_spec("evaluate").origin == evaluate.__file__
        assert importlib.import_module("evaluate.utils.logging").get_logger
        del sys.path[0]
    metric = evaluate.load({str(METRIC)!r})
    assert metric.compute(predictions=[1.0, 2.0, 4.0], references=[1.0, 2.0, 3.0])["r2"] == 0.5

    command_line(runpy.run_path, "evaluate.py")
    assert is_library()  # within the script that ran
    forget()
    command_line(runpy.run_module, "evaluate", alter_sys=True)

    # a spawned worker imports its parent's main file as __mp_main__, and must not run it again
    assert "main" not in runpy.run_path("evaluate.py", run_name="__mp_main__")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(worker, [0]) == [True]

if __name__ == "__main__":
    main()
"""


def run(arguments: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )


def test_the_name_is_the_librarys_but_for_the_command_line(tmp_path: Path):
    script = tmp_path / "every_way.py"
    script.write_text(EVERY_WAY)
    done = run([str(script)], PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr


def test_accelerate_launch_runs_the_script():
    launch = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1"]
    done = run([*launch, "evaluate.py", "--help"])
    assert done.returncode == 0, done.stderr
    assert HELP in done.stdout


def test_pytest_puts_the_root_first_and_still_gets_the_library():
    import evaluate

    assert str(ROOT) in sys.path
    assert evaluate.load.__module__ == "evaluate.loading"


def test_without_the_library_the_error_names_it():
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import evaluate"
    done = run(["-I", "-S", "-c", code])
    assert "ModuleNotFoundError" in done.stderr
    assert "pip install evaluate" in done.stderr
