from dataclasses import fields
from pathlib import Path

import pytest

from dataset_builders.yaml_records import read_layered_yaml
from pipelines.evaluation.baselines.registry import make, read_settings

RECIPES = Path(__file__).resolve().parents[4] / "configs" / "baselines"
NAMES = {
    "remoteclip": "remoteclip",
    "urbanclip": "urbanclip-sentence",
    "urbanclip-full": "urbanclip-full",
    "urbanvlp": "urbanvlp",
    "urbanvlp-nocoord": "urbanvlp-nocoord",
}


@pytest.mark.parametrize("system", NAMES)
@pytest.mark.parametrize("size", ["paper", "cpu"])
def test_recipe_makes_the_system_of_its_name(system, size):
    made = make(system, size)
    assert made.name.removesuffix("-random-weights") == NAMES[system]
    assert (made.provenance.pretrained is None) == (size == "cpu")
    # images are decoded at this size: the towers that are loaded by name see 224 pixels
    assert read_settings(system, size).image_size == (64 if size == "cpu" else 224)


@pytest.mark.parametrize("system", NAMES)
def test_recipe_for_drawn_weights_says_every_value(system):
    recipe = read_layered_yaml(RECIPES / f"{system}.yaml")
    assert {*recipe.get("shared", {}), *recipe["cpu"]} == {
        field.name for field in fields(read_settings(system, "cpu"))
    }


def test_variants_differ_in_what_their_name_says_alone():
    for size in ("paper", "cpu"):
        seeing, blind = (
            vars(read_settings(name, size)) for name in ("urbanvlp", "urbanvlp-nocoord")
        )
        assert seeing | {"coordinates": False} == blind
        sentence, full = (
            vars(read_settings(name, size)) for name in ("urbanclip", "urbanclip-full")
        )
        # drawn towers have room for a whole caption; those of a checkpoint have not
        length = 248 if size == "cpu" else 77
        assert sentence | {"text": "full", "max_length": length} == full
