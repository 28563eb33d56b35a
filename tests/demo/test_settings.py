"""Where settings come from, and what is refused at the start."""

import json
import shutil

import pytest
import torch

from demo.model import check_model_folder, load_towers
from demo.settings import DemoSettings, parse_arguments, read_settings
from pipelines.evaluation.errors import InputError
from tests.processes import run_python

GIVEN = {"dataset_name": "d", "model_name_or_path": "m", "embeddings": ["e"]}


def test_flags_come_before_environment_before_file(tmp_path):
    stored = tmp_path / "demo.json"
    stored.write_text(json.dumps({"dataset_name": "stored", "city": "stored", "results": "stored"}))
    environment = {
        "URBANLN_DEMO_DATASET": "environment",
        "URBANLN_DEMO_MODEL": "environment",
        "URBANLN_DEMO_EMBEDDINGS": "a:b",
        "URBANLN_DEMO_RESULTS": "environment",
    }
    found = read_settings({"dataset_name": "flag"}, environment, stored)
    assert found == DemoSettings("flag", "environment", ("a", "b"), "environment", "stored")


def test_paths_of_the_file_start_at_its_folder_and_hub_ids_stay(tmp_path):
    (tmp_path / "data").mkdir()
    stored = tmp_path / "demo.json"
    values = {"dataset_name": "data", "model_name_or_path": "org/model", "embeddings": ["data"]}
    stored.write_text(json.dumps(values))
    found = read_settings({}, {}, stored)
    assert found.dataset_name == str(tmp_path / "data")
    assert found.embeddings == (str(tmp_path / "data"),)
    assert found.model_name_or_path == "org/model"


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(InputError, match="--model_name_or_path and --embeddings"):
        read_settings({"dataset_name": "d"}, {}, tmp_path / "none.json")


@pytest.mark.parametrize(("content", "said"), [("[", "no JSON"), ('{"port": 1}', "port")])
def test_a_wrong_file_is_named(tmp_path, content, said):
    stored = tmp_path / "demo.json"
    stored.write_text(content)
    with pytest.raises(InputError, match=said):
        read_settings(GIVEN, {}, stored)


def test_flags_of_the_command_line(monkeypatch):
    monkeypatch.setenv("URBANLN_DEMO_MODEL", "m")
    settings, port = parse_arguments(
        ["--dataset_name", "d", "--embeddings", "a", "b", "--server_port", "7999"]
    )
    assert settings.embeddings == ("a", "b")
    assert port == 7999


def test_pickled_weights_are_refused_and_never_opened(tiny_model_dir, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_dir, folder)
    (folder / "model.safetensors").unlink()
    torch.save({"weight": torch.zeros(1)}, folder / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"holds pytorch_model\.bin: a pickle runs code"):
        load_towers(str(folder))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_missing_file_of_the_model_is_named(tiny_model_dir, tmp_path, name):
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_dir, folder)
    (folder / name).unlink()
    with pytest.raises(InputError, match="is no whole model: it lacks"):
        check_model_folder(folder)


def test_the_command_line_ends_with_a_sentence_and_no_traceback(tmp_path):
    sources = ("--dataset_name", "--model_name_or_path", "--embeddings")
    done = run_python("-m", "demo.app", *(word for name in sources for word in (name, tmp_path)))
    assert done.returncode == 2
    assert "is no whole model" in done.stderr
    assert "Traceback" not in done.stderr
