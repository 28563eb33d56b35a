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
from pipelines.release.export import export

from ...hub_server import HubServer
from ...processes import ROOT, run_python
from .test_model_card import SUMMARY, write_results

REPO = "org/urbanln-tiny"
KEY = f"models/{REPO}"


@pytest.fixture
def hub():
    with HubServer() as server:
        yield server
        server.shutdown()


@pytest.fixture
def folder(tiny_model_dir, tmp_path):
    return as_of_a_run(tiny_model_dir, tmp_path / "run")


def as_of_a_run(model_dir, folder):
    shutil.copytree(model_dir, folder)
    (folder / "training_summary.json").write_text(json.dumps(SUMMARY))
    (folder / "checkpoint-10").mkdir()
    (folder / "checkpoint-10" / "state.pt").write_bytes(b"state")
    (folder / "pairs.parquet").write_bytes(b"pairs")
    return folder


def run(hub, tmp_path, *command):
    return run_python(*command, cwd=tmp_path, **hub.environment(tmp_path / "home"))


HIDE_CHECKOUT = """
import sys
sys.path = [path for path in sys.path if path != {root!r}]
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
"""
CHECK_HIDDEN = """
assert not [n for n in sys.modules if n.split(".")[0] in ("modeling_urbanln", "dataset_builders")]
"""


def run_outside(hub, tmp_path, code):
    """Run code in a process with access to the Hub but not to this project."""
    script = tmp_path / "outside.py"
    script.write_text(HIDE_CHECKOUT.format(root=str(ROOT)) + code + CHECK_HIDDEN)
    # not a forked process, which can miss modules created after the fork
    done = subprocess.run(
        [sys.executable, script],
        cwd=tmp_path,
        env={**os.environ, **hub.environment(tmp_path / "other")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def examples(card):
    """Run the code blocks of a card, each in a fresh namespace, and return them."""
    blocks = re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)
    runs = "".join(f"found.append({{}})\nexec({block!r}, found[-1])\n" for block in blocks)
    return len(blocks), "found = []\n" + runs


def push(hub, tmp_path, folder, *more):
    return run(hub, tmp_path, "-m", "pipelines.release", "push", str(folder), "--repo", REPO, *more)


PULL = """
import torch
from huggingface_hub import snapshot_download
from PIL import Image
from transformers import AutoModel, AutoProcessor, pipeline
model = AutoModel.from_pretrained("{repo}", trust_remote_code=True, revision="v1").eval()
processor = AutoProcessor.from_pretrained("{repo}", trust_remote_code=True)
image = Image.new("RGB", (64, 48), "green")
inputs = processor(text=["a park"], images=[image], return_tensors="pt")
with torch.no_grad():
    embeds = model(**inputs).image_embeds[0]
features = pipeline("image-feature-extraction", model="{repo}", trust_remote_code=True)(image)
torch.testing.assert_close(torch.tensor(features).reshape(-1, {dim})[0], embeds)
zero = pipeline("zero-shot-image-classification", model="{repo}", trust_remote_code=True)
scores = zero(image, candidate_labels=["a park", "a road"])
assert abs(sum(one["score"] for one in scores) - 1) < 1e-5
snapshot_download("{repo}", local_dir="copy")
try:
    AutoModel.from_pretrained("{repo}", trust_remote_code=False)
except ValueError as error:
    assert "trust_remote_code=True" in str(error)
else:
    raise AssertionError("code was run without a word of trust")
"""
EXAMPLES = """
assert found[0]["vector"].shape == ({dim},)
assert abs(found[1]["similarity"].sum().item() - 1) < 1e-5
assert found[2]["vectors"].shape == (1, {dim})
"""


@pytest.mark.parametrize(
    ("model_dir", "dim"),
    [("tiny_model_dir", 16), pytest.param("tiny_siglip_model_dir", 32, marks=pytest.mark.slow)],
)
def test_a_model_is_pushed_and_pulled_by_its_name_and_its_examples_run(
    hub, model_dir, dim, tmp_path, request
):
    folder = as_of_a_run(request.getfixturevalue(model_dir), tmp_path / "run")
    export(str(folder), folder, ["onnx"])
    results = write_results(tmp_path / "results")
    done = push(hub, tmp_path, folder, "--results", str(results), "--tag", "v1")
    assert done.returncode == 0, done.stderr[-2000:]
    files = hub.files(KEY, "v1")
    wanted = {"model.safetensors", "config.json", "README.md", "pipeline_urbanln.py"}
    assert wanted | {"onnx/vision_model.onnx", "figures/lyon-block-map.png"} <= set(files)
    assert not [name for name in files if name.endswith((".pt", ".bin", ".parquet"))]
    card = ModelCard(files["README.md"].decode())
    assert card.data.eval_results
    count, code = examples(card)
    assert count == 3
    run_outside(hub, tmp_path, (PULL + "{code}" + EXAMPLES).format(repo=REPO, dim=dim, code=code))
    assert (tmp_path / "copy" / "model.safetensors").read_bytes() == files["model.safetensors"]


def test_paths_of_this_machine_are_not_published(hub, folder, tmp_path):
    home = tmp_path / "home" / "someone"
    summary = {**SUMMARY, "dataset_name": str(home / "city")}
    (folder / "training_summary.json").write_text(json.dumps(summary))
    recipe = {"dataset_name": str(home / "city"), "output_dir": str(home / "run"), "seed": 1}
    (folder / "train_arguments.yaml").write_text(yaml.safe_dump(recipe))
    assert push(hub, tmp_path, folder).returncode == 0
    files = hub.files(KEY)
    assert json.loads(files["training_summary.json"]) == {**summary, "dataset_name": "city"}
    assert yaml.safe_load(files["train_arguments.yaml"]) == {
        "dataset_name": "city", "output_dir": "run", "seed": 1
    }  # fmt: skip
    assert not [name for name, content in files.items() if str(home).encode() in content]


ADAPTED = """
import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor
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


def test_an_adapter_is_pushed_alone_and_gives_the_trained_model(hub, folder, tmp_path):
    assert push(hub, tmp_path, folder).returncode == 0
    arguments = ModelArguments(model_name_or_path=str(folder), lora_rank=2)
    model, processor = build_model(arguments)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # initialised to zero
            parameter.data.normal_(std=0.5)
    trained = tmp_path / "trained"
    trained.mkdir()
    arguments.model_name_or_path = REPO
    save_model(trained, model, processor, arguments)
    for more in (["--repo", "org/adapted"], ["--repo", "org/urbanln-lora", "--adapter"]):
        command = ["-m", "pipelines.release", "push", str(trained), *more]
        done = run(hub, tmp_path, *command)
        assert done.returncode == 0, done.stderr[-2000:]
    files = hub.files("models/org/urbanln-lora")
    assert set(files) == {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    card = ModelCard(files["README.md"].decode())
    assert (card.data.library_name, card.data.base_model) == ("peft", REPO)
    count, code = examples(card)
    assert count == 1
    run_outside(hub, tmp_path, code + ADAPTED)


DATASET = """
from datasets import load_dataset
views = load_dataset("org/urbanln-captions", "harborview-street_view", split="train")
assert views[0]["image"].size == found[0]["images"][0]["image"].size
assert len(views) == 72 and views[0]["caption"]
streamed = load_dataset(
    "org/urbanln-captions", "harborview-regions", split="train", streaming=True, revision="v1"
)
assert next(iter(streamed))["region_id"]
"""


def test_a_dataset_is_pushed_and_its_examples_run(hub, tiny_city, tmp_path):
    published = publish(tiny_city, tmp_path / "published").folder
    command = ["-m", "pipelines.release", "push", str(published), "--dataset"]
    command += ["--repo", "org/urbanln-captions", "--tag", "v1"]
    shown = run(hub, tmp_path, *command, "--dry-run")
    assert shown.returncode == 0, shown.stderr[-2000:]
    assert "# Synthetic" in shown.stdout
    assert not hub.asked
    done = run(hub, tmp_path, *command)
    assert done.returncode == 0, done.stderr[-2000:]
    card = DatasetCard(hub.files("datasets/org/urbanln-captions")["README.md"].decode())
    assert (card.data.license, "synthetic" in card.data.tags) == ("cc0-1.0", True)
    count, code = examples(card)
    assert count == 1
    assert "path/to" not in code
    run_outside(hub, tmp_path, code + DATASET)


def test_a_readme_of_ones_own_is_neither_changed_nor_sent(hub, folder, tmp_path):
    (folder / "README.md").write_text("mine")
    before = sorted(path.name for path in folder.iterdir())
    done = push(hub, tmp_path, folder)
    assert done.returncode == 0
    # the token is neither printed nor stored
    assert hub.token in hub.tokens
    assert hub.token not in done.stdout + done.stderr
    assert not [name for name, sent in hub.files(KEY).items() if hub.token.encode() in sent]
    assert not [path for path in folder.glob("*.*") if hub.token.encode() in path.read_bytes()]
    assert "## Limits and misuse" in hub.files(KEY)["README.md"].decode()
    assert (folder / "README.md").read_text() == "mine"
    assert sorted(path.name for path in folder.iterdir()) == before
    card = ["-m", "pipelines.release", "card", str(folder), "--repo", REPO]
    refused = run(hub, tmp_path, *card)
    assert refused.returncode == 2
    assert "README.md. They would be replaced" in refused.stderr
    assert (folder / "README.md").read_text() == "mine"
    (folder / "README.md").unlink()
    for _ in range(2):
        assert run(hub, tmp_path, *card).returncode == 0


@pytest.mark.parametrize(
    ("where", "fault", "code", "said"),
    [
        (f"/api/models/{REPO}/commit/main", 500, 1, "Run the same command again"),
        pytest.param("PUT", 0, 1, "Run the same command again", marks=pytest.mark.slow),
        ("/api/repos/create", 401, 2, "error: The Hub answered 401"),
    ],
)
def test_an_interrupted_push_leaves_no_half_model(hub, folder, tmp_path, where, fault, code, said):
    hub.faults[where] = [fault] * 50
    done = push(hub, tmp_path, folder)
    assert (done.returncode, "Traceback" in done.stderr) == (code, False)
    assert said in done.stderr
    assert not hub.repos.get(KEY) or hub.files(KEY) == {}
    hub.faults.clear()
    hub.asked.clear()
    assert push(hub, tmp_path, folder).returncode == 0
    assert "model.safetensors" in hub.files(KEY)
    uploads = [name for name in hub.asked if name.startswith("PUT /upload/")]
    assert all(hub.asked[name] == 1 for name in uploads)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--repo", "no-owner", "--dry_run"], "give org/name"),
        (["--repo", "a b/c", "--dry_run"], "give org/name"),
        (["--repo", REPO, "--dataset"], "so its licences have not been checked"),
    ],
)
def test_what_cannot_be_pushed_is_told_on_one_line(tiny_city, folder, capsys, more, said):
    source = tiny_city if "--dataset" in more else folder
    assert main(["push", str(source), *more]) == 2
    assert said in capsys.readouterr().err
    assert not (folder / "README.md").exists()


def test_a_dry_run_shows_the_tree_and_sends_nothing(folder, capsys):
    main(["push", str(folder), "--repo", REPO, "--dry_run"])
    shown = capsys.readouterr().out
    for text in ("model.safetensors", "## Limits and misuse", "Nothing was sent."):
        assert text in shown
    assert not (folder / "README.md").exists()
