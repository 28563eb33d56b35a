from dataclasses import replace

import numpy as np
import pytest
import torch

from pipelines.evaluation.baselines.image_text import (
    clip_model,
    info_nce,
    pixel_values,
    tokenize,
)
from pipelines.evaluation.baselines.two_views import (
    RegionBatch,
    TextBatch,
    TwoViews,
    token_loss,
    token_similarity,
)
from pipelines.evaluation.baselines.urbanvlp import Settings, UrbanVLP
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
    location_width=16,
    max_views=3,
    epochs=6,
    batch_size=8,
    learning_rate=2e-3,
)


def fitted(data, seed: int = 0, **changes) -> UrbanVLP:
    system = UrbanVLP(replace(TINY, **changes), seed, "cpu")
    system.fit(data)
    return system


def vectors(system, data) -> np.ndarray:
    return system.encode(data)["both"]


def moved(data, order):
    """The same images with permuted coordinates."""
    street = data.views["street_view"]
    return replace(
        data,
        lonlat=data.lonlat[order],
        views={**data.views, "street_view": replace(street, lonlat=street.lonlat[::-1].copy())},
    )


def without(view, region):
    kept = np.flatnonzero(view.region != region)
    return replace(
        view,
        image_ids=[view.image_ids[i] for i in kept],
        region=view.region[kept],
        pixels=view.pixels[kept],
        captions=[view.captions[i] for i in kept],
        lonlat=view.lonlat[kept],
        heading=view.heading[kept],
    )


def test_satellite_loss_contrasts_the_sum_of_both_views_and_the_place(tiny_clip):
    torch.manual_seed(0)
    model = TwoViews(tiny_clip, tiny_clip, "mean", 3, 16).eval()
    tokens = tokenize(["a red square", "a long blue road", "grey"], 20, False)
    owner, slot = torch.tensor([0, 0, 1, 2]), torch.tensor([0, 1, 0, 0])
    lonlat = torch.tensor([[116.0, 40], [117, 40], [90, 10], [0, 0]], dtype=torch.float64)
    satellite, street = torch.randn(3, 3, 30, 30), torch.randn(4, 3, 30, 30)
    batch = RegionBatch(satellite, street, owner, slot, lonlat, owner, slot)
    texts = TextBatch(tokens.ids, tokens.mask, tokens.ids, tokens.mask, torch.ones(3).bool())

    with torch.no_grad():
        losses = model.losses(batch, texts)
        unit = torch.nn.functional.normalize
        views = tiny_clip.get_image_features(pixel_values=street).pooler_output
        views = torch.stack([views[:2].mean(dim=0), views[2], views[3]])
        places = model.location(lonlat)
        places = torch.stack([places[:2].mean(dim=0), places[2], places[3]])
        images = tiny_clip.get_image_features(pixel_values=satellite).pooler_output
        summed = unit(images) + unit(views) + model.location_projection(places)
        text = unit(tiny_clip.get_text_features(input_ids=tokens.ids).pooler_output)
        expected = info_nce(summed, text, tiny_clip.logit_scale.exp())

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
            best = [
                max(
                    float(image @ word / (image.norm() * word.norm()))
                    for word in texts[c, : lengths[c]]
                )
                for image in images[b]
            ]
            expected[b, c] = np.mean(best)
    exponents = np.exp(expected)
    rows = -np.log(np.diag(exponents) / exponents.sum(axis=1))
    columns = -np.log(np.diag(exponents) / exponents.sum(axis=0))

    np.testing.assert_allclose(token_similarity(images, texts, mask), expected, atol=1e-6)
    loss = token_loss(images, texts, mask).item()
    assert loss == pytest.approx((rows.mean() + columns.mean()) / 2, rel=1e-6)


@pytest.mark.parametrize("coordinates", [True, False])
def test_urbanvlp_learns_a_toy_city(coordinates):
    data = toy_city(32)
    state = torch.random.get_rng_state()
    system = fitted(data, coordinates=coordinates, epochs=10)

    result = system.encode(data)

    assert torch.equal(state, torch.random.get_rng_state())
    assert set(result) == {"both"}
    assert result["both"].shape == (32, 24)
    assert result["both"].dtype == np.float32
    assert np.isfinite(result["both"]).all()
    assert system.losses[-1] < 0.8 * system.losses[0]
    assert system.name == ("urbanvlp" if coordinates else "urbanvlp-nocoord")
    assert ("coordinates" in system.provenance.uses) == coordinates


def test_coordinates_matter_to_urbanvlp_and_not_to_nocoord():
    data = toy_city(16)
    other = moved(data, np.roll(np.arange(16), 5))

    blind = fitted(data, coordinates=False, epochs=2)
    np.testing.assert_array_equal(vectors(blind, data), vectors(blind, other))
    # nor do they leak during training
    blind_elsewhere = fitted(other, coordinates=False, epochs=2)
    np.testing.assert_array_equal(vectors(blind, data), vectors(blind_elsewhere, data))

    seeing = fitted(data, epochs=2)
    assert np.abs(vectors(seeing, data) - vectors(seeing, other)).max() > 1e-3


@pytest.mark.parametrize("view_fusion", ["mean", "pixel25"])
def test_missing_views_are_left_out_of_the_sum(view_fusion):
    data = toy_city(8)
    satellite, street = data.views["satellite"], data.views["street_view"]
    gappy = replace(
        data, views={"satellite": without(satellite, 3), "street_view": without(street, 5)}
    )
    system = fitted(gappy, view_fusion=view_fusion, epochs=1)
    whole, result = vectors(system, data), vectors(system, gappy)
    others = [row for row in range(8) if row not in (3, 5)]

    assert np.isnan(result[3]).all()
    assert np.isfinite(np.delete(result, 3, axis=0)).all()
    np.testing.assert_allclose(result[others], whole[others], atol=1e-5)
    assert np.abs(result[5] - whole[5]).max() > 1e-3

    empty = replace(gappy, views={**gappy.views, "street_view": _empty(street)})
    assert np.isfinite(vectors(system, empty)[others]).all()


def _empty(view):
    return replace(
        view,
        image_ids=[],
        region=view.region[:0],
        pixels=view.pixels[:0],
        captions=[],
        lonlat=view.lonlat[:0],
        heading=view.heading[:0],
    )


def test_mean_fusion_averages_and_pixel_fusion_weighs_by_the_number_of_the_view():
    values = torch.tensor([[1.0, 2.0], [3.0, 4.0], [10.0, 20.0]])
    owner, slot = torch.tensor([0, 0, 2]), torch.tensor([0, 1, 0])
    clip = clip_model(TINY, 10)
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


def test_only_the_first_views_of_a_region_are_seen():
    data = toy_city(6, views=4)
    system = fitted(data, epochs=1)  # max_views is 3
    street = data.views["street_view"]
    changed = street.pixels.copy()
    changed[3::4] = 0
    fourth = replace(data, views={**data.views, "street_view": replace(street, pixels=changed)})
    np.testing.assert_array_equal(vectors(system, data), vectors(system, fourth))
    changed[2::4] = 0
    assert not np.array_equal(vectors(system, data), vectors(system, fourth))


def test_street_views_without_captions_leave_the_first_loss_alone():
    data = toy_city(8)
    street = replace(data.views["street_view"], captions=[None] * 24)
    silent = replace(data, views={**data.views, "street_view": street})
    system = fitted(silent, epochs=1)
    assert np.isfinite(vectors(system, silent)).all()
    assert system.losses[0] < fitted(data, epochs=1).losses[0]


def test_what_cannot_be_learnt_from_is_said():
    data = toy_city(4)
    system = UrbanVLP(TINY, 0, "cpu")
    with pytest.raises(InputError, match="call fit first"):
        system.encode(data)
    with pytest.raises(InputError, match="needs street_view images, and toyville has none"):
        system.fit(replace(data, views={"satellite": data.views["satellite"]}))
    silent = replace(data.views["satellite"], captions=[None] * 4)
    with pytest.raises(InputError, match="toyville has 0 captioned satellite images"):
        system.fit(replace(data, views={**data.views, "satellite": silent}))


@pytest.mark.parametrize("view_fusion", ["mean", "pixel25"])
def test_towers_of_a_checkpoint_are_used_and_trained(tiny_clip, tmp_path, view_fusion):
    tiny_clip.save_pretrained(tmp_path)
    data = toy_city(4)
    fields = {
        "model_name_or_path": str(tmp_path),
        "image_size": 30,
        "epochs": 1,
        "coordinates": False,
        "view_fusion": view_fusion,
    }
    untouched = fitted(data, **fields, learning_rate=0.0)
    satellite, street = (
        pixel_values(data.views[name].pixels, 30, "cpu") for name in ("satellite", "street_view")
    )
    with torch.no_grad():
        views = tiny_clip.get_image_features(pixel_values=street).pooler_output
        if view_fusion == "mean":
            fused = views.reshape(4, 3, -1).mean(dim=1)
        else:
            mixing = untouched.model.mixing
            stacked = street.reshape(4, 3, 3, 30, 30).permute(0, 2, 3, 4, 1)
            mixed = mixing(stacked).squeeze(-1)
            fused = tiny_clip.get_image_features(pixel_values=mixed).pooler_output
        expected = tiny_clip.get_image_features(pixel_values=satellite).pooler_output + fused
    np.testing.assert_allclose(vectors(untouched, data), expected, atol=1e-5)

    trained = fitted(data, **fields, learning_rate=1e-3)
    assert np.abs(vectors(trained, data) - vectors(untouched, data)).max() > 1e-3
