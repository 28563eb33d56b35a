"""Sources of the settings, and errors at the start."""

import json
import shutil

import pytest
import torch
from PIL import Image

from demo.app import main
from demo.model import load_towers
from demo.settings import DemoSettings, read_settings
from pipelines.evaluation.errors import InputError


def test_flags_precede_the_file_whose_paths_start_at_its_folder(tmp_path):
    (tmp_path / "data").mkdir()
    stored = tmp_path / "demo.json"
    values = {"dataset_name": "org/data", "model_name_or_path": "m", "embeddings": ["data"]}
    stored.write_text(json.dumps({**values, "captions": "data", "city": "data"}))
    found = read_settings({"dataset_name": "flag", "results": "data"}, stored)
    own = str(tmp_path / "data")
    assert found == DemoSettings("flag", "m", (own,), "data", "data", own)
    assert read_settings({}, stored).dataset_name == "org/data"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"dataset_name": "d"}', "--encoder and --embeddings"),
        ("[1]", "not a JSON object"),
        ('{"port": 1}', "port"),
    ],
)
def test_rejects_missing_or_invalid_settings(tmp_path, content, said):
    stored = tmp_path / "demo.json"
    stored.write_text(content)
    with pytest.raises(InputError, match=said):
        read_settings({}, stored)


def test_encoder_without_a_text_tower_has_no_search(tmp_path):
    from transformers import ViTConfig, ViTImageProcessor, ViTModel

    size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = ViTModel(ViTConfig(**size, intermediate_size=32, image_size=32, patch_size=16))
    model.save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    for encoder in ("colour_texture", str(tmp_path)):
        towers = load_towers(encoder)
        assert towers.tower is None
        assert towers.encode_images([Image.new("RGB", (64, 48))]).shape == (1, towers.encoder.dim)


def test_command_rejects_incomplete_models_and_pickled_weights(tiny_model_dir, tmp_path, capsys):
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_dir, folder)
    (folder / "model.safetensors").unlink()
    command = ["--dataset_name", "d", "--model_name_or_path", str(folder), "--embeddings", "e"]
    assert main(command) == 2
    assert "model.safetensors" in capsys.readouterr().err
    torch.save({"weight": torch.zeros(1)}, folder / "pytorch_model.bin")
    assert main(command) == 2
    assert "holds pytorch_model.bin: loading a pickle can run" in capsys.readouterr().err
