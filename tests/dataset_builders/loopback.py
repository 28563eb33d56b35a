"""Loopback server with responses and faults set by a test."""

import asyncio
import collections
import json
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlparse

from dataset_builders.download import Fetcher, Limit, Store

from ..servers import QuietServer

JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Request:
    """A GET request; of repeated parameters the first counts."""

    path: str
    query: dict[str, str]
    headers: Mapping[str, str]


def as_json(value: Any) -> tuple[int, dict[str, str], bytes]:
    """A JSON response."""
    return 200, JSON, json.dumps(value).encode()


class Loopback(QuietServer, ABC):
    """Responds to GET requests by [`answer`]; [`name`] gives the name of a request.

    Attributes:
        asked: Number of requests per name.
        requests: All requests, in order.
        answers: Responses that replace the right one, by name or path: `(status, headers, body)`,
            used in turn; a number truncates the right response.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked, self.requests = collections.Counter(), []
        self.answers = collections.defaultdict(list)
        self.lock = threading.Lock()
        self.start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def total(self):
        return sum(self.asked.values())

    def name(self, request: Request) -> str:
        return request.path

    @abstractmethod
    def answer(self, request: Request) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the right response."""


def with_fetcher(folder, job, **settings):
    """Run the coroutine `job(fetcher, store)` with a store in a folder; returns its result."""

    async def main():
        store = Store(folder)
        settings.setdefault("limits", {"127.0.0.1": Limit(1000, 32)})
        settings.setdefault("backoff_s", 0.01)
        try:
            async with Fetcher(store, **settings) as fetcher:
                return await job(fetcher, store)
        finally:
            store.close()

    return asyncio.run(main())


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        server, parts = self.server, urlparse(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        request = Request(parts.path, query, self.headers)
        name = server.name(request)
        with server.lock:
            server.asked[name] += 1
            server.requests.append(request)
            planned = server.answers[name] or server.answers[parts.path]
            fault = planned.pop(0) if planned else None
        cut = fault if isinstance(fault, int) else None
        self.reply(*(server.answer(request) if cut or fault is None else fault), cut=cut)

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with self.server.lock:
            self.server.asked[self.path] += 1
        self.reply(*self.server.answer(Request(self.path, {}, self.headers)))

    def reply(self, status, headers, body, cut=None):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:cut])
        self.close_connection = cut is not None


__all__ = ["JSON", "Loopback", "Request", "as_json", "with_fetcher"]
