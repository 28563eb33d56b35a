import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModel,
    AutoModelForPreTraining,
    AutoProcessor,
    AutoTokenizer,
    CLIPTextModel,
    Siglip2Config,
    Siglip2Model,
    SiglipConfig,
    SiglipModel,
)

from modeling_urbanln import (
    UrbanLNModel,
    UrbanLNProcessor,
    UrbanLNSiglipConfig,
    UrbanLNSiglipForPreTraining,
    UrbanLNSiglipModel,
    stretch_position_embeddings,
)

POSITIONS = "text_model.embeddings.position_embedding.weight"
TEXTS = ["A park.", "the wide road with tall offices", "Ships; &amp; a crane " * 30]


@pytest.fixture
def siglip(tiny_siglip_dir):
    return SiglipModel.from_pretrained(tiny_siglip_dir).eval()


@pytest.fixture
def model(tiny_siglip_dir):
    return UrbanLNSiglipForPreTraining.from_clip_pretrained(tiny_siglip_dir, queue_size=8)


@pytest.fixture
def inputs(tiny_siglip_dir):
    processor = UrbanLNProcessor.from_clip_pretrained(tiny_siglip_dir)
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(3, 3, 30, 30, generator=generator)
    return {**processor(text=TEXTS, return_tensors="pt"), "pixel_values": pixels}


def test_stretches_64_positions_to_196(siglip, tiny_siglip_dir):
    model = UrbanLNSiglipModel.from_clip_pretrained(tiny_siglip_dir)
    for name, value in siglip.state_dict().items():
        expected = stretch_position_embeddings(value) if name == POSITIONS else value
        assert torch.equal(model.state_dict()[name], expected), name
    assert model.state_dict()[POSITIONS].shape == (196, 32)
    assert model.config.text_config.max_position_embeddings == 196
    assert model.config.projection_dim == 32


def test_unstretched_model_equals_siglip_for_any_padding(siglip, tiny_siglip_dir, inputs):
    model = UrbanLNSiglipModel.from_clip_pretrained(siglip, mode="none").eval()
    processor = UrbanLNProcessor.from_clip_pretrained(tiny_siglip_dir, max_length=64)
    full = processor(text=TEXTS, padding="max_length", return_tensors="pt")["input_ids"]
    assert full.shape == (3, 64)
    expected = siglip(input_ids=full, pixel_values=inputs["pixel_values"])
    got = model(input_ids=full, pixel_values=inputs["pixel_values"])
    torch.testing.assert_close(got.image_embeds, expected.image_embeds)
    torch.testing.assert_close(got.text_embeds, expected.text_embeds)
    torch.testing.assert_close(got.logits_per_image, expected.logits_per_image - siglip.logit_bias)
    for length in (9, 40):
        short = full[:1, :length]
        mask = (short != 0).long()
        embeds = model(input_ids=short, attention_mask=mask).text_embeds
        torch.testing.assert_close(embeds, expected.text_embeds[:1])


def test_texts_are_lower_cased_cleaned_and_end_with_eos(tiny_siglip_dir, tmp_path):
    processor = UrbanLNProcessor.from_clip_pretrained(tiny_siglip_dir)
    processor.save_pretrained(tmp_path)
    UrbanLNSiglipConfig().save_pretrained(tmp_path)
    for tokenizer in (processor.tokenizer, AutoTokenizer.from_pretrained(tmp_path)):
        ids = tokenizer("The PARK")["input_ids"]
        assert tokenizer.convert_ids_to_tokens(ids) == ["the", "▁", *"park", "<eos>"]
        spelled = tokenizer("a<eos>b")["input_ids"]
        assert spelled.count(1) == 1
        assert spelled[-1] == 1
    again = AutoProcessor.from_pretrained(tmp_path)
    for one in (processor, again):
        found = one(text=TEXTS, return_tensors="pt")
        assert "attention_mask" not in found
        assert found["input_ids"].shape == (3, 196)
        assert found["input_ids"][0, 8:].sum() == 0
        assert found["input_ids"][2, -1] == 1
        assert one.truncation_report(TEXTS).num_truncated == 1


@pytest.mark.parametrize("vocab_size", [256_000, 32_000])
def test_padding_token_of_gemmas_vocabulary_is_corrected(vocab_size):
    small = {"hidden_size": 4, "intermediate_size": 4, "num_hidden_layers": 1}
    small["num_attention_heads"] = 1
    config = SiglipConfig(
        text_config={**small, "vocab_size": vocab_size},
        vision_config={**small, "image_size": 32},
    )
    model = UrbanLNSiglipModel.from_clip_pretrained(SiglipModel(config))
    assert model.config.text_config.pad_token_id == (0 if vocab_size == 256_000 else 1)


def test_trains_saves_and_loads(model, inputs, tmp_path):
    output = model(**inputs, sample_ids=torch.arange(3))
    output.loss.backward()
    gradient = model.state_dict(keep_vars=True)[POSITIONS].grad.abs().sum(dim=1)
    assert (gradient[:20] == 0).all()
    assert (gradient[20:] > 0).all()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    assert "logit_bias" not in dict(model.named_parameters())
    model.enqueue(output.image_embeds_m, output.text_embeds_m, torch.arange(3))
    model.save_pretrained(tmp_path / "training")
    loaded = UrbanLNSiglipForPreTraining.from_pretrained(tmp_path / "training")
    assert all(torch.equal(loaded.state_dict()[k], v) for k, v in model.state_dict().items())

    model.to_base().save_pretrained(tmp_path / "published")
    published = load_file(tmp_path / "published" / "model.safetensors")
    assert published["logit_bias"] == -5
    assert not any(name.startswith(("momentum_encoder", "queue")) for name in published)
    assert type(AutoModel.from_pretrained(tmp_path / "published")) is UrbanLNSiglipModel
    fresh = AutoModelForPreTraining.from_pretrained(tmp_path / "published")
    assert type(fresh) is UrbanLNSiglipForPreTraining
    assert len(fresh.queue) == 0


def naflex():
    small = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    small["num_attention_heads"] = 1
    text_config, vision_config = {**small, "vocab_size": 9}, {**small, "num_patches": 4}
    return Siglip2Model(Siglip2Config(text_config=text_config, vision_config=vision_config))


@pytest.mark.parametrize("from_folder", [False, True])
def test_rejects_other_architectures(siglip, tiny_clip, tmp_path, from_folder):
    stretched = UrbanLNSiglipModel.from_clip_pretrained(siglip)
    for model_class, wrong, remedy in (
        (UrbanLNModel, siglip, "a SiglipModel, .* with UrbanLNSiglipModel"),
        (UrbanLNModel, CLIPTextModel(tiny_clip.config.text_config), "a complete CLIPModel"),
        (UrbanLNModel, UrbanLNModel.from_clip_pretrained(tiny_clip), "UrbanLNModel.from_pretr"),
        (UrbanLNSiglipModel, tiny_clip, "a complete CLIPModel, .* with UrbanLNModel"),
        (UrbanLNSiglipModel, stretched, "already stretched: .*UrbanLNSiglipModel.from_pretrained"),
        (UrbanLNSiglipModel, naflex(), "NaFlex.*google/siglip2-base-patch16-224"),
    ):
        given = wrong
        if from_folder:
            given = tmp_path / f"{model_class.__name__}-{type(wrong).__name__}"
            wrong.save_pretrained(given)
        needed = model_class.source_class.__name__
        with pytest.raises(ValueError, match=f"{needed}.*{type(wrong).__name__}.*{remedy}"):
            model_class.from_clip_pretrained(given)


@pytest.mark.parametrize(
    ("model_class", "length"), [(UrbanLNSiglipModel, 196), (UrbanLNModel, 248)]
)
def test_rejects_stretched_positions(siglip, tiny_clip, model_class, length):
    source = siglip if model_class is UrbanLNSiglipModel else tiny_clip
    source.config.text_config.max_position_embeddings = length
    longer = type(source)(source.config)
    with pytest.raises(ValueError, match=rf"has {length} text positions.*mode='none'"):
        model_class.from_clip_pretrained(longer)
    kept = model_class.from_clip_pretrained(longer, mode="none").state_dict()
    assert len(kept[POSITIONS]) == length


def test_configuration_is_validated_and_names_its_code(tmp_path):
    with pytest.raises(Exception, match=r"`momentum` must lie in \[0, 1\], got 2"):
        UrbanLNSiglipConfig(momentum=2)
    UrbanLNSiglipConfig(queue_size=7).save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["queue_size"] == 7
    assert set(written["custom_pipelines"]) == {"urban-region-feature-extraction"}
    assert all("siglip" in code for code in written["auto_map"].values())
