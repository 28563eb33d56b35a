"""Model settings in recipes, presets, and parsing of answers."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.captioning import clients
from pipelines.captioning.clients.answers import FaultError, error_detail, read_answer
from pipelines.captioning.clients.openai_compatible import plain_text
from pipelines.captioning.clients.presets import PAPER, PRESETS, describe_presets
from pipelines.captioning.errors import CaptioningError

SERVED: dict[str, Any] = {"name": "m", "model": "org/model", "base_url": "http://localhost:8000/v1"}


def open_model(config: dict[str, Any]) -> Any:
    return clients.open_model(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temprature": 1}, r"no field 'models\[m\].temprature'"),
        ({"max_concurency": 1}, "Did you mean 'max_concurrency'"),
        ({"client": "grpc"}, "has client 'grpc'; available: openai, simulated"),
        ({"max_concurrency": 0}, "max_concurrency` must be greater .* 1, got 0"),
        ({"max_concurrency": "9"}, "max_concurrency` must be a whole number, got '9'"),
        ({"timeout_s": float("nan")}, "timeout_s` must be a finite number"),
        ({"omit": ["prompt"]}, "omit.0.` must be one of 'temperature', 'top_p', 'seed'"),
        ({"price_per_million_input": -1}, "price_per_million_input` .* got -1"),
        ({"base_url": "localhost:8000"}, "base_url: must be like http://localhost:8000/v1"),
        ({"extra_body": {"seed": 1}}, "extra_body: may not set seed"),
        ({"api_key_env": "NO_SUCH_VARIABLE"}, "NO_SUCH_VARIABLE, which is not set"),
        ({"preset": "internvl3"}, "Unknown preset 'internvl3'.*Did you mean 'internvl3-8b'"),
        ({"timeout": 1, "model": 3}, r"(?s)2 mistakes in .*m\].timeout'.*model` must be text"),
    ],
)
def test_open_model_reports_all_invalid_fields(changes, message):
    with pytest.raises(CaptioningError, match=message):
        open_model(SERVED | changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"base_url": "https://u:sk-123@host/v1"},
        {"base_url": "https://host/v1?key=sk-123"},
        {"api_key_env": "sk-123"},
        {"api_key": "sk-123"},
    ],
)
def test_a_key_in_the_recipe_raises_without_showing_it(changes):
    with pytest.raises(CaptioningError) as caught:
        open_model(SERVED | changes)
    assert "sk-123" not in str(caught.value)


def test_a_key_with_a_line_break_raises_without_showing_it(monkeypatch):
    monkeypatch.setenv("A_KEY", "sk-123\n")
    with pytest.raises(CaptioningError, match="A_KEY, which holds white space") as caught:
        open_model(SERVED | {"api_key_env": "A_KEY"})
    assert "sk-123" not in str(caught.value)


@pytest.mark.parametrize(
    ("host", "remote"),
    [
        ("localhost", False),
        ("127.8.0.1", False),
        ("[::1]", False),
        ("10.0.0.2", True),
        ("localhost.example.org", True),
    ],
)
def test_remote_is_true_unless_the_host_is_local(host, remote):
    assert open_model(SERVED | {"base_url": f"http://{host}:8000/v1"}).remote is remote


def test_presets_open_and_match_their_serve_command():
    shown = describe_presets()
    assert len(PAPER) == 5
    for preset in PRESETS.values():
        model = open_model({"name": "m", "preset": preset.name, "base_url": "http://a:1/v1"})
        assert model.settings.model == preset.model
        assert model.settings.extra_body == preset.extra_body
        assert preset.model in shown
        if "vllm serve" in preset.serve_command:
            assert preset.model in preset.serve_command.partition("vllm serve ")[2]
    asked = {"model": "org/tuned", "extra_body": {"top_k": 5}}
    model = open_model({"name": "m", "preset": "qwen3.5-9b", "base_url": "http://a:1/v1", **asked})
    assert (model.settings.model, model.settings.extra_body) == ("org/tuned", {"top_k": 5})


def completion(finish_reason: Any = "stop", **message: Any) -> dict[str, Any]:
    return {"choices": [{"message": message, "finish_reason": finish_reason}]}


@pytest.mark.parametrize(
    ("response", "text"),
    [
        (completion(content="<think>hm</think>\nA road."), "A road."),
        (completion(content="hm</think>A road."), "A road."),
        (completion(content="A <think> sign."), "A <think> sign."),
        (completion(content="A road.", reasoning_content="hm"), "A road."),
        (
            completion(None, content=[{"type": "text", "text": "A "}, {"text": "road."}, 3]),
            "A road.",
        ),
        (completion(content="half \ud83d, whole \U0001f600"), "half \ufffd, whole \U0001f600"),
        (json.dumps(completion(content="A road.")), "A road."),
    ],
)
def test_read_answer_returns_the_text(response, text):
    assert read_answer(response) == (text, "stop", 0, 0)
    text.encode("utf-8")


@pytest.mark.parametrize(
    ("response", "reason", "kind"),
    [
        (completion("length", content="<think>hm"), "only_reasoning", "final"),
        (completion("length", content="", reasoning_content="hm"), "only_reasoning", "final"),
        (completion("stop", content=None, reasoning="hm"), "only_reasoning", "final"),
        (completion("length", content=""), "only_reasoning", "final"),
        (completion("content_filter", content=""), "content_filter", "final"),
        (completion(content=None, refusal="I cannot."), "refused", "final"),
        (completion(content=""), "empty", "passing"),
        (completion(content=7), "empty", "passing"),
        ("<html>", "invalid_answer", "passing"),
        (None, "invalid_answer", "passing"),
    ],
)
def test_read_answer_raises_with_a_reason(response, reason, kind):
    with pytest.raises(FaultError) as caught:
        read_answer(response)
    assert (caught.value.reason, caught.value.kind) == (reason, kind)
    if reason == "only_reasoning":
        assert "Raise `max_tokens`, or turn the reasoning off" in caught.value.detail


FIELDS = ["choices", "message", "content", "text", "usage", "error", "refusal", "finish_reason"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4)
    ),
)


@given(JSON)
def test_read_answer_handles_any_json(value):
    for response in (value, {"choices": [{"message": value, "finish_reason": value}]}):
        with contextlib.suppress(FaultError):
            text, _, asked, answered = read_answer(response)
            assert text == text.strip() != ""
            assert min(asked, answered) >= 0


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ('{"error": {"message": "too\\n large"}}', "too large"),
        ('{"error": "no"}', "no"),
        ('{"detail": [{"loc": ["body"]}]}', '[{"loc": ["body"]}]'),
        ("<html>\n bad", "<html> bad"),
        ("[1]", "[1]"),
        ("[" * 5000, "[" * 4096),
    ],
)
def test_error_detail_is_one_line(body, expected):
    assert error_detail(body) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a <|im_end|> b", "a < |im_end|> b"),
        ("<image>", "< image>"),
        ("</s><s>[INST] x [/INST]", "< /s>< s>[ INST] x [ /INST]"),
        ("<\uff5cAssistant\uff5c>", "< \uff5cAssistant\uff5c>"),
        ("a < b, c |> d, <caption>x</caption>, <b>", "a < b, c |> d, <caption>x</caption>, <b>"),
    ],
)
def test_plain_text_neutralises_control_tokens(text, expected):
    assert plain_text(text) == expected
    assert plain_text(expected) == expected


def test_revision_depends_only_on_what_affects_answers():
    first = open_model(SERVED).revision
    assert first == "org/model@main"
    pace: dict[str, Any] = {"base_url": "http://other:1/v1", "max_concurrency": 3, "name": "n"}
    assert open_model(SERVED | pace).revision == first
    variants: list[dict[str, Any]] = [
        {"model": "org/other"},
        {"revision": "abc"},
        {"omit": ["seed"]},
        {"extra_body": {"repetition_penalty": 1.1}},
    ]
    assert len({first, *(open_model(SERVED | one).revision for one in variants)}) == 5
