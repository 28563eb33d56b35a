import copy

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPConfig, CLIPModel

from modeling_urbanln import (
    UrbanLNConfig,
    UrbanLNForPreTraining,
    UrbanLNModel,
    stretch_position_embeddings,
)
from tests.conftest import tiny_config_fields

EOS = 49407
POSITIONS = "text_model.embeddings.position_embedding.weight"


def batch(size: int = 4, length: int = 12, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    input_ids = torch.randint(1, 40000, (size, length), generator=generator)
    input_ids[:, 0] = 49406
    for row in range(size):  # padded with the EOS id as transformers does
        input_ids[row, length - 1 - row % 3 :] = EOS
    first_eos = (input_ids == EOS).int().argmax(dim=1, keepdim=True)
    return {
        "input_ids": input_ids,
        "attention_mask": (torch.arange(length) <= first_eos).long(),
        "pixel_values": torch.randn(size, 3, 30, 30, generator=generator),
    }


@pytest.fixture
def model(tiny_config):
    torch.manual_seed(0)
    return UrbanLNForPreTraining(tiny_config)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("distillation_weight", 1.5, r"`distillation_weight` must lie in \[0, 1\], got 1.5"),
        ("queue_size", -1, "`queue_size` must not be negative, got -1"),
        ("position_mode", "cubic", "`position_mode`.*'cubic'"),
        ("queue_size", "many", "queue_size"),
    ],
)
def test_config_rejects_invalid_values(field, value, message):
    with pytest.raises(Exception, match=message):
        UrbanLNConfig(**{field: value})


def edit_weights(folder, changes):
    weights = {**load_file(folder / "model.safetensors"), **changes}
    weights = {name: value for name, value in weights.items() if value is not None}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_unstretched_model_equals_clip(tiny_clip, tmp_path):
    tiny_clip.save_pretrained(tmp_path)
    position_ids = {  # in checkpoints of older versions
        "text_model.embeddings.position_ids": torch.arange(77)[None],
        "vision_model.embeddings.position_ids": torch.arange(10)[None],
    }
    edit_weights(tmp_path, position_ids)
    model = UrbanLNModel.from_clip_pretrained(tmp_path, mode="none").eval()
    inputs = batch()
    expected, got = tiny_clip(**inputs, return_loss=True), model(**inputs, return_loss=True)
    for name in ("loss", "image_embeds", "text_embeds", "logits_per_image", "logits_per_text"):
        torch.testing.assert_close(got[name], expected[name])


def test_from_clip_pretrained_changes_only_positions(tiny_clip):
    before = copy.deepcopy(tiny_clip.state_dict())
    model = UrbanLNModel.from_clip_pretrained(tiny_clip, mode="resize")
    for name, value in model.state_dict().items():
        source = before[name]
        stretched = name == POSITIONS
        expected = stretch_position_embeddings(source, mode="resize") if stretched else source
        assert torch.equal(value, expected), name
    assert model.config.position_mode == "resize"
    assert model.config.text_config.max_position_embeddings == 248
    assert all(torch.equal(before[k], v) for k, v in tiny_clip.state_dict().items())


def test_from_clip_pretrained_corrects_the_legacy_end_token():
    fields = tiny_config_fields()
    fields["text_config"]["eos_token_id"] = 2
    clip = CLIPModel(CLIPConfig(**fields)).eval()
    model = UrbanLNModel.from_clip_pretrained(clip, mode="none").eval()
    assert model.text_model.eos_token_id == EOS
    inputs = batch()
    torch.testing.assert_close(model(**inputs).text_embeds, clip(**inputs).text_embeds)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("visual_projection.weight", None, r"\(missing: visual_projection.weight\)"),
        ("text_model.adapter.weight", torch.ones(2), r"\(unexpected: text_model.adapter.weight\)"),
        ("logit_scale", torch.ones(2), r"\(of another shape: logit_scale\)"),
    ],
)
def test_rejects_incomplete_checkpoints(tiny_clip, tmp_path, key, value, message):
    tiny_clip.save_pretrained(tmp_path)
    edit_weights(tmp_path, {key: value})
    with pytest.raises(ValueError, match=f"are not those of a complete CLIPModel {message}"):
        UrbanLNModel.from_clip_pretrained(tmp_path)


def test_one_side_is_enough(tiny_config):
    model, inputs = UrbanLNModel(tiny_config).eval(), batch()
    both = model(**inputs)
    image = model(pixel_values=inputs["pixel_values"])
    text = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
    assert image.text_embeds is None
    assert image.logits_per_image is None
    assert text.image_embeds is None
    torch.testing.assert_close(image.image_embeds, both.image_embeds)
    torch.testing.assert_close(text.text_embeds, both.text_embeds)
    torch.testing.assert_close(image[0], both.image_embeds)  # what the library's pipelines read
    with pytest.raises(ValueError, match="got neither"):
        model()
    with pytest.raises(ValueError, match="needs both"):
        model(pixel_values=inputs["pixel_values"], return_loss=True)


@pytest.mark.parametrize("padding_id", [EOS, 0])
def test_pooling_takes_the_first_end_token(tiny_config, padding_id):
    model = UrbanLNModel(tiny_config).eval()
    text = torch.tensor([[49406, 11, 12, 13, EOS]])
    padded = torch.cat([text, torch.full((1, 6), padding_id)], dim=1)
    alone = model.get_text_features(text).pooler_output
    mask = (torch.arange(11) < 5).long()[None]
    torch.testing.assert_close(
        model.get_text_features(padded, attention_mask=mask).pooler_output, alone
    )
    torch.testing.assert_close(model.get_text_features(padded).pooler_output, alone)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_forward(tiny_config, dtype):
    inputs = batch()
    inputs["pixel_values"] = inputs["pixel_values"].to(dtype)
    full = UrbanLNModel(tiny_config).eval()
    expected = full(**{**inputs, "pixel_values": inputs["pixel_values"].float()})
    half = full.to(dtype)(**inputs)
    assert half.image_embeds.dtype == dtype
    torch.testing.assert_close(
        half.logits_per_image.float(), expected.logits_per_image, atol=0.3, rtol=0.05
    )
    pretraining = UrbanLNForPreTraining(tiny_config).to(dtype)
    output = pretraining(**inputs, sample_ids=torch.arange(4))
    output.loss.backward()
    assert torch.isfinite(output.loss)


def test_loss_is_float32_under_autocast(model):
    inputs, ids = batch(), torch.arange(4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(**inputs, sample_ids=ids)
    assert output.loss.dtype == output.logits_per_image.dtype == torch.float32
    # logits equal those of the same embeddings in float32
    expected = model.logit_scale.exp() * output.image_embeds @ output.text_embeds.T
    torch.testing.assert_close(output.logits_per_image, expected, atol=1e-5, rtol=1e-6)


def test_loss_equals_clips_with_no_distillation_and_no_queue(tiny_clip):
    model = UrbanLNForPreTraining.from_clip_pretrained(
        tiny_clip, mode="none", distillation_weight=0.0
    )
    inputs = batch(size=6)
    expected = tiny_clip(**inputs, return_loss=True).loss
    torch.testing.assert_close(model(**inputs).loss, expected)
    torch.testing.assert_close(model(**inputs, sample_ids=torch.arange(6)).loss, expected)


def test_output_and_state(model):
    before = copy.deepcopy(model.state_dict())
    output = model(**batch())
    for name in ("image_embeds", "text_embeds", "image_embeds_m", "text_embeds_m"):
        assert output[name].shape == (4, 16)
        torch.testing.assert_close(output[name].norm(dim=1), torch.ones(4))
    assert not output.image_embeds_m.requires_grad
    assert output.logits_per_image.shape == (4, 4)
    assert abs(output.distillation_loss.item()) < 1e-6  # the teacher equals the student
    assert output.target_entropy > 0
    mu = model.config.distillation_weight
    combined = (1 - mu) * output.contrastive_loss + mu * output.distillation_loss
    torch.testing.assert_close(output.loss, combined)
    other = model(**batch(), distillation_weight=1.0)
    torch.testing.assert_close(other.loss, other.distillation_loss)
    output.loss.backward()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_older_key_of_the_same_image_is_a_positive(model):
    inputs, ids = batch(), torch.arange(4)
    output = model(**inputs, sample_ids=ids)
    model.enqueue(output.image_embeds_m, output.text_embeds_m, ids)
    with_ids = model(**inputs, sample_ids=ids).contrastive_loss
    strangers = model(**inputs, sample_ids=ids + 100).contrastive_loss
    # keys occur twice: as positives they halve the target, which adds log 2
    torch.testing.assert_close(with_ids - output.contrastive_loss, torch.tensor(2.0).log())
    torch.testing.assert_close(strangers, with_ids)
    # the queue's entry of sample 0 is a positive of query 1 too
    same = model(**inputs, sample_ids=torch.tensor([0, 0, 2, 3])).contrastive_loss
    assert not torch.isclose(same, with_ids)


def test_preserved_positions_get_no_gradient_also_after_saving_and_copying(model, tmp_path):
    model.save_pretrained(tmp_path)
    for other in (model, UrbanLNForPreTraining.from_pretrained(tmp_path), copy.deepcopy(model)):
        other(**batch(length=248)).loss.backward()
        gradient = other.text_model.embeddings.position_embedding.weight.grad.abs().sum(dim=1)
        assert (gradient[:20] == 0).all()
        assert (gradient[20:245] > 0).all()
        assert all(p.grad is None for p in other.momentum_encoder.parameters())


def test_logit_scale_is_clamped(model):
    nn.init.constant_(model.logit_scale, 9.0)
    output = model(**batch())
    cosine = output.image_embeds @ output.text_embeds.T
    torch.testing.assert_close(output.logits_per_image, 100 * cosine)
    output.loss.backward()
    assert model.logit_scale.grad.abs() > 0  # straight-through beyond the bound
    model.clamp_logit_scale_()
    torch.testing.assert_close(model.logit_scale.exp(), torch.tensor(100.0))


def test_rejects_mismatched_inputs(model):
    inputs = batch()
    with pytest.raises(ValueError, match=r"shape \(4,\), got \(3,\)"):
        model(**inputs, sample_ids=torch.arange(3))
    with pytest.raises(ValueError, match="4 texts and 3 images"):
        model(inputs["input_ids"], None, inputs["pixel_values"][:3])
    with pytest.raises(ValueError, match="needs both `input_ids` and `pixel_values`"):
        model(inputs["input_ids"])
    with pytest.raises(ValueError, match="together; got only one"):
        model(**inputs, key_offset=0)


def test_training_and_published_checkpoints_load_as_each_other(model, tmp_path, capfd):
    model.enqueue(*model.encode_momentum(**batch()), torch.arange(4))
    with torch.no_grad():
        model.momentum_encoder.logit_scale.add_(0.5)
    model.save_pretrained(tmp_path / "training")
    model.to_base().save_pretrained(tmp_path / "published")
    saved = load_file(tmp_path / "published" / "model.safetensors")
    assert not any(name.startswith(("momentum_encoder", "queue")) for name in saved)

    again = UrbanLNForPreTraining.from_pretrained(tmp_path / "training")
    assert all(torch.equal(again.state_dict()[k], v) for k, v in model.state_dict().items())
    assert not any(p.requires_grad for p in again.momentum_encoder.parameters())
    fresh = UrbanLNForPreTraining.from_pretrained(tmp_path / "published")
    assert len(fresh.queue) == 0
    for name, parameter in fresh.momentum_encoder.named_parameters():
        assert torch.equal(parameter, fresh.get_parameter(name))
    base = UrbanLNModel.from_pretrained(tmp_path / "training")
    assert all(torch.equal(base.state_dict()[name], value) for name, value in saved.items())
    said = capfd.readouterr().err
    assert "MISSING" not in said
    assert "UNEXPECTED" not in said
