"""Upload limit by the Content-Length of requests."""

import asyncio

import pytest

from demo.limits import MAX_UPLOAD_BYTES, UploadLimit


def status(path: str, length: bytes | None, method: str = "POST") -> int:
    """Status of an ASGI request with this path and length; 200 if it is passed on."""
    headers = [] if length is None else [(b"content-length", length)]
    scope = {"type": "http", "path": path, "method": method, "headers": headers}
    sent = []

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200})

    async def receive():
        pytest.fail("the body was read")

    async def send(message):
        sent.append(message)

    asyncio.run(UploadLimit(app)(scope, receive, send))
    return sent[0]["status"]


@pytest.mark.parametrize("path", ["/upload", "/gradio_api/upload", "/gradio_api/upload/"])
def test_uploads_without_a_length_or_with_too_great_a_one_are_refused(path):
    assert status(path, b"1000") == 200
    assert status(path, str(MAX_UPLOAD_BYTES).encode()) == 200
    for length in (str(MAX_UPLOAD_BYTES + 1).encode(), None, b"-5", b"many", b"0"):
        assert status(path, length) == 413


def test_other_requests_pass():
    assert status("/gradio_api/component_server", None) == 200
    assert status("/gradio_api/upload", None, "OPTIONS") == 200
