"""Rate-limited, verified and resumable downloads.

All requests of this package go through [`Fetcher`], which limits rate and concurrency per host,
honours `Retry-After` and backs off exponentially. A response is "ok" once it has been read
completely, within a size limit, and checked; the ledger ([`Store`]) records it, and it is never
requested again. An exhausted quota or a rejected key ends the run.
"""

import asyncio
import contextlib
import hashlib
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast
from urllib.parse import unquote_plus

from .errors import DatasetError
from .ledger import Fetched, Status, Store
from .transport import (
    BusyError,
    UnusableAnswerError,
    new_client,
    patiently,
    read,
    retry_after,
)

STOPPING: frozenset[Status] = frozenset({"quota", "denied"})
RETRIED_CODES = frozenset({408, 425, 429, 500, 502, 503, 504})
MISSING_CODES = frozenset({204, 404, 410})
DENIED_CODES = frozenset({401, 403})
MAX_BYTES = 2**26
"""Default size limit of a response, after decompression."""
MAX_REDIRECTS = 20
MAX_DETAIL = 300
BURST_S, HEADROOM = 0.03, 0.97
"""Late requests catch up in bursts of up to `BURST_S` seconds; the average rate is `HEADROOM` of
the limit."""
WRITERS = 8
FAILURES_IN_A_ROW = 50
USER_AGENT = "UrbanLN-dataset-builders/0.1 (research; +https://github.com/urbanln/urbanln)"


@dataclass(frozen=True)
class Limit:
    """Requests per second and number of concurrent requests of a host."""

    per_second: float = 2.0
    at_once: int = 4

    def __post_init__(self) -> None:
        if self.per_second <= 0 or self.at_once < 1:
            raise DatasetError(
                f"A limit needs a rate above 0 and at least one concurrent request, got {self}."
            )


@dataclass(frozen=True)
class Item:
    """A download.

    Attributes:
        key: Name in the ledger. It contains no secret and does not change when a URL expires.
        url: Address. Neither stored nor shown, like the other fields that may contain a secret.
        params: Query parameters.
        headers: Request headers.
        secret: Key that these contain. It is not sent to another host by a redirect, nor repeated
            in a detail.
        refused: State for HTTP 401 and 403. "denied" ends the run; "failed" suits expiring
            addresses that contain no key of the user.
        max_bytes: Size limit of the response.
    """

    key: str
    url: str = field(repr=False)
    params: Mapping[str, str] = field(default_factory=dict, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    secret: str = field(default="", repr=False)
    refused: Status = "denied"
    max_bytes: int = MAX_BYTES


@dataclass(frozen=True)
class Verdict:
    """Result of checking a response."""

    status: Status
    detail: str = ""


class StoppedError(DatasetError):
    """Raised when retrying is pointless: quota, key, or no responses. Downloads are kept."""

    exit_code = 3

    def __init__(self, fetched: Fetched):
        self.fetched = fetched
        key, detail = fetched.key, fetched.detail
        what = (
            f"The provider answered {fetched.status!r} (HTTP {fetched.code}) for {key}: {detail}."
        )
        remedy = "Check the key and its permissions, then run the same command again."
        if fetched.status == "quota":
            remedy = "Run the same command again when the quota is renewed."
        elif fetched.status == "failed":
            what = f"{FAILURES_IN_A_ROW} items in a row failed, {key} the last: {detail}."
            remedy = (
                "Check the network and the provider's address, then run the same command again."
            )
        super().__init__(f"{what} {remedy}")


Check = Callable[[bytes, str], Verdict]
"""Maps content and media type to a verdict."""


class Host:
    """Rate limit, concurrency limit and requested pauses of one host.

    Attributes:
        slots: Held from before a request until its response is recorded.
    """

    def __init__(self, limit: Limit):
        from aiolimiter import AsyncLimiter

        burst = max(1.0, limit.per_second * BURST_S)
        self.slots = asyncio.Semaphore(limit.at_once)
        self._rate = AsyncLimiter(burst, burst / (HEADROOM * limit.per_second))
        self._resumes_at = 0.0

    async def turn(self) -> None:
        """Wait until a request may be sent."""
        await self._rate.acquire()
        while (delay := self._resumes_at - time.monotonic()) > 0:
            await asyncio.sleep(delay)
            await self._rate.acquire()

    def pause(self, seconds: float) -> None:
        """Send no request for this number of seconds."""
        self._resumes_at = max(self._resumes_at, time.monotonic() + seconds)


class Fetcher:
    """Downloads items, each at most once over all runs.

    Args:
        store: Ledger and contents.
        limits: Limits by host name; other hosts get the default limit.
        max_attempts: Attempts per item and run.
        backoff_s: Longest wait before the second attempt, in seconds; doubles per attempt.
        user_agent: Identifies the client and a contact address; ASCII.

    Attributes:
        failed: Number of items without a response; the next run requests them again.
    """

    def __init__(
        self,
        store: Store,
        limits: Mapping[str, Limit] | None = None,
        max_attempts: int = 5,
        backoff_s: float = 1.0,
        user_agent: str = USER_AGENT,
    ):
        self._store = store
        self._limits = dict(limits or {})
        self._hosts: dict[str, Host] = {}
        self._max_attempts = max_attempts
        self._client = new_client(user_agent)
        self._retrying = patiently(max_attempts, backoff_s)
        self._in_a_row = self.failed = 0
        # contents are checked and synced to disk in threads, concurrently with requests
        self._writers = ThreadPoolExecutor(WRITERS)

    async def __aenter__(self) -> "Fetcher":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()
        self._writers.shutdown()

    async def fetch_all(
        self, items: Iterable[Item], check: Check, in_flight: int = 64
    ) -> AsyncIterator[Fetched]:
        """Download items from an iterable, with a bounded number in flight.

        Args:
            items: Items; may be a generator of millions.
            check: Check of a response, such as [`check_image`].
            in_flight: Number of items that may wait for a response.

        Yields:
            State of each item, in order of completion.

        Raises:
            StoppedError: Exhausted quota, rejected key, or no more responses. Downloads are kept.
        """
        waiting, done, source = set[Any](), set[Any](), iter(items)
        try:
            while True:
                while len(waiting) < in_flight and (item := next(source, None)) is not None:
                    waiting.add(asyncio.create_task(self.fetch(item, check)))
                if not waiting:
                    return
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    yield task.result()
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, *done, return_exceptions=True)

    async def fetch(self, item: Item, check: Check) -> Fetched:
        """Download one item, unless it is settled."""
        if (known := self._store.settled(item.key)) is not None:
            return known
        fetched, _ = await self._settle(item, check, self._store)
        return fetched

    async def ask(self, item: Item, check: Check) -> tuple[Fetched, bytes]:
        """Download without storing, for content that expires or contains a secret.

        Returns:
            State and content; the content is empty unless the state is "ok".

        Raises:
            StoppedError: Exhausted quota, rejected key, or no more responses.
        """
        return await self._settle(item, check, None)

    async def _settle(self, item: Item, check: Check, store: Store | None) -> tuple[Fetched, bytes]:
        import httpx2

        try:
            fetched, content = await self._retrying.copy()(self._try, item, check, store)
        except (BusyError, httpx2.HTTPError, httpx2.InvalidURL) as error:
            fetched, content = _lost(item, error, self._max_attempts), b""
            if store is not None:
                store.put(fetched)
        self.failed += fetched.status == "failed"
        self._in_a_row = self._in_a_row + 1 if fetched.status == "failed" else 0
        if fetched.status in STOPPING or self._in_a_row >= FAILURES_IN_A_ROW:
            raise StoppedError(fetched)
        return fetched, content

    async def _try(self, item: Item, check: Check, store: Store | None) -> tuple[Fetched, bytes]:
        """One attempt. It keeps its slot until it is recorded, to limit what a kill can lose."""
        import httpx2

        async with self._host(httpx2.URL(item.url).host).slots:
            response, content = await self._get(item)
            job = partial(_record, item, response, content, check, store)
            # shielded: responses are recorded even if another one ends the run
            loop = asyncio.get_running_loop()
            written = loop.run_in_executor(self._writers, job)
            # after a stop nothing else retrieves the exception
            written.add_done_callback(lambda done: done.cancelled() or done.exception())
            return await asyncio.shield(written)

    async def _get(self, item: Item) -> tuple[Any, bytes | Verdict]:
        """Send a request and follow redirects, except to another host with the key."""
        import httpx2

        request = self._client.build_request(
            "GET", item.url, params=dict(item.params) or None, headers=dict(item.headers)
        )
        for _ in range(MAX_REDIRECTS + 1):
            response, content = await self._send(item, request)
            if response.next_request is None:
                return response, content
            request = response.next_request
            if _takes_key_away(item, request):
                detail = "redirects to another host, which must not receive the key"
                return response, Verdict("denied", detail)
        raise httpx2.TooManyRedirects("too many redirects", request=request)

    async def _send(self, item: Item, request: Any) -> tuple[Any, bytes | Verdict]:
        import httpx2

        if request.url.scheme not in ("http", "https") or not request.url.host:
            raise httpx2.UnsupportedProtocol("not an http(s) address", request=request)
        host = self._host(request.url.host)
        await host.turn()
        response = await self._client.send(request, stream=True)
        async with contextlib.aclosing(response):
            content: bytes | Verdict
            try:
                content = await read(response, item.max_bytes)
            except UnusableAnswerError as error:
                content = Verdict("invalid", str(error))
        if response.status_code in RETRIED_CODES:
            busy = BusyError(response.status_code, retry_after(response.headers))
            host.pause(busy.retry_after or 0.0)
            raise busy
        return response, content

    def _host(self, name: str) -> Host:
        if name not in self._hosts:
            self._hosts[name] = Host(self._limits.get(name, Limit()))
        return self._hosts[name]


def check_image(content: bytes, media_type: str) -> Verdict:
    """Check that a response is a complete image of more than one colour."""
    from .images import BadImageError, decode_image

    if media_type.startswith(("text/", "application/json")):
        return Verdict("invalid", f"{media_type} instead of an image")
    try:
        image = decode_image(content)
    except BadImageError as error:
        return Verdict("invalid", f"{error.reason}: {error}")
    extrema = cast(tuple[tuple[int, int], ...], image.getextrema())
    if all(low == high for low, high in extrema):
        return Verdict("blank", "one colour")
    return Verdict("ok")


def check_piece(content: bytes, media_type: str) -> Verdict:
    """Like [`check_image`], for tiles, which may have a single colour (open sea)."""
    verdict = check_image(content, media_type)
    return Verdict("ok", verdict.detail) if verdict.status == "blank" else verdict


def _lost(item: Item, error: Exception, attempts: int) -> Fetched:
    import httpx2

    status: Status = "failed"
    # messages of client errors may contain the URL and its key
    text = str(error) if isinstance(error, BusyError) else type(error).__name__
    detail = f"{text} after {attempts} attempts"
    if isinstance(error, (httpx2.InvalidURL, httpx2.UnsupportedProtocol)):
        scheme = str(item.url).partition(":")[0]
        shown = f" but {scheme}://" if scheme.isalnum() and len(scheme) < 8 else ""
        status, detail = "invalid", f"not an http(s):// address{shown}"
    code = getattr(error, "code", None)
    return Fetched(item.key, status, code, detail=detail, fetched_at=time.time())


def _record(
    item: Item, response: Any, content: bytes | Verdict, check: Check, store: Store | None
) -> tuple[Fetched, bytes]:
    verdict = _judge(item, response, content, check)
    body, sha256, detail = b"", None, verdict.detail
    if verdict.status == "ok":
        body = cast(bytes, content)
        sha256 = hashlib.sha256(body).hexdigest()
    if item.secret and any(item.secret in one for one in (detail, unquote_plus(detail))):
        detail = "an answer that repeats the key"
    fetched = Fetched(
        item.key,
        verdict.status,
        response.status_code,
        sha256,
        len(body),
        detail[:MAX_DETAIL],
        time.time(),
    )
    if store is not None:
        store.put(fetched, body or None)
    return fetched, body


def _judge(item: Item, response: Any, content: bytes | Verdict, check: Check) -> Verdict:
    code = response.status_code
    if code in DENIED_CODES:
        return Verdict(item.refused, f"the server rejects the request (HTTP {code})")
    if code in MISSING_CODES:
        return Verdict("missing", f"HTTP {code}")
    if isinstance(content, Verdict):
        return content
    if code != 200:
        return Verdict("invalid", f"HTTP {code}")
    if not content:
        return Verdict("invalid", "an empty response")
    return check(content, response.headers.get("content-type", ""))


def _takes_key_away(item: Item, request: Any) -> bool:
    import httpx2

    home, url = httpx2.URL(item.url), request.url
    is_upgrade = (home.scheme, url.scheme, url.host) == ("http", "https", home.host)
    if not item.secret or url.origin == home.origin or is_upgrade:
        return False
    texts = [str(url), *request.headers.values()]
    return any(item.secret in text or item.secret in unquote_plus(text) for text in texts)


__all__ = [
    "Fetched",
    "Fetcher",
    "Host",
    "Item",
    "Limit",
    "StoppedError",
    "Store",
    "Verdict",
    "check_image",
    "check_piece",
]
