"""What a recipe may say of a model, checked before anything starts."""

import difflib
import ipaddress
import json
import math
import os
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

from ..errors import CaptioningError

T = TypeVar("T", bound="ModelSettings")
BODY_FIELDS = ("model", "temperature", "top_p", "max_tokens", "seed", "stream", "stream_options")


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """What both kinds of clients have.

    Attributes:
        name: in the recipe, the tables and the reports.
        model: id on the Hub, name at the server, or a folder.
        revision: of the model: a commit, a tag, a date. A server does not tell what it serves, so
            what is said here is what the tables will say; it is part of the ledger's keys.
        price_per_million_input: of tokens, in any currency.
        price_per_million_output: of tokens, in the same currency.
    """

    name: str
    model: str
    revision: str = "main"
    price_per_million_input: float = 0.0
    price_per_million_output: float = 0.0

    def __post_init__(self) -> None:
        for name in ("price_per_million_input", "price_per_million_output"):
            self._at_least(name, 0)
        for name in ("name", "model", "revision"):
            if not getattr(self, name):
                raise CaptioningError(f"`{name}` of a model is empty.")

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Price of an answer, in the currency of the prices."""
        asked = prompt_tokens * self.price_per_million_input
        return (asked + completion_tokens * self.price_per_million_output) / 1e6

    def _at_least(self, name: str, least: float) -> None:
        value = getattr(self, name)
        if not least <= value < math.inf:
            raise CaptioningError(
                f"`{name}` of model {self.name!r} must be {least} or more, got {value}."
            )


@dataclass(frozen=True, kw_only=True)
class OpenAISettings(ModelSettings):
    """A model behind a server that speaks the OpenAI chat protocol.

    Attributes:
        base_url: up to and including `/v1`.
        api_key_env: name of the environment variable that holds the key; none is sent by default.
        quantization: how the server runs the model ("fp8", "awq", ...); part of the revision.
        max_concurrency: requests under way at once.
        timeout_s: of an attempt, from the first byte sent to the last one received.
        connect_timeout_s: until the connection stands.
        max_attempts: of a request; those that the server refuses for want of capacity (429) do not
            count, for which there is `outage_timeout_s`.
        backoff_s: the longest wait before the second attempt; doubles.
        max_backoff_s: the longest of all waits that the server does not ask for.
        outage_timeout_s: how long requests wait for a server that is away, or has no capacity.
        stream: let the answer come in pieces; some gateways cut connections that are silent.
        max_tokens_field: some services call it "max_completion_tokens".
        omit: sampling fields that the service refuses, such as "seed".
        extra_body: further fields of every request; part of the revision.
    """

    base_url: str
    api_key_env: str | None = None
    quantization: str | None = None
    max_concurrency: int = 16
    timeout_s: float = 300.0
    connect_timeout_s: float = 10.0
    max_attempts: int = 5
    backoff_s: float = 1.0
    max_backoff_s: float = 60.0
    outage_timeout_s: float = 1800.0
    stream: bool = False
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    omit: tuple[Literal["temperature", "top_p", "seed"], ...] = ()
    extra_body: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("max_concurrency", "max_attempts"):
            self._at_least(name, 1)
        for name in ("timeout_s", "connect_timeout_s"):
            self._at_least(name, 0.01)
        for name in ("backoff_s", "max_backoff_s", "outage_timeout_s"):
            self._at_least(name, 0)
        self._check_url()
        if self.api_key_env is not None and not os.environ.get(self.api_key_env):
            raise CaptioningError(
                f"Model {self.name!r} takes its key from the environment variable "
                f"{self.api_key_env}, which is not set."
            )
        taken = sorted({*BODY_FIELDS, "messages", "n"} & set(self.extra_body))
        if taken:
            raise CaptioningError(
                f"`extra_body` of model {self.name!r} may not set {', '.join(taken)}: the recipe's "
                f"other fields do."
            )

    def _check_url(self) -> None:
        url = urlsplit(self.base_url)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise CaptioningError(
                f"`base_url` of model {self.name!r} must be like http://localhost:8000/v1."
            )
        if url.username or url.password or url.query or url.fragment:
            # not shown: a key may be in it
            raise CaptioningError(
                f"`base_url` of model {self.name!r} holds more than host and path. A key belongs "
                f"into an environment variable that `api_key_env` names."
            )

    @property
    def remote(self) -> bool:
        """Images leave this machine."""
        host = urlsplit(self.base_url).hostname or ""
        try:
            return not ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host != "localhost"

    @property
    def exact_revision(self) -> str:
        """What answers; the address does not matter."""
        parts = {
            "quantization": self.quantization,
            "omit": sorted(self.omit),
            "extra_body": self.extra_body,
        }
        return exact_revision(self.model, self.revision, parts)


@dataclass(frozen=True, kw_only=True)
class InProcessSettings(ModelSettings):
    """A model in this process's memory, by transformers.

    Attributes:
        device: as torch names it; "auto" is the first accelerator, or the CPU.
        dtype: of the weights; "auto" is as they were saved. See `in_process` on what a batch
            changes in low precision.
        batch_size: requests answered together.
        processor_options: of `AutoProcessor.from_pretrained`, such as `max_pixels`; part of the
            revision.
    """

    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    batch_size: int = 8
    processor_options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least("batch_size", 1)


def exact_revision(model: str, revision: str, parts: Mapping[str, Any]) -> str:
    """`model@revision`, and the settings that are not empty as JSON behind it."""
    given = {name: value for name, value in parts.items() if value}
    return f"{model}@{revision}" + (f" {json.dumps(given, sort_keys=True)}" if given else "")


def read_settings(kind: type[T], config: Mapping[str, Any]) -> T:
    """Settings from the plain values of a recipe.

    Raises:
        CaptioningError: an unknown or missing field, or a value of the wrong kind.
    """
    hints = typing.get_type_hints(kind)
    label = config.get("name", "?")
    for name in config:
        if name not in hints:
            raise CaptioningError(_unknown(label, str(name), list(hints)))
    missing = [
        one.name
        for one in fields(kind)
        if one.name not in config and one.default is MISSING and one.default_factory is MISSING
    ]
    if missing:
        raise CaptioningError(f"Model {label!r} lacks {', '.join(missing)}.")
    return kind(**{name: _value(hints[name], value, name) for name, value in config.items()})


def _unknown(label: str, name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, [*known, "client", "preset"], 3)
    hint = f"did you mean {' or '.join(map(repr, close))}?" if close else f"it has {known}."
    return f"Model {label!r} has no field {name!r}; {hint}"


def _value(hint: Any, value: Any, name: str) -> Any:
    """The value as its field has it; a list becomes a tuple, a whole number a float."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        return None if value is None else _value(arguments[0], value, name)
    if origin is Literal:
        if value not in arguments:
            raise CaptioningError(f"`{name}` must be one of {arguments}, got {value!r}.")
        return value
    if origin is tuple:
        items = value if isinstance(value, (list, tuple)) else [value]
        return tuple(_value(arguments[0], item, name) for item in items)
    if hint is float and type(value) is int:
        return float(value)
    kind = Mapping if isinstance(origin, type) and issubclass(origin, Mapping) else hint
    right = isinstance(value, Mapping) if kind is Mapping else type(value) is kind
    if not right:
        raise CaptioningError(f"`{name}` must be a {kind.__name__}, got {value!r}.")
    return value


__all__ = ["InProcessSettings", "ModelSettings", "OpenAISettings", "read_settings"]
