"""The OpenAI chat protocol on the wire: a question as bytes, an answer from bytes.

https://platform.openai.com/docs/api-reference/chat: what vLLM, `transformers serve` and the hosted
services speak, with their deviations.
"""

import binascii
import json
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

MAX_ANSWER_BYTES = 16 * 2**20
"""A caption has kilobytes; who sends more is broken, and must not fill the memory."""
_BLOCK = 3 * 2**17  # bytes of an image encoded at a time; of 3, so that blocks can be joined
_MARK = "\x00image\x00"
_CONTROL = re.compile(
    r"<(?=\|[^|<>\s]{1,64}\|>)"  # ChatML and its kin: <|im_end|>
    r"|<(?=/?(?:image|img|video|audio|s|bos|eos|pad|unk|IMG_CONTEXT|image_placeholder|"
    r"start_of_turn|end_of_turn|start_of_image)>)"
    r"|<(?=\uff5c)"  # DeepSeek's full-width bars
    r"|\[(?=/?INST\])"
)


def plain_text(text: str) -> str:
    """A prompt in which no part can pass for a control token of a chat template.

    Prompts quote captions, and captions may quote what is written in an image. The bracket of
    `<|im_end|>`, `<image>` and such is set apart by a space; other text stays as it is.
    """
    return _CONTROL.sub(lambda found: found.group() + " ", text)


def without_thoughts(text: str) -> str:
    """The answer of a reasoning model without its `<think>` block.

    Everything up to the last `</think>` is thought; a block that is not closed leaves nothing.
    """
    text = text.rpartition("</think>")[2]
    return "" if text.lstrip().startswith("<think>") else text


def media_type(image: bytes) -> str:
    """Of encoded bytes, by their first ones.

    Raises:
        ValueError: neither JPEG, PNG nor WebP.
    """
    if image.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if image.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if image[:4] == b"RIFF" and image[8:12] == b"WEBP":
        return "image/webp"
    raise ValueError(f"not a JPEG, PNG or WebP image; begins with {image[:12]!r}")


class ChatBody:
    """The body of a request; the image is encoded as it is sent, and not kept encoded.

    Args:
        image: encoded bytes.
        prompt: the user's words.
        fields: the other members of the JSON object.
    """

    def __init__(self, image: bytes, prompt: str, fields: dict[str, Any]):
        url = f"data:{media_type(image)};base64,{_MARK}"
        content = [
            {"type": "image_url", "image_url": {"url": url}},
            {"type": "text", "text": plain_text(prompt)},
        ]
        body = json.dumps({"messages": [{"role": "user", "content": content}], **fields})
        # the mark is the first one: a prompt comes after the image
        head, _, tail = body.partition(json.dumps(_MARK)[1:-1])
        self._head, self._tail, self._image = head.encode(), tail.encode(), image

    def __len__(self) -> int:
        return len(self._head) + 4 * -(-len(self._image) // 3) + len(self._tail)

    def blocks(self) -> Iterator[bytes]:
        """The body, piece by piece; one for most images, since every piece is a call of send."""
        view = memoryview(self._image)
        for start in range(0, len(view), _BLOCK):
            piece = binascii.b2a_base64(view[start : start + _BLOCK], newline=False)
            head = b"" if start else self._head
            tail = b"" if start + _BLOCK < len(view) else self._tail
            yield b"".join((head, piece, tail))

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for block in self.blocks():
            yield block


@dataclass(frozen=True)
class Answer:
    """What a server said."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


class BadAnswerError(Exception):
    """An answer with status 200 that is none.

    Attributes:
        reason: a short code.
        passing: another attempt may help.
    """

    def __init__(self, reason: str, detail: str = "", passing: bool = True):
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail, self.passing = reason, detail, passing


def read_answer(body: bytes, content_type: str) -> Answer:
    """The answer in a response, whether in one piece or as a stream of server-sent events.

    Raises:
        BadAnswerError: HTML, truncated or other JSON, an error, no choices, no text.
    """
    start = body[:256].lstrip()
    if not body.strip():
        raise BadAnswerError("empty", "no body")
    if content_type.startswith("text/html") or start.startswith(b"<"):
        raise BadAnswerError("html", start[:80].decode("utf-8", "replace"))
    if content_type.startswith("text/event-stream") or start.startswith((b"data:", b":")):
        return _checked(_joined(body))
    return _checked(_json(body))


def error_detail(body: bytes) -> str:
    """What an error response says, in one short line."""
    text = body[:4096].decode("utf-8", "replace")
    try:
        error = json.loads(text)
        error = error.get("error", error.get("detail", error))
        error = error.get("message", error) if isinstance(error, dict) else error
        text = error if isinstance(error, str) else json.dumps(error)
    except (ValueError, AttributeError, RecursionError):
        pass
    return " ".join(text.split())


def is_out_of_quota(body: bytes) -> bool:
    """A 429 that no waiting heals: the account is empty."""
    return b'"insufficient_quota"' in body[:4096]


def _json(data: bytes | str) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadAnswerError("invalid_json", str(error)[:120]) from None
    if not isinstance(value, dict):
        raise BadAnswerError("invalid_json", f"not an object but {type(value).__name__}")
    return value


def _joined(body: bytes) -> dict[str, Any]:
    """The chunks of a stream as one response."""
    text, reason, usage, done = [], None, None, False
    for event in _events(body):
        if event == "[DONE]":
            done = True
            continue
        chunk = _json(event)
        _raise_error(chunk)
        usage = chunk.get("usage") or usage
        for choice in _list(chunk.get("choices"))[:1]:
            text.append(_text(_mapping(choice.get("delta")).get("content")))
            reason = choice.get("finish_reason") or reason
    if reason is None and not done:
        raise BadAnswerError("truncated_stream", f"ended after {len(text)} pieces")
    message = {"content": "".join(text)}
    return {"choices": [{"message": message, "finish_reason": reason}], "usage": usage}


def _events(body: bytes) -> Iterator[str]:
    """The data of server-sent events; comments, names and ids are left out."""
    lines: list[str] = []
    # not `splitlines`: it also breaks at characters that JSON may hold unescaped
    for line in [*re.split(r"\r\n|\n|\r", body.decode("utf-8", "replace")), ""]:
        if line.startswith("data:"):
            lines.append(line[5:].removeprefix(" "))
        elif not line and lines:
            yield "\n".join(lines)
            lines = []


def _checked(response: dict[str, Any]) -> Answer:
    _raise_error(response)
    choices = _list(response.get("choices"))
    if not choices:
        raise BadAnswerError("no_choices", f"has {sorted(response)[:8]}")
    message = _mapping(choices[0].get("message"))
    finish_reason = choices[0].get("finish_reason") or "stop"
    text = without_thoughts(_text(message.get("content"))).strip()
    if not text:
        if finish_reason == "content_filter":
            raise BadAnswerError("content_filter", passing=False)
        if message.get("refusal"):
            raise BadAnswerError("refused", _text(message["refusal"])[:120], passing=False)
        raise BadAnswerError("empty", f"finish reason {finish_reason!r}")
    usage = _mapping(response.get("usage"))
    prompt_tokens, completion_tokens = (
        _count(usage.get(name)) for name in ("prompt_tokens", "completion_tokens")
    )
    return Answer(text, str(finish_reason), prompt_tokens, completion_tokens)


def _raise_error(response: dict[str, Any]) -> None:
    """Some gateways answer 200 and say in the body that they failed."""
    if response.get("error"):
        raise BadAnswerError("server_error", error_detail(json.dumps(response).encode()))


def _text(content: Any) -> str:
    """Of a string, or of a list of parts; halves of surrogate pairs cannot be stored."""
    if isinstance(content, list):
        content = "".join(_text(part.get("text")) for part in _list(content))
    if not isinstance(content, str):
        return ""
    return content.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _list(value: Any) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0


__all__ = [
    "MAX_ANSWER_BYTES",
    "Answer",
    "BadAnswerError",
    "ChatBody",
    "error_detail",
    "is_out_of_quota",
    "media_type",
    "plain_text",
    "read_answer",
    "without_thoughts",
]
