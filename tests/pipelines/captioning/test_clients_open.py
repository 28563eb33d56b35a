"""What a recipe may say of a model, and what the presets say of transformers."""

import re
from typing import Any

import pytest
import transformers

from pipelines.captioning import clients
from pipelines.captioning.clients import PRESETS
from pipelines.captioning.errors import CaptioningError
from pipelines.captioning.records import CaptionModel

SERVED: dict[str, Any] = {"name": "m", "model": "org/model", "base_url": "http://localhost:8000/v1"}
LOCAL: dict[str, Any] = {"name": "m", "model": "org/model", "client": "in_process"}


def open_model(config: dict[str, Any]) -> Any:
    """A model with all that its client has beyond the protocol."""
    return clients.open_model(config)


def test_open_model_gives_caption_models():
    for config in (SERVED, LOCAL):
        model = open_model(config)
        assert isinstance(model, CaptionModel)
        assert model.name == "m"
    assert open_model(LOCAL).in_process is True
    assert open_model(SERVED).in_process is False


@pytest.mark.parametrize(
    ("base", "changes", "message"),
    [
        (SERVED, {"temprature": 1}, "Model 'm' has no field 'temprature'"),
        (SERVED, {"max_concurency": 1}, "did you mean 'max_concurrency'"),
        (LOCAL, {"batchsize": 1}, "did you mean 'batch_size'"),
        (LOCAL, {"base_url": "http://localhost/v1"}, "has no field 'base_url'"),
        (SERVED, {"client": "grpc"}, "has client 'grpc'; there are openai and in_process"),
        (SERVED, {"max_concurrency": 0}, "`max_concurrency` of model 'm' must be 1 or more"),
        (SERVED, {"max_concurrency": "9"}, "`max_concurrency` must be a int, got '9'"),
        (SERVED, {"max_concurrency": True}, "`max_concurrency` must be a int, got True"),
        (SERVED, {"timeout_s": float("nan")}, "`timeout_s` of model 'm' must be 0.01 or more"),
        (SERVED, {"omit": ["prompt"]}, "`omit` must be one of"),
        (SERVED, {"price_per_million_input": -1}, "must be 0 or more, got -1"),
        (SERVED, {"base_url": "localhost:8000"}, "must be like http://localhost:8000/v1"),
        (SERVED, {"base_url": "ftp://host/v1"}, "must be like http://"),
        (SERVED, {"extra_body": {"seed": 1}}, "`extra_body` of model 'm' may not set seed"),
        (SERVED, {"api_key_env": "NO_SUCH_VARIABLE"}, "NO_SUCH_VARIABLE, which is not set"),
        (SERVED, {"model": ""}, "`model` of a model is empty"),
        (LOCAL, {"dtype": "int4"}, "`dtype` must be one of"),
        (SERVED, {"preset": "internvl3"}, "no preset 'internvl3'.*Did you mean 'internvl3-8b'"),
    ],
)
def test_open_model_says_what_is_wrong(base, changes, message):
    with pytest.raises(CaptioningError, match=message):
        open_model(base | changes)


def test_open_model_names_what_is_missing():
    with pytest.raises(CaptioningError, match="Model 'm' lacks model, base_url"):
        open_model({"name": "m"})


@pytest.mark.parametrize("url", ["https://u:sk-123@host/v1", "https://host/v1?key=sk-123"])
def test_open_model_refuses_keys_in_the_address_without_showing_them(url):
    with pytest.raises(CaptioningError, match="holds more than host and path") as caught:
        open_model(SERVED | {"base_url": url})
    assert "sk-123" not in str(caught.value)


@pytest.mark.parametrize(
    ("host", "remote"),
    [
        ("localhost", False),
        ("127.0.0.1", False),
        ("127.8.0.1", False),
        ("[::1]", False),
        ("10.0.0.2", True),
        ("localhost.example.org", True),
        ("api.example.org", True),
    ],
)
def test_open_model_knows_whether_images_leave_the_machine(host, remote):
    assert open_model(SERVED | {"base_url": f"http://{host}:8000/v1"}).remote is remote


def test_revision_follows_what_answers_and_nothing_else():
    first = open_model(SERVED).revision
    assert first == "org/model@main"
    for changes in (
        {"base_url": "http://other:1/v1", "max_concurrency": 3},
        {"name": "n", "timeout_s": 9, "price_per_million_input": 2},
    ):
        assert open_model(SERVED | changes).revision == first
    revisions = {
        open_model(SERVED | changes).revision
        for changes in (
            {},
            {"model": "org/other"},
            {"revision": "abc"},
            {"quantization": "fp8"},
            {"omit": ["seed"]},
            {"extra_body": {"repetition_penalty": 1.1}},
        )
    }
    assert len(revisions) == 6


def test_cost_counts_both_directions():
    model = open_model(SERVED | {"price_per_million_input": 2, "price_per_million_output": 10.0})
    assert model.cost(500_000, 100_000) == pytest.approx(2.0)
    assert open_model(SERVED).cost(5, 5) == 0


def test_presets_are_the_five_of_the_paper():
    assert list(PRESETS) == [
        "llama-adapter-v2",
        "sharegpt4v-7b",
        "qwen2.5-vl-7b",
        "deepseek-vl2-tiny",
        "internvl3-8b",
    ]


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_preset_claims_of_transformers_hold(preset):
    known = transformers.models.auto.modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    assert known.get(preset.model_type) == preset.transformers_class
    assert (preset.model_type in transformers.CONFIG_MAPPING) == bool(preset.transformers_class)
    if preset.transformers_class:
        assert hasattr(transformers, preset.transformers_class)


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_preset_opens_behind_a_server_and_in_process_where_it_can(preset):
    served = {"name": "m", "preset": preset.name, "base_url": "http://localhost:1/v1"}
    assert open_model(served).settings.model == preset.served_model
    local = {"name": "m", "preset": preset.name, "client": "in_process"}
    if preset.transformers_class:
        assert open_model(local).revision.startswith(preset.model + "@")
    else:
        with pytest.raises(CaptioningError, match=re.escape(preset.serve_command)):
            open_model(local)
        # converted weights in another place
        assert open_model(local | {"model": "org/converted"}).settings.model == "org/converted"


def test_presets_served_by_vllm_serve_the_model_that_is_asked_for():
    for preset in PRESETS.values():
        if "vllm serve" in preset.serve_command:
            command = preset.serve_command.partition("vllm serve ")[2]
            assert preset.served_model in command
