"""A loopback server that speaks as a city's providers do, with the faults a test asks for."""

import collections
import io
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlparse

import numpy as np
from PIL import Image, ImageDraw


def drawn(text, size=(256, 256)):
    """A picture that says what it is, noisy enough not to be blank."""
    seed = int.from_bytes(text.encode(), "little") % 2**32
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1] // 16, size[0] // 16, 3))
    image = Image.fromarray(pixels.astype(np.uint8)).resize(size)
    ImageDraw.Draw(image).text((8, 8), text, fill="white")
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


class CityProvider(ThreadingHTTPServer):
    """Map tiles at /tiles/{z}/{x}/{y}, Google's street views, Baidu's panoramas.

    Attributes:
        asked: how often each path and query was asked for, keys left out.
        answers: by path, `(status, headers, body)` in place of the right answer, used up in turn;
            a number cuts the right answer short.
        delay_s: before each answer.
    """

    daemon_threads = True

    def __init__(self, key="S3CRET"):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.key = key
        self.asked = collections.Counter()
        self.answers = collections.defaultdict(list)
        self.delay_s = 0.0
        self.quota = None
        self.lock = threading.Lock()
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def handle_error(self, request, client_address):
        """A client that was killed is no matter of the test's output."""

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def total(self):
        return sum(self.asked.values())


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        parts = urlparse(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        secret = query.pop("key", query.pop("ak", None))
        name = parts.path + "".join(f"&{k}={v}" for k, v in sorted(query.items()))
        with self.server.lock:
            self.server.asked[name] += 1
            planned = self.server.answers[name]
            fault = planned.pop(0) if planned else None
            over = self.server.quota is not None and self.server.total > self.server.quota
        time.sleep(self.server.delay_s)
        if parts.path.startswith("/tiles/"):
            status, body, kind = 200, drawn(parts.path), "image/jpeg"
        elif secret != self.server.key:
            status, body, kind = 403, b"no", "text/plain"
        elif parts.path == "/maps/api/streetview/metadata":
            status, kind = 200, "application/json"
            body = _google_metadata(query, over)
        elif parts.path == "/maps/api/streetview":
            size = tuple(int(side) for side in query["size"].split("x"))
            status, body, kind = (
                200,
                drawn(f"{query['pano']} {query['heading']}", size),
                "image/jpeg",
            )
        elif parts.path == "/panorama/v2":
            status, kind = 200, "image/jpeg"
            body = drawn(query["location"], (int(query["width"]), int(query["height"])))
            if over:
                body, kind = (
                    json.dumps({"status": 302, "message": "day quota"}).encode(),
                    "text/json",
                )
        else:
            status, body, kind = 404, b"no such path", "text/plain"
        headers, cut = {"Content-Type": kind}, None
        if isinstance(fault, int):
            cut = fault
        elif fault is not None:
            status, headers, body = fault
        self.send_response(status)
        for one, value in headers.items():
            self.send_header(one, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:cut])
        self.close_connection = cut is not None


def _google_metadata(query, over):
    if over:
        return json.dumps({"status": "OVER_QUERY_LIMIT"}).encode()
    lat, lon = (float(part) for part in query["location"].split(","))
    if int(lon * 1e5) % 7 == 0:
        return json.dumps({"status": "ZERO_RESULTS"}).encode()
    answer = {
        "status": "OK",
        "pano_id": f"P{round(lon * 1e5)}_{round(lat * 1e5)}",
        "date": "2024-05",
        "copyright": "© somebody",
        "location": {"lat": lat, "lng": lon},
    }
    return json.dumps(answer).encode()


__all__ = ["CityProvider", "drawn"]
