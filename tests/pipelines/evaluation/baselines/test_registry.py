"""Every recipe builds its system; invalid recipes raise errors."""

import pytest
import yaml

from pipelines.evaluation.baselines import registry
from pipelines.evaluation.baselines.registry import SIZES, SYSTEMS, make, read_settings
from pipelines.evaluation.errors import InputError


def test_every_system_has_a_recipe_and_every_recipe_a_system():
    assert sorted(path.stem for path in registry.RECIPES.glob("*.yaml")) == sorted(SYSTEMS)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", sorted(SYSTEMS))
def test_every_recipe_makes_its_system_and_tells_its_seeds_apart(name, size):
    system, other = (make(name, size, seed=seed) for seed in (3, 4))
    assert other.fingerprint != system.fingerprint


def test_networks_of_another_size_are_told_and_published_ones_are_not():
    for name in ("musecl-nomob", "pg-simclr", "tile2vec"):
        assert (
            "Another size: images of 64 pixels, not 224; a"
            in make(name, "cpu").provenance.differs[-1]
        )
        told = " ".join(make(name, "paper").provenance.differs)
        assert "Another size" not in told
        assert "Random initialisation" not in told


def test_overrides_stand_above_the_recipe():
    settings = read_settings("tile2vec", "cpu", margin=3, widths=[8, 16], depths=[1, 1])
    assert settings.margin == 3.0
    assert isinstance(settings.margin, float)
    assert settings.widths == (8, 16)
    assert settings.l2 == read_settings("tile2vec", "cpu").l2


@pytest.mark.parametrize(
    ("name", "size", "overrides", "message"),
    [
        ("tile2vek", "cpu", {}, "no system 'tile2vek'. Did you mean 'tile2vec'"),
        ("zzz", "cpu", {}, "no system 'zzz'. There are: musecl-nomob, "),
        ("remoteclip", "cpu", {}, "frozen encoder.*embed --encoder BiliSakura"),
        ("tile2vec", "huge", {}, "--size must be one of paper, cpu, got 'huge'"),
        ("tile2vec", "cpu", {"margn": 1.0}, "no field 'margn'.* Did you mean 'margin'"),
        ("tile2vec", "cpu", {"epochs": "many"}, "`epochs` must be a whole number, got 'many'"),
        ("tile2vec", "cpu", {"view": "thermal"}, "`view` must be one of .*got 'thermal'"),
        ("tile2vec", "cpu", {"depths": [1]}, "one number per stage"),
        ("tile2vec", "cpu", {"image_size": 0}, "must be 1 or more"),
        ("pg-simclr", "cpu", {"positives": ["poi", "poi"]}, "each once; got"),
    ],
)
def test_what_cannot_be_is_told(name, size, overrides, message):
    with pytest.raises(InputError, match=message):
        make(name, size, **overrides)


def test_a_recipe_with_an_unknown_key_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "RECIPES", tmp_path)
    path = tmp_path / "tile2vec.yaml"
    path.write_text(yaml.safe_dump({"cpu": {"batch_sise": 3}, "paper": {}}))
    with pytest.raises(InputError, match=r"tile2vec\.yaml.*'batch_sise'.*'batch_size'"):
        read_settings("tile2vec", "cpu")
    path.write_text(yaml.safe_dump({"cpu": {}, "papr": {}}))
    with pytest.raises(InputError, match=r"'papr'.* Did you mean 'paper'"):
        read_settings("tile2vec", "cpu")
    path.write_text(yaml.safe_dump({"cpu": {}}))
    with pytest.raises(InputError, match="has no size 'paper', only cpu"):
        read_settings("tile2vec", "paper")
