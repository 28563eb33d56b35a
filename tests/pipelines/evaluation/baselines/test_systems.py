"""Every system of images alone: what it learns, from what, and that a seed is a vector."""

import dataclasses

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from pipelines.evaluation.baselines import clip, musecl, pg_simclr, resnet, tile2vec
from pipelines.evaluation.baselines.base import FUSED, RegionData
from pipelines.evaluation.errors import InputError

from .tiny_recipes import CLIP, MUSECL, SIMCLR, SYSTEMS, TILE2VEC, TRUNK, quartered_city

DATA = quartered_city()
TRAINED = ("musecl-nomob", "pg-simclr", "simclr-adjacency", "tile2vec")


def _fit(name: str, seed: int = 0, data: RegionData = DATA):
    kind, settings = SYSTEMS[name]
    system = kind(settings, seed, "cpu")
    system.fit(data)
    return system


@pytest.fixture(scope="module", params=sorted(SYSTEMS))
def fitted(request):
    system = _fit(request.param)
    return request.param, system, system.encode(DATA)


def test_name_says_the_variant(fitted):
    name, system, _ = fitted
    assert system.name == name


def test_same_seed_gives_the_same_vectors_and_another_seed_others(fitted):
    name, system, vectors = fitted
    again, other = _fit(name), _fit(name, seed=1)
    assert again.fingerprint == system.fingerprint != other.fingerprint
    others = other.encode(DATA)
    for view, values in again.encode(DATA).items():
        np.testing.assert_array_equal(values, vectors[view])
        assert np.nanmax(np.abs(others[view] - vectors[view])) > 1e-4


def test_vectors_are_nan_exactly_where_there_is_no_image(fitted):
    _, system, vectors = fitted
    assert set(vectors) <= set(system.provenance.uses) | {FUSED}
    for view, values in vectors.items():
        assert values.dtype == np.float32
        assert len(values) == 64
        missing = np.flatnonzero(~np.isfinite(values).all(axis=1))
        assert missing.tolist() == ([0] if view == "street_view" else [])


def test_settings_change_the_fingerprint(fitted):
    name, system, _ = fitted
    kind, settings = SYSTEMS[name]
    other = kind(dataclasses.replace(settings, image_size=64), 0, "cpu")
    assert other.fingerprint != system.fingerprint


def test_provenance_says_that_weights_are_random_and_what_differs(fitted):
    _, system, _ = fitted
    assert system.provenance.pretrained is None
    assert system.provenance.source
    assert system.provenance.differs


@pytest.mark.parametrize("name", TRAINED)
def test_training_lowers_the_loss(name):
    kind, settings = SYSTEMS[name]
    longer = {
        "musecl": {"satellite_epochs": 6, "street_view_epochs": 6, "fusion_epochs": 30},
        "pg-simclr": {"epochs": 12},
        "simclr-adjacency": {"epochs": 12},
        "tile2vec": {"epochs": 8},
    }
    system = kind(dataclasses.replace(settings, **longer[name.removesuffix("-nomob")]), 0, "cpu")
    system.fit(DATA)
    curves = system.losses if isinstance(system.losses, dict) else {"all": system.losses}
    for stage, losses in curves.items():
        if stage != "image":  # a pass of it only
            fifth = len(losses) // 5
            assert np.mean(losses[-fifth:]) < 0.97 * np.mean(losses[:fifth]), stage


def test_tile2vec_brings_regions_of_a_quarter_together():
    system = tile2vec.SYSTEM(dataclasses.replace(TILE2VEC, epochs=8), 0, "cpu")
    system.fit(DATA)
    vectors = system.encode(DATA)["satellite"]
    assert DATA.poi is not None
    quarter = DATA.poi.argmax(axis=1)
    distances = cdist(vectors, vectors)
    same = quarter[:, None] == quarter[None, :]
    assert distances[same].mean() < 0.3 * distances[~same].mean()


@pytest.mark.parametrize(
    ("system", "uses"),
    [
        (pg_simclr.SYSTEM(SIMCLR, 0, "cpu"), {"satellite", "poi", "coordinates"}),
        (_fit("simclr-adjacency"), {"satellite", "coordinates"}),
        (tile2vec.SYSTEM(TILE2VEC, 0, "cpu"), {"satellite", "coordinates"}),
        (musecl.SYSTEM(MUSECL, 0, "cpu"), {"satellite", "street_view", "poi"}),
        (
            musecl.SYSTEM(dataclasses.replace(MUSECL, street_view_positives="mobility"), 0, "cpu"),
            {"satellite", "street_view", "poi", "mobility"},
        ),
        (clip.SYSTEM(CLIP, 0, "cpu"), {"satellite", "street_view"}),
    ],
)
def test_uses_is_what_it_sees(system, uses):
    assert system.provenance.uses == uses


def test_musecl_takes_trips_where_there_are_some():
    trips = np.random.default_rng(0).random((64, 64))
    settings = dataclasses.replace(MUSECL, street_view_positives="mobility")
    vectors = []
    for mobility in (trips, trips[::-1]):
        system = musecl.SYSTEM(settings, 0, "cpu")
        assert system.name == "musecl"
        system.fit(dataclasses.replace(DATA, mobility=mobility))
        vectors.append(system.encode(DATA)[FUSED])
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-5


def test_musecl_of_a_region_with_one_view_is_that_view():
    system = _fit("musecl-nomob")
    vectors, present = system._stack(DATA)
    assert present[0].tolist() == [True, False]
    np.testing.assert_allclose(system.encode(DATA)[FUSED][0], vectors[0, 0], rtol=1e-6)


def test_pg_simclr_puts_its_two_networks_side_by_side():
    system = _fit("pg-simclr")
    vectors = system.encode(DATA)["satellite"]
    assert vectors.shape[1] == 2 * TRUNK["widths"][-1]
    assert not np.allclose(*np.split(vectors, 2, axis=1))
    assert list(system.losses) == ["image", "poi", "adjacency"]


def test_street_view_variants_are_named_so():
    settings = dataclasses.replace(TILE2VEC, view="street_view")
    system = tile2vec.SYSTEM(settings, 0, "cpu")
    system.fit(DATA)
    vectors = system.encode(DATA)
    assert system.name == "tile2vec-street-view"
    assert list(vectors) == ["street_view"]
    assert np.isnan(vectors["street_view"][0]).all()
    named = pg_simclr.SYSTEM(dataclasses.replace(SIMCLR, view="street_view"), 0, "cpu").name
    assert named == "pg-simclr-street-view"


@pytest.mark.parametrize(
    ("system", "data", "message"),
    [
        (
            pg_simclr.SYSTEM(SIMCLR, 0, "cpu"),
            quartered_city(poi=False),
            "needs counts of points of interest.*--system simclr-adjacency does without",
        ),
        (
            musecl.SYSTEM(MUSECL, 0, "cpu"),
            quartered_city(poi=False),
            "needs counts of points of interest",
        ),
        (
            musecl.SYSTEM(dataclasses.replace(MUSECL, street_view_positives="mobility"), 0, "cpu"),
            DATA,
            "needs trips between regions.*--system musecl-nomob",
        ),
        (
            musecl.SYSTEM(MUSECL, 0, "cpu"),
            dataclasses.replace(DATA, views={"satellite": DATA.views["satellite"]}),
            "musecl-nomob sees street_view images, and quarters has none, only satellite\\.",
        ),
        (
            tile2vec.SYSTEM(TILE2VEC, 0, "cpu"),
            dataclasses.replace(DATA, xy=np.full((64, 2), np.nan)),
            "learns from triplets of regions, and quarters has 0",
        ),
    ],
)
def test_data_it_cannot_learn_from_are_told(system, data, message):
    with pytest.raises(InputError, match=message):
        system.fit(data)


@pytest.mark.parametrize("name", TRAINED)
def test_encoding_before_fitting_is_told(name):
    kind, settings = SYSTEMS[name]
    with pytest.raises(InputError, match="has learnt nothing yet: call fit first"):
        kind(settings, 0, "cpu").encode(DATA)


def test_missing_weights_are_told_with_what_to_do(tmp_path):
    folder = str(tmp_path / "absent")
    cases = (
        (resnet, resnet.Settings(model_name_or_path=folder), "take --size cpu"),
        (clip, clip.Settings(model_name_or_path=folder), "measure --system clip-random"),
        (
            clip,
            clip.Settings(model_name_or_path=folder, variant="clip-stretched"),
            "python -m pipelines.release convert longclip-B.pt",
        ),
    )
    for module, settings, message in cases:
        with pytest.raises(InputError, match=message):
            module.SYSTEM(settings, 0, "cpu").encode(DATA)


def test_resnet_loads_a_folder_and_refuses_one_with_gaps(tmp_path):
    from pipelines.evaluation.baselines.trunk import Trunk

    drawn = resnet.Settings(**TRUNK)
    trunk = Trunk(drawn)
    trunk.resnet.save_pretrained(tmp_path / "whole")
    settings = resnet.Settings(model_name_or_path=str(tmp_path / "whole"), image_size=32)
    system = resnet.SYSTEM(settings, 0, "cpu")
    assert system.name == "resnet18"
    assert system.provenance.pretrained == str(tmp_path / "whole")
    vectors = system.encode(DATA)["satellite"]
    assert vectors.shape == (64, 16)
    trunk.resnet.save_pretrained(
        tmp_path / "gaps",
        state_dict={
            key: value for key, value in trunk.resnet.state_dict().items() if "stages.1" not in key
        },
    )
    gaps = resnet.Settings(model_name_or_path=str(tmp_path / "gaps"), image_size=32)
    with pytest.raises(InputError, match=r"is no whole ResNet: .* weights are missing"):
        resnet.SYSTEM(gaps, 0, "cpu").encode(DATA)


def test_frozen_clip_of_a_folder_is_its_own_image_tower(tmp_path, tiny_clip):
    import torch
    from PIL import Image
    from transformers import CLIPImageProcessor

    tiny_clip.save_pretrained(tmp_path)
    processor = CLIPImageProcessor(size={"height": 30, "width": 30}, do_center_crop=False)
    processor.save_pretrained(tmp_path)
    system = clip.SYSTEM(clip.Settings(model_name_or_path=str(tmp_path), image_size=30), 0, "cpu")
    vectors = system.encode(DATA)["satellite"]
    assert system.name == "clip"
    assert vectors.shape == (64, 16)
    image = Image.fromarray(DATA.views["satellite"].pixels[5])
    with torch.inference_mode():
        values = processor(images=image, return_tensors="pt")["pixel_values"]
        expected = tiny_clip.get_image_features(pixel_values=values).pooler_output[0]
    np.testing.assert_allclose(vectors[5], expected.numpy(), atol=1e-5)
