"""The one network room: everything that is fetched goes through here.

Polite (a rate for each host, an honest user agent, `Retry-After` obeyed), patient (back-off that
doubles, is capped and jittered), and careful: an answer counts as "ok" only when it has been read
to its end and checked. What has been fetched lies in a ledger and is never asked for again. The
first answer that says that a quota is used up, or a key refused, stops everything.
"""

import asyncio
import email.utils
import hashlib
import logging
import random
import sqlite3
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeVar, cast
from urllib.parse import unquote_plus

from .errors import DatasetError, MissingExtraError
from .files import atomic_path

T = TypeVar("T")
Status = Literal["ok", "missing", "blank", "placeholder", "quota", "denied", "invalid", "failed"]
FINAL: frozenset[Status] = frozenset({"ok", "missing", "blank", "placeholder", "invalid"})
"""States that asking again would not change; "failed" is tried anew by the next run."""
STOPPING: frozenset[Status] = frozenset({"quota", "denied"})
RETRIED_CODES = frozenset({408, 425, 429, 500, 502, 503, 504})
OK_CODES = frozenset({200, 206})
MISSING_CODES = frozenset({204, 404, 410})
DENIED_CODES = frozenset({401, 403})
MAX_RETRY_AFTER_S = 600.0
MAX_REDIRECTIONS = 20
HEADROOM = 0.97
"""Share of a rate that is aimed at, so that requests which are held up on their way and arrive
closer together than they went still do not pass it."""
SYNCED_AT_ONCE = 8
"""Contents on their way to the disk; one after another they would be slower than a fast host."""
CATCH_UP_S = 0.05
"""A request that is late by more is not made up for."""
FAILURES_IN_A_ROW = 50
"""So many items without an answer say that there will be none."""
USER_AGENT = "UrbanLN-dataset-builders/0.1 (research; +https://github.com/urbanln/urbanln)"

SCHEMA = """
CREATE TABLE IF NOT EXISTS fetched (
    key TEXT PRIMARY KEY,
    status TEXT NOT NULL,
    code INTEGER,
    sha256 TEXT,
    size INTEGER NOT NULL,
    detail TEXT NOT NULL,
    fetched_at REAL NOT NULL
) WITHOUT ROWID
"""


@dataclass(frozen=True)
class Limit:
    """What a host is asked to bear: requests a second, and how many at once."""

    per_second: float = 2.0
    at_once: int = 4

    def __post_init__(self) -> None:
        if self.per_second <= 0 or self.at_once < 1:
            raise DatasetError(
                f"A limit needs a rate above 0 and one request at least, got {self}."
            )


@dataclass(frozen=True)
class Item:
    """Something to fetch.

    Attributes:
        key: names it in the ledger; holds no secret, and does not change when a URL expires.
        url: never stored or shown, nor are the others: they may hold a secret.
        params: of the query.
        headers: of the request.
        secret: the key that they hold; no redirection takes it to another host.
    """

    key: str
    url: str = field(repr=False)
    params: Mapping[str, str] = field(default_factory=dict, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    secret: str = field(default="", repr=False)


@dataclass(frozen=True)
class Verdict:
    """What a check makes of an answer that was read to its end."""

    status: Status
    detail: str = ""


@dataclass(frozen=True)
class Fetched:
    """What became of an item.

    Attributes:
        key: of the item.
        status: see [`Status`].
        code: of the last HTTP answer; None if there was none.
        sha256: of the content, which lies in the store; None unless "ok".
        size: of the content in bytes.
        detail: why it is not "ok", or what is odd about it.
        fetched_at: seconds since 1970.
    """

    key: str
    status: Status
    code: int | None = None
    sha256: str | None = None
    size: int = 0
    detail: str = ""
    fetched_at: float = 0.0


class StoppedError(DatasetError):
    """Asking on is no use: quota used up, key refused, or no answer. What is there is kept."""

    def __init__(self, fetched: Fetched):
        self.fetched = fetched
        if fetched.status == "failed":
            super().__init__(
                f"{FAILURES_IN_A_ROW} items in a row failed, {fetched.key} the last: "
                f"{fetched.detail}. Check the network and the provider's address, then run the "
                "same command again."
            )
            return
        remedy = (
            "Run the same command again when the quota is renewed."
            if fetched.status == "quota"
            else "Check the key and its permissions, then run the same command again."
        )
        super().__init__(
            f"The provider answered {fetched.status!r} (HTTP {fetched.code}) for {fetched.key}: "
            f"{fetched.detail} {remedy}"
        )


Check = Callable[[bytes, str], Verdict]
"""From the content and its media type to a verdict."""


class RateLimiter:
    """Lets requests go so that no second holds more of them than the limit.

    They are aimed at equal distances. One that comes late, for the machine was busy, is made up
    for by those after it; but never do more go in a second than may, by when they really went.

    Attributes:
        at_once: to be held from before a request until its answer.
    """

    def __init__(self, limit: Limit):
        self.at_once = asyncio.Semaphore(limit.at_once)
        self._interval = 1.0 / (HEADROOM * limit.per_second)
        self._next = 0.0
        self._went: deque[float] = deque(maxlen=max(1, int(limit.per_second)))
        self._turn = asyncio.Lock()

    async def turn(self) -> None:
        """Wait for the moment that a request is aimed at."""
        has_waited = self._turn.locked()
        async with self._turn:
            # it may be put off meanwhile, and a sleep may end a little early
            while (delay := self._next - time.monotonic()) > 0:
                has_waited = True
                await asyncio.sleep(delay)
            now = time.monotonic()
            # who came only now was not held up
            self._next = (max(self._next, now - CATCH_UP_S) if has_waited else now) + self._interval

    async def go(self) -> None:
        """Wait until one more request may go, to be called when its connection stands."""
        while len(self._went) == self._went.maxlen:
            delay = self._went[0] + len(self._went) * self._interval - time.monotonic()
            if delay <= 0:
                break
            await asyncio.sleep(delay)
        self._went.append(time.monotonic())

    def pause(self, seconds: float) -> None:
        """Let nothing go for so long."""
        self._next = max(self._next, time.monotonic() + seconds)


class Store:
    """The ledger of what was fetched, and the contents by their hash.

    Args:
        folder: of both; made if need be.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        # SQLite takes one statement at a time, whichever thread it comes from
        self._database = sqlite3.connect(
            self.folder / "ledger.sqlite", isolation_level=None, check_same_thread=False
        )
        self._writing = [threading.Lock() for _ in range(256)]
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = NORMAL")
        self._database.execute(SCHEMA)

    def close(self) -> None:
        """Give the ledger free."""
        self._database.close()

    def get(self, key: str) -> Fetched | None:
        """What became of an item, if it was fetched."""
        row = self._database.execute("SELECT * FROM fetched WHERE key = ?", (key,)).fetchone()
        return Fetched(*row) if row else None

    def put(self, fetched: Fetched, content: bytes | None = None) -> None:
        """Store what became of an item; its content first, so that the ledger never lies."""
        if content is not None:
            path = self.path(str(fetched.sha256))
            with self._writing[int(path.name[:2], 16)]:  # two items may have one content
                if not path.exists():
                    with atomic_path(path) as temporary:
                        temporary.write_bytes(content)
        self._database.execute(
            "INSERT OR REPLACE INTO fetched VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                fetched.key,
                fetched.status,
                fetched.code,
                fetched.sha256,
                fetched.size,
                fetched.detail,
                fetched.fetched_at,
            ),
        )

    def path(self, sha256: str) -> Path:
        """The file of a content."""
        return self.folder / "content" / sha256[:2] / sha256

    def read(self, key: str) -> bytes | None:
        """The content of an item that is "ok"."""
        fetched = self.get(key)
        if fetched is None or fetched.status != "ok" or fetched.sha256 is None:
            return None
        return self.path(fetched.sha256).read_bytes()

    def counts(self, prefix: str = "") -> dict[str, int]:
        """How many items are in which state."""
        rows = self._database.execute(
            "SELECT status, count(*) FROM fetched WHERE substr(key, 1, ?) = ? "
            "GROUP BY status ORDER BY status",
            (len(prefix), prefix),
        )
        return dict(rows.fetchall())

    def failures(self, prefix: str = "") -> Iterator[Fetched]:
        """Items that are neither "ok" nor "missing", by key."""
        rows = self._database.execute(
            "SELECT * FROM fetched WHERE substr(key, 1, ?) = ? "
            "AND status NOT IN ('ok', 'missing') ORDER BY key",
            (len(prefix), prefix),
        )
        for row in rows:
            yield Fetched(*row)

    def forget(self, keys: Iterable[str]) -> None:
        """Let items be fetched again."""
        self._database.executemany("DELETE FROM fetched WHERE key = ?", [(key,) for key in keys])

    def forget_failures(self, prefix: str = "") -> int:
        """Let what is not "ok" or "missing" be fetched again; returns how many items that are."""
        return self._database.execute(
            "DELETE FROM fetched WHERE substr(key, 1, ?) = ? AND status NOT IN ('ok', 'missing')",
            (len(prefix), prefix),
        ).rowcount

    def mark(self, keys: Iterable[str], status: Status, detail: str) -> None:
        """Say of items that they are in another state than it seemed."""
        self._database.executemany(
            "UPDATE fetched SET status = ?, detail = ? WHERE key = ?",
            [(status, detail, key) for key in keys],
        )

    def mark_placeholders(self, prefix: str, more_than: int) -> int:
        """Call contents that came for many items placeholders ("no picture here").

        Pictures of one colour that their check let pass (open sea) may be alike, and stay.

        Args:
            prefix: of the keys of a provider.
            more_than: items with the same content that are still believed.

        Returns:
            How many items lost their content.
        """
        return self._database.execute(
            "UPDATE fetched SET status = 'placeholder', detail = 'the same picture as many others' "
            "WHERE status = 'ok' AND detail = '' AND substr(key, 1, ?) = ? "
            "AND sha256 IN (SELECT sha256 FROM "
            "fetched WHERE status = 'ok' AND substr(key, 1, ?) = ? GROUP BY sha256 "
            "HAVING count(*) > ?)",
            (len(prefix), prefix, len(prefix), prefix, more_than),
        ).rowcount


class Fetcher:
    """Fetches items, each at most once over all runs.

    Args:
        store: ledger and contents.
        limits: by host name; other hosts get the default limit.
        max_attempts: for each item and run.
        backoff_s: before the second attempt; doubles, up to `max_backoff_s`.
        max_backoff_s: the longest wait that is not asked for by the server.
        timeout_s: without a byte.
        user_agent: says who asks, and how to reach them; ASCII.
        seed: of the jitter.
    """

    def __init__(
        self,
        store: Store,
        limits: Mapping[str, Limit] | None = None,
        max_attempts: int = 5,
        backoff_s: float = 1.0,
        max_backoff_s: float = 60.0,
        timeout_s: float = 30.0,
        user_agent: str = USER_AGENT,
        seed: int = 0,
    ):
        if not user_agent.isascii():
            raise DatasetError(f"A user agent is ASCII, got {user_agent!r}.")
        self._store = store
        self._limits = dict(limits or {})
        self._limiters: dict[str, RateLimiter] = {}
        self._max_attempts = max_attempts
        self._backoff_s, self._max_backoff_s = backoff_s, max_backoff_s
        self._jitter = random.Random(seed)
        self._in_a_row = 0
        self._client = _client(timeout_s, user_agent, self._turn)
        self._desk = ThreadPoolExecutor(SYNCED_AT_ONCE)

    async def __aenter__(self) -> "Fetcher":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._client.aclose()
        self._desk.shutdown()

    async def fetch_all(
        self, items: Iterable[Item], check: Check, in_flight: int = 64
    ) -> AsyncIterator[Fetched]:
        """Fetch items as they come from the iterable, a bounded number at a time.

        Args:
            items: may be a generator of millions.
            check: judges every answer; see [`check_image`].
            in_flight: items that wait for their turn or their answer.

        Yields:
            What became of each, in the order of completion.

        Raises:
            StoppedError: quota used up, key refused, or nothing answers any more; what was
                answered is kept.
        """
        waiting, done, source = (
            set[asyncio.Task[Fetched]](),
            set[asyncio.Task[Fetched]](),
            iter(items),
        )
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
        """Fetch one item, unless it has been."""
        known = self._store.get(item.key)
        if known is not None and known.status in FINAL:
            return known
        fetched, _ = await self._settled(item, check, self._store)
        return fetched

    async def ask(self, item: Item, check: Check) -> tuple[Fetched, bytes]:
        """Fetch what is not to be stored, for it expires or holds what is secret.

        Returns:
            What became of it, and the answer; empty unless it is "ok".

        Raises:
            StoppedError: quota used up, key refused, or nothing answers any more.
        """
        return await self._settled(item, check, None)

    async def _settled(
        self, item: Item, check: Check, store: Store | None
    ) -> tuple[Fetched, bytes]:
        fetched, content = await self._attempts(item, check, store)
        self._in_a_row = self._in_a_row + 1 if fetched.status == "failed" else 0
        if fetched.status in STOPPING or self._in_a_row >= FAILURES_IN_A_ROW:
            raise StoppedError(fetched)
        return fetched, content

    async def _attempts(
        self, item: Item, check: Check, store: Store | None
    ) -> tuple[Fetched, bytes]:
        import httpx2

        code, detail = None, ""
        limiter = self._limiter(httpx2.URL(item.url).host)
        for attempt in range(self._max_attempts):
            wait = self._wait(attempt)
            try:
                async with limiter.at_once:
                    response = await self._get(item)
                    code = response.status_code
                    if code not in RETRIED_CODES:
                        job = partial(_settle, item, response, check, store)
                        return await self._at_desk(job)
            except httpx2.HTTPError as error:
                # the message may hold the whole URL, key and all
                detail = type(error).__name__
            else:
                detail = f"HTTP {code}"
                if (asked := _retry_after(response.headers)) is not None:
                    limiter.pause(asked)
                    wait = 0.0
            if attempt + 1 < self._max_attempts:
                await asyncio.sleep(wait)
        detail = f"{detail} after {self._max_attempts} attempts"
        failed = Fetched(item.key, "failed", code, detail=detail, fetched_at=time.time())
        if store is not None:
            store.put(failed)
        return failed, b""

    async def _get(self, item: Item) -> Any:
        """The answer, redirections followed, but for one that takes the key to another host."""
        import httpx2

        request = self._client.build_request(
            "GET", item.url, params=dict(item.params) or None, headers=dict(item.headers)
        )
        for _ in range(MAX_REDIRECTIONS + 1):
            response = await self._client.send(request)
            request = response.next_request
            if request is None or _takes_key_away(item, request):
                return response
        raise httpx2.TooManyRedirects("too many redirections", request=request)

    async def _at_desk(self, job: Callable[[], T]) -> T:
        # decoded and synced to the disk beside the requests, which must not wait for it; what has
        # been answered is kept even if another answer stops everything
        return await asyncio.shield(asyncio.wrap_future(self._desk.submit(job)))

    async def _turn(self, request: Any) -> None:
        # asked by the client before every request, those that a redirection leads to too
        limiter = self._limiter(request.url.host)
        request.extensions = {**request.extensions, "trace": _before_headers(limiter.go)}
        await limiter.turn()

    def _limiter(self, host: str) -> RateLimiter:
        if host not in self._limiters:
            self._limiters[host] = RateLimiter(self._limits.get(host, Limit()))
        return self._limiters[host]

    def _wait(self, attempt: int) -> float:
        longest = min(self._max_backoff_s, self._backoff_s * 2**attempt)
        return longest * self._jitter.uniform(0.5, 1.0)


def check_image(content: bytes, media_type: str) -> Verdict:
    """An answer that must be a picture: decoded to its end, and not of one colour.

    Args:
        content: the bytes.
        media_type: as the server says.
    """
    from .images import BadImageError, decode_image

    if media_type.startswith(("text/", "application/json")):
        return Verdict("invalid", f"{media_type} in place of a picture")
    try:
        image = decode_image(content)
    except BadImageError as error:
        return Verdict("invalid", f"{error.reason}: {error}")
    extrema = cast(tuple[tuple[int, int], ...], image.getextrema())
    if all(low == high for low, high in extrema):
        return Verdict("blank", "one colour")
    return Verdict("ok")


def check_piece(content: bytes, media_type: str) -> Verdict:
    """A piece of a picture: as [`check_image`], but it may be of one colour, as open sea is."""
    verdict = check_image(content, media_type)
    return Verdict("ok", verdict.detail) if verdict.status == "blank" else verdict


def _before_headers(
    go: Callable[[], Coroutine[Any, Any, None]],
) -> Callable[[str, Any], Coroutine[Any, Any, None]]:
    """Calls back when a connection stands and the request is about to be written to it."""

    async def trace(event: str, _: Any) -> None:
        if event.endswith(".send_request_headers.started"):
            await go()

    return trace


class _HostsOnly(logging.Filter):
    """Of addresses that the client logs, their hosts: providers take keys in path and query."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(getattr(one, "host", one) for one in record.args)
        return True


_HOSTS_ONLY = _HostsOnly()


def _client(
    timeout_s: float, user_agent: str, before: Callable[[Any], Coroutine[Any, Any, None]]
) -> Any:
    try:
        import httpx2
    except ImportError as error:
        raise MissingExtraError("httpx2", "geo") from error
    logging.getLogger("httpx2").addFilter(_HOSTS_ONLY)
    return httpx2.AsyncClient(
        timeout=timeout_s,
        headers={"User-Agent": user_agent},
        event_hooks={"request": [before]},
        limits=httpx2.Limits(max_connections=None, max_keepalive_connections=64),
    )


def _settle(item: Item, response: Any, check: Check, store: Store | None) -> tuple[Fetched, bytes]:
    """Judge an answer and store what became of the item."""
    fetched = _judge(item, response, check)
    content = response.content if fetched.status == "ok" else b""
    if store is not None:
        store.put(fetched, content or None)
    return fetched, content


def _takes_key_away(item: Item, request: Any) -> bool:
    """Whether a request that an item was redirected to would tell its key to another host."""
    import httpx2

    home, url = httpx2.URL(item.url), request.url
    is_upgrade = (home.scheme, url.scheme, url.host) == ("http", "https", home.host)
    if not item.secret or url.origin == home.origin or is_upgrade:
        return False
    texts = [str(url), *request.headers.values()]
    return any(item.secret in text or item.secret in unquote_plus(text) for text in texts)


def _judge(item: Item, response: Any, check: Check) -> Fetched:
    code, content = response.status_code, response.content
    media_type = response.headers.get("content-type", "")
    if response.next_request is not None:
        # its name is not told: it may hold the key
        verdict = Verdict("denied", "it redirects to another host, which must not get the key.")
    elif code in DENIED_CODES:
        verdict = Verdict("denied", "the server refuses the request")
    elif code in MISSING_CODES:
        verdict = Verdict("missing", f"HTTP {code}")
    elif code not in OK_CODES:
        verdict = Verdict("invalid", f"HTTP {code}")
    elif not content:
        verdict = Verdict("invalid", "an empty answer")
    else:
        verdict = check(content, media_type)
    if verdict.status != "ok":
        return Fetched(
            item.key, verdict.status, code, detail=verdict.detail, fetched_at=time.time()
        )
    digest = hashlib.sha256(content).hexdigest()
    # of a part of a file: which part it is, and of how many bytes
    detail = verdict.detail or response.headers.get("content-range", "")
    return Fetched(item.key, "ok", code, digest, len(content), detail, time.time())


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the server asks to wait for, from a number or a date."""
    text = headers.get("retry-after")
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(text).timestamp() - time.time()
        except ValueError:
            return None
    return min(max(0.0, seconds), MAX_RETRY_AFTER_S)


__all__ = [
    "Fetched",
    "Fetcher",
    "Item",
    "Limit",
    "RateLimiter",
    "StoppedError",
    "Store",
    "Verdict",
    "check_image",
    "check_piece",
]
