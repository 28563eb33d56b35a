import copy
import shutil

import pytest
import torch
from transformers import (
    AutoModel,
    BertConfig,
    CLIPConfig,
    CLIPForImageClassification,
    CLIPImageProcessor,
    CLIPModel,
    Siglip2Config,
)

from modeling_urbanln import (
    UrbanLNForPreTraining,
    UrbanLNModel,
    stretch_position_embeddings,
)
from pipelines.common.errors import InputError
from pipelines.common.tokenizer import clip_tokenizer
from pipelines.pretraining import checkpoint
from pipelines.pretraining.arguments import ModelArguments
from pipelines.pretraining.model import build_model
from tests.conftest import tiny_config_fields

from .conftest import TINY_MODEL


def positions(model):
    return model.text_model.embeddings.position_embedding.weight


def inputs(model, length=60):
    side = model.config.vision_config.image_size
    generator = torch.Generator().manual_seed(1)
    input_ids = torch.randint(0, 400, (3, length), generator=generator)
    input_ids[:, -1] = 49407
    pixels = torch.randn(3, 3, side, side, generator=generator)
    return {"input_ids": input_ids, "pixel_values": pixels}


@pytest.fixture(scope="module")
def clip_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    CLIPModel(CLIPConfig(**tiny_config_fields())).save_pretrained(folder)
    clip_tokenizer(77).save_pretrained(folder)
    CLIPImageProcessor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clip(clip_dir):
    return CLIPModel.from_pretrained(clip_dir)


def test_from_scratch_positions_are_stretched_and_trained():
    model, processor = build_model(ModelArguments(config_overrides=TINY_MODEL), seed=1)
    assert isinstance(model, UrbanLNForPreTraining)
    assert positions(model).shape == (248, 32)
    spacing = positions(model)[20:26] - positions(model)[21:27]
    assert torch.allclose(spacing[0], spacing[1], atol=1e-6)  # on one line between two old rows
    assert not torch.allclose(spacing[0], spacing[4], atol=1e-3)
    assert model.config.freeze_preserved_positions is False
    assert processor.tokenizer.model_max_length == 248
    model(**inputs(model)).loss.backward()
    assert positions(model).grad[5].abs().sum() > 0
    again, _ = build_model(ModelArguments(config_overrides=TINY_MODEL), seed=1)
    assert torch.equal(positions(again), positions(model))
    other, _ = build_model(ModelArguments(config_overrides=TINY_MODEL), seed=2)
    assert not torch.equal(positions(other), positions(model))


@pytest.mark.parametrize("mode", ["ipsi", "none"])
def test_stretches_a_clip_checkpoint(clip_dir, clip, mode):
    args = ModelArguments(
        model_name_or_path=str(clip_dir), position_mode=mode, momentum=0.9, queue_size=7
    )
    model, processor = build_model(args)
    expected = positions(clip)
    expected = stretch_position_embeddings(expected) if mode == "ipsi" else expected
    assert torch.equal(positions(model), expected)
    assert torch.equal(positions(model.momentum_encoder), positions(model))
    assert (model.config.momentum, model.config.queue_size) == (0.9, 7)
    assert model.config.freeze_preserved_positions is True
    assert processor.tokenizer.model_max_length == len(expected)


def test_stretched_half_precision_checkpoint_is_trained_in_float32_without_stretching(
    clip_dir, clip, tmp_path
):
    shutil.copytree(clip_dir, tmp_path, dirs_exist_ok=True)
    config = copy.deepcopy(clip.config)
    config.text_config.max_position_embeddings = 248
    CLIPModel(config).half().save_pretrained(tmp_path)
    model, _ = build_model(ModelArguments(model_name_or_path=str(tmp_path)))
    assert positions(model).shape[0] == 248
    assert {p.dtype for p in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("folder", ["tiny_model_dir", "tiny_siglip_model_dir"])
def test_urbanln_checkpoint_is_not_changed(folder, request):
    folder = request.getfixturevalue(folder)
    model, _ = build_model(ModelArguments(model_name_or_path=str(folder), queue_size=9))
    expected = AutoModel.from_pretrained(folder).state_dict()
    assert all(torch.equal(model.state_dict()[name], value) for name, value in expected.items())
    assert torch.equal(positions(model.momentum_encoder), positions(model))
    assert model.queue.image_queue.shape[0] == 9


def test_trains_only_the_last_block_of_siglip(tiny_siglip_dir):
    args = ModelArguments(model_name_or_path=str(tiny_siglip_dir), train_last_k_blocks=1)
    model, processor = build_model(args)
    assert positions(model).shape == (196, 32)
    assert processor.tokenizer.model_max_length == 196
    model(**{**inputs(model), "input_ids": torch.ones(3, 60, dtype=torch.long)}).loss.backward()
    trained = {n for n, p in model.named_parameters() if p.grad is not None}
    assert trained == {n for n, p in model.named_parameters() if p.requires_grad}
    assert {name.split(".")[3] for name in trained if ".layers." in name} == {"1"}
    assert {"logit_scale", "text_model.head.weight", "vision_model.head.probe"} <= trained


def test_rejects_other_architectures_and_incomplete_checkpoints(clip, tmp_path):
    for other, message in (
        (None, "cannot be read"),
        (BertConfig(), "another architecture: its model_type is 'bert'"),
        (Siglip2Config(), "'siglip2', expected one of .* NaFlex"),
        (CLIPForImageClassification(clip.config), "--model_name_or_path: .*missing: logit_scale"),
    ):
        folder = tmp_path / type(other).__name__
        folder.mkdir()
        if other is not None:
            other.save_pretrained(folder)
        with pytest.raises(InputError, match=message):
            build_model(ModelArguments(model_name_or_path=str(folder)))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ('{"queue_sise": 3}', "unknown field 'queue_sise'. Did you mean 'queue_size'"),
        ('{"text_config": {"hiden_size": 3}}', "Did you mean 'text_config.hidden_size'"),
        ('{"momentum": 2}', "`momentum` must lie in"),
        ('{"text_config": {"num_attention_heads": 5}}', "cannot be built"),
    ],
)
def test_rejects_bad_configuration_fields(overrides, message):
    with pytest.raises(InputError, match=message):
        build_model(ModelArguments(config_overrides=overrides))


def test_rejects_settings_that_do_not_fit_the_checkpoint(clip_dir):
    for settings, message in (
        ({"config_overrides": '{"projection_dim": 8}'}, "projection_dim: the checkpoint .* deter"),
        ({"train_last_k_blocks": 4}, "a tower has only 2 blocks"),
        ({"lora_rank": 2, "lora_target_modules": ["query"]}, "--lora_target_modules"),
    ):
        with pytest.raises(InputError, match=message):
            build_model(ModelArguments(model_name_or_path=str(clip_dir), **settings))


@pytest.mark.parametrize("k", [0, 1])
def test_trains_only_the_last_blocks(k):
    model, _ = build_model(ModelArguments(config_overrides=TINY_MODEL, train_last_k_blocks=k))
    model(**inputs(model)).loss.backward()
    trained = {n for n, p in model.named_parameters() if p.grad is not None}
    assert trained == {n for n, p in model.named_parameters() if p.requires_grad}
    blocks = {name.split(".")[3] for name in trained if ".layers." in name}
    assert blocks == {str(index) for index in range(2 - k, 2)}
    assert {"logit_scale", "text_projection.weight", "visual_projection.weight"} <= trained
    assert not any("embedding" in name for name in trained)


def test_lora_is_published_merged_and_as_an_equal_adapter(clip_dir, tmp_path):
    from peft import PeftModel

    args = ModelArguments(model_name_or_path=str(clip_dir), lora_rank=2)
    model, processor = build_model(args)
    start, _ = build_model(ModelArguments(model_name_or_path=str(clip_dir)))
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert trained
    assert all("lora_" in n and not n.startswith("momentum_encoder.") for n in trained)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in trained:
                parameter.normal_(std=0.2)
    model.update_momentum_encoder()
    moved = dict(model.named_parameters())["momentum_encoder." + min(trained)]
    assert moved.abs().sum() > 0

    checkpoint.save_model(tmp_path / "out", model, processor, args)
    batch = inputs(model)
    expected = model.to_base().eval()(**batch).logits_per_image
    merged = UrbanLNModel.from_pretrained(tmp_path / "out").eval()
    assert torch.allclose(merged(**batch).logits_per_image, expected, atol=1e-5)
    assert not torch.allclose(start.eval()(**batch).logits_per_image, expected, atol=1e-2)
    adapted = PeftModel.from_pretrained(start.to_base(), tmp_path / "out" / "adapter")
    adapted = adapted.merge_and_unload().eval()
    assert torch.allclose(adapted(**batch).logits_per_image, expected, atol=1e-5)
