"""Loopback servers with scripted responses and faults."""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class QuietServer(ThreadingHTTPServer):
    """HTTP server on the loopback address that runs in a thread."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def start(self) -> None:
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Do not print errors of disconnected clients."""


@dataclass(frozen=True)
class Call:
    """Request of a client.

    Attributes:
        number: Number of the POST request, from 1; 0 for a GET request.
        at: Time in seconds on the monotonic clock.
    """

    number: int
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    at: float

    @property
    def json(self) -> dict[str, Any]:
        return dict(json.loads(self.body))


@dataclass(frozen=True)
class Response:
    """Response to a client.

    Attributes:
        hold: Event to wait for before responding.
        cut: Number of bytes of the body after which the connection is closed.
        disconnect: Whether to close the connection without a response.
        phrase: Reason phrase of the status line; the standard one by default.
    """

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    hold: threading.Event | None = None
    cut: int | None = None
    disconnect: bool = False
    phrase: str | None = None


def chat(text: Any = "A street.", finish_reason: str | None = "stop", **changes: Any) -> Response:
    """Complete response of a chat model; `changes` are fields of the `Response`."""
    usage = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": finish_reason}
    body = json.dumps({"object": "chat.completion", "choices": [choice], "usage": usage}).encode()
    return Response(**{"body": body, "headers": {"Content-Type": "application/json"}} | changes)


def error(status: int, message: str = "no", **headers: str) -> Response:
    """Error response of the OpenAI protocol."""
    body = json.dumps({"error": {"message": message, "type": "test"}}).encode()
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(status, body, {"Content-Type": "application/json", **names})


class LoopbackServer:
    """Server with scripted responses to POST requests; GET requests get 200.

    The server can be stopped, which closes all connections, and started again on the same port,
    which stays reserved.

    Args:
        respond: Function from a request to a response, or a list of responses, the last of which
            is repeated.
    """

    def __init__(self, respond: Callable[[Call], Response] | list[Response]):
        self._respond = respond
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._server: ThreadingHTTPServer | None = None
        self.calls: list[Call] = []
        self.in_flight = self.max_in_flight = 0
        # bound but not listening: reserves the port and refuses connections
        self._port = socket.socket()
        self._port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._port.bind(("127.0.0.1", 0))
        self._address = self._port.getsockname()

    @property
    def url(self) -> str:
        """Base URL, including /v1."""
        return f"http://127.0.0.1:{self._address[1]}/v1"

    def __enter__(self) -> "LoopbackServer":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._port.close()

    def start(self) -> None:
        self._server = QuietServer(self._address, _handler(self))
        self._server.start()

    def stop(self) -> None:
        server, self._server = self._server, None
        if server is None:
            return
        server.shutdown()
        server.server_close()
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Response:
        if method == "GET":
            return Response(body=b'{"object": "list", "data": []}')
        with self._lock:
            call = Call(len(self.calls) + 1, method, path, headers, body, time.monotonic())
            self.calls.append(call)
            self.in_flight += 1
            self.max_in_flight = max(self.max_in_flight, self.in_flight)
        try:
            if callable(self._respond):
                response = self._respond(call)
            else:
                response = self._respond[min(call.number, len(self._respond)) - 1]
            if response.hold is not None:
                response.hold.wait()
            return response
        finally:
            with self._lock:
                self.in_flight -= 1


def _handler(server: LoopbackServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            server._connections.add(self.connection)

        def finish(self) -> None:
            server._connections.discard(self.connection)
            super().finish()

        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            self._answer()

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            response = server.answer(self.command, self.path, dict(self.headers), body)
            if response.disconnect:
                self.close_connection = True
                return
            self.send_response(response.status, response.phrase)
            for name, value in response.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(response.body)))
            self.end_headers()
            self.wfile.write(response.body[: response.cut])
            self.close_connection = response.cut is not None

        def log_message(self, *_: Any) -> None:
            pass

    return Handler
