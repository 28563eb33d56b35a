"""Flags in the documentation's commands are accepted by the argument parsers."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from benchmarks import plan
from dataset_builders import __main__ as builders
from dataset_builders.importers import __main__ as importers
from pipelines.captioning.__main__ import parse_arguments as parse_captioning
from pipelines.evaluation.arguments import parse_arguments as parse_evaluation
from pipelines.prediction.cli import parse_arguments as parse_prediction
from pipelines.pretraining.arguments import parse_arguments as parse_training
from pipelines.release.__main__ import parse_arguments as parse_release

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FIELD, RECORD = "\x1f", "\x1e"
# with an empty PATH, bash passes every command with its arguments to this handler
SHELL = r"""command_not_found_handle() {
  printf '%s\x1f' "$@" >>"$CALLS"; printf '\x1e' >>"$CALLS"
}"""


def calls(page: Path, folder: Path) -> list[list[str]]:
    """Commands and arguments in the shell blocks of a page; nothing is executed."""
    script = "\n".join([SHELL, *BLOCK.findall(page.read_text(encoding="utf-8"))])
    found = folder / "calls"
    found.touch()
    environment = {"PATH": "/nowhere", "CALLS": str(found), "SLURM_ARRAY_TASK_ID": "1"}
    bash = [str(shutil.which("bash")), "-c", script]
    subprocess.run(bash, cwd=folder, env=environment, capture_output=True, check=False)
    return [call.split(FIELD)[:-1] for call in found.read_text().split(RECORD)[:-1]]


def parse_evaluate(argv: list[str]) -> object:
    predicts = argv[0] == "predict"
    return parse_prediction(argv[1:]) if predicts else parse_evaluation(argv)


@pytest.fixture
def programs(monkeypatch):
    """Argument parser of each program."""
    counts = plan.Counts(1.0, 1.0, 1.0, 1.0, 1.0)
    monkeypatch.setattr(plan, "count", lambda *_: counts)
    monkeypatch.setattr(importers, "import_dataset", lambda *_, **__: "")
    return {
        "train.py": parse_training,
        "evaluate.py": parse_evaluate,
        "benchmarks.plan": plan.main,
        "dataset_builders": lambda argv: builders._parser().parse_args(argv),
        "dataset_builders.importers": importers.main,
        "pipelines.captioning": parse_captioning,
        "pipelines.release": parse_release,
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_flags_in_documentation_exist(page, programs, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    called = calls(page, tmp_path)
    for call in called:
        for place, word in enumerate(call):
            if word in programs:  # behind python, accelerate launch, timeout
                assert programs[word](call[place + 1 :]) != 2, call
                break
    if page.stem == "train_on_a_gpu":
        assert set(programs) - {"dataset_builders"} <= {word for call in called for word in call}
