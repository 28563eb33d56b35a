"""Upload limit: rejects requests by their `Content-Length`, before anything is stored."""

from typing import Any

from starlette.responses import JSONResponse

from .uploads import MAX_BYTES, MAX_STREET_VIEWS

UPLOAD = "/upload"
MAX_UPLOAD_BYTES = (MAX_STREET_VIEWS + 1) * MAX_BYTES  # per request, which may hold many files


class UploadLimit:
    """ASGI middleware that rejects uploads with a missing or too large `Content-Length`."""

    def __init__(self, app: Any):
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Handle an ASGI request."""
        if scope["type"] == "http" and scope["path"].rstrip("/").endswith(UPLOAD):
            length = dict(scope["headers"]).get(b"content-length", b"")
            if scope["method"] == "POST" and not 0 < _number(length) <= MAX_UPLOAD_BYTES:
                await _refusal(length)(scope, receive, send)
                return
        await self.app(scope, receive, send)


def _number(length: bytes) -> int:
    return int(length) if length.isdigit() else 0


def _refusal(length: bytes) -> JSONResponse:
    detail = (
        f"At most {MAX_STREET_VIEWS} images of {MAX_BYTES // 1_000_000} MB each can be uploaded; "
        f"got {_number(length) / 1e6:.0f} MB. Upload fewer or smaller ones."
    )
    return JSONResponse({"detail": detail}, status_code=413)


__all__ = ["MAX_UPLOAD_BYTES", "UploadLimit"]
