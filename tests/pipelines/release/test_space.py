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
def vectors(tiny_model_dir, tiny_city, tmp_path_factory):
    folder = tmp_path_factory.mktemp("vectors")
    source = open_images(str(tiny_city), "harborview")
    encoder = load_model_encoder(str(tiny_model_dir))
    embed(encoder, source, folder / "harborview", "urbanln", EmbedSettings(16, 64, 1))
    return folder


@pytest.fixture(scope="module")
def space(tiny_model_dir, tiny_city, vectors, tmp_path_factory):
    sources = SpaceSources(str(tiny_model_dir), str(tiny_city), [str(vectors)])
    return write_space(tmp_path_factory.mktemp("s") / "space", REPO, sources)


def test_the_card_is_one_of_a_space(space):
    card = RepoCard.load(space / "README.md", ignore_metadata_errors=False)
    data = card.data.to_dict()
    assert (data["title"], data["sdk"], data["app_file"]) == ("urbanln-demo", "gradio", "app.py")
    assert data["sdk_version"].count(".") == 2
    assert "synthetic" in data["tags"]
    assert "**Synthetic.**" in card.text


def test_it_holds_what_it_shows_and_no_more(space):
    names = {path.relative_to(space).as_posix() for path in space.rglob("*") if path.is_file()}
    assert {"app.py", "requirements.txt", "demo/app.py", "data/model/model.safetensors"} <= names
    assert "data/embeddings/harborview/urbanln.parquet" in names
    assert not [name for name in names if "__pycache__" in name or name.startswith("tests")]
    requirements = (space / "requirements.txt").read_text().split()
    assert any(line.startswith("torch>=") for line in requirements)
    assert "#" not in requirements


def test_it_starts_and_answers(space, tmp_path):
    # the folder of app.py precedes an editable install on the path
    ours = ("PYTHONPATH", "GRADIO_SERVER_PORT")
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    environment |= {"GRADIO_SERVER_NAME": "127.0.0.1", "PYTHONUNBUFFERED": "1"}
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "app.py"], cwd=space, env=environment, stdout=log, stderr=log
        )
    try:
        while not (url := re.search(r"http://127\.0\.0\.1:\d+", (tmp_path / "log").read_text())):
            assert process.poll() is None, (tmp_path / "log").read_text()[-2000:]
            time.sleep(0.1)
        with urllib.request.urlopen(url[0]) as answer:
            assert answer.status == 200
            assert b"UrbanLN" in answer.read()
    finally:
        process.terminate()
        process.wait()


def hub_sources(vectors):
    return SpaceSources("org/model", "org/captions", [str(vectors)])


def dry_run(folder, vectors):
    command = ["push", "org/model", "--space", str(folder), "--repo", REPO, "--dry_run"]
    main([*command, "--dataset_name", "org/captions", "--embeddings", str(vectors)])


def contents(folder):
    """Contents of all files in a folder by relative path."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_ids_of_the_hub_stay_ids(vectors, tmp_path):
    write_space(tmp_path / "space", REPO, hub_sources(vectors))
    known = json.loads((tmp_path / "space" / "demo" / "demo.json").read_text())
    assert (known["dataset_name"], known["model_name_or_path"]) == ("org/captions", "org/model")
    assert not (tmp_path / "space" / "data" / "model").exists()
    data = RepoCard.load(tmp_path / "space" / "README.md").data
    assert (data.models, data.datasets) == (["org/model"], ["org/captions"])


def test_a_dry_run_shows_the_space_and_writes_nothing(vectors, tmp_path, capsys):
    dry_run(tmp_path / "space", vectors)
    shown = capsys.readouterr().out
    assert "sdk: gradio" in shown
    assert "data/embeddings/harborview/urbanln.parquet" in shown
    assert "Nothing was sent." in shown
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("is_dry", [True, False])
def test_a_checkout_is_no_space_though_it_holds_demo_json(vectors, tmp_path, capsys, is_dry):
    checkout = tmp_path / "checkout"
    for name in (".git/HEAD", "demo/demo.json", "src/thesis.py", "app.py"):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_text("months of work")
    before = contents(checkout)
    if is_dry:
        dry_run(checkout, vectors)
        assert "was not written by this command" in capsys.readouterr().err
    else:
        with pytest.raises(InputError, match="was not written by this command"):
            write_space(checkout, REPO, hub_sources(vectors))
    assert contents(checkout) == before
    assert list(tmp_path.iterdir()) == [checkout]


def test_a_space_is_written_again_and_what_others_put_there_stays(vectors, tmp_path):
    space, notes = tmp_path / "space", tmp_path / "space" / "data" / "notes.txt"
    copied = tmp_path / "more" / "harborview"
    copied.mkdir(parents=True)
    shutil.copy(vectors / "harborview" / "urbanln.parquet", copied / "second.parquet")
    both = SpaceSources("org/model", "org/captions", [str(vectors), str(copied.parent)])
    write_space(space, REPO, both)
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
        ({"dataset_name": "nowhere"}, "cannot be published"),
        ({"dataset_name": "/nowhere"}, "cannot be published"),
        ({"results": "nowhere"}, "no results"),
        ({"city": "atlantis"}, "[Nn]o embeddings of 'atlantis', only of harborview"),
    ],
)
def test_what_is_missing_is_told(tiny_model_dir, tiny_city, vectors, tmp_path, changed, said):
    sources = {"model": str(tiny_model_dir), "dataset_name": str(tiny_city)}
    sources |= {"embeddings": [str(vectors)], **changed}
    with pytest.raises(InputError, match=said):
        write_space(tmp_path / "space", REPO, SpaceSources(**sources))


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="was not written by this command"):
        write_space(tmp_path, REPO, SpaceSources("org/model", "org/captions", []))
    assert (tmp_path / "mine.txt").exists()
