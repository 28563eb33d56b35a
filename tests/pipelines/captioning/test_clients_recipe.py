"""Model settings in recipes, presets, and parsing of answers."""

from typing import Any

import pytest

from dataset_builders.errors import DatasetError
from pipelines.captioning.clients import open_model
from pipelines.captioning.clients.answers import FaultError, read_answer
from pipelines.captioning.clients.openai_compatible import plain_text
from pipelines.captioning.clients.presets import PRESETS, describe_presets

SERVED: dict[str, Any] = {"name": "m", "model": "org/model", "base_url": "http://localhost:8000/v1"}


def opened(**changes: Any) -> Any:
    return open_model(SERVED | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_concurency": 1}, r"'models\[m\].max_concurency'.*Did you mean 'max_concurrency'"),
        ({"client": "grpc"}, "has client 'grpc'; available: openai, simulated"),
        ({"client": ["openai"]}, r"has client \['openai'\]; available"),
        ({"preset": ["qwen3-vl-8b"]}, r"Unknown preset \['qwen3-vl-8b'\]"),
        ({"extra_body": {"seed": 1}}, "extra_body: may not set seed"),
        ({"api_key_env": "NO_SUCH_VARIABLE"}, "NO_SUCH_VARIABLE, which is not set"),
        ({"preset": "internvl3"}, "Unknown preset 'internvl3'.*Did you mean 'internvl3-8b'"),
        ({"timeout": 1, "model": 3}, r"(?s)2 mistakes in .*m\].timeout'.*model` must be text"),
    ],
)
def test_rejects_invalid_fields(changes, message):
    with pytest.raises(DatasetError, match=message):
        opened(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"base_url": "https://u:sk-123@host/v1"},
        {"base_url": "https://host/v1?key=sk-123"},
        {"api_key_env": "sk-123"},
        {"api_key": "sk-123"},
        {"api_key_env": "A_KEY"},
    ],
)
def test_errors_do_not_show_keys(changes, monkeypatch):
    monkeypatch.setenv("A_KEY", "sk-123\n")  # not a valid header
    with pytest.raises(DatasetError) as caught:
        opened(**changes)
    assert "sk-123" not in str(caught.value)


@pytest.mark.parametrize("host", ["localhost", "127.8.0.1", "[::1]", "10.0.0.2", "localhost.a.org"])
def test_remote_is_true_unless_the_host_is_local(host):
    remote = opened(base_url=f"http://{host}:8000/v1").remote
    assert remote is (host in ("10.0.0.2", "localhost.a.org"))


def test_presets_match_their_serve_command():
    shown = describe_presets()
    for name, preset in PRESETS.items():
        model = open_model({"name": "m", "preset": name, "base_url": "http://a:1/v1"})
        assert model.settings.model == preset["model"]
        assert model.settings.extra_body == preset.get("extra_body", {})
        assert preset["model"] in shown
        if "vllm serve" in preset["serve_command"]:
            assert preset["model"] in preset["serve_command"].partition("vllm serve ")[2]
    model = opened(preset="qwen3.5-9b", model="org/tuned", extra_body={"top_k": 5})
    assert (model.settings.model, model.settings.extra_body) == ("org/tuned", {"top_k": 5})


def completion(finish_reason: Any = "stop", **message: Any) -> dict[str, Any]:
    return {"choices": [{"message": message, "finish_reason": finish_reason}]}


@pytest.mark.parametrize(
    ("response", "text"),
    [
        (completion(content="<think>hm</think>\nA road."), "A road."),
        (completion(content="A <think> sign."), "A <think> sign."),
        (completion(None, content=[{"type": "text", "text": "A "}, {"text": "road."}, 3]),
         "A road."),
        (completion(content="half \ud83d, whole \U0001f600"), "half \ufffd, whole \U0001f600"),
    ],
)  # fmt: skip
def test_read_answer_returns_the_text(response, text):
    assert read_answer(response) == (text, "stop", 0, 0)
    text.encode("utf-8")


@pytest.mark.parametrize(
    ("response", "reason", "kind"),
    [
        (completion("length", content="<think>hm"), "only_reasoning", "final"),
        (completion("stop", content=None, reasoning="hm"), "only_reasoning", "final"),
        (completion("content_filter", content=""), "content_filter", "final"),
        (completion(content=None, refusal="I cannot."), "refused", "final"),
        (completion(content=7), "empty", "passing"),
        (None, "invalid_answer", "passing"),
    ],
)
def test_read_answer_raises_with_a_reason(response, reason, kind):
    with pytest.raises(FaultError) as caught:
        read_answer(response)
    assert (caught.value.reason, caught.value.kind) == (reason, kind)


def test_plain_text_neutralises_control_tokens():
    given = "a <|im_end|> b</s><s>[INST] x [/INST]<\uff5cAssistant\uff5c>"
    plain = "a < |im_end|> b< /s>< s>[ INST] x [ /INST]< \uff5cAssistant\uff5c>"
    for text in (given, plain):
        assert plain_text(text) == plain
    harmless = "a < b, c |> d, <caption>x</caption>, <b>"
    assert plain_text(harmless) == harmless


def test_revision_depends_only_on_what_affects_answers():
    first = opened().revision
    assert first == "org/model@main"
    assert opened(base_url="http://other:1/v1", max_concurrency=3, name="n").revision == first
    variants: list[dict[str, Any]] = [
        {"model": "org/other"},
        {"revision": "abc"},
        {"omit": ["seed"]},
        {"extra_body": {"repetition_penalty": 1.1}},
    ]
    assert len({first, *(opened(**one).revision for one in variants)}) == 5
