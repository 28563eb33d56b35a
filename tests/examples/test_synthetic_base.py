"""The small CLIP checkpoint in the repository."""

import hashlib

import pytest
import torch
from transformers import CLIPModel, CLIPProcessor

from examples.synthetic_base import CITIES, write_base
from modeling_urbanln import UrbanLNModel, UrbanLNProcessor, stretch_position_embeddings
from tests.conftest import ROOT

BASE = ROOT / "models" / "urbanln-base-synthetic"
POSITIONS = "text_model.embeddings.position_embedding.weight"


@pytest.fixture(scope="module")
def base():
    return CLIPModel.from_pretrained(BASE, dtype=torch.float32)


def test_weights_match_the_card():
    weights = (BASE / "model.safetensors").read_bytes()
    assert len(weights) < 15e6
    card = (BASE / "README.md").read_text(encoding="utf-8")
    assert hashlib.sha256(weights).hexdigest() in card
    assert "**Synthetic.**" in card
    assert all(city in card for city in CITIES)


def test_base_is_stretched_like_clip(base):
    model = UrbanLNModel.from_clip_pretrained(str(BASE))
    stretched = model.state_dict()[POSITIONS]
    assert stretched.shape == (248, 96)
    expected = stretch_position_embeddings(base.state_dict()[POSITIONS])
    assert torch.allclose(stretched.float(), expected, atol=1e-3)
    processor = UrbanLNProcessor.from_clip_pretrained(str(BASE))
    assert len(processor(text=["trees " * 400])["input_ids"][0]) == 248


def test_trained_run_is_written_as_clip(base, tmp_path):
    model = UrbanLNModel.from_clip_pretrained(base, mode="none")
    run = tmp_path / "run"
    model.save_pretrained(run)
    UrbanLNProcessor.from_clip_pretrained(str(BASE), max_length=77).save_pretrained(run)
    (run / "training_summary.json").write_text(
        '{"best_step": 5, "num_parameters": 1e6, "num_train": 8, "num_validation": 2}'
    )
    recalls = '"image_to_text_recall_at_5": 0.5, "text_to_image_recall_at_5": 0.5'
    (run / "metrics.jsonl").write_text(
        f'{{"step": 5, "mean_recall": 0.5, "chance_recall_at_5": 1.0, {recalls}}}\n'
    )
    write_base(run, tmp_path / "base")
    written = CLIPModel.from_pretrained(tmp_path / "base")
    assert written.dtype == torch.float16
    for name, value in written.state_dict().items():
        assert torch.equal(value, base.state_dict()[name].to(value.dtype)), name
    assert CLIPProcessor.from_pretrained(tmp_path / "base").tokenizer.model_max_length == 77
