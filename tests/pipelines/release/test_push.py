"""Push and pull through the unmodified clients, against a server that speaks as the Hub does."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from ...hub_server import HubServer
from .test_model_card import ROWS, SUMMARY, write_results

ROOT = Path(__file__).parents[3]
REPO = "org/urbanln-tiny"
KEY = f"models/{REPO}"


@pytest.fixture
def hub():
    with HubServer() as server:
        yield server
        server.shutdown()


@pytest.fixture
def folder(tiny_model_dir, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(tiny_model_dir, folder)
    (folder / "training_summary.json").write_text(json.dumps(SUMMARY))
    # what a training leaves beside the model
    (folder / "checkpoint-10").mkdir()
    (folder / "checkpoint-10" / "state.pt").write_bytes(b"state")
    (folder / "pairs.parquet").write_bytes(b"pairs")
    return folder


def run(hub, tmp_path, *command):
    environment = {**os.environ, **hub.environment(tmp_path / "home"), "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *command], cwd=tmp_path, env=environment, capture_output=True, text=True
    )


def push(hub, tmp_path, folder, *more):
    return run(hub, tmp_path, "-m", "pipelines.release", "push", str(folder), "--repo", REPO, *more)


PULL = """
import sys
sys.path = [path for path in sys.path if path != {root!r}]
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
import json
import torch
from huggingface_hub import snapshot_download
from PIL import Image
from transformers import AutoModel, AutoProcessor, pipeline
repo = {repo!r}
model = AutoModel.from_pretrained(repo, trust_remote_code=True, revision="v1").eval()
processor = AutoProcessor.from_pretrained(repo, trust_remote_code=True)
image = Image.new("RGB", (64, 48), "green")
inputs = processor(text=["a park"], images=[image], return_tensors="pt")
with torch.no_grad():
    logits = model(**inputs).logits_per_image
regions = pipeline("urban-region-feature-extraction", model=repo, trust_remote_code=True)
vector = regions({{"satellite": image}})["satellite"]
zero = pipeline("zero-shot-image-classification", model=repo, trust_remote_code=True)
scores = zero(image, candidate_labels=["a park", "a road"])
files = snapshot_download(repo, local_dir="copy")
assert not any(name.startswith("modeling_urbanln") for name in sys.modules)
json.dump({{"logits": logits.tolist(), "vector": vector.tolist()}}, open("pulled.json", "w"))
"""


def test_a_model_is_pushed_and_pulled_by_its_name(hub, folder, tmp_path, tiny_model_dir):
    results = write_results(tmp_path / "results", ROWS)
    done = push(hub, tmp_path, folder, "--results", str(results), "--tag", "v1")
    assert done.returncode == 0, done.stderr[-2000:]
    files = hub.files(KEY, "v1")
    assert {"model.safetensors", "config.json", "README.md", "pipeline_urbanln.py"} <= set(files)
    # nothing of the training, and no pickle
    assert not [name for name in files if name.endswith((".pt", ".bin", ".parquet"))]
    assert ModelCard(files["README.md"].decode()).data.eval_results
    script = tmp_path / "pull.py"
    script.write_text(PULL.format(root=str(ROOT), repo=REPO))
    environment = {**os.environ, **hub.environment(tmp_path / "other"), "PYTHONPATH": ""}
    pulled = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert pulled.returncode == 0, pulled.stderr[-3000:]
    found = json.loads((tmp_path / "pulled.json").read_text())
    assert len(found["vector"]) == 16
    assert (tmp_path / "copy" / "model.safetensors").read_bytes() == files["model.safetensors"]


def test_the_token_is_neither_shown_nor_kept(hub, folder, tmp_path):
    done = push(hub, tmp_path, folder)
    assert done.returncode == 0, done.stderr[-2000:]
    assert hub.token in hub.tokens
    assert hub.token not in done.stdout + done.stderr
    for content in hub.files(KEY).values():
        assert hub.token.encode() not in content
    for path in folder.rglob("*"):
        assert path.is_dir() or hub.token.encode() not in path.read_bytes()


def test_a_dry_run_shows_the_tree_and_sends_nothing(hub, folder, tmp_path):
    done = push(hub, tmp_path, folder, "--dry_run")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "model.safetensors" in done.stdout
    assert "Nothing was sent." in done.stdout
    assert not hub.asked
    assert (folder / "README.md").exists()


def test_a_second_push_sends_no_weights_again(hub, folder, tmp_path):
    assert push(hub, tmp_path, folder).returncode == 0
    uploads = [name for name in hub.asked if name.startswith("PUT /upload/")]
    assert push(hub, tmp_path, folder).returncode == 0
    assert uploads
    assert all(hub.asked[name] == 1 for name in uploads)


def test_an_interrupted_push_leaves_no_half_model(hub, folder, tmp_path):
    hub.faults[f"/api/models/{REPO}/commit/main"] = [500] * 50
    done = push(hub, tmp_path, folder)
    assert done.returncode != 0
    assert hub.files(KEY) == {}
    hub.faults.clear()
    assert push(hub, tmp_path, folder).returncode == 0
    assert "model.safetensors" in hub.files(KEY)
    uploads = [name for name in hub.asked if name.startswith("PUT /upload/")]
    assert all(hub.asked[name] == 1 for name in uploads)


@pytest.mark.parametrize(
    ("code", "said"), [(401, "token is missing or wrong"), (403, "write access"), (404, "no such")]
)
def test_what_the_hub_refuses_is_said_in_a_sentence(hub, folder, tmp_path, code, said):
    hub.faults["/api/repos/create"] = [code] * 20
    done = push(hub, tmp_path, folder)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_name_is_told(hub, folder, tmp_path):
    command = ["-m", "pipelines.release", "push", str(folder), "--repo", "a/b/c"]
    done = run(hub, tmp_path, *command)
    assert done.returncode == 1
    assert "give org/name" in done.stderr
