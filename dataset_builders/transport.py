"""HTTP for [`download`]: client, bounded reads, and retries."""

import datetime as dt
import email.utils
import logging
import time
import zlib
from collections.abc import Mapping
from typing import Any

from .errors import MissingExtraError

MAX_RETRY_AFTER_S = 600.0
MAX_BACKOFF_S = 60.0
TIMEOUT_S = 30.0


class UnusableAnswerError(Exception):
    """Raised when the content of a response is corrupt or too large."""


class BusyError(Exception):
    """Raised when a response asks for another attempt."""

    def __init__(self, code: int, retry_after: float | None):
        super().__init__(f"HTTP {code}")
        self.code, self.retry_after = code, retry_after


def new_client(user_agent: str) -> Any:
    """HTTP client whose log messages contain no keys."""
    try:
        import httpx2
    except ImportError as error:
        raise MissingExtraError("httpx2", "geo") from error
    logging.getLogger("httpx2").addFilter(_hosts_only)
    # debug messages contain response headers, such as a Location with the key
    logging.getLogger("httpcore2").setLevel(logging.INFO)
    return httpx2.AsyncClient(
        timeout=TIMEOUT_S,
        headers={"User-Agent": user_agent, "Accept-Encoding": "gzip"},
        limits=httpx2.Limits(max_connections=None, max_keepalive_connections=64),
    )


def _hosts_only(record: logging.LogRecord) -> bool:
    """Reduce logged URLs to their hosts, since paths and queries may contain keys."""
    if isinstance(record.args, tuple):
        record.args = tuple(getattr(one, "host", one) for one in record.args)
    return True


def patiently(max_attempts: int, backoff_s: float) -> Any:
    """Retry with exponential backoff, unless the host has set a pause by `Retry-After`."""
    import httpx2
    from tenacity import (
        AsyncRetrying,
        RetryCallState,
        retry_if_exception,
        stop_after_attempt,
        wait_random_exponential,
    )

    backoff = wait_random_exponential(multiplier=backoff_s, max=MAX_BACKOFF_S)

    def wait(state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        return 0.0 if getattr(error, "retry_after", None) is not None else backoff(state)

    def is_transient(error: BaseException) -> bool:
        is_web = not isinstance(error, httpx2.UnsupportedProtocol)
        return isinstance(error, (BusyError, httpx2.HTTPError)) and is_web

    return AsyncRetrying(
        stop=stop_after_attempt(max_attempts),
        wait=wait,
        retry=retry_if_exception(is_transient),
        reraise=True,
    )


async def read(response: Any, max_bytes: int) -> bytes:
    """Read a response completely, decompressing it incrementally.

    Raises:
        UnusableAnswerError: The content exceeds `max_bytes`, or is not complete gzip data.
    """
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip"):
        raise UnusableAnswerError(f"unsupported content encoding {encoding[:20]!a}")
    gzip = zlib.decompressobj(wbits=31) if encoding == "gzip" else None
    content = bytearray()
    try:
        async for piece in response.aiter_raw():
            room = max_bytes + 1 - len(content)
            content += gzip.decompress(piece, room) if gzip else piece
            if len(content) > max_bytes:
                raise UnusableAnswerError(f"more than {max_bytes:,} bytes")
    except zlib.error as error:
        raise UnusableAnswerError("broken gzip data") from error
    if gzip and content and not gzip.eof:
        raise UnusableAnswerError("truncated gzip data")
    return bytes(content)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait according to `Retry-After`, a number or a date; None if absent."""
    text = headers.get("retry-after", "")
    try:
        seconds = float(text)
    except ValueError:
        try:
            moment = email.utils.parsedate_to_datetime(text)
        except ValueError:
            return None
        if moment.tzinfo is None:  # "-0000" means UTC
            moment = moment.replace(tzinfo=dt.UTC)
        seconds = moment.timestamp() - time.time()
    return min(max(0.0, seconds), MAX_RETRY_AFTER_S)


__all__ = ["BusyError", "UnusableAnswerError", "new_client", "patiently", "read", "retry_after"]
