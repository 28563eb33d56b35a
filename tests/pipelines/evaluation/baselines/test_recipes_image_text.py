from dataclasses import fields
from importlib import import_module
from pathlib import Path

import pytest
import yaml

RECIPES = Path(__file__).resolve().parents[4] / "configs" / "baselines"
MODULES = {
    "remoteclip": "remoteclip",
    "urbanclip-sentence": "urbanclip",
    "urbanclip-full": "urbanclip",
    "urbanvlp": "urbanvlp",
    "urbanvlp-nocoord": "urbanvlp",
}


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("size", ["paper", "cpu"])
def test_recipe_makes_the_system_of_its_name(name, size):
    module = import_module(f"pipelines.evaluation.baselines.{MODULES[name]}")
    recipe = yaml.safe_load((RECIPES / f"{name}.yaml").read_text())
    assert set(recipe) == {"paper", "cpu"}
    values = recipe[size]
    types = {field.name: field.type for field in fields(module.Settings)}
    assert set(values) <= set(types)
    # 3e-4 without a dot is text in YAML
    assert all(isinstance(v, float) for k, v in values.items() if types[k] is float)

    system = module.SYSTEM(module.Settings(**values), 0, "cpu")

    assert system.name.removesuffix("-random-weights") == name
    assert (system.provenance.pretrained is None) == (size == "cpu")
    if size == "cpu":
        assert set(values) == set(types), "a recipe for drawn weights says every value"
