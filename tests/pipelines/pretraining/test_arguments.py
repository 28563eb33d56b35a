import json
from pathlib import Path

import pytest

from pipelines.common.errors import InputError
from pipelines.pretraining.arguments import parse_arguments, parse_config_overrides

NEEDED = ["--dataset_name", "d", "--output_dir", "o", "--model_name_or_path", "m"]
RECIPES = sorted((Path(__file__).resolve().parents[3] / "configs").glob("*.yaml"))


@pytest.fixture
def recipe(tmp_path):
    def write(text):
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        return ["--config", str(path)]

    return write


def test_flags_override_the_recipe_and_the_recipe_defaults(recipe):
    config = recipe(
        "learning_rate: 1e-7\nseed: 5\nviews: [street_view, satellite]\ncities: null\n"
        "group_by_length: false\nshuffle_sentences: true\n"
    )
    values = parse_arguments([*config, *NEEDED, "--seed", "6", "--group_by_length"]).to_dict()
    assert values["learning_rate"] == 1e-7
    assert values["seed"] == 6
    assert values["views"] == ["street_view", "satellite"]
    assert values["cities"] is None
    assert values["num_train_epochs"] == 3
    assert values["group_by_length"]
    assert values["shuffle_sentences"]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_project_recipes_are_valid(path):
    values = parse_arguments(["--config", str(path), "--dataset_name", "d", "--output_dir", "o"])
    assert values.optimization.learning_rate > 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rat: 1\n", "unknown key 'learning_rat'.* 'learning_rate'"),
        ("learning_rate: fast\n", "invalid float value: 'fast'"),
        ("- a\n- b\n", "must be a mapping, got list"),
        ("a: [\n", "is not YAML"),
    ],
)
def test_rejects_bad_recipes(recipe, text, message):
    with pytest.raises(InputError, match=message):
        parse_arguments([*recipe(text), *NEEDED])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--learning-rte", "1"], "Did you mean 'learning_rate'"),
        (["--config", "nowhere.yaml"], "no recipe at 'nowhere.yaml'"),
        (["--per_device_train_batch_size", "0"], "must be at least 1, got 0"),
        (["--caption_sampling", "worst"], "caption_sampling"),
        (["--validation_split_percentage", "100"], r"must lie in \[0, 100\), got 100"),
        (["--lora_rank", "4", "--train_last_k_blocks", "1"], "exclude one another"),
        (["--contrastive_keys", "student", "--queue_size", "8"], "excludes --queue_size 8"),
        (["--contrastive_keys", "both", "--gradient_caching"], "excludes --gradient_caching"),
        (["--dataset_name", ""], "--dataset_name is missing"),
        (["--model_name_or_path", ""], "Pass --model_name_or_path"),
    ],
)
def test_rejects_bad_flags(flags, message):
    with pytest.raises(InputError, match=message):
        parse_arguments([*NEEDED, *flags])


def test_config_overrides_are_json_or_a_mapping_of_a_recipe(recipe):
    expected = {"queue_size": 8, "text_config": {"hidden_size": 32, "layer_norm_eps": 1e-6}}
    assert parse_config_overrides(json.dumps(expected)) == expected
    config = recipe(
        "config_overrides:\n  queue_size: 8\n"
        "  text_config: {hidden_size: 32, layer_norm_eps: 1e-6}\n"
    )
    model = parse_arguments([*config, *NEEDED]).model
    assert parse_config_overrides(model.config_overrides) == expected
    with pytest.raises(InputError, match="not valid JSON"):
        parse_config_overrides("queue_size=8")
    with pytest.raises(InputError, match="must be a JSON object, got"):
        parse_config_overrides("[8]")
