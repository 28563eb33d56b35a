"""The Space runs outside the repository."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request

import pytest
from huggingface_hub import RepoCard

pytest.importorskip("gradio")

from dataset_builders.files import ForeignFileError
from pipelines.common.encoders.transformers_models import load_model_encoder
from pipelines.common.errors import InputError
from pipelines.evaluation.embed.images import EmbedSettings, embed
from pipelines.evaluation.embed.sources import open_images
from pipelines.release.__main__ import main
from pipelines.release.space import SpaceSources, write_space

REPO = "org/urbanln-demo"


@pytest.fixture(scope="module")
def vectors(tiny_model_dir, small_city, tmp_path_factory):
    folder = tmp_path_factory.mktemp("vectors")
    source = open_images(str(small_city), "harborview")
    encoder = load_model_encoder(str(tiny_model_dir))
    embed(encoder, source, folder / "harborview", "urbanln", EmbedSettings(16, 64, 1))
    return folder


def contents(folder):
    """Contents of all files in a folder by relative path."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_space_has_a_card_code_and_data_and_starts(tiny_model_dir, small_city, vectors, tmp_path):
    sources = SpaceSources(str(tiny_model_dir), str(small_city), [str(vectors)])
    space = write_space(tmp_path / "space", REPO, sources)
    card = RepoCard.load(space / "README.md", ignore_metadata_errors=False)
    data = card.data.to_dict()
    assert (data["title"], data["sdk"], data["app_file"]) == ("urbanln-demo", "gradio", "app.py")
    assert data["sdk_version"].count(".") == 2
    assert "synthetic" in data["tags"]
    assert "**Synthetic.**" in card.text
    names = set(contents(space))
    assert {"app.py", "requirements.txt", "demo/app.py", "data/model/model.safetensors"} <= names
    assert "data/embeddings/harborview/urbanln.parquet" in names
    assert not [name for name in names if "__pycache__" in name or name.startswith("tests")]
    requirements = (space / "requirements.txt").read_text().split()
    assert any(line.startswith("torch>=") for line in requirements)
    assert "#" not in requirements
    # the folder of app.py precedes an editable install on the path
    ours = ("PYTHONPATH", "GRADIO_SERVER_PORT")
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    environment |= {"GRADIO_SERVER_NAME": "127.0.0.1", "PYTHONUNBUFFERED": "1"}
    log, command = tmp_path / "log", [sys.executable, "app.py"]
    with log.open("w") as file:
        process = subprocess.Popen(command, cwd=space, env=environment, stdout=file, stderr=file)
    try:
        while not (url := re.search(r"http://127\.0\.0\.1:\d+", log.read_text())):
            assert process.poll() is None, log.read_text()[-2000:]
            time.sleep(0.1)
        with urllib.request.urlopen(url[0]) as answer:
            assert answer.status == 200
            assert b"UrbanLN" in answer.read()
    finally:
        process.terminate()
        process.wait()


def hub_sources(*embeddings):
    return SpaceSources("org/model", "org/captions", [str(one) for one in embeddings])


def dry_run(folder, vectors):
    command = ["push", "org/model", "--space", str(folder), "--repo", REPO, "--dry_run"]
    return main([*command, "--dataset_name", "org/captions", "--embeddings", str(vectors)])


def test_dry_run_shows_the_space_and_writes_nothing(vectors, tmp_path, capsys):
    assert dry_run(tmp_path / "space", vectors) == 0
    shown = capsys.readouterr().out
    for said in ("sdk: gradio", "data/embeddings/harborview/urbanln.parquet", "Nothing was sent."):
        assert said in shown
    assert list(tmp_path.iterdir()) == []


def test_keeps_a_folder_that_is_not_a_space(vectors, tmp_path, capsys):
    checkout = tmp_path / "checkout"
    for name in (".git/HEAD", "demo/demo.json", "app.py"):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_text("months of work")
    before = contents(tmp_path)
    assert dry_run(checkout, vectors) == 2
    assert "was not written by this command" in capsys.readouterr().err
    with pytest.raises(InputError, match="was not written by this command"):
        write_space(checkout, REPO, hub_sources(vectors))
    assert contents(tmp_path) == before


def test_update_replaces_own_files_and_keeps_foreign_ones(vectors, tmp_path):
    space, notes = tmp_path / "space", tmp_path / "space" / "data" / "notes.txt"
    copied = tmp_path / "more" / "harborview"
    copied.mkdir(parents=True)
    shutil.copy(vectors / "harborview" / "urbanln.parquet", copied / "second.parquet")
    both = hub_sources(vectors, copied.parent)
    write_space(space, REPO, both)
    known = json.loads((space / "demo" / "demo.json").read_text())
    assert (known["dataset_name"], known["model_name_or_path"]) == ("org/captions", "org/model")
    assert not (space / "data" / "model").exists()
    data = RepoCard.load(space / "README.md").data
    assert (data.models, data.datasets) == (["org/model"], ["org/captions"])
    (space / ".git").mkdir()
    (space / ".git" / "HEAD").write_text("mine")
    notes.write_text("mine")
    second = space / "data" / "embeddings" / "harborview" / "second.parquet"
    assert second.exists()
    write_space(space, REPO, hub_sources(vectors))
    assert not second.exists()
    assert (space / ".git" / "HEAD").read_text() == notes.read_text() == "mine"
    (space / "README.md").write_text("mine")
    before = contents(space)
    with pytest.raises(ForeignFileError, match=r"README\.md"):
        write_space(space, REPO, both)
    assert contents(space) == before


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"embeddings": ["nowhere"]}, "[Nn]o embeddings"),
        ({"model": "nowhere"}, "not a finished model"),
        ({"dataset_name": "/nowhere"}, "cannot be published"),
        ({"results": "nowhere"}, "no results"),
        ({"city": "atlantis"}, "[Nn]o embeddings of 'atlantis', only of harborview"),
    ],
)
def test_rejects_missing_sources(vectors, tmp_path, changed, said):
    sources = {"model": "org/model", "dataset_name": "org/captions", "embeddings": [str(vectors)]}
    with pytest.raises(InputError, match=said):
        write_space(tmp_path / "space", REPO, SpaceSources(**(sources | changed)))
    assert list(tmp_path.iterdir()) == []
