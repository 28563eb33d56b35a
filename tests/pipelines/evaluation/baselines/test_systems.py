"""All trained systems: training, reproducibility, missing inputs."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from pipelines.evaluation.baselines import pg_simclr
from pipelines.evaluation.baselines.image_text import clip_model
from pipelines.evaluation.baselines.training import pixel_values
from pipelines.evaluation.baselines.trunk import Trunk, TrunkSettings
from pipelines.evaluation.errors import InputError

from .toy_cities import SIMCLR, SYSTEMS, TRUNK, URBANCLIP, toy_city

DATA = toy_city(gap=True)
SHORT = dict.fromkeys(
    ("epochs", "simclr_epochs", "satellite_epochs", "street_view_epochs", "fusion_epochs"), 1
)


def fit(name, data=DATA, seed=0, **changes):
    kind, settings = SYSTEMS[name]
    system = kind(replace(settings, **changes), seed, "cpu")
    system.fit(data)
    return system


def short(name, data=DATA, seed=0, **changes):
    settings = vars(SYSTEMS[name][1])
    epochs = {key: value for key, value in SHORT.items() if key in settings}
    return fit(name, data, seed, **{**epochs, **changes})


@pytest.mark.parametrize(
    "name", ["musecl-nomob", "pg-simclr", "tile2vec", "urbanclip-full", "urbanvlp-nocoord"]
)
def test_system_learns_without_changing_the_global_generator(name):
    state = torch.random.get_rng_state()
    system = fit(name)
    vectors = system.encode(DATA)
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(values.dtype == np.float32 for values in vectors.values())
    curves = system.losses if isinstance(system.losses, dict) else {"all": system.losses}
    for stage, losses in curves.items():
        if stage != "image":  # one epoch only
            fifth = max(len(losses) // 5, 1)
            assert np.mean(losses[-fifth:]) < 0.97 * np.mean(losses[:fifth]), stage
    quarter = DATA.poi.argmax(axis=1)
    if name == "tile2vec":
        distances = cdist(vectors["satellite"], vectors["satellite"])
        same = quarter[:, None] == quarter[None, :]
        assert distances[same].mean() < 0.3 * distances[~same].mean()
    if name == "urbanclip-full":
        assert vectors["satellite"].shape == (64, 24)
        distances = cdist(vectors["satellite"], vectors["satellite"], "cosine") + 9 * np.eye(64)
        assert (quarter[distances.argmin(axis=1)] == quarter).mean() > 0.95


@pytest.mark.parametrize("name", sorted(SYSTEMS))
def test_vectors_follow_from_seed_and_settings(name):
    kind, settings = SYSTEMS[name]
    with pytest.raises(InputError, match="is not fitted: call fit first"):
        kind(settings, 0, "cpu").encode(DATA)
    system, again, other = short(name), short(name), short(name, seed=1)
    larger = kind(replace(settings, image_size=64), 0, "cpu")
    assert len({one.fingerprint for one in (system, other, larger)}) == 3
    assert again.fingerprint == system.fingerprint
    assert system.name == name
    assert system.provenance.pretrained is None
    others, repeated = other.encode(DATA), again.encode(DATA)
    for view, values in system.encode(DATA).items():
        np.testing.assert_array_equal(values, repeated[view])
        assert np.abs(others[view] - values).max() > 1e-4


def test_pg_simclr_concatenates_its_networks():
    system = short("pg-simclr")
    vectors = system.encode(DATA)["satellite"]
    assert vectors.shape[1] == 2 * TRUNK["widths"][-1]
    assert not np.allclose(*np.split(vectors, 2, axis=1))
    assert list(system.losses) == ["image", "poi", "adjacency"]
    adjacency = short("pg-simclr", toy_city(poi=False), positives=("adjacency",))
    assert adjacency.name == "simclr-adjacency"
    assert adjacency.provenance.uses == {"satellite", "coordinates"}


def test_street_view_variants_have_their_own_name():
    system = short("tile2vec", view="street_view")
    vectors = system.encode(DATA)
    assert system.name == "tile2vec-street-view"
    assert list(vectors) == ["street_view"]
    assert np.flatnonzero(np.isnan(vectors["street_view"]).any(axis=1)).tolist() == [0]
    named = pg_simclr.SYSTEM(replace(SIMCLR, view="street_view"), 0, "cpu").name
    assert named == "pg-simclr-street-view"


def captioned(data, view, captions):
    return replace(data, views={**data.views, view: replace(data.views[view], captions=captions)})


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("pg-simclr", toy_city(poi=False), "needs counts.*Use --system simclr-adjacency"),
        ("musecl-nomob", replace(DATA, views={}), "needs satellite images, and quarters has none"),
        ("tile2vec", replace(DATA, xy=DATA.xy * np.nan), "coordinates, and quarters has 0"),
        (
            "urbanclip-full",
            captioned(DATA, "satellite", [None] * 64),
            "quarters has 0 captioned satellite images",
        ),
    ],
)
def test_unsuitable_data_raises(name, data, message):
    with pytest.raises(InputError, match=message):
        fit(name, data)


# ------------------------------------------------------------------------ missing images


def test_urbanclip_skips_missing_images_and_captions():
    data = toy_city(3)
    kept = data.views["satellite"].take(np.arange(2, 9))
    data = replace(data, views={"satellite": kept})
    data = captioned(data, "satellite", [None, "", *kept.captions[2:]])
    vectors = short("urbanclip-full", data).encode(data)["satellite"]
    assert np.flatnonzero(np.isnan(vectors).any(axis=1)).tolist() == [0, 1]


def test_coordinates_matter_to_urbanvlp_and_not_to_nocoord():
    data = toy_city(4)
    street = data.views["street_view"]
    moved = replace(
        data,
        lonlat=np.roll(data.lonlat, 5, axis=0),
        views={**data.views, "street_view": replace(street, lonlat=street.lonlat[::-1].copy())},
    )
    blind = short("urbanvlp-nocoord", data)
    assert "coordinates" not in blind.provenance.uses
    expected = blind.encode(data)["both"]
    np.testing.assert_array_equal(expected, blind.encode(moved)["both"])
    # nor do they leak during training
    elsewhere = short("urbanvlp-nocoord", moved)
    np.testing.assert_array_equal(expected, elsewhere.encode(data)["both"])
    seeing = short("urbanvlp", data)
    assert np.abs(seeing.encode(data)["both"] - seeing.encode(moved)["both"]).max() > 1e-3


@pytest.mark.parametrize("view_fusion", ["mean", "pixel25"])
def test_urbanvlp_omits_missing_and_surplus_street_views(view_fusion):
    data = toy_city(3, views=4)  # max_views is 3
    satellite, street = data.views["satellite"], data.views["street_view"]
    views = {
        "satellite": satellite.take(np.flatnonzero(satellite.region != 3)),
        "street_view": street.take(np.flatnonzero(street.region != 5)),
    }
    gappy = replace(data, views=views)
    system = short("urbanvlp", gappy, view_fusion=view_fusion)
    whole, result = system.encode(data)["both"], system.encode(gappy)["both"]
    others = [row for row in range(9) if row not in (3, 5)]
    assert np.flatnonzero(np.isnan(result).any(axis=1)).tolist() == [3]
    np.testing.assert_allclose(result[others], whole[others], atol=1e-5)
    assert np.abs(result[5] - whole[5]).max() > 1e-3
    empty = replace(gappy, views={**views, "street_view": street.take(np.arange(0))})
    assert np.isfinite(system.encode(empty)["both"][others]).all()
    pixels = street.pixels.copy()
    for slot, matters in ((3, False), (2, True)):
        pixels[slot::4] = 0
        dark = replace(data, views={**data.views, "street_view": replace(street, pixels=pixels)})
        assert np.array_equal(system.encode(dark)["both"], whole) != matters


# ------------------------------------------------------------------------ checkpoints


def test_resnet_checkpoints_must_exist_and_be_complete(tmp_path):
    trunk = Trunk(TrunkSettings(**TRUNK))
    trunk.resnet.save_pretrained(tmp_path / "whole")
    loaded = Trunk(TrunkSettings(model_name_or_path=str(tmp_path / "whole"))).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in trunk.state_dict().items())
    gaps = {k: v for k, v in trunk.resnet.state_dict().items() if "stages.1" not in k}
    trunk.resnet.save_pretrained(tmp_path / "gaps", state_dict=gaps)
    for name, message in (("gaps", "is an incomplete ResNet"), ("no", "--size cpu")):
        with pytest.raises(InputError, match=message):
            Trunk(TrunkSettings(model_name_or_path=str(tmp_path / name)))


def test_clip_checkpoints_must_exist_and_fit_the_recipe(tiny_clip, tmp_path):
    tiny_clip.save_pretrained(tmp_path)
    fitting = replace(URBANCLIP, model_name_or_path=str(tmp_path), image_size=30)
    assert clip_model(fitting, 9).config.projection_dim == 16
    with pytest.raises(InputError, match="takes images of 30 pixels and at most 77 tokens"):
        clip_model(replace(fitting, max_length=248), 9)
    with pytest.raises(InputError, match=r"No CLIP at.*--size cpu"):
        clip_model(replace(fitting, model_name_or_path=str(tmp_path / "none")), 9)
    data = toy_city(3)
    fields = {"model_name_or_path": str(tmp_path), "image_size": 30}
    frozen = short("urbanclip-full", data, **fields, learning_rate=0.0)
    trained = short("urbanclip-full", data, **fields)
    own, other = (system.model.clip.state_dict() for system in (frozen, trained))
    assert all(torch.equal(own[key], value) for key, value in tiny_clip.state_dict().items())
    key = "vision_model.embeddings.patch_embedding.weight"
    assert not torch.equal(own[key], other[key])


@pytest.mark.parametrize("view_fusion", ["mean", "pixel25"])
def test_urbanvlp_sums_the_views_of_a_checkpoint(tiny_clip, tmp_path, view_fusion):
    tiny_clip.save_pretrained(tmp_path)
    data = toy_city(2, views=3)
    fields = {
        "model_name_or_path": str(tmp_path),
        "image_size": 30,
        "view_fusion": view_fusion,
    }
    untouched = short("urbanvlp-nocoord", data, **fields, learning_rate=0.0)
    satellite, street = (
        pixel_values(data.views[name].pixels, 30, "cpu") for name in ("satellite", "street_view")
    )
    with torch.no_grad():
        views = tiny_clip.get_image_features(pixel_values=street).pooler_output
        if view_fusion == "mean":
            fused = views.reshape(4, 3, -1).mean(dim=1)
        else:
            stacked = street.reshape(4, 3, 3, 30, 30).permute(0, 2, 3, 4, 1)
            mixed = untouched.model.mixing(stacked).squeeze(-1)
            fused = tiny_clip.get_image_features(pixel_values=mixed).pooler_output
        expected = tiny_clip.get_image_features(pixel_values=satellite).pooler_output + fused
    np.testing.assert_allclose(untouched.encode(data)["both"], expected, atol=1e-5)
