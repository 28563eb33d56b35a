from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from pipelines.evaluation.baselines.coca import CoCa
from pipelines.evaluation.baselines.image_text import (
    END,
    ImageTextSettings,
    clip_model,
    tokenize,
    train_pairs,
)
from pipelines.evaluation.baselines.urbanclip import Settings, UrbanCLIP, draw_sentences
from pipelines.evaluation.embed.tables import mean_by_region
from pipelines.evaluation.errors import InputError

from .toy_pairs import toy_city

TINY = Settings(
    image_size=16,
    patch_size=8,
    vision_width=32,
    vision_layers=1,
    text_width=32,
    text_layers=1,
    head_width=16,
    projection_dim=24,
    num_queries=5,
    pooler_heads=2,
    decoder_layers=1,
    decoder_heads=2,
    epochs=6,
    batch_size=8,
    learning_rate=2e-3,
)
TEXTS = ["A red square.", "Nothing at all, but a long and winding road.", "grey"]


@pytest.fixture
def coca() -> CoCa:
    torch.manual_seed(0)
    model = CoCa(clip_model(TINY, tokenize(TEXTS, 20, True).vocab_size), 5, 2, 2, 2)
    return model.eval()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def test_a_later_token_changes_no_earlier_logit_and_the_image_changes_all(coca, images):
    tokens = tokenize(TEXTS, 20, True)
    changed = tokens.ids.clone()
    changed[:, 4] = (changed[:, 4] + 1) % tokens.vocab_size

    with torch.no_grad():
        before = coca(images, tokens.ids, tokens.mask).logits
        after = coca(images, changed, tokens.mask).logits
        elsewhere = coca(images.roll(1, 0), tokens.ids, tokens.mask).logits

    assert torch.allclose(before[:, :4], after[:, :4], atol=1e-6)
    assert (before[:, 4:] - after[:, 4:]).abs().amax(dim=(1, 2)).min() > 1e-3
    assert (before - elsewhere).abs().amax(dim=2).min() > 1e-3


def test_losses_are_info_nce_and_the_cross_entropy_of_the_next_token(coca, images):
    tokens = tokenize(TEXTS, 20, True)
    with torch.no_grad():
        output = coca(images, tokens.ids, tokens.mask)
        losses = coca.losses(images, tokens.ids, tokens.mask)

    scale = coca.clip.logit_scale.exp().item()
    similarity = (scale * output.image_embeds @ output.text_embeds.T).detach().double().numpy()
    rows = np.diag(similarity) - np.log(np.exp(similarity).sum(axis=1))
    columns = np.diag(similarity) - np.log(np.exp(similarity).sum(axis=0))
    assert losses["contrastive_loss"].item() == pytest.approx(-(rows.mean() + columns.mean()) / 2)

    terms = []
    for row, length in enumerate(tokens.mask.sum(dim=1).tolist()):
        for place in range(length - 1):  # includes the end token, excludes padding
            p = output.logits[row, place].softmax(dim=0)
            terms.append(-torch.log(p[tokens.ids[row, place + 1]]).item())
    assert losses["caption_loss"].item() == pytest.approx(np.mean(terms), rel=1e-5)


def test_text_embedding_is_that_of_clip(tiny_clip):
    tokens = tokenize(TEXTS, 20, False)
    model = CoCa(tiny_clip, 5, 2, 1, 2).eval()
    pixels = torch.zeros(3, 3, 30, 30)
    with torch.no_grad():
        ours = model(pixels, tokens.ids, tokens.mask).text_embeds
        theirs = tiny_clip.get_text_features(input_ids=tokens.ids).pooler_output
    assert torch.allclose(ours, F.normalize(theirs, dim=1), atol=1e-6)


def test_temperature_stays_within_the_bounds_of_clip():
    class Scales(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.logit_scale = torch.nn.Parameter(torch.tensor(4.0))
            self.other = torch.nn.Parameter(torch.tensor(4.0))

    for sign, bound in ((-1, np.log(100)), (1, 0)):
        model, settings = Scales(), replace(TINY, learning_rate=1.0, epochs=3)
        loss = lambda rows, m=model, s=sign: s * (m.logit_scale + m.other)  # noqa: E731
        train_pairs(model, loss, 16, settings, 0, "toy")
        assert model.logit_scale.item() == pytest.approx(bound)
        assert abs(model.other.item() - 4) > 4


def test_training_that_diverges_is_an_error():
    model = torch.nn.Linear(1, 1)
    with pytest.raises(InputError, match="loss of toy became nan: lower learning_rate"):
        train_pairs(model, lambda rows: model.weight.sum() * torch.nan, 8, TINY, 0, "toy")


def test_tokenize_cuts_keeps_the_end_and_renumbers_what_occurs():
    whole = tokenize(TEXTS, 8, False)
    compact = tokenize(TEXTS, 8, True)
    assert whole.ids.shape == (3, 8)
    assert whole.ids[1, -1] == END
    assert whole.mask.sum(dim=1).tolist() == [6, 8, 3]
    assert (whole.ids[2, 3:] == END).all()
    occurring = whole.ids.unique()
    assert compact.vocab_size == len(occurring)
    assert torch.equal(occurring[compact.ids], whole.ids)
    assert (compact.ids[:, 0] == compact.vocab_size - 2).all()
    ids, mask = whole.batch(torch.tensor([2, 0]), "cpu")
    assert ids.tolist() == whole.ids[[2, 0], :6].tolist()
    assert mask.sum(dim=1).tolist() == [3, 6]


def test_sentences_are_drawn_once_by_the_seed():
    captions = ["One road. Two roads! Three 3.5 m wide?", "一条路。两条路。", "no stop", "A. " * 9]
    drawn = draw_sentences(captions, seed=1)
    assert drawn == draw_sentences(captions, seed=1)
    assert drawn[0] in ("One road.", "Two roads!", "Three 3.5 m wide?")
    assert drawn[1] in ("一条路。", "两条路。")
    assert drawn[2:] == ["no stop", "A."]
    seen = {draw_sentences(captions, seed=seed)[0] for seed in range(20)}
    assert len(seen) == 3


@pytest.mark.parametrize("text", ["sentence", "full"])
def test_urbanclip_learns_a_toy_city_and_puts_colours_apart(text):
    data = toy_city(48)
    system = UrbanCLIP(replace(TINY, text=text, epochs=12), seed=0, device="cpu")
    state = torch.random.get_rng_state()

    system.fit(data)
    vectors = system.encode(data)

    assert torch.equal(state, torch.random.get_rng_state())
    assert system.name == f"urbanclip-{text}"
    assert set(vectors) == {"satellite"}
    assert vectors["satellite"].shape == (48, 24)
    assert vectors["satellite"].dtype == np.float32
    assert system.losses[-1] < 0.6 * system.losses[0]
    unit = F.normalize(torch.tensor(vectors["satellite"]), dim=1).numpy()
    colours = np.array([caption.split()[1] for caption in data.views["satellite"].captions])
    nearest = (unit @ unit.T - 2 * np.eye(48)).argmax(axis=1)
    assert (colours[nearest] == colours).mean() > 0.95


def test_same_seed_same_vectors_and_another_seed_others():
    data = toy_city(12)
    short = replace(TINY, epochs=1)
    first, again, other = (
        _fitted(UrbanCLIP(short, seed, "cpu"), data).encode(data)["satellite"] for seed in (3, 3, 4)
    )
    assert np.array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3
    assert UrbanCLIP(short, 3, "cpu").fingerprint == UrbanCLIP(short, 3, "cpu").fingerprint
    others = [UrbanCLIP(short, 4, "cpu"), UrbanCLIP(replace(short, text="full"), 3, "cpu")]
    assert UrbanCLIP(short, 3, "cpu").fingerprint not in {system.fingerprint for system in others}


def test_regions_without_an_image_are_nan_and_captions_that_are_missing_are_left_out():
    data = toy_city(12)
    view = data.views["satellite"]
    kept = np.arange(2, 12)
    captions = [None, "", *view.captions[4:]]
    less = replace(
        view,
        image_ids=view.image_ids[2:],
        region=view.region[kept],
        pixels=view.pixels[kept],
        captions=captions,
        lonlat=view.lonlat[kept],
        heading=view.heading[kept],
    )
    data = replace(data, views={"satellite": less})
    system = _fitted(UrbanCLIP(replace(TINY, epochs=1), 0, "cpu"), data)
    vectors = system.encode(data)["satellite"]
    assert np.isnan(vectors[:2]).all()
    assert np.isfinite(vectors[2:]).all()


def test_mean_by_region_averages_images_of_a_region():
    vectors = np.array([[1, 2], [3, 6], [5, 5]], dtype=np.float32)
    with np.errstate(all="raise"):
        pooled = mean_by_region(vectors, np.array([2, 2, 0]), 3)
    np.testing.assert_array_equal(pooled, [[5, 5], [np.nan, np.nan], [2, 4]])


def test_what_cannot_be_learnt_from_is_said():
    data = toy_city(6)
    system = UrbanCLIP(TINY, 0, "cpu")
    with pytest.raises(InputError, match="call fit first"):
        system.encode(data)
    with pytest.raises(InputError, match="toyville has none, only street_view"):
        system.fit(replace(data, views={"street_view": data.views["street_view"]}))
    silent = replace(data.views["satellite"], captions=[None] * 6)
    with pytest.raises(InputError, match="toyville has 0 captioned satellite images"):
        system.fit(replace(data, views={"satellite": silent}))


def test_a_checkpoint_that_does_not_fit_the_recipe_is_refused(tiny_clip, tmp_path):
    tiny_clip.save_pretrained(tmp_path)
    fitting = ImageTextSettings(model_name_or_path=str(tmp_path), image_size=30)
    assert clip_model(fitting, END + 1).config.projection_dim == 16
    with pytest.raises(InputError, match="takes images of 30 pixels and at most 77 tokens"):
        clip_model(replace(fitting, max_length=248), END + 1)
    with pytest.raises(InputError, match=r"No CLIP at.*--size cpu"):
        clip_model(replace(fitting, model_name_or_path=str(tmp_path / "none")), END + 1)


def _fitted(system: UrbanCLIP, data) -> UrbanCLIP:
    system.fit(data)
    return system


def test_towers_of_a_checkpoint_are_used_and_trained(tiny_clip, tmp_path):
    tiny_clip.save_pretrained(tmp_path)
    data = toy_city(6)
    settings = replace(TINY, model_name_or_path=str(tmp_path), image_size=30, epochs=1)

    frozen = _fitted(UrbanCLIP(replace(settings, learning_rate=0.0), 0, "cpu"), data)
    trained = _fitted(UrbanCLIP(settings, 0, "cpu"), data)

    expected = tiny_clip.state_dict()
    assert all(torch.equal(expected[k], v) for k, v in frozen.model.clip.state_dict().items())
    key = "vision_model.embeddings.patch_embedding.weight"
    assert not torch.equal(expected[key], trained.model.clip.state_dict()[key])
    assert frozen.encode(data)["satellite"].shape == (6, 16)
