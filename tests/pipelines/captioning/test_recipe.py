from pathlib import Path

import pytest
import yaml

from pipelines.captioning.__main__ import main
from pipelines.captioning.errors import CaptioningError
from pipelines.captioning.kit import open_part
from pipelines.captioning.recipe import Component, make_recipe, read_recipe

MINIMAL = {"dataset_name": "city", "output_dir": "out", "models": [{"name": "m"}]}


RECIPES = sorted((Path(__file__).resolve().parents[3] / "configs" / "captioning").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_of_the_project_are_valid(path, city_with_truth, capsys):
    main(["run", str(path), "--dataset_name", str(city_with_truth), "--dry_run"])
    assert "images; per model about" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("kind", "component", "message"),
    [
        ("segmenter", Component("yolo"), r"Unknown segmenter 'yolo'; use one of \['felzenszwalb',"),
        ("segmenter", Component("felzenszwalb", {"size": 3}), "'felzenszwalb': .*argument 'size'"),
        ("parser", Component("punkt"), r"'punkt'.*'factual', 'spacy'"),
        ("detector", Component("owlv2", {"checkpoint": "x"}), "options of the detector 'owlv2'"),
    ],
)
def test_open_part_rejects_unknown_names_and_options(kind, component, message):
    with pytest.raises(CaptioningError, match=message):
        open_part(kind, component)


def test_nested_fields_are_converted(tmp_path):
    path = tmp_path / "recipe.yaml"
    values = MINIMAL | {
        "segment": {"segmenter": "sam"},
        "filter": {"detector": {"name": "owlv2", "options": {"model": "x"}}, "threshold": 1},
        "generate": {"temperature": [0, 1]},
        "cities": "harborview",
    }
    path.write_text(yaml.safe_dump(values))
    recipe = read_recipe(path, output_dir="elsewhere", max_images=None)
    assert recipe.segment.segmenter == Component("sam")
    assert recipe.filter.detector.options == {"model": "x"}
    assert recipe.filter.threshold == 1.0
    assert recipe.generate.temperature == (0.0, 1.0)
    assert recipe.cities == ("harborview",)
    assert recipe.output_dir == "elsewhere"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"generate": {"captions_per_model": "3"}}, "captions_per_model` must be a whole number"),
        ({"generate": {"captions_per_model": True}}, "must be a whole number, got true"),
        ({"generate": {"captions_per_model": 0}}, "must be greater than or equal to 1, got 0"),
        ({"generate": 3}, "`generate` must be a mapping"),
        ({"filter": {"threshold": "low"}}, "`filter.threshold` must be a number"),
        ({"consensus": {"weights": [1, 2]}}, "`consensus.weights` must have 3 values"),
        ({"generate": {"temperature": []}}, "generate.temperature: needs at least one value"),
        ({"prompts": {"descibe": {"satellite": "x"}}}, "'describe', 'local', 'merge'"),
        ({"models": []}, "models: a recipe needs at least one model"),
        ({"models": [{"preset": "x"}]}, "every model must have a `name`"),
        ({"models": [{"name": "a"}, {"name": "a"}]}, "names must differ: a, a"),
    ],
)
def test_invalid_fields_are_named(change, message):
    with pytest.raises(CaptioningError, match=message):
        make_recipe(MINIMAL | change)


def test_all_errors_are_reported_at_once():
    wrong = {
        "dataset_name": "city",
        "models": [{"name": "m"}],
        "generat": {},
        "generate": {"captions_per_modl": 3, "temperature": ["hot"]},
        "filter": {"threshold": "low"},
    }
    with pytest.raises(CaptioningError) as refused:
        make_recipe(wrong)
    lines = str(refused.value).splitlines()
    assert len(lines) == 1 + 5
    for found in (
        "lacks output_dir",
        "no field 'generat' in a recipe. Did you mean 'generate'?",
        "no field 'generate.captions_per_modl' in a recipe. Did you mean 'captions_per_model'?",
        "`generate.temperature[0]` must be a number, got 'hot'",
        "`filter.threshold` must be",
    ):
        assert sum(found in line for line in lines) == 1


@pytest.mark.parametrize(
    ("text", "message"), [("[1, 2]", "must be a mapping"), ("a: [", "not YAML")]
)
def test_a_file_that_is_not_a_recipe_raises(tmp_path, text, message):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(CaptioningError, match=message):
        read_recipe(path)


def test_a_missing_file_raises(tmp_path):
    with pytest.raises(CaptioningError, match="cannot be read"):
        read_recipe(tmp_path / "none.yaml")


def test_outcome_fields_exclude_execution_settings():
    recipe = make_recipe(MINIMAL)
    other = make_recipe(MINIMAL | {"output_dir": "b", "run": {"images_in_flight": 3}})
    assert recipe.outcome_fields() == other.outcome_fields()
    assert recipe.outcome_fields() != make_recipe(MINIMAL | {"seed": 1}).outcome_fields()
