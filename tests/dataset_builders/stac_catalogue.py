"""A loopback STAC catalogue, with files that it serves in parts."""

import collections
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlparse

SIGNATURE = "se=2027&sig=S1GN%2BATURE%3D"


class StacCatalogue(ThreadingHTTPServer):
    """`/search` in pages of two items, `/sign`, and files under `/files/`.

    Attributes:
        items: features in the order of the pages.
        files: by name.
        signed: files are only given to addresses with a signature.
        ranges: parts are given; if not, every answer is the whole file.
        answers: by path, `(status, headers, body)` in place of the right answer, used up in turn.
        asked: paths, and for a file its name and the range.
        searches: queries of the searches.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.items, self.files = [], {}
        self.signed, self.ranges = False, True
        self.answers = collections.defaultdict(list)
        self.asked = collections.Counter()
        self.searches = []
        self.lock = threading.Lock()
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def add(self, name, footprint, assets, cloud=None, datetime="2024-06-01T10:30:00Z"):
        """Add an item; assets by name, each the content of a file."""
        hrefs = {}
        for asset, content in assets.items():
            self.files[f"{name}-{asset}.tif"] = content
            hrefs[asset] = {"href": f"{self.url}/files/{name}-{asset}.tif"}
        properties = {"datetime": datetime}
        if cloud is not None:
            properties["eo:cloud_cover"] = cloud
        self.items.append(
            {
                "type": "Feature",
                "stac_version": "1.0.0",
                "id": name,
                "collection": "waves",
                "geometry": footprint.__geo_interface__,
                "bbox": list(footprint.bounds),
                "properties": properties,
                "assets": hrefs,
                "links": [],
            }
        )


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def reply(self, status, headers, body):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        server, parts = self.server, urlparse(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        asked = " ".join([parts.path, self.headers.get("Range", "")]).strip()
        with server.lock:
            server.asked[asked] += 1
            planned = server.answers[parts.path]
            fault = planned.pop(0) if planned else None
        if fault is not None:
            self.reply(*fault)
        elif parts.path == "/search":
            self.search(query)
        elif parts.path == "/sign":
            self.json({"href": f"{query['href']}?{SIGNATURE}", "msft:expiry": "2027-01-01"})
        elif parts.path.startswith("/files/"):
            self.file(parts.path.removeprefix("/files/"), query)
        else:
            self.reply(404, {}, b"")

    def json(self, value):
        self.reply(200, {"Content-Type": "application/geo+json"}, json.dumps(value).encode())

    def search(self, query):
        start = int(query.get("token", 0))
        with self.server.lock:
            self.server.searches.append(query)
        links = []
        if start + 2 < len(self.server.items):
            kept = "&".join(f"{name}={value}" for name, value in query.items() if name != "token")
            links = [{"rel": "next", "href": f"/search?{kept}&token={start + 2}"}]
        page = self.server.items[start : start + 2]
        self.json({"type": "FeatureCollection", "features": page, "links": links})

    def file(self, name, query):
        content = self.server.files.get(name)
        if content is None:
            self.reply(404, {}, b"")
        elif self.server.signed and query.get("sig") != "S1GN+ATURE=":
            self.reply(403, {"Content-Type": "application/xml"}, b"<Error/>")
        elif not self.server.ranges:
            self.reply(200, {"Content-Type": "image/tiff"}, content)
        else:
            first, last = self.headers["Range"].removeprefix("bytes=").split("-")
            last = min(int(last), len(content) - 1)
            headers = {
                "Content-Type": "image/tiff",
                "Content-Range": f"bytes {first}-{last}/{len(content)}",
            }
            self.reply(206, headers, content[int(first) : last + 1])


__all__ = ["SIGNATURE", "StacCatalogue"]
