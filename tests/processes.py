"""Python processes for tests that start quickly, as torch is imported only once.

They are forked from a server that has imported the heavy libraries. Otherwise they behave as
`python ARGUMENTS`, with their own working directory, environment and output; modules of the project
and of Hugging Face are imported by each process. Tests that depend on the start of the interpreter
(hash seed, `-I`) use `subprocess`.
"""

import atexit
import contextlib
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from multiprocessing.context import ForkServerProcess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# without Hugging Face libraries, which read environment variables when they are imported
HEAVY = (
    *("fsspec", "geopandas", "httpx2", "jinja2", "matplotlib.pyplot", "multiprocess", "psutil"),
    *("pyarrow.dataset", "pyarrow.parquet", "rasterio", "regex", "scipy.stats", "sklearn.metrics"),
    *("tokenizers", "torch", "torch._dynamo", "torchvision.transforms.v2", "tqdm.auto", "trio"),
)

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(list(HEAVY))


def preload(*modules: str) -> None:
    """Import further modules in the server; call before the first process is started."""
    _context.set_forkserver_preload([*HEAVY, *modules])


def start_python(
    *arguments: object, output: Path, cwd: Path = ROOT, **environment: object
) -> ForkServerProcess:
    """Start `python ARGUMENTS`.

    Args:
        arguments: `-m NAME ...`, `-c CODE ...` or `SCRIPT ...`.
        output: Prefix of the output files, `output`.out and `output`.err.
        cwd: Working directory, which precedes the checkout on the path.
        environment: Variables in addition to those of this process.
    """
    variables = {**os.environ, **{name: str(value) for name, value in environment.items()}}
    process = _context.Process(
        target=_python, args=(list(map(str, arguments)), str(output), str(cwd), variables)
    )
    process.start()
    return process


def run_python(
    *arguments: object, cwd: Path = ROOT, **environment: object
) -> subprocess.CompletedProcess[str]:
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "said"
        process = start_python(*arguments, output=output, cwd=cwd, **environment)
        try:
            process.join()
        finally:  # also after a timeout of the test
            process.kill()
        out, err = (Path(f"{output}{end}").read_text() for end in (".out", ".err"))
        return subprocess.CompletedProcess(arguments, process.exitcode or 0, out, err)


def _python(arguments: list[str], output: str, cwd: str, variables: dict[str, str]) -> None:
    for number, end in ((1, ".out"), (2, ".err")):
        file = os.open(output + end, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
        os.close(file)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(variables)
    sys.path[:0] = [cwd, str(ROOT)]
    try:
        if arguments[0] == "-m":
            sys.argv = arguments[1:]
            runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        elif arguments[0] == "-c":
            sys.argv = ["-c", *arguments[2:]]
            exec(arguments[1], {"__name__": "__main__"})
        else:
            sys.argv = arguments
            runpy.run_path(arguments[0], run_name="__main__")
    finally:
        with contextlib.suppress(Exception):
            atexit._run_exitfuncs()


__all__ = ["preload", "run_python", "start_python"]
