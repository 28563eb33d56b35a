"""Models of transformers as encoders: tiny models of the real classes, loaded from disk."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as hf
from PIL import Image
from transformers import dynamic_module_utils

from pipelines.common.encoders import load_encoder
from pipelines.common.errors import InputError

SIDE, PATCH, WIDTH = 32, 8, 32
TOWER = {
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
VISION = {**TOWER, "image_size": SIDE, "patch_size": PATCH}
TEXT = {**TOWER, "vocab_size": 60, "bos_token_id": 1, "eos_token_id": 3}
STAGES = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}
SQUARE = {"height": SIDE, "width": SIDE}
IMAGES = [
    Image.fromarray(np.random.default_rng(side).integers(0, 255, (side, 90, 3), dtype=np.uint8))
    for side in (40, 90, 150)
]
TIMM = {
    "architecture": "vit_tiny_patch16_224",
    "model_args": {
        "img_size": SIDE,
        "patch_size": PATCH,
        "embed_dim": WIDTH,
        "depth": 2,
        "num_heads": 2,
    },
    "num_labels": 7,
    # timm's configuration, from which the image processor is created
    "pretrained_cfg": {
        "input_size": [3, SIDE, SIDE],
        "interpolation": "bilinear",
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
        "crop_pct": 1.0,
    },
}


def clip_processor(**changes):
    return hf.CLIPImageProcessor(**{"size": SQUARE, "do_center_crop": False, **changes})


@dataclass(frozen=True)
class Family:
    """Model class with its expected pooling.

    Attributes:
        build: Function that builds a randomly initialised model.
        pooling: Expected name of the pooling.
        by_hand: Function from model and prepared images to embeddings.
        processor: Image processor to save with it; None if the configuration contains it.
    """

    build: Callable
    pooling: str
    by_hand: Callable
    processor: Callable | None = clip_processor


def clip():
    config = hf.CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=16)
    return hf.CLIPModel(config)


def siglip():
    return hf.SiglipModel(hf.SiglipConfig(text_config=TEXT, vision_config=VISION))


def siglip2():
    vision = {**TOWER, "patch_size": PATCH, "num_patches": 16}
    return hf.Siglip2Model(hf.Siglip2Config(text_config=TEXT, vision_config=vision))


def tipsv2():
    text = {**TOWER, "vocab_size": 60}
    vision = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 4}
    vision |= {"image_size": SIDE, "patch_size": PATCH}
    return hf.Tipsv2Model(hf.Tipsv2Config(text_config=text, vision_config=vision))


def first_token(model, inputs):
    return model(**inputs).last_hidden_state[:, 0]


FAMILIES = {
    "clip": Family(
        clip,
        "image_features",
        lambda m, x: m.visual_projection(m.vision_model(**x).pooler_output),
    ),
    # also the architecture of SigLIP 2 of fixed resolution
    "siglip": Family(
        siglip,
        "image_features",
        lambda m, x: m.vision_model(**x).pooler_output,
        lambda: hf.SiglipImageProcessor(size=SQUARE),
    ),
    # NaFlex: padded patches, their mask, and the shape in patches
    "siglip2": Family(
        siglip2,
        "image_features",
        lambda m, x: m.vision_model(**x).pooler_output,
        lambda: hf.Siglip2ImageProcessor(patch_size=PATCH, max_num_patches=16),
    ),
    # the first of two class tokens; pixels from 0 to 1
    "tipsv2": Family(
        tipsv2,
        "image_features",
        lambda m, x: first_token(m.vision_model, x),
        lambda: hf.Tipsv2ImageProcessor(size=SQUARE),
    ),
    "vit": Family(
        lambda: hf.ViTModel(hf.ViTConfig(**VISION)),
        "pooler_output",
        lambda m, x: torch.tanh(m.pooler.dense(first_token(m, x))),
    ),
    # a classifier's checkpoint has no pooler
    "vit_classifier": Family(
        lambda: hf.ViTForImageClassification(hf.ViTConfig(**VISION)),
        "cls",
        lambda m, x: first_token(m.vit, x),
    ),
    "ijepa": Family(
        lambda: hf.IJepaModel(hf.IJepaConfig(**VISION)),
        "mean",
        lambda m, x: m(**x).last_hidden_state.mean(1),
    ),
    "dinov2": Family(
        lambda: hf.Dinov2Model(hf.Dinov2Config(**VISION)), "pooler_output", first_token
    ),
    "dinov2_registers": Family(
        lambda: hf.Dinov2WithRegistersModel(
            hf.Dinov2WithRegistersConfig(**VISION, num_register_tokens=3)
        ),
        "pooler_output",
        first_token,
    ),
    "dinov3": Family(
        lambda: hf.DINOv3ViTModel(hf.DINOv3ViTConfig(**VISION, num_register_tokens=0)),
        "pooler_output",
        first_token,
    ),
    "dinov3_registers": Family(
        lambda: hf.DINOv3ViTModel(hf.DINOv3ViTConfig(**VISION, num_register_tokens=4)),
        "pooler_output",
        first_token,
        lambda: hf.DINOv3ViTImageProcessor(size=SQUARE),
    ),
    "convnext": Family(
        lambda: hf.ConvNextForImageClassification(hf.ConvNextConfig(**STAGES, image_size=SIDE)),
        "pooler_output",
        lambda m, x: m.convnext.layernorm(m.convnext(**x).last_hidden_state.mean((2, 3))),
    ),
    "segformer": Family(
        lambda: hf.SegformerModel(
            hf.SegformerConfig(
                num_encoder_blocks=2,
                depths=[1, 1],
                sr_ratios=[2, 1],
                hidden_sizes=[8, 16],
                patch_sizes=[7, 3],
                strides=[4, 2],
                num_attention_heads=[1, 2],
                mlp_ratios=[2, 2],
            )
        ),
        "mean",
        lambda m, x: m(**x).last_hidden_state.mean((2, 3)),
    ),
    "timm": Family(
        lambda: hf.TimmWrapperForImageClassification(hf.TimmWrapperConfig(**TIMM)),
        "pooler_output",
        lambda m, x: m.timm_model.forward_features(x["pixel_values"])[:, 0],
        None,
    ),
}


def save(family: Family, folder: Path):
    torch.manual_seed(0)
    model = family.build().eval()
    model.save_pretrained(folder)
    if family.processor is not None:
        family.processor().save_pretrained(folder)
    return model


@pytest.mark.parametrize("name", FAMILIES)
def test_embeddings_are_the_models_pooled_output(name, tmp_path):
    family = FAMILIES[name]
    model = save(family, tmp_path)
    encoder = load_encoder(str(tmp_path))
    assert encoder.pooling == family.pooling
    processor = hf.AutoImageProcessor.from_pretrained(tmp_path)
    expected = []
    for image in IMAGES:
        with torch.no_grad():
            inputs = processor(images=image, return_tensors="pt")
            expected.append(family.by_hand(model, inputs)[0].numpy())
    prepared = torch.stack([encoder.prepare(image) for image in IMAGES])
    vectors = encoder.encode(prepared)
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    alone = np.concatenate([encoder.encode(one[None]) for one in prepared])
    np.testing.assert_allclose(vectors, alone, atol=1e-5)

    drawn, same, other = (
        load_encoder(str(tmp_path), random_init=True, seed=seed) for seed in (1, 1, 2)
    )
    assert drawn.random_init
    assert not encoder.random_init
    assert load_encoder(str(tmp_path)).fingerprint == encoder.fingerprint
    assert drawn.fingerprint == same.fingerprint
    assert len({encoder.fingerprint, drawn.fingerprint, other.fingerprint}) == 3
    assert drawn.dim == encoder.dim == vectors.shape[1]


OWN_CODE = """
from transformers import Siglip2Config, Siglip2Model

class Config(Siglip2Config):
    model_type = "own"

class Model(Siglip2Model):
    config_class = Config
"""


def test_loads_code_registered_for_another_auto_class(tmp_path, monkeypatch):
    """FG-CLIP 2 registers only AutoModelForCausalLM."""
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    folder = tmp_path / "own"
    save(FAMILIES["siglip2"], folder)
    expected = load_encoder(str(folder))
    (folder / "own_code.py").write_text(OWN_CODE)
    config = json.loads((folder / "config.json").read_text())
    auto_map = {"AutoConfig": "own_code.Config", "AutoModelForCausalLM": "own_code.Model"}
    (folder / "config.json").write_text(
        json.dumps(config | {"model_type": "own", "auto_map": auto_map})
    )
    with pytest.raises(InputError, match="trust_remote_code"):
        load_encoder(str(folder))
    encoder = load_encoder(str(folder), trust_remote_code=True)
    batch = expected.prepare(Image.new("RGB", (40, 30), (200, 100, 0)))[None]
    np.testing.assert_array_equal(encoder.encode(batch), expected.encode(batch))


def test_masked_autoencoder_sees_the_whole_image(tmp_path):
    model = save(
        Family(lambda: hf.ViTMAEModel(hf.ViTMAEConfig(**VISION)), "cls", first_token), tmp_path
    )
    encoder = load_encoder(str(tmp_path))
    batch = torch.randn(2, 3, SIDE, SIDE)
    model.config.mask_ratio = 0.0
    with torch.no_grad():
        expected = model(batch).last_hidden_state[:, 0]
    np.testing.assert_allclose(encoder.encode(batch), expected, atol=1e-5)


def without(folder: Path, model, *prefixes: str) -> str:
    """Save the model without some of its weights."""
    kept = {k: v for k, v in model.state_dict().items() if not k.startswith(prefixes)}
    assert len(kept) < len(model.state_dict())
    model.save_pretrained(folder, state_dict=kept)
    return str(folder)


@pytest.mark.parametrize("name", ["clip", "siglip2"])
def test_text_weights_may_be_missing(name, tmp_path):
    model = save(FAMILIES[name], tmp_path)
    whole = load_encoder(str(tmp_path))
    image_side = load_encoder(without(tmp_path, model, "text_", "logit_"))
    image = Image.new("RGB", (40, 30), (200, 100, 0))
    vector, expected = (one.encode(one.prepare(image)[None]) for one in (image_side, whole))
    np.testing.assert_allclose(vector, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "gone"),
    [
        ("clip", "visual_projection.weight"),
        ("siglip", "vision_model.head.probe"),
        ("timm", "timm_model.norm.weight"),
    ],
)
def test_rejects_missing_image_weights(name, gone, tmp_path):
    model = save(FAMILIES[name], tmp_path)
    folder = without(tmp_path, model, gone)
    with pytest.raises(InputError, match=rf"weights of the image tower are missing \({gone}"):
        load_encoder(folder)


def test_encodes_in_lower_precision(tmp_path, tiny_clip):
    tiny_clip.save_pretrained(tmp_path)
    clip_processor(size={"height": 30, "width": 30}).save_pretrained(tmp_path)
    encoder = load_encoder(str(tmp_path), precision="bf16")
    batch = torch.randn(2, 3, 30, 30)
    np.testing.assert_allclose(
        encoder.encode(batch), load_encoder(str(tmp_path)).encode(batch), atol=0.1
    )
    assert "CLIPModel" in encoder.name


def test_rejects_models_that_do_not_encode_images(tmp_path):
    with pytest.raises(InputError, match=r"No usable checkpoint at 'org/none'.*colour_texture"):
        load_encoder("org/none")
    hf.BertModel(hf.BertConfig(**TEXT)).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"model_type bert.*vision or image-text model"):
        load_encoder(str(tmp_path))  # no image processor
    clip_processor().save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"BertModel, which takes input_ids, not images.*built-in"):
        load_encoder(str(tmp_path))
    hf.VideoMAEModel(hf.VideoMAEConfig(**VISION, num_frames=4)).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="cannot encode images"):
        load_encoder(str(tmp_path))


def test_rejects_processors_without_a_fixed_size(tmp_path):
    model = hf.Dinov2Model(hf.Dinov2Config(**VISION))
    model.save_pretrained(tmp_path)
    clip_processor(size={"shortest_edge": SIDE}).save_pretrained(tmp_path)
    encoder = load_encoder(str(tmp_path))
    with pytest.raises(InputError, match=r"\(3, 32, 32\) for one image and \(3, 32, 64\)"):
        encoder.prepare(Image.new("RGB", (100, 50)))
