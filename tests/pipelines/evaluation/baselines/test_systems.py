"""Image-only systems: training, inputs and reproducibility."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from pipelines.evaluation.baselines import musecl, pg_simclr, tile2vec
from pipelines.evaluation.baselines.base import FUSED, RegionData
from pipelines.evaluation.baselines.trunk import Trunk, TrunkSettings
from pipelines.evaluation.errors import InputError

from .tiny_recipes import MUSECL, SIMCLR, SYSTEMS, TILE2VEC, TRUNK, quartered_city

DATA = quartered_city()
USES = {
    "musecl-nomob": {"satellite", "street_view", "poi"},
    "pg-simclr": {"satellite", "poi", "coordinates"},
    "simclr-adjacency": {"satellite", "coordinates"},
    "tile2vec": {"satellite", "coordinates"},
}


def _fit(name: str, seed: int = 0, data: RegionData = DATA):
    kind, settings = SYSTEMS[name]
    system = kind(settings, seed, "cpu")
    system.fit(data)
    return system


@pytest.fixture(scope="module", params=sorted(SYSTEMS))
def fitted(request):
    system = _fit(request.param)
    return request.param, system, system.encode(DATA)


def test_a_seed_is_a_vector_and_settings_are_its_fingerprint(fitted):
    name, system, vectors = fitted
    kind, settings = SYSTEMS[name]
    again, other = _fit(name), _fit(name, seed=1)
    larger = kind(dataclasses.replace(settings, image_size=64), 0, "cpu")
    assert again.fingerprint == system.fingerprint
    assert len({one.fingerprint for one in (system, other, larger)}) == 3
    others = other.encode(DATA)
    for view, values in again.encode(DATA).items():
        np.testing.assert_array_equal(values, vectors[view])
        assert np.nanmax(np.abs(others[view] - vectors[view])) > 1e-4


def test_a_table_says_what_was_seen_and_lacks_vectors_only_where_images_do(fitted):
    name, system, vectors = fitted
    assert system.name == name
    assert system.provenance.pretrained is None
    assert system.provenance.uses == USES[name]
    assert set(vectors) <= set(system.provenance.uses) | {FUSED}
    for view, values in vectors.items():
        assert values.dtype == np.float32
        missing = np.flatnonzero(~np.isfinite(values).all(axis=1))
        assert missing.tolist() == ([0] if view == "street_view" else [])


@pytest.mark.parametrize("name", sorted(SYSTEMS))
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
        if stage != "image":  # one epoch only
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
            "needs counts of points of interest.*Use --system simclr-adjacency instead",
        ),
        (
            musecl.SYSTEM(MUSECL, 0, "cpu"),
            quartered_city(poi=False),
            "needs counts of points of interest",
        ),
        (
            musecl.SYSTEM(MUSECL, 0, "cpu"),
            dataclasses.replace(DATA, views={"satellite": DATA.views["satellite"]}),
            "musecl-nomob needs street_view images, and quarters has none, only satellite\\.",
        ),
        (
            tile2vec.SYSTEM(TILE2VEC, 0, "cpu"),
            dataclasses.replace(DATA, xy=np.full((64, 2), np.nan)),
            "at least three regions with satellite images and coordinates, and quarters has 0",
        ),
    ],
)
def test_data_it_cannot_learn_from_are_told(system, data, message):
    with pytest.raises(InputError, match=message):
        system.fit(data)


@pytest.mark.parametrize("name", sorted(SYSTEMS))
def test_encoding_before_fitting_is_told(name):
    kind, settings = SYSTEMS[name]
    with pytest.raises(InputError, match="is not fitted: call fit first"):
        kind(settings, 0, "cpu").encode(DATA)


def test_a_checkpoint_is_loaded_and_one_that_is_absent_or_has_gaps_is_refused(tmp_path):
    trunk = Trunk(TrunkSettings(**TRUNK))
    trunk.resnet.save_pretrained(tmp_path / "whole")
    loaded = Trunk(TrunkSettings(model_name_or_path=str(tmp_path / "whole")))
    for name, value in trunk.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)
    weights = trunk.resnet.state_dict().items()
    gaps = {key: value for key, value in weights if "stages.1" not in key}
    trunk.resnet.save_pretrained(tmp_path / "gaps", state_dict=gaps)
    for name, said in (
        ("gaps", "is an incomplete ResNet: .* weights are missing"),
        ("no", "--size cpu"),
    ):
        with pytest.raises(InputError, match=said):
            Trunk(TrunkSettings(model_name_or_path=str(tmp_path / name)))
