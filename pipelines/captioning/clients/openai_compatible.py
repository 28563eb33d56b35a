"""Client for servers with the OpenAI chat protocol: vLLM, SGLang, `transformers serve`, services.

Connections, authentication and the protocol are handled by the `openai` package. Retries are
implemented here, to count all attempts and to wait longer during outages than the package does.

| fault | response |
|---|---|
| 401, 402, exhausted quota; 403, 404 or a redirect before the first answer | `ModelUnavailableError` |
| 429, 502, 503, 504, no connection | retried without counting; after `outage_timeout_s` the request fails if others were answered meanwhile, otherwise the run stops |
| timeouts, 408, 409, 425, other 5xx, lost connections, malformed or empty answers | retried up to `max_attempts` times |
| other 4xx, refusals, filtered content, reasoning without an answer | the request fails at once |

Retries wait for the time in `Retry-After` or an exponential backoff, whichever is longer.
"""  # noqa: E501

import asyncio
import base64
import ipaddress
import json
import logging
import os
import random
import re
import time
from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from dataset_builders.errors import MissingExtraError
from dataset_builders.transport import retry_after
from dataset_builders.yaml_records import Record, make_record

from ..errors import ModelUnavailableError, RequestFailedError
from ..records import Reply, Request
from .answers import MAX_DETAIL, FaultError, error_detail, read_answer
from .presets import find_preset

MAX_ANSWER_BYTES = 16 * 2**20
"""Maximum size of a response; captions take a few kilobytes."""
CONNECT_TIMEOUT_S = 10.0
BACKOFF_S, MAX_BACKOFF_S = 1.0, 60.0
"""Maximum wait before the second attempt, doubled for each further attempt, and its upper bound."""
RAMP_S = 0.003
"""Delay between the first requests. If all were sent at once, they would be answered at once, and
the server would idle while the answers are processed."""
RESERVED = (
    *("model", "messages", "temperature", "top_p", "seed", "n", "stream", "stream_options"),
    *("max_tokens", "max_completion_tokens"),
)
"""Request fields that `extra_body` may not set."""

_STOPPING_CODES = frozenset({401, 402})
_DOUBTFUL_CODES = frozenset({301, 302, 303, 307, 308, 403, 404})
"""Wrong address, model or key; with some services, a rejected image."""
_AWAY_CODES = frozenset({429, 502, 503, 504})
_PASSING_CODES = frozenset({408, 409, 425})
# chat template tokens, which a space after the first character turns into plain text
_CONTROL = re.compile(
    r"<(?=\|[^|<>\s]{1,64}\|>)"  # ChatML and similar: <|im_end|>
    r"|<(?=/?(?:image|img|video|audio|s|bos|eos|pad|unk|IMG_CONTEXT|image_placeholder|"
    r"start_of_turn|end_of_turn|start_of_image)>)"
    r"|<(?=\uff5c)"  # DeepSeek's full-width bars
    r"|\[(?=/?INST\])"
)
_Positive = Annotated[int, Field(ge=1)]
_Price = Annotated[float, Field(ge=0)]

logger = logging.getLogger(__name__)


class ChatSettings(Record):
    """Fields of a served model in a recipe.

    Attributes:
        name: Name in the recipe, the tables and the reports.
        model: Name of the model at the server, usually its Hub id.
        base_url: Address of the server, up to and including `/v1`.
        revision: Commit, tag, quantisation or date of the model, which servers do not report;
            stored in the tables and part of the ledger's keys.
        api_key_env: Name of the environment variable with the API key; no key by default.
        max_concurrency: Maximum number of concurrent requests.
        timeout_s: Maximum duration of an attempt, in seconds.
        max_attempts: Maximum number of attempts per request, not counting outages.
        outage_timeout_s: Maximum time that a server may be unreachable or busy, in seconds.
        max_tokens_field: Name of the token limit; newer services use "max_completion_tokens".
        omit: Sampling fields that the service does not accept.
        extra_body: Additional fields of each request; part of the revision.
        price_per_million_input: Price per million prompt tokens, in any currency.
        price_per_million_output: Price per million completion tokens, in the same currency.
    """

    name: str = Field(min_length=1)
    model: str = Field(min_length=1)
    base_url: str
    revision: str = Field("main", min_length=1)
    api_key_env: str | None = None
    max_concurrency: _Positive = 16
    timeout_s: float = Field(300.0, gt=0)
    max_attempts: _Positive = 5
    outage_timeout_s: float = Field(1800.0, ge=0)
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    omit: tuple[Literal["temperature", "top_p", "seed"], ...] = ()
    extra_body: Mapping[str, Any] = {}
    price_per_million_input: _Price = 0.0
    price_per_million_output: _Price = 0.0

    @field_validator("base_url")
    @classmethod
    def _plain_address(cls, value: str) -> str:
        url = urlsplit(value)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise ValueError("must be like http://localhost:8000/v1")
        if url.username or url.password or url.query or url.fragment:
            raise ValueError(
                "must consist of host and path. Put the key into an environment variable and name "
                "it in `api_key_env`"
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
    def _nothing_reserved(cls, value: Mapping[str, Any]) -> Mapping[str, Any]:
        if taken := sorted(set(RESERVED) & set(value)):
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


class OpenAICompatibleModel:
    """A `records.CaptionModel` behind a server.

    The first request opens connections in the running event loop; they are reopened in another
    loop or after `close`.

    Args:
        settings: Fields of the model in the recipe.
    """

    def __init__(self, settings: ChatSettings):
        self.settings = settings
        self.name = settings.name
        # what affects answers; not the address
        given: dict[str, Any] = {"omit": sorted(settings.omit), "extra_body": settings.extra_body}
        given = {name: value for name, value in given.items() if value}
        self.revision = f"{settings.model}@{settings.revision}"
        self.revision += f" {json.dumps(given, sort_keys=True)}" if given else ""
        self.remote = settings.remote
        self._key = os.environ.get(settings.api_key_env, "") if settings.api_key_env else ""
        self._label = f"Model {settings.name!r} ({settings.model}) at {settings.base_url}"
        self._client: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None  # of the connections
        self._slots = asyncio.Semaphore(0)
        self._answered_at, self._away = 0.0, False

    async def complete(self, request: Request) -> Reply:
        """Send a request, with retries.

        Raises:
            RequestFailedError: No usable answer; see the module docstring for what is retried.
            ModelUnavailableError: No request can succeed.
        """
        loop = asyncio.get_running_loop()
        if self._client is None or self._loop is not loop:
            self._client, self._loop = _client(self.settings, self._key), loop
            self._slots = asyncio.Semaphore(0)
            for number in range(self.settings.max_concurrency):
                loop.call_later(number * RAMP_S, self._slots.release)
        async with self._slots:
            body = self._body(request)  # only now, since it copies the image
            started, waiting_since = time.monotonic(), 0.0
            attempts = counted = 0
            while True:
                attempts += 1
                try:
                    answer = await self._attempt(body)
                    return Reply(*answer, attempts=attempts, seconds=time.monotonic() - started)
                except FaultError as error:
                    fault = error
                if fault.kind == "away":
                    waiting_since = waiting_since or time.monotonic()
                    self._check_outage(waiting_since, fault, attempts)
                else:
                    waiting_since, counted = 0.0, counted + 1
                    if fault.kind == "final" or counted >= self.settings.max_attempts:
                        raise RequestFailedError(fault.reason, fault.detail, attempts)
                longest = min(MAX_BACKOFF_S, BACKOFF_S * 2.0 ** min(attempts - 1, 64))
                await asyncio.sleep(max(fault.wait_s, longest * random.uniform(0.5, 1.0)))

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Price of a request, in the currency of the recipe's prices."""
        asked = prompt_tokens * self.settings.price_per_million_input
        return (asked + completion_tokens * self.settings.price_per_million_output) / 1e6

    async def close(self) -> None:
        """Close the connections."""
        client, self._client = self._client, None
        if client is not None and self._loop is asyncio.get_running_loop():
            await client.close()

    def _body(self, request: Request) -> dict[str, Any]:
        settings, sampling = self.settings, request.sampling
        url = f"data:image/jpeg;base64,{base64.b64encode(request.image).decode()}"
        content = [
            {"type": "image_url", "image_url": {"url": url}},
            {"type": "text", "text": plain_text(request.prompt)},
        ]
        fields = {
            "model": settings.model,
            "messages": [{"role": "user", "content": content}],
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            settings.max_tokens_field: sampling.max_tokens,
            "seed": sampling.seed,
        }
        kept = {name: value for name, value in fields.items() if name not in settings.omit}
        return {**kept, **settings.extra_body}

    async def _attempt(self, body: Mapping[str, Any]) -> tuple[str, str, int, int]:
        """Send a request once; returns the result of `read_answer`."""
        import openai

        try:
            async with asyncio.timeout(self.settings.timeout_s):
                # `chat.completions.create` takes 50 % longer, for types that servers do not follow
                response = await self._client.post("/chat/completions", cast_to=object, body=body)
                answer = read_answer(response, self._safe)
        except TimeoutError as error:
            raise self._connection_fault(error) from None
        except openai.APIConnectionError as error:
            raise self._connection_fault(error.__cause__ or error) from None
        except openai.APIStatusError as error:
            raise self._refusal(error) from None
        except (openai.OpenAIError, ValueError, RecursionError) as error:  # invalid JSON
            raise FaultError("invalid_answer", self._safe(str(error))[:MAX_DETAIL]) from None
        if self._away:
            logger.warning("%s answers again.", self._label)
        self._answered_at, self._away = time.monotonic(), False
        return answer

    def _connection_fault(self, cause: BaseException) -> FaultError:
        """Classify a connection error: no server, timeout or lost connection."""
        import httpx2

        detail = self._safe(f"{type(cause).__name__}: {cause}")[:MAX_DETAIL]
        if isinstance(cause, (httpx2.ConnectError, httpx2.ConnectTimeout)):
            return FaultError("connection", detail, "away")
        if isinstance(cause, (TimeoutError, httpx2.TimeoutException)):
            return FaultError("timeout", f"no answer within {self.settings.timeout_s:g} s")
        return FaultError("connection", detail)

    def _refusal(self, error: Any) -> FaultError:
        """Classify an error status; raises if no request can succeed."""
        status, said = error.status_code, error.response.text[:4096]
        reason, detail = f"http_{status}", self._safe(error_detail(said))[:MAX_DETAIL]
        if (
            status in _STOPPING_CODES
            or (status == 429 and "insufficient_quota" in said)
            or (status in _DOUBTFUL_CODES and not self._answered_at)
        ):
            raise ModelUnavailableError(
                f"{self._label} returned HTTP {status} ({detail}). Check `base_url`, `model` and "
                "the key in `api_key_env`, then rerun the command to resume."
            ) from None
        wait_s = retry_after(error.response.headers) or 0.0
        if status in _AWAY_CODES:
            return FaultError(reason, detail, "away", wait_s)
        passing = status in _PASSING_CODES or status >= 500
        return FaultError(reason, detail, "passing" if passing else "final", wait_s)

    def _check_outage(self, since: float, fault: FaultError, attempts: int) -> None:
        """Give up if an outage has lasted for `outage_timeout_s`."""
        patience = self.settings.outage_timeout_s
        said = f"{fault.reason} {fault.detail}".strip()
        if time.monotonic() - since < patience:
            if not self._away:
                logger.warning(
                    "%s does not answer (%s); waiting up to %.0f s.", self._label, said, patience
                )
            self._away = True
        elif self._answered_at > since:
            raise RequestFailedError(fault.reason, fault.detail, attempts)
        else:
            raise ModelUnavailableError(
                f"{self._label} did not answer for {patience:.0f} s ({said}). Start the server or "
                "wait for capacity, then rerun the command to resume."
            )

    def _safe(self, text: str) -> str:
        """Remove the API key, which some servers repeat in their responses."""
        return text.replace(self._key, "***") if self._key else text


def open_model(config: Mapping[str, Any], dataset_name: str = "") -> OpenAICompatibleModel:
    """Create a model from its fields in a recipe.

    Args:
        config: Fields of `ChatSettings`; `preset`, a key of `presets.PRESETS`, sets defaults for
            `model` and `extra_body`.
        dataset_name: Not used.

    Raises:
        DatasetError: Unknown or missing fields, or invalid values; all of them are listed.
    """
    values = dict(config)
    if (name := values.pop("preset", None)) is not None:
        preset = find_preset(name)
        values = {"model": preset["model"], "extra_body": preset.get("extra_body", {}), **values}
    record = make_record(ChatSettings, values, f"models[{values.get('name', '?')}]")
    return OpenAICompatibleModel(record)


def plain_text(prompt: str) -> str:
    """Neutralise control tokens of chat templates: `<|im_end|>` becomes `< |im_end|>`.

    Prompts quote captions, and captions may quote text in an image.
    """
    return _CONTROL.sub(lambda found: found.group() + " ", prompt)


def _client(settings: ChatSettings, key: str) -> Any:
    """The `openai` client without retries, redirects and settings from the environment."""
    try:
        import httpx2
        import openai
    except ImportError as error:
        raise MissingExtraError("openai", "captioning") from error

    class Bounded(httpx2.AsyncByteStream):
        def __init__(self, stream: Any):
            self._stream = stream

        async def __aiter__(self) -> AsyncIterator[bytes]:
            size = 0
            async for chunk in self._stream:
                size += len(chunk)
                if size > MAX_ANSWER_BYTES:
                    raise ValueError(f"more than {MAX_ANSWER_BYTES} bytes")
                yield chunk

        async def aclose(self) -> None:
            await self._stream.aclose()

    async def bound(response: Any) -> None:
        if response.headers.get("content-encoding", "identity") != "identity":
            raise ValueError("unrequested compressed response")  # may expand to gigabytes
        response.stream = Bounded(response.stream)

    # debug output contains headers and status lines, in which a server may repeat the key
    for name in ("httpx2", "httpcore2"):
        logging.getLogger(name).setLevel(logging.WARNING)
    connections = settings.max_concurrency + 1
    omit: Any = openai.Omit()
    return openai.AsyncOpenAI(
        api_key=key or "EMPTY",  # not empty, or OPENAI_API_KEY would be sent
        admin_api_key="",
        base_url=settings.base_url,
        max_retries=0,
        default_headers={
            "OpenAI-Organization": omit,
            "OpenAI-Project": omit,
            "Accept-Encoding": "identity",
        },
        http_client=httpx2.AsyncClient(
            # local requests must not go through a proxy from the environment
            trust_env=settings.remote,
            timeout=httpx2.Timeout(settings.timeout_s, connect=CONNECT_TIMEOUT_S, pool=None),
            limits=httpx2.Limits(
                max_connections=connections, max_keepalive_connections=connections
            ),
            event_hooks={"response": [bound]},
        ),
    )
