"""A model behind any server that speaks the OpenAI chat protocol.

vLLM, SGLang, `transformers serve` and the paid services do. Connections, authentication and the
protocol are the `openai` package's. Retries are not: every attempt has to be counted, an outage may
last longer than the package waits, and an image that crashes the server is no outage.

| fault | response |
|---|---|
| 401, 402, an empty account; 403, 404 or a redirect before the first answer, or 20 times in a row; nothing but other 4xx from the start | `ModelUnavailableError` |
| 429; no connection; 502, 503 or 504 where the list of models is not to be had either | retried without using up attempts; after `outage_timeout_s` the request fails if others were answered meanwhile, and the run ends if none was |
| timeouts, 408, 409, 425, other 5xx, lost connections, malformed or empty answers | retried up to `max_attempts` times |
| other 4xx, refusals, filtered content, reasoning without an answer | the request fails at once |

Before a retry the client waits as long as the server asks (`Retry-After`), or backs off.
"""  # noqa: E501

import asyncio
import base64
import logging
import os
import random
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any, Literal

from dataset_builders.transport import retry_after

from ..errors import MissingDependencyError, ModelUnavailableError, RequestFailedError
from ..records import Reply, Request
from .messages import (
    MAX_DETAIL,
    FaultError,
    error_detail,
    join_stream,
    media_type,
    plain_text,
    read_answer,
)
from .settings import ChatSettings, read_settings

MAX_ANSWER_BYTES = 16 * 2**20
"""Bound of a response; captions have a few kilobytes."""
MAX_REFUSALS = 20
"""Refusals without an answer in between after which the model, not the images, is to blame."""
PROBE_TIMEOUT_S = 10.0
RAMP_S = 0.003
"""Delay between the first requests: sent together, they would be answered together, and the server
would idle while this process works through the answers."""

_STOPPING_CODES = frozenset({401, 402})
_DOUBTFUL_CODES = frozenset({301, 302, 303, 307, 308, 403, 404})
"""A wrong address, model or key; or, with some services, an image that they reject."""
_GATEWAY_CODES = frozenset({502, 503, 504})
_PASSING_CODES = frozenset({408, 409, 425})
_MALFORMED = (ValueError, RecursionError)
"""What JSON that is none, or too deep, raises."""

logger = logging.getLogger(__name__)


class OpenAICompatibleModel:
    """A `records.CaptionModel` behind a server.

    Connections are opened by the first request, in the event loop that runs then, and again after
    `close`.

    Args:
        settings: Fields of the recipe.
    """

    def __init__(self, settings: ChatSettings):
        self.settings = settings
        self.name = settings.name
        self.revision = settings.exact_revision
        self.remote = settings.remote
        self._session: _Session | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {self.revision!r})"

    async def complete(self, request: Request) -> Reply:
        """Ask until there is an answer.

        Raises:
            RequestFailedError: no answer; the module says what is retried.
            ModelUnavailableError: no request can succeed.
        """
        loop = asyncio.get_running_loop()
        if self._session is None or self._session.loop is not loop:
            self._session = _Session(self.settings)
        return await self._session.complete(request)

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Price of an answer, in the currency of the recipe's prices."""
        asked = prompt_tokens * self.settings.price_per_million_input
        return (asked + completion_tokens * self.settings.price_per_million_output) / 1e6

    async def close(self) -> None:
        """Close the connections."""
        session, self._session = self._session, None
        if session is not None and session.loop is asyncio.get_running_loop():
            await session.client.close()


def open_model(config: Mapping[str, Any], dataset_name: str = "") -> OpenAICompatibleModel:
    """Open a model from its fields in a recipe; see `settings.read_settings`."""
    return OpenAICompatibleModel(read_settings(config))


class _Session:
    """Connections to a server, and what is known of it, in one event loop."""

    def __init__(self, settings: ChatSettings):
        self.loop = asyncio.get_running_loop()
        self._settings = settings
        self._key = os.environ.get(settings.api_key_env, "") if settings.api_key_env else ""
        self.client = _client(settings, self._key)
        self._slots = asyncio.Semaphore(0)
        for number in range(settings.max_concurrency):
            self.loop.call_later(number * RAMP_S, self._slots.release)
        self._answered_at = 0.0
        self._refusals = 0
        self._away = False

    async def complete(self, request: Request) -> Reply:
        async with self._slots:
            body = self._body(request)  # not before: it holds the image once more
            started, waiting_since = time.monotonic(), 0.0
            attempts = counted = 0
            while True:
                attempts += 1
                try:
                    answer = await self._attempt(body)
                    return Reply(*answer, attempts=attempts, seconds=time.monotonic() - started)
                except FaultError as error:
                    fault = error
                if fault.kind in ("down", "busy"):
                    now = time.monotonic()
                    waiting_since = waiting_since or now
                    self._check_outage(waiting_since, now, fault, attempts)
                else:
                    waiting_since, counted = 0.0, counted + 1
                    if fault.kind == "final" or counted >= self._settings.max_attempts:
                        raise RequestFailedError(fault.reason, fault.detail, attempts)
                await asyncio.sleep(max(fault.wait_s, self._backoff(attempts)))

    def _body(self, request: Request) -> dict[str, Any]:
        """The body of a chat request."""
        try:
            kind = media_type(request.image)
        except ValueError as error:
            raise RequestFailedError("bad_image", str(error), 0) from error
        settings, sampling = self._settings, request.sampling
        url = f"data:{kind};base64,{base64.b64encode(request.image).decode()}"
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
        return kept | settings.extra_body

    async def _attempt(self, body: Mapping[str, Any]) -> tuple[str, str, int, int]:
        """Ask once; the answer as `messages.read_answer` gives it."""
        import httpx2
        import openai

        try:
            async with asyncio.timeout(self._settings.timeout_s):
                answer = read_answer(await self._post(body), self._safe)
        except (TimeoutError, httpx2.HTTPError) as error:  # the latter within a stream
            raise self._connection_fault(error) from None
        except openai.APIConnectionError as error:
            raise self._connection_fault(error.__cause__ or error) from None
        except openai.APIStatusError as error:
            raise await self._refusal(error) from None
        except (openai.OpenAIError, *_MALFORMED) as error:
            raise FaultError("invalid_answer", self._safe(str(error))[:MAX_DETAIL]) from None
        if self._away:
            logger.warning("%s answers again.", self._label)
        self._answered_at, self._refusals, self._away = time.monotonic(), 0, False
        return answer

    async def _post(self, body: Mapping[str, Any]) -> Any:
        """The response to a chat request, as parsed JSON or as text."""
        if not self._settings.stream:
            # `chat.completions.create` takes half as long again, for types that servers do not keep
            return await self.client.post("/chat/completions", cast_to=object, body=body)
        asked = {name: body[name] for name in ("model", "messages")}
        others = {name: value for name, value in body.items() if name not in asked}
        others["stream_options"] = {"include_usage": True}
        stream = await self.client.chat.completions.create(**asked, extra_body=others, stream=True)
        return join_stream([chunk.to_dict(warnings=False) async for chunk in stream])

    def _connection_fault(self, cause: BaseException) -> FaultError:
        """What a connection that failed means: no server, or one that broke off."""
        import httpx2

        detail = self._safe(f"{type(cause).__name__}: {cause}")[:MAX_DETAIL]
        if isinstance(cause, (httpx2.ConnectError, httpx2.ConnectTimeout)):
            return FaultError("connection", detail, "down")
        if isinstance(cause, (TimeoutError, httpx2.TimeoutException)):
            return FaultError("timeout", f"no answer within {self._settings.timeout_s:g} s")
        return FaultError("connection", detail)

    async def _refusal(self, error: Any) -> FaultError:
        """What a status other than 200 means.

        Raises:
            ModelUnavailableError: every request would be refused.
        """
        status, said = error.status_code, error.response.text
        reason, detail = f"http_{status}", self._safe(error_detail(said))[:MAX_DETAIL]
        wait_s = retry_after(error.response.headers) or 0.0
        if status in _GATEWAY_CODES:
            return FaultError(reason, detail, await self._passing_or_down(), wait_s)
        passing = status in _PASSING_CODES or status >= 500
        self._refusals += not passing and status != 429
        doubtful, never = status in _DOUBTFUL_CODES, not self._answered_at
        if (
            status in _STOPPING_CODES
            or (status == 429 and "insufficient_quota" in said[:4096])
            or (doubtful and never)
            or (self._refusals >= MAX_REFUSALS and (doubtful or never))
        ):
            raise ModelUnavailableError(
                f"{self._label} refuses: HTTP {status} {detail} Check `base_url`, `model` and the "
                f"key that `api_key_env` names, then run the same command again."
            ) from None
        if status == 429:
            return FaultError(reason, detail, "busy", wait_s)
        return FaultError(reason, detail, "passing" if passing else "final", wait_s)

    async def _passing_or_down(self) -> Literal["passing", "down"]:
        """Whether a server stands behind the gateway: all of this kind list their models."""
        import openai

        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                await self.client.get("/models", cast_to=object)
        except openai.APIStatusError as error:
            return "down" if error.status_code in _GATEWAY_CODES else "passing"
        except (TimeoutError, openai.APIConnectionError):
            return "down"
        except (openai.OpenAIError, *_MALFORMED):
            pass
        return "passing"

    def _check_outage(self, since: float, now: float, fault: FaultError, attempts: int) -> None:
        """Give up when the server has been out of reach or capacity for too long.

        Raises:
            RequestFailedError: other requests were answered meanwhile.
            ModelUnavailableError: none was.
        """
        patience = self._settings.outage_timeout_s
        said = f"{fault.reason} {fault.detail}".strip()
        if now - since < patience:
            if not self._away:
                logger.warning(
                    "%s does not answer (%s); waiting up to %.0f s.", self._label, said, patience
                )
            self._away = True
        elif self._answered_at > since:
            raise RequestFailedError(fault.reason, fault.detail, attempts)
        else:
            raise ModelUnavailableError(
                f"{self._label} did not answer for {patience:.0f} s ({said}). Start the server, or "
                f"wait for capacity, then run the same command again: what is done is kept."
            )

    def _backoff(self, attempt: int) -> float:
        """Seconds before the next attempt: doubling, capped, drawn from the upper half."""
        settings = self._settings
        # beyond 64 doublings the cap is reached, and beyond 1023 the power overflows
        longest = min(settings.max_backoff_s, settings.backoff_s * 2.0 ** min(attempt - 1, 64))
        return longest * random.uniform(0.5, 1.0)  # moves moments, never results

    def _safe(self, text: str) -> str:
        """What a server said, without the key: some repeat it."""
        return text.replace(self._key, "***") if self._key else text

    @property
    def _label(self) -> str:
        settings = self._settings
        return f"Model {settings.name!r} ({settings.model}) at {settings.base_url}"


def _client(settings: ChatSettings, key: str) -> Any:
    """The package's client without retries, redirects and what it reads from the environment."""
    try:
        import httpx2
        import openai
    except ImportError as error:
        raise MissingDependencyError(
            'The openai package is needed to ask servers: pip install -e ".[captioning]"'
        ) from error

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
            raise ValueError("compressed, which was not asked for")  # it could hold gigabytes
        response.stream = Bounded(response.stream)

    # their debugging output holds headers and status lines, in which a server may repeat the key
    for name in ("httpx2", "httpcore2"):
        logging.getLogger(name).setLevel(logging.WARNING)
    omit = openai.Omit()
    headers: dict[str, Any] = {"OpenAI-Organization": omit, "OpenAI-Project": omit}
    connections = settings.max_concurrency + 1
    return openai.AsyncOpenAI(
        api_key=key or "EMPTY",  # anything, or it would send the environment's OPENAI_API_KEY
        admin_api_key="",
        base_url=settings.base_url,
        max_retries=0,
        default_headers=headers | {"Accept-Encoding": "identity"},
        http_client=httpx2.AsyncClient(
            # what stays on this machine must not go through a proxy that the environment names
            trust_env=settings.remote,
            timeout=httpx2.Timeout(
                settings.timeout_s, connect=settings.connect_timeout_s, pool=None
            ),
            limits=httpx2.Limits(
                max_connections=connections, max_keepalive_connections=connections
            ),
            event_hooks={"response": [bound]},
        ),
    )


__all__ = ["OpenAICompatibleModel", "open_model"]
