"""Parsing of chat completion responses, including malformed ones."""

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

MAX_DETAIL = 300
MAX_TOKENS = 2**31
"""Exclusive upper bound of token counts; others are discarded."""
_ONLY_REASONING = (
    "the model spent its tokens on reasoning and wrote no caption. Raise `max_tokens`, or turn the "
    "reasoning off, for many models by "
    "`extra_body: {chat_template_kwargs: {enable_thinking: false}}`"
)


@dataclass
class FaultError(Exception):
    """A failed attempt.

    Attributes:
        reason: Short code.
        detail: Message of the server.
        kind: "passing" (temporary), "final" (would fail again) or "away" (server down or busy).
        wait_s: Waiting time requested by the server, in seconds.
    """

    reason: str
    detail: str = ""
    kind: Literal["passing", "final", "away"] = "passing"
    wait_s: float = 0.0

    def __post_init__(self) -> None:
        self.reason, self.detail = _storable(self.reason), _storable(self.detail)


def read_answer(response: Any, safe: Callable[[str], str] = str) -> tuple[str, str, int, int]:
    """Text, finish reason, prompt tokens and completion tokens of a chat completion.

    Args:
        response: Parsed JSON, or text if the server does not declare JSON. Servers deviate from
            the protocol: any field may be missing or of another type.
        safe: Function applied to all text, such as the removal of keys.

    Raises:
        FaultError: The response contains no text.
    """
    if isinstance(response, str):
        with suppress(ValueError):
            response = json.loads(response)
    if not isinstance(response, dict):
        raise FaultError("invalid_answer", _shown(response, safe))
    if error := response.get("error"):  # some gateways send errors with status 200
        raise FaultError("server_error", safe(error_detail(json.dumps({"error": error}))))
    try:
        choice = response["choices"][0]
        message = choice["message"]
        finish_reason = safe(_text(choice.get("finish_reason"))) or "stop"
        text, thoughts = _without_thoughts(safe(_text(message.get("content"))))
    except (AttributeError, TypeError, IndexError, KeyError):
        raise FaultError("invalid_answer", _shown(response, safe)) from None
    if not text:
        refusal = safe(_text(message.get("refusal")))
        if refusal or finish_reason == "content_filter":
            raise FaultError("refused" if refusal else finish_reason, refusal, "final")
        detail = f"finish reason {finish_reason!r}"
        thoughts = thoughts or message.get("reasoning_content") or message.get("reasoning")
        if thoughts or finish_reason == "length":
            raise FaultError("only_reasoning", f"{detail}: {_ONLY_REASONING}", "final")
        raise FaultError("empty", detail)
    usage = response.get("usage")
    counts = [
        usage.get(name) if isinstance(usage, dict) else 0
        for name in ("prompt_tokens", "completion_tokens")
    ]
    asked, answered = (n if isinstance(n, int) and 0 < n < MAX_TOKENS else 0 for n in counts)
    return text, finish_reason, asked, answered


def error_detail(body: str) -> str:
    """Message of an error response, on one line."""
    text = body[:4096]
    with suppress(ValueError, AttributeError, RecursionError):
        error = json.loads(text)
        error = error.get("error", error.get("detail", error))
        error = error.get("message", error) if isinstance(error, dict) else error
        text = error if isinstance(error, str) else json.dumps(error)
    return " ".join(text.split())


def _shown(response: Any, safe: Callable[[str], str]) -> str:
    return " ".join(safe(str(response)).split())[:MAX_DETAIL]


def _without_thoughts(text: str) -> tuple[str, Any]:
    """Text after a `<think>` block, which may lack either tag, and whether there was one."""
    _, end, said = text.rpartition("</think>")
    if said.lstrip().startswith("<think>"):
        return "", True
    return said.strip(), bool(end)


def _text(content: Any) -> str:
    """Join content that may be a string or a list of parts."""
    if isinstance(content, list):
        content = "".join(_text(part.get("text")) for part in content if isinstance(part, dict))
    return _storable(content) if isinstance(content, str) else ""


def _storable(text: str) -> str:
    """Replace lone surrogates, which cannot be encoded as UTF-8."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
