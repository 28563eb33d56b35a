"""Sources of the settings, and errors at the start."""

import json
import shutil

import pytest
import torch
from PIL import Image

from demo.model import check_model_folder, load_towers
from demo.settings import DemoSettings, parse_arguments, read_settings
from pipelines.evaluation.errors import InputError
from tests.processes import run_python

GIVEN = {"dataset_name": "d", "encoder": "m", "embeddings": ["e"]}


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
    assert found.encoder == "org/model"  # by its other name


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(InputError, match="--encoder and --embeddings"):
        read_settings({"dataset_name": "d"}, {}, tmp_path / "none.json")


@pytest.mark.parametrize(
    ("content", "said"),
    [("[", "not a JSON object"), ("[1]", "not a JSON object"), ('{"port": 1}', "port")],
)
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


@pytest.mark.parametrize("flag", ["--encoder", "--model_name_or_path"])
def test_the_encoder_has_two_names(flag):
    settings, _ = parse_arguments(["--dataset_name", "d", flag, "mosaiks", "--embeddings", "a"])
    assert settings.encoder == "mosaiks"


def test_an_encoder_without_a_text_tower_has_no_search(tmp_path):
    from transformers import ViTConfig, ViTImageProcessor, ViTModel

    size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = ViTModel(ViTConfig(**size, intermediate_size=32, image_size=32, patch_size=16))
    model.save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    for encoder in ("colour_texture", str(tmp_path)):
        towers = load_towers(encoder)
        assert towers.tower is None
        assert towers.encode_images([Image.new("RGB", (64, 48))]).shape == (1, towers.encoder.dim)


def test_pickled_weights_are_refused_and_never_opened(tiny_model_dir, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_dir, folder)
    (folder / "model.safetensors").unlink()
    torch.save({"weight": torch.zeros(1)}, folder / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"holds pytorch_model\.bin: loading a pickle can run"):
        load_towers(str(folder))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_of_the_model_is_named(tiny_model_dir, tmp_path, name):
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_dir, folder)
    (folder / name).unlink()
    with pytest.raises(InputError, match="is not a complete model: it lacks"):
        check_model_folder(folder)


def test_the_command_line_ends_with_a_sentence_and_no_traceback(tmp_path):
    sources = ("--dataset_name", "--model_name_or_path", "--embeddings")
    done = run_python("-m", "demo.app", *(word for name in sources for word in (name, tmp_path)))
    assert done.returncode == 2
    assert "is not a complete model" in done.stderr
    assert "Traceback" not in done.stderr
