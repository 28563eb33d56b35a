"""What a recipe may say of a model behind a server, checked before anything starts."""

import difflib
import ipaddress
import json
import os
from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from ..errors import CaptioningError
from .presets import find_preset

_RESERVED = ("model", "messages", "temperature", "top_p", "seed", "n", "stream", "stream_options")
_SERVER_OPTIONS = ("device", "dtype", "batch_size", "processor_options")


class ChatSettings(BaseModel):
    """Fields of a model in a recipe.

    Attributes:
        name: Name in the recipe, the tables and the reports.
        model: Name of the model at the server, usually its id on the Hub.
        base_url: Address of the server, up to and including `/v1`.
        revision: Commit, tag or date of the model. Servers do not tell what they serve; what is
            written here goes into the tables and into the ledger's keys.
        quantization: Quantisation that the server uses ("fp8", "awq"); part of the revision.
        api_key_env: Name of the environment variable that holds the key; no key by default.
        max_concurrency: Maximum number of simultaneous requests.
        timeout_s: Maximum duration of an attempt, in seconds.
        connect_timeout_s: Maximum duration of connecting, in seconds.
        max_attempts: Attempts per request; waiting for a server does not count.
        backoff_s: Longest wait before the second attempt; doubles with every further one.
        max_backoff_s: Longest wait that the server does not ask for.
        outage_timeout_s: How long a server may be unreachable or out of capacity.
        stream: Receive the answer in pieces; for gateways that close silent connections.
        max_tokens_field: Name of the token limit; newer services want "max_completion_tokens".
        omit: Sampling fields that the service refuses.
        extra_body: Further fields of every request; part of the revision.
        price_per_million_input: Price of a million prompt tokens, in any currency.
        price_per_million_output: Price of a million completion tokens, in the same currency.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    name: str = Field(min_length=1)
    model: str = Field(min_length=1)
    base_url: str
    revision: str = Field("main", min_length=1)
    quantization: str | None = None
    api_key_env: str | None = None
    max_concurrency: int = Field(16, ge=1)
    timeout_s: float = Field(300.0, ge=0.01)
    connect_timeout_s: float = Field(10.0, ge=0.01)
    max_attempts: int = Field(5, ge=1)
    backoff_s: float = Field(1.0, ge=0)
    max_backoff_s: float = Field(60.0, ge=0)
    outage_timeout_s: float = Field(1800.0, ge=0)
    stream: bool = False
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    omit: list[Literal["temperature", "top_p", "seed"]] = []
    extra_body: dict[str, Any] = {}
    price_per_million_input: float = Field(0.0, ge=0)
    price_per_million_output: float = Field(0.0, ge=0)

    @field_validator("base_url")
    @classmethod
    def _plain_address(cls, value: str) -> str:
        url = urlsplit(value)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise ValueError("must be like http://localhost:8000/v1")
        if url.username or url.password or url.query or url.fragment:
            raise ValueError(
                "holds more than host and path. A key belongs into an environment variable that "
                "`api_key_env` names"
            )
        return value

    @field_validator("api_key_env")
    @classmethod
    def _key_is_set(cls, value: str | None) -> str | None:
        if value is None:
            return value
        if not value.isidentifier():  # not shown: it may be the key itself
            raise ValueError("must be the name of an environment variable, not the key")
        key = os.environ.get(value, "")
        if not key:
            raise ValueError(f"names the environment variable {value}, which is not set")
        if not key.isascii() or not key.isprintable() or " " in key:
            raise ValueError(f"names {value}, which holds white space or other non-key characters")
        return value

    @field_validator("extra_body")
    @classmethod
    def _nothing_reserved(cls, value: dict[str, Any]) -> dict[str, Any]:
        names = {*_RESERVED, "max_tokens", "max_completion_tokens"}
        if taken := sorted(names & set(value)):
            raise ValueError(f"may not set {', '.join(taken)}: other fields of the recipe do")
        return value

    @property
    def remote(self) -> bool:
        """Whether images leave this machine."""
        host = urlsplit(self.base_url).hostname or ""
        try:
            return not ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host != "localhost"

    @property
    def exact_revision(self) -> str:
        """What answers: model, revision, and what else changes answers; not the address."""
        parts = {
            "quantization": self.quantization,
            "omit": sorted(self.omit),
            "extra_body": self.extra_body,
        }
        given = {name: value for name, value in parts.items() if value}
        exact = f"{self.model}@{self.revision}"
        return f"{exact} {json.dumps(given, sort_keys=True)}" if given else exact


def read_settings(config: Mapping[str, Any]) -> ChatSettings:
    """Settings from the fields of a model in a recipe.

    Args:
        config: Fields of [`ChatSettings`]; `preset`, a name in `presets.PRESETS`, gives `model`
            and what else the preset sets.

    Raises:
        CaptioningError: unknown or missing fields, or invalid values; all of them are named.
    """
    values = dict(config)
    if (name := values.pop("preset", None)) is not None:
        preset = find_preset(name)
        values = {"model": preset.model, "extra_body": dict(preset.extra_body), **values}
    try:
        return ChatSettings(**values)
    except ValidationError as error:
        problems = "; ".join(_problem(one) for one in error.errors())
        raise CaptioningError(f"Model {values.get('name', '?')!r}: {problems}.") from None


def _problem(error: Mapping[str, Any]) -> str:
    """One mistake in a recipe, in words; values are shown only where they cannot be a key."""
    name = ".".join(map(str, error["loc"]))
    if error["type"] == "extra_forbidden":
        if name in _SERVER_OPTIONS:
            return f"`{name}` is an option of the server now"
        known = [*ChatSettings.model_fields, "client", "preset"]
        close = difflib.get_close_matches(name, known, 3)
        hint = f"did you mean {' or '.join(close)}" if close else f"known: {', '.join(known)}"
        return f"unknown field {name!r} ({hint})"
    if error["type"] == "missing":
        return f"`{name}` is missing"
    message = error["msg"].removeprefix("Value error, ")
    got = "" if error["type"] == "value_error" else f", got {error['input']!r}"
    return f"`{name}`: {message[0].lower()}{message[1:]}{got}"


__all__ = ["ChatSettings", "read_settings"]
