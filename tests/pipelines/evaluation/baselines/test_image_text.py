"""Networks and losses of UrbanCLIP and UrbanVLP against formulas."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from pipelines.evaluation.baselines.image_text import END, clip_model, info_nce, tokenize
from pipelines.evaluation.baselines.urbanclip import CoCa, draw_sentences
from pipelines.evaluation.baselines.urbanvlp import (
    RegionBatch,
    TwoViews,
    token_loss,
    token_similarity,
)

from .toy_cities import URBANCLIP, URBANVLP

TEXTS = ["A red square.", "Nothing at all, but a long and winding road.", "grey"]


@pytest.fixture
def coca() -> CoCa:
    torch.manual_seed(0)
    model = CoCa(clip_model(URBANCLIP, tokenize(TEXTS, 20, True).vocab_size), 5, 2, 2, 2)
    return model.eval()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def test_coca_decoder_is_causal_and_sees_the_image(coca, images):
    tokens = tokenize(TEXTS, 20, True)
    changed = tokens.ids.clone()
    changed[:, 4] = (changed[:, 4] + 1) % tokens.vocab_size
    with torch.no_grad():
        before = coca(images, tokens.ids, tokens.mask)[2]
        after = coca(images, changed, tokens.mask)[2]
        elsewhere = coca(images.roll(1, 0), tokens.ids, tokens.mask)[2]
    assert torch.allclose(before[:, :4], after[:, :4], atol=1e-6)
    assert (before[:, 4:] - after[:, 4:]).abs().amax(dim=(1, 2)).min() > 1e-3
    assert (before - elsewhere).abs().amax(dim=2).min() > 1e-3


def test_coca_losses_are_info_nce_and_next_token_cross_entropy(coca, images):
    tokens = tokenize(TEXTS, 20, True)
    with torch.no_grad():
        image_embeds, text_embeds, logits = coca(images, tokens.ids, tokens.mask)
        losses = coca.losses(images, tokens.ids, tokens.mask)
    similarity = (coca.clip.logit_scale.exp() * image_embeds @ text_embeds.T).detach().numpy()
    rows = np.diag(similarity) - np.log(np.exp(similarity).sum(axis=1))
    columns = np.diag(similarity) - np.log(np.exp(similarity).sum(axis=0))
    expected = -(rows.mean() + columns.mean()) / 2
    assert losses["contrastive_loss"].item() == pytest.approx(expected, rel=1e-5)
    terms = []
    for row, length in enumerate(tokens.mask.sum(dim=1).tolist()):
        for place in range(length - 1):  # includes the end token, excludes padding
            p = logits[row, place].softmax(dim=0)
            terms.append(-torch.log(p[tokens.ids[row, place + 1]]).item())
    assert losses["caption_loss"].item() == pytest.approx(np.mean(terms), rel=1e-5)


def test_coca_text_embedding_equals_that_of_clip(tiny_clip):
    tokens = tokenize(TEXTS, 20, False)
    model = CoCa(tiny_clip, 5, 2, 1, 2).eval()
    with torch.no_grad():
        ours = model(torch.zeros(3, 3, 30, 30), tokens.ids, tokens.mask)[1]
        theirs = tiny_clip.get_text_features(input_ids=tokens.ids).pooler_output
    assert torch.allclose(ours, F.normalize(theirs, dim=1), atol=1e-6)


def test_tokenize_keeps_the_end_and_renumbers_occurring_tokens():
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


def test_draw_sentences_draws_one_per_caption_by_seed():
    captions = ["One road. Two roads! Three 3.5 m wide?", "一条路。两条路。", "no stop", "A. " * 9]
    drawn = draw_sentences(captions, seed=1)
    assert drawn == draw_sentences(captions, seed=1)
    assert drawn[1] in ("一条路。", "两条路。")
    assert drawn[2:] == ["no stop", "A."]
    seen = {draw_sentences(captions, seed=seed)[0] for seed in range(20)}
    assert seen == {"One road.", "Two roads!", "Three 3.5 m wide?"}


def test_urbanvlp_satellite_loss_contrasts_the_sum_of_views_and_location(tiny_clip):
    torch.manual_seed(0)
    model = TwoViews(tiny_clip, tiny_clip, "mean", 3, 16).eval()
    tokens = tokenize(["a red square", "a long blue road", "grey"], 20, False)
    owner, slot = torch.tensor([0, 0, 1, 2]), torch.tensor([0, 1, 0, 0])
    lonlat = torch.tensor([[116.0, 40], [117, 40], [90, 10], [0, 0]], dtype=torch.float64)
    satellite, street = torch.randn(3, 3, 30, 30), torch.randn(4, 3, 30, 30)
    batch = RegionBatch(satellite, street, owner, slot, lonlat, owner, slot)
    text = tokens.ids, tokens.mask
    with torch.no_grad():
        losses = model.losses(batch, text, text, torch.ones(3).bool())
        views = tiny_clip.get_image_features(pixel_values=street).pooler_output
        views = torch.stack([views[:2].mean(dim=0), views[2], views[3]])
        places = model.location(lonlat)
        places = torch.stack([places[:2].mean(dim=0), places[2], places[3]])
        images = tiny_clip.get_image_features(pixel_values=satellite).pooler_output
        location = model.location_projection(places)
        summed = F.normalize(images, dim=-1) + F.normalize(views, dim=-1) + location
        texts = tiny_clip.get_text_features(input_ids=tokens.ids).pooler_output
        scale = tiny_clip.logit_scale.exp()
        expected = info_nce(summed, F.normalize(texts, dim=-1), scale)
    assert losses["satellite_loss"].item() == pytest.approx(expected.item(), rel=1e-4)


def test_token_loss_equals_a_loop_over_tokens():
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(3, 4, 5, generator=generator)
    texts = torch.randn(3, 6, 5, generator=generator)
    lengths = [6, 2, 4]
    mask = torch.arange(6) < torch.tensor(lengths)[:, None]
    expected = np.zeros((3, 3))
    for b in range(3):
        for c in range(3):
            words = F.normalize(texts[c, : lengths[c]], dim=-1)
            best = [float((words @ F.normalize(image, dim=0)).max()) for image in images[b]]
            expected[b, c] = np.mean(best)
    exponents = np.exp(expected)
    rows = -np.log(np.diag(exponents) / exponents.sum(axis=1))
    columns = -np.log(np.diag(exponents) / exponents.sum(axis=0))
    np.testing.assert_allclose(token_similarity(images, texts, mask), expected, atol=1e-6)
    loss = token_loss(images, texts, mask).item()
    assert loss == pytest.approx((rows.mean() + columns.mean()) / 2, rel=1e-6)


def test_street_views_are_averaged_or_weighted_by_their_slot():
    values = torch.tensor([[1.0, 2.0], [3.0, 4.0], [10.0, 20.0]])
    owner, slot = torch.tensor([0, 0, 2]), torch.tensor([0, 1, 0])
    clip = clip_model(URBANVLP, 10)
    mean = TwoViews(clip, clip, "mean", 3, None)
    expected = torch.tensor([[2.0, 3.0], [0.0, 0.0], [10.0, 20.0]])
    assert torch.equal(mean.fuse(values, owner, slot, 3), expected)
    mixed = TwoViews(clip, clip, "pixel25", 25, None)
    stacked = torch.zeros(3, 2, 25)  # input of nn.Linear(25, 1) in the published code
    stacked[0, :, 0], stacked[0, :, 1], stacked[2, :, 0] = values
    with torch.no_grad():
        torch.testing.assert_close(
            mixed.fuse(values, owner, slot, 3), mixed.mixing(stacked).squeeze(-1)
        )
