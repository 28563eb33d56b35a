"""Push and pull through unmodified clients, against a local server with the Hub's API."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import yaml
from huggingface_hub import DatasetCard, ModelCard

from dataset_builders.publish import publish
from pipelines.pretraining.arguments import ModelArguments
from pipelines.pretraining.checkpoint import save_model
from pipelines.pretraining.model import build_model
from pipelines.release.__main__ import main

from ...hub_server import HubServer
from ...processes import ROOT
from .test_model_card import SUMMARY, write_results

REPO = "org/urbanln-tiny"
KEY = f"models/{REPO}"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with HubServer() as server:
        server.connect(monkeypatch, tmp_path / "cache")
        yield server
        server.shutdown()


@pytest.fixture
def folder(tiny_model_dir, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(tiny_model_dir, folder)
    (folder / "training_summary.json").write_text(json.dumps(SUMMARY))
    for name in ("checkpoint-10/state.pt", "pairs.parquet", "onnx/vision_model.onnx"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"content")
    return folder


def push(folder, *more, repo=REPO):
    return main(["push", str(folder), "--repo", repo, *map(str, more)])


HIDE_CHECKOUT = f"""
import sys
sys.path = [path for path in sys.path if path != {str(ROOT)!r}]
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
"""
CHECK_HIDDEN = """
assert not [n for n in sys.modules if n.split(".")[0] in ("modeling_urbanln", "dataset_builders")]
"""


def examples(card):
    """Code that runs the blocks of a card, each in a fresh namespace of the list `found`."""
    blocks = re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)
    return "found = []\n" + "".join(
        f"found.append({{}})\nexec({block!r}, found[-1])\n" for block in blocks
    )


PULL = """
import torch
from huggingface_hub import snapshot_download
from PIL import Image
from transformers import AutoModel, AutoProcessor, pipeline
repo = "org/urbanln-tiny"
model = AutoModel.from_pretrained(repo, trust_remote_code=True, revision="v1").eval()
processor = AutoProcessor.from_pretrained(repo, trust_remote_code=True)
image = Image.new("RGB", (64, 48), "green")
inputs = processor(text=["a park"], images=[image], return_tensors="pt")
with torch.no_grad():
    embeds = model(**inputs).image_embeds[0]
features = pipeline("image-feature-extraction", model=repo, trust_remote_code=True)(image)
torch.testing.assert_close(torch.tensor(features).reshape(-1, 16)[0], embeds)
zero = pipeline("zero-shot-image-classification", model=repo, trust_remote_code=True)
scores = zero(image, candidate_labels=["a park", "a road"])
assert abs(sum(one["score"] for one in scores) - 1) < 1e-5
snapshot_download(repo, local_dir="copy")
try:
    AutoModel.from_pretrained(repo, trust_remote_code=False)
except ValueError as error:
    assert "trust_remote_code=True" in str(error)
else:
    raise AssertionError("code was run without a word of trust")
{examples}
assert found[0]["vector"].shape == (16,)
assert abs(found[1]["similarity"].sum().item() - 1) < 1e-5
assert len(found) == 2
"""


ADAPTED = """
pixels = torch.arange(3 * 30 * 30).reshape(1, 3, 30, 30) / 1000
merged = AutoModel.from_pretrained("org/adapted", trust_remote_code=True)
plain = AutoModel.from_pretrained("org/urbanln-tiny", trust_remote_code=True)
with torch.no_grad():
    expected, before, again = (
        one.eval().get_image_features(pixel_values=pixels).pooler_output
        for one in (merged, plain, found[0]["merged"])
    )
torch.testing.assert_close(again, expected, atol=1e-5, rtol=1e-5)
assert (expected - before).abs().max() > 1e-3
"""
DATASET = """
from datasets import load_dataset
views = load_dataset("org/urbanln-captions", "harborview-street_view", split="train")
assert views[0]["image"].size == found[0]["images"][0]["image"].size
assert len(views) == 9 and views[0]["caption"]
streamed = load_dataset(
    "org/urbanln-captions", "harborview-regions", split="train", streaming=True, revision="v1"
)
assert next(iter(streamed))["region_id"]
"""


def test_model_adapter_and_dataset_load_from_the_hub_by_their_cards(
    hub, folder, small_city, tmp_path, capsys
):
    results = write_results(tmp_path / "results")
    assert push(folder, "--results", results, "--tag", "v1") == 0
    files = hub.files(KEY, "v1")
    wanted = {"model.safetensors", "config.json", "README.md", "pipeline_urbanln.py"}
    assert wanted | {"onnx/vision_model.onnx", "figures/lyon-block-map.png"} <= set(files)
    assert not [name for name in files if name.endswith((".pt", ".bin", ".parquet"))]
    card = ModelCard(files["README.md"].decode())
    assert card.data.eval_results
    code = [PULL.format(examples=examples(card))]

    arguments = ModelArguments(model_name_or_path=str(folder), lora_rank=2)
    model, processor = build_model(arguments)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # initialised to zero
            parameter.data.normal_(std=0.5)
    trained = tmp_path / "trained"
    trained.mkdir()
    arguments.model_name_or_path = REPO
    save_model(trained, model, processor, arguments)
    assert push(trained, repo="org/adapted") == 0
    assert push(trained, "--adapter", repo="org/urbanln-lora") == 0
    files = hub.files("models/org/urbanln-lora")
    assert set(files) == {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    card = ModelCard(files["README.md"].decode())
    assert (card.data.library_name, card.data.base_model) == ("peft", REPO)
    code += [examples(card), ADAPTED]

    published = publish(small_city, tmp_path / "published").folder
    asked = hub.asked.total()
    capsys.readouterr()
    assert push(published, "--dataset", "--dry-run", repo="org/urbanln-captions") == 0
    assert "# Synthetic" in capsys.readouterr().out
    assert hub.asked.total() == asked
    assert push(published, "--dataset", "--tag", "v1", repo="org/urbanln-captions") == 0
    card = DatasetCard(hub.files("datasets/org/urbanln-captions")["README.md"].decode())
    assert (card.data.license, "synthetic" in card.data.tags) == ("cc0-1.0", True)
    assert "path/to" not in card.text
    code += [examples(card), DATASET]

    script = tmp_path / "outside.py"
    script.write_text("\n".join([HIDE_CHECKOUT, *code, CHECK_HIDDEN]))
    environment = {**os.environ, **hub.environment(tmp_path / "other")}
    command = [sys.executable, script]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    downloaded = (tmp_path / "copy" / "model.safetensors").read_bytes()
    assert downloaded == (folder / "model.safetensors").read_bytes()


def test_push_sends_neither_local_paths_nor_token_and_keeps_the_folder(
    hub, folder, tmp_path, capsys
):
    home = tmp_path / "home" / "someone"
    summary = {**SUMMARY, "dataset_name": str(home / "city"), "truncation_rate": 5e-05}
    (folder / "training_summary.json").write_text(json.dumps(summary))
    recipe = {"dataset_name": str(home / "city"), "output_dir": str(home / "run"), "seed": 1}
    (folder / "train_arguments.yaml").write_text(yaml.safe_dump(recipe))
    (folder / "README.md").write_text("mine")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    assert push(folder) == 0

    files = hub.files(KEY)
    assert "## Limits and misuse" in files["README.md"].decode()
    assert json.loads(files["training_summary.json"]) == {**summary, "dataset_name": "city"}
    assert yaml.safe_load(files["train_arguments.yaml"]) == {
        "dataset_name": "city", "output_dir": "run", "seed": 1
    }  # fmt: skip
    assert hub.token in hub.tokens
    said = "".join(capsys.readouterr())
    for secret in (hub.token, str(home)):
        assert secret not in said
        assert not [name for name, content in files.items() if secret.encode() in content]
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("where", "fault", "code", "said"),
    [
        (f"/api/models/{REPO}/commit/main", 500, 1, "Run the same command again"),
        pytest.param("PUT", 0, 1, "Run the same command again", marks=pytest.mark.slow),
        ("/api/repos/create", 401, 2, f"error: The Hub answered 401 for {REPO}"),
    ],
)
def test_interrupted_push_leaves_no_partial_model_and_resumes(
    hub, folder, capsys, where, fault, code, said
):
    hub.faults[where] = [fault] * 50
    assert push(folder) == code
    assert said in capsys.readouterr().err
    assert not hub.repos.get(KEY) or hub.files(KEY) == {}
    hub.faults.clear()
    hub.asked.clear()
    assert push(folder) == 0
    assert "model.safetensors" in hub.files(KEY)
    uploads = [name for name in hub.asked if name.startswith("PUT /upload/")]
    assert all(hub.asked[name] == 1 for name in uploads)


def test_dry_run_and_invalid_requests_send_and_write_nothing(hub, small_city, folder, capsys):
    assert push(folder, "--dry_run") == 0
    shown = capsys.readouterr().out
    for text in ("model.safetensors", "## Limits and misuse", "Nothing was sent."):
        assert text in shown
    for repo in ("no-owner", "a b/c"):
        assert push(folder, repo=repo) == 2
        assert "give org/name" in capsys.readouterr().err
    assert push(small_city, "--dataset") == 2
    assert "licences have not been checked" in capsys.readouterr().err
    assert not (folder / "README.md").exists()
    assert not hub.asked
