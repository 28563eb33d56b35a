"""The README's commands run in order in a fresh clone."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import geopandas as gpd
import pytest

from tests.pipelines.prediction.conftest import make_town

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^(<!-- not run: [^\n]+ -->\n)?```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
RUN = ("bash", "python")


def blocks() -> list[tuple[bool, str, str]]:
    """Code blocks as (is run, language, text)."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return [(not mark, language, block) for mark, language, block in BLOCK.findall(text)]


def test_every_block_is_run_or_says_why_not():
    """Blocks without a language would be skipped by both patterns."""
    assert all(language for _, language, _ in blocks())
    assert sum(run for run, language, _ in blocks() if language in RUN) >= 7


def test_contributing_names_existing_files():
    named = re.findall(r"\b\w+\.(?:py|js)\b", (ROOT / "CONTRIBUTING.md").read_text("utf-8"))
    rooms = ("modeling_urbanln", "dataset_builders", "pipelines", "demo", "benchmarks", "examples")
    files = [path for room in (*rooms, "docs", "tests") for path in (ROOT / room).rglob("*.?[sy]")]
    assert set(named) <= {path.name for path in (*files, *ROOT.glob("*.py"))}


@pytest.fixture
def clone(tmp_path) -> Path:
    """A clone with this virtual environment, photos and polygons."""
    folder = tmp_path / "urbanln"
    subprocess.run(["git", "clone", "--quiet", ROOT, folder], check=True)
    (folder / ".venv").symlink_to(ROOT / ".venv")
    # older than the environment, so that make installs nothing
    for name in ("setup.cfg", "pyproject.toml", "requirements.lock"):
        os.utime(folder / name, (0, 0))
    town = make_town(tmp_path / "town")
    shutil.copytree(town.photos, folder / "photos")
    for name in ("a", "b"):
        shutil.copyfile(town.photos / "0001.png", folder / "photos" / f"{name}.jpg")
    tracts = gpd.read_file(town.tracts).rename(columns={"height": "building_height"})
    tracts.to_file(folder / "tracts.gpkg")
    return folder


@pytest.mark.slow
@pytest.mark.timeout(5400)
def test_readme_runs_as_printed(clone):
    environment = {**os.environ, "PYTHONPATH": str(clone)}
    for run, language, block in blocks():
        if not run or language not in RUN:
            continue
        # in the README the environment is activated once, after the installation
        shell = block if language == "bash" else f"python - <<'END'\n{block}\nEND\n"
        command = ["bash", "-euo", "pipefail", "-c", f"source .venv/bin/activate\n{shell}"]
        done = subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{block}\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}"
    for name in ("predictions.gpkg", "runs/predict/predictions.html", "runs/r/report.html"):
        assert (clone / name).is_file()
