"""Any server that speaks the OpenAI chat protocol: vLLM, `transformers serve`, hosted services.

Nothing that a server does ends a run, but for refusing every request. What may pass is tried again;
what does not pass is a `RequestFailedError`, which the run counts. vLLM and the hosted services draw
by temperature and seed; `transformers serve` draws only if the checkpoint's generation settings have
`do_sample`, and its seed holds for one request at a time.

| what happens | what is done |
|---|---|
| no connection, connection lost, 502, 503, 504 | the server is asked for a sign of life before anybody tries again (`OutageGate`); then one attempt more |
| 429 | waits as long as the server says, or for the back-off; uses up no attempt |
| 408, 409, 425, other 5xx, timeouts, HTML, truncated JSON, no choices, empty text | one attempt more, after the back-off |
| 400, 413, 422, other 4xx, refusals, filtered content | given up at once: the answer would be the same |
| 401, 402, an empty account; 403, 404 or a redirect before the first answer, or many in a row; nothing but other 4xx from the start | `ModelUnavailableError`: every request would fail |
"""  # noqa: E501

import asyncio
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import MissingDependencyError, ModelUnavailableError, RequestFailedError
from ..records import Reply, Request
from .outage import Backoff, OutageError, OutageGate, retry_after
from .settings import OpenAISettings
from .wire import (
    MAX_ANSWER_BYTES,
    Answer,
    BadAnswerError,
    ChatBody,
    error_detail,
    is_out_of_quota,
    read_answer,
)

GATEWAY_CODES = frozenset({502, 503, 504})
"""A proxy speaks, and says that the server is not there; or the server is starting."""
RETRIED_CODES = frozenset({408, 409, 425})
STOPPING_CODES = frozenset({401, 402})
DOUBTFUL_CODES = frozenset({301, 302, 303, 307, 308, 403, 404})
"""Wrong address, model or rights; or, at some services, an image that they do not like."""
MAX_REFUSALS = 20
"""So many without an answer between them are no matter of single images."""
MAX_DETAIL = 200
RAMP_S = 0.003
"""Between the first uses of two slots: requests that start together are answered together, and a
clump of answers waits for this process while the server has nothing to do."""
USER_AGENT = "UrbanLN-captioning/0.1"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Failure:
    """An attempt that gave no answer.

    Attributes:
        reason: a short code.
        detail: what the server said.
        passing: another attempt may help.
        away: nobody was there.
        busy: the server has no capacity; uses up no attempt.
        wait_s: what the server asks for.
    """

    reason: str
    detail: str = ""
    passing: bool = True
    away: bool = False
    busy: bool = False
    wait_s: float | None = None


class OpenAICompatibleModel:
    """A `records.CaptionModel` behind a server.

    Connections are made when the first request comes, in the event loop that runs then, and again
    after `close`. The key is read from the environment at that moment.

    Args:
        settings: of the recipe.
    """

    in_process = False

    def __init__(self, settings: OpenAISettings):
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
            RequestFailedError: there is none; see the module for what is tried again.
            ModelUnavailableError: no request can succeed.
        """
        return await self._open().complete(request)

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Price of an answer, in the currency of the recipe's prices."""
        return self.settings.cost(prompt_tokens, completion_tokens)

    async def close(self) -> None:
        """Close the connections."""
        session, self._session = self._session, None
        if session is not None and session.loop is asyncio.get_running_loop():
            await session.close()

    def _open(self) -> "_Session":
        loop = asyncio.get_running_loop()
        if self._session is None or self._session.loop is not loop:
            self._session = _Session(self.settings)
        return self._session


class _Session:
    """Connections, and all that belongs to one event loop."""

    def __init__(self, settings: OpenAISettings):
        self.loop = asyncio.get_running_loop()
        self._settings = settings
        self._url = settings.base_url.rstrip("/")
        key = os.environ.get(settings.api_key_env, "") if settings.api_key_env else ""
        self._safe = _censor(key)
        # a connection for each slot: a common pool goes over all of its connections at every
        # request, which at 64 of them costs more than the request itself
        self._clients = _clients(settings, key, settings.max_concurrency + 1)
        self._prober = self._clients.pop()
        self._slots: asyncio.LifoQueue[Any] = asyncio.LifoQueue()
        for number, client in enumerate(self._clients):
            self.loop.call_later(number * RAMP_S, self._slots.put_nowait, client)
        self._backoff = Backoff(settings.backoff_s, settings.max_backoff_s)
        label = f"Model {settings.name!r} at {self._url}"
        self._gate = OutageGate(self._probe, self._backoff, settings.outage_timeout_s, label)
        self._answered = False
        self._refusals = 0

    async def close(self) -> None:
        await self._gate.aclose()
        for client in [*self._clients, self._prober]:
            await client.aclose()

    async def complete(self, request: Request) -> Reply:
        body = self._body(request)
        started, busy_since = time.monotonic(), None
        sent = counted = 0
        while True:
            sent, found = sent + 1, await self._attempt(body, sent)
            if isinstance(found, Answer):
                return Reply(
                    found.text,
                    found.finish_reason,
                    found.prompt_tokens,
                    found.completion_tokens,
                    sent,
                    time.monotonic() - started,
                )
            if found.busy:
                busy_since = busy_since or time.monotonic()
                patient = time.monotonic() - busy_since < self._settings.outage_timeout_s
            else:
                busy_since, counted = None, counted + 1
                patient = counted < self._settings.max_attempts
            if not (found.passing and patient):
                raise RequestFailedError(found.reason, found.detail, sent)
            await asyncio.sleep(max(found.wait_s or 0.0, self._backoff.wait(sent)))

    def _body(self, request: Request) -> ChatBody:
        settings, sampling = self._settings, request.sampling
        fields = {
            "model": settings.model,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            settings.max_tokens_field: sampling.max_tokens,
            "seed": sampling.seed,
            **settings.extra_body,
        }
        if settings.stream:
            fields |= {"stream": True, "stream_options": {"include_usage": True}}
        for name in settings.omit:
            del fields[name]
        try:
            return ChatBody(request.image, request.prompt, fields)
        except ValueError as error:
            raise RequestFailedError("bad_image", str(error), 0) from error

    async def _attempt(self, body: ChatBody, before: int) -> Answer | _Failure:
        """Wait for a slot and for the server, and ask once."""
        client = await self._slots.get()
        try:
            await self._gate.wait()
            found = await self._ask(client, body)
            if isinstance(found, Answer):
                self._answered, self._refusals = True, 0
            elif found.away:
                self._gate.close(found.reason)
            elif found.busy and found.wait_s:
                self._gate.pause(found.wait_s)
            return found
        except OutageError:
            detail = f"no server for {self._settings.outage_timeout_s:.0f} s"
            raise RequestFailedError("unavailable", detail, before) from None
        finally:
            self._slots.put_nowait(client)

    async def _ask(self, client: Any, body: ChatBody) -> Answer | _Failure:
        import httpx2

        try:
            async with asyncio.timeout(self._settings.timeout_s):
                status, headers, data = await _post(client, body)
        except (TimeoutError, httpx2.ReadTimeout, httpx2.WriteTimeout):
            return _Failure("timeout", f"no answer within {self._settings.timeout_s:g} s")
        except httpx2.DecodingError as error:
            return _Failure("undecodable", self._safe(str(error)))
        except (httpx2.LocalProtocolError, httpx2.UnsupportedProtocol, httpx2.InvalidURL) as error:
            raise ModelUnavailableError(
                f"Model {self._settings.name!r} cannot be asked: {type(error).__name__}. Check "
                f"`base_url` and the key that `api_key_env` names."
            ) from None
        except httpx2.HTTPError as error:
            detail = f"{type(error).__name__}: {self._safe(str(error))}"
            return _Failure("connection", detail, away=True)
        if status != 200:
            return self._judge(status, headers, data)
        if len(data) > MAX_ANSWER_BYTES:
            return _Failure("too_long", f"more than {MAX_ANSWER_BYTES} bytes")
        try:
            return read_answer(data, headers.get("content-type", ""))
        except BadAnswerError as error:
            return _Failure(error.reason, self._safe(error.detail), error.passing)

    def _judge(self, status: int, headers: Mapping[str, str], data: bytes) -> _Failure:
        """What a status other than 200 means.

        Raises:
            ModelUnavailableError: it means that every request fails.
        """
        reason, detail = f"http_{status}", self._safe(error_detail(data))
        doubtful = status in DOUBTFUL_CODES
        passing = status in RETRIED_CODES or status == 429 or status >= 500
        self._refusals += not passing
        if (
            status in STOPPING_CODES
            or (status == 429 and is_out_of_quota(data))
            or (doubtful and not self._answered)
            or (self._refusals >= MAX_REFUSALS and (doubtful or not self._answered))
        ):
            raise ModelUnavailableError(
                f"Model {self._settings.name!r} ({self._settings.model}) at {self._url} refuses: "
                f"HTTP {status} {detail} Check `base_url`, `model` and the key that `api_key_env` "
                f"names, then run the same command again."
            )
        wait = retry_after(headers)
        if status in GATEWAY_CODES:
            # a server that names its time is there
            return _Failure(reason, detail, away=wait is None, busy=wait is not None, wait_s=wait)
        if status == 429:
            return _Failure(reason, detail, busy=True, wait_s=wait)
        return _Failure(reason, detail, passing, wait_s=wait)

    async def _probe(self) -> bool:
        """Whether anything answers: every server of this kind lists its models."""
        import httpx2

        try:
            async with asyncio.timeout(max(self._settings.connect_timeout_s, 5.0)):
                response = await self._prober.get("models")
        except (TimeoutError, httpx2.HTTPError):
            return False
        return response.status_code not in GATEWAY_CODES


def _censor(key: str) -> Callable[[str], str]:
    """Makes what a server said fit to be shown: without the key, which some repeat, and short."""

    def safe(text: str) -> str:
        return (text.replace(key, "***") if key else text)[:MAX_DETAIL]

    return safe


async def _post(client: Any, body: ChatBody) -> tuple[int, Mapping[str, str], bytes]:
    headers = {"Content-Type": "application/json", "Content-Length": str(len(body))}
    sent = client.stream("POST", "chat/completions", content=body, headers=headers)
    async with sent as response:
        data = bytearray()
        async for chunk in response.aiter_bytes():
            data += chunk
            if len(data) > MAX_ANSWER_BYTES:
                break
        return response.status_code, response.headers, bytes(data)


def _clients(settings: OpenAISettings, key: str, count: int) -> list[Any]:
    """Clients of one connection each."""
    try:
        import httpx2
    except ImportError as error:
        raise MissingDependencyError(
            'httpx2 is needed to ask servers: pip install -e ".[captioning]"'
        ) from error
    headers = {"User-Agent": USER_AGENT}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    certificates = httpx2.create_ssl_context(trust_env=settings.remote)
    return [
        httpx2.AsyncClient(
            base_url=settings.base_url,
            headers=headers,
            # what stays on this machine must not go through a proxy that the environment names
            trust_env=settings.remote,
            verify=certificates,
            timeout=httpx2.Timeout(
                settings.timeout_s, connect=settings.connect_timeout_s, pool=None
            ),
            limits=httpx2.Limits(max_connections=1, max_keepalive_connections=1),
        )
        for _ in range(count)
    ]


__all__ = ["OpenAICompatibleModel"]
