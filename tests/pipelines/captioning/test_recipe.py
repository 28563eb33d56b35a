from pathlib import Path

import pytest
import yaml

from dataset_builders.errors import DatasetError
from pipelines.captioning.__main__ import main
from pipelines.captioning.kit import open_part
from pipelines.captioning.recipe import Component, make_recipe, read_recipe

MINIMAL = {"dataset_name": "city", "output_dir": "out", "models": [{"name": "m"}]}
RECIPES = sorted((Path(__file__).resolve().parents[3] / "configs" / "captioning").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_of_the_project_are_valid(path, city_with_truth, capsys):
    main(["run", str(path), "--dataset_name", str(city_with_truth), "--dry_run"])
    assert "images; per model about" in capsys.readouterr().out


def test_open_part_rejects_unknown_names_and_options():
    with pytest.raises(DatasetError, match=r"Unknown segmenter 'yolo'; .*'felzenszwalb'"):
        open_part("segmenter", Component("yolo"))
    with pytest.raises(DatasetError, match=r"the detector 'owlv2': .*argument 'size'"):
        open_part("detector", Component("owlv2", {"size": 3}))


def test_reads_nested_fields_and_overrides(tmp_path):
    path = tmp_path / "recipe.yaml"
    values = MINIMAL | {
        "segment": {"segmenter": "sam"},
        "filter": {"detector": {"name": "owlv2", "options": {"model": "x"}}, "threshold": 1},
        "cities": "harborview",
    }
    path.write_text(yaml.safe_dump(values))
    recipe = read_recipe(path, output_dir="elsewhere", max_images=None)
    assert recipe.segment.segmenter == Component("sam")
    assert recipe.filter.detector.options == {"model": "x"}
    assert recipe.filter.threshold == 1.0
    assert recipe.cities == ("harborview",)
    assert recipe.output_dir == "elsewhere"
    path.write_text("a: [")
    with pytest.raises(DatasetError, match=r"recipe\.yaml.* not YAML"):
        read_recipe(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"generate": {"captions_per_model": True}}, "must be a whole number, got true"),
        ({"consensus": {"weights": [1, 2]}}, "`consensus.weights` must have 3 values"),
        ({"consensus": {"weights": [0, 0, 0]}}, "consensus.weights: must not be negative"),
        ({"generate": {"temperature": []}}, "generate.temperature: needs at least one value"),
        ({"models": []}, "models: a recipe needs at least one model"),
        ({"models": [{"preset": "x"}]}, "every model must have a `name`"),
        ({"models": [{"name": "a"}, {"name": "a"}]}, "names must differ: a, a"),
        (
            {"generate": {"captions_per_modl": 3}, "filter": {"threshold": "low"}},
            "(?s)'generate.captions_per_modl'.*Did you mean 'captions_per_model'"
            ".*`filter.threshold` must be a number",
        ),
    ],
)
def test_names_all_invalid_fields(change, message):
    with pytest.raises(DatasetError, match=message):
        make_recipe(MINIMAL | change)
