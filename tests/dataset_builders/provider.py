"""A loopback server that speaks as a city's providers do, with the faults a test asks for."""

import collections
import io
import json
import threading
import time
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlparse

import numpy as np
from PIL import Image, ImageDraw

TOWN = (7.400, 43.730, 7.412, 43.739)
"""West, south, east, north of the town: 1 km by 1 km."""


def drawn(text, size=(256, 256)):
    """A picture that says what it is, noisy enough not to be blank."""
    pixels = np.random.default_rng(zlib.crc32(text.encode())).integers(
        0, 256, (size[1] // 16, size[0] // 16, 3)
    )
    image = Image.fromarray(pixels.astype(np.uint8)).resize(size)
    ImageDraw.Draw(image).text((8, 8), text, fill="white")
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


class CityProvider(ThreadingHTTPServer):
    """Map tiles at /tiles/{z}/{x}/{y}, Google's street views, Baidu's panoramas, Overpass and
    Nominatim, which know one town: `TOWN`, with a street every 150 m.

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

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with self.server.lock:
            self.server.asked[self.path] += 1
        self.reply(200, {"Content-Type": "application/json"}, json.dumps(_streets()).encode())

    def reply(self, status, headers, body, cut=None):
        self.send_response(status)
        for one, value in headers.items():
            self.send_header(one, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:cut])
        self.close_connection = cut is not None

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
        elif parts.path == "/nominatim/search":
            body = json.dumps(_town() if query["q"] == "Testville" else []).encode()
            status, kind = 200, "application/json"
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
        self.reply(status, headers, body, cut)


def _streets():
    """The town's streets as Overpass gives them."""
    west, south, east, north = TOWN
    lons, lats = np.arange(west, east, 0.002), np.arange(south, north, 0.0015)
    nodes, ways = [], []
    number = {}
    for i, lon in enumerate(lons):
        for j, lat in enumerate(lats):
            number[i, j] = len(number) + 1
            nodes.append({"type": "node", "id": number[i, j], "lat": lat, "lon": lon})
    for i in range(len(lons)):
        ways.append([number[i, j] for j in range(len(lats))])
    for j in range(len(lats)):
        ways.append([number[i, j] for i in range(len(lons))])
    tags = {"highway": "residential", "name": "Street"}
    elements = [
        {"type": "way", "id": 1000 + k, "nodes": way, "tags": tags} for k, way in enumerate(ways)
    ]
    return {"elements": nodes + elements, "remark": ""}


def _town():
    """The town as Nominatim knows it."""
    west, south, east, north = TOWN
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    return [
        {
            "place_id": 1,
            "osm_type": "relation",
            "osm_id": 1,
            "lat": str((south + north) / 2),
            "lon": str((west + east) / 2),
            "class": "boundary",
            "type": "administrative",
            "place_rank": 16,
            "importance": 0.5,
            "addresstype": "city",
            "name": "Testville",
            "display_name": "Testville",
            "boundingbox": [str(south), str(north), str(west), str(east)],
            "geojson": {"type": "Polygon", "coordinates": [ring]},
        }
    ]


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


__all__ = ["TOWN", "CityProvider", "drawn"]
