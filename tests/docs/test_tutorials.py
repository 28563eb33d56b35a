"""Runs the code blocks of every tutorial in order, in a folder with a copy of the code.

A block that begins with `# file: NAME` is written to that file, bash and python blocks are run, and
diffs are applied. Shell variables have defaults for readers and small values here.
"""

import base64
import json
import os
import re
import shutil
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlparse

import geopandas
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.processes import run_python

ROOT = Path(__file__).resolve().parents[2]
CODE = ("modeling_urbanln", "dataset_builders", "pipelines", "configs")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# file: (\S+)\n")
# passes the arguments of Python commands to this process and reads their exit code
SHELL = r"""python() { printf '%s\x1f' "$@"; echo; local code; read -r code; return "$code"; }
"""


@pytest.fixture
def workspace(tmp_path):
    for name in CODE:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    for name in ("train.py", "evaluate.py"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    return tmp_path


def follow(name, workspace, replace=(), **variables):
    """Run a tutorial; return the output of its Python blocks."""
    text = (ROOT / "docs" / "tutorials" / f"{name}.md").read_text(encoding="utf-8")
    for old, new in replace:
        assert old in text
        text = text.replace(old, new)
    printed = []
    variables = {key: str(value) for key, value in variables.items()}
    for language, block in BLOCK.findall(text):
        if match := FILE.match(block):
            (workspace / match[1]).write_text(block[match.end() :], encoding="utf-8")
        elif language == "python":
            printed.append(_python(workspace, variables, "-c", block))
        elif language == "diff":
            command = ["git", "apply", "--unidiff-zero", "-"]
            subprocess.run(command, cwd=workspace, input=block, text=True, check=True)
        else:
            _bash(workspace, variables, block)
    return printed


def _python(workspace, variables, *arguments):
    done = run_python(*arguments, cwd=workspace, **variables)
    assert done.returncode == 0, f"{arguments}\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def _bash(workspace, variables, block):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    command = ["bash", "-euo", "pipefail", "-c", SHELL + block]
    environment = {**os.environ, **variables}
    with subprocess.Popen(command, cwd=workspace, env=environment, **pipes) as shell:
        for line in shell.stdout:
            _python(workspace, variables, *line.split("\x1f")[:-1])
            print(0, file=shell.stdin, flush=True)
    assert shell.returncode == 0, block


def test_every_tutorial_is_followed():
    tested = set(re.findall(r'follow\(\s*"(\w+)"', Path(__file__).read_text(encoding="utf-8")))
    assert {path.stem for path in (ROOT / "docs" / "tutorials").glob("*.md")} == tested


class Server(BaseHTTPRequestHandler):
    """An archive with one image about ten metres from any position, and an Ollama model."""

    def log_message(self, *_):
        pass

    def do_GET(self):
        parts = urlparse(self.path)
        if parts.path == "/near":
            query = {key: float(value[0]) for key, value in parse_qs(parts.query).items()}
            url = f"http://127.0.0.1:{self.server.server_port}/picture/7"
            photo = {"id": "7", "lon": query["lon"], "lat": query["lat"] + 1e-4, "url": url}
            self.answer("application/json", json.dumps([photo]).encode())
        else:
            self.answer("image/jpeg", self.server.image)

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        size = len(base64.b64decode(asked["images"][0]))
        said = f"A street of {size} bytes, {asked['options']['num_predict']} tokens at most."
        answer = {"response": said, "done_reason": "stop", "eval_count": 9}
        self.answer("application/json", json.dumps(answer).encode())

    def answer(self, kind, body):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def server(workspace):
    """URL of a server whose image is also `street.jpg` in the workspace."""
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(workspace / "street.jpg")
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        server.image = (workspace / "street.jpg").read_bytes()
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.slow
def test_bring_your_own_city(workspace, tiny_model_dir):
    photos = workspace / "my_photos"
    photos.mkdir()
    rng = np.random.default_rng(0)
    rows = []
    for number in range(64):
        pixels = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(photos / f"{number}.jpg")
        lon, lat = 7.40 + 0.00622 * (number % 8), 43.73 + 0.0045 * (number // 8)
        rows.append({"file": f"{number}.jpg", "lon": lon, "lat": lat, "population": number})
    pd.DataFrame(rows).to_csv(photos / "images.csv", index=False)
    (said,) = follow("bring_your_own_city", workspace, MODEL=tiny_model_dir)
    assert "regions, 16 numbers each" in said
    report = (workspace / "runs" / "my_results" / "report.md").read_text(encoding="utf-8")
    assert "coordinates only (control)" in report
    found = geopandas.read_parquet(workspace / "runs" / "my_city_vectors.parquet")
    assert found.crs.to_epsg() == 4326
    assert len(found) > 40


@pytest.mark.slow
def test_fine_tune_with_lora(workspace, tiny_model_dir, tiny_city):
    values = {"MODEL": tiny_model_dir, "DATASET": tiny_city, "BATCH": 4, "WINDOW": 2, "STEPS": 1}
    (said,) = follow("fine_tune_with_lora", workspace, **values)
    assert "PeftModel reads runs/lora/adapter" in said
    summary = json.loads((workspace / "runs" / "lora" / "training_summary.json").read_text())
    assert summary["num_trained_parameters"] < summary["num_parameters"] / 10


def test_add_an_indicator(workspace):
    rng = np.random.default_rng(0)
    places = {"lon": rng.uniform(7.401, 7.411, 200), "lat": rng.uniform(43.731, 43.738, 200)}
    pd.DataFrame({"tree_id": range(200), **places}).to_csv(workspace / "trees.csv", index=False)
    assert follow("add_an_indicator", workspace) == ["200.0 trees ln1p\n"]


def test_add_a_baseline(workspace, tiny_city):
    follow("add_a_baseline", workspace, DATASET=tiny_city)
    (path,) = (workspace / "runs" / "baselines").rglob("mean-colour*.parquet")
    vectors = np.stack(pd.read_parquet(path)["satellite"])
    assert vectors.shape == (36, 3)
    assert np.isfinite(vectors).all()
    assert vectors.std(axis=0).min() > 0


def test_add_a_street_view_source(workspace, server):
    replace = [('Archive("https://archive.example.org")', f'Archive("{server}")')]
    size = (workspace / "street.jpg").stat().st_size
    said = follow("add_a_street_view_source", workspace, replace)
    assert said == [f"archive/7 7.405 43.7351 {size} bytes\n"]


def test_add_a_satellite_source(workspace, server):
    (said,) = follow("add_a_satellite_source", workspace, [("https://wms.example.org", server)])
    count, _, images, _ = said.split()
    assert 4 <= int(count) == int(images)


def test_add_a_caption_model(workspace, server):
    size = (workspace / "street.jpg").stat().st_size
    replace = [('"base_url": "http://localhost:11434"', f'"base_url": "{server}"')]
    said = follow("add_a_caption_model", workspace, replace)
    assert said == [f"A street of {size} bytes, 512 tokens at most. 9\n"]


@pytest.mark.slow
def test_add_a_caption_filter(workspace):
    assert follow("add_a_caption_filter", workspace) == ["{'too_dark': 4}\n"]


@pytest.mark.slow
def test_earth_embeddings(workspace):
    from tests.pipelines.evaluation.toy import CITY, build_toy

    values = {"DATASET": build_toy(workspace / "toy"), "CITY": CITY, "INDICATOR": "green_share"}
    follow("earth_embeddings", workspace, BLOCK_M=1500, **values)
    assert (workspace / "runs/map/predictions.gpkg").is_file()
    assert (workspace / f"runs/results/{CITY}/results.jsonl").is_file()
