"""The documentation builds without a warning, and its notebook runs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "docs" / "photos_to_a_map.ipynb"


def test_site_builds_without_warnings(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "api" / "modeling_urbanln.html").read_text(encoding="utf-8")
    assert "distillation_weight" in page  # the docstrings are rendered, not only headings


def test_notebook_has_no_local_paths():
    assert "/.venv/" not in NOTEBOOK.read_text(encoding="utf-8")


@pytest.mark.slow
def test_notebook_runs(tmp_path, monkeypatch):
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(NOTEBOOK, 4)
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=1800, resources=resources).execute()
    assert (tmp_path / "runs" / "notebook" / "map" / "predictions.gpkg").is_file()
