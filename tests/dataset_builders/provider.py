"""Loopback server that simulates the providers of a city, with faults on request."""

import io
import zlib

import numpy as np
from PIL import Image, ImageDraw

from .loopback import Loopback, as_json

TOWN = (7.400, 43.730, 7.412, 43.739)
"""West, south, east and north of the town, about 1 km by 1 km."""


def drawn(text, size=(256, 256)):
    """JPEG with a text on noise, so that it does not count as blank."""
    pixels = np.random.default_rng(zlib.crc32(text.encode())).integers(
        0, 256, (size[1] // 16, size[0] // 16, 3)
    )
    image = Image.fromarray(pixels.astype(np.uint8)).resize(size)
    ImageDraw.Draw(image).text((8, 8), text, fill="white")
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


class CityProvider(Loopback):
    """Map tiles at /tiles/{z}/{x}/{y}, Google Street View, Baidu panoramas, Overpass and Nominatim
    for one town, `TOWN`, with a street every 150 m.

    Requests are named by path and query, without keys.

    Attributes:
        quota: Number of requests before the quota is exhausted.
    """

    def __init__(self, key="S3CRET"):
        super().__init__()
        self.key = key
        self.quota = None

    def name(self, request):
        query = sorted(item for item in request.query.items() if item[0] not in ("key", "ak"))
        return request.path + "".join(f"&{name}={value}" for name, value in query)

    def answer(self, request):
        path, query = request.path, request.query
        over = self.quota is not None and self.total > self.quota
        if path.startswith("/tiles/"):
            return _image(path)
        if path == "/nominatim/search":
            return as_json(_town() if query["q"] == "Testville" else [])
        if not query:  # Overpass, by POST
            return as_json(_streets())
        if query.get("key", query.get("ak")) != self.key:
            return 403, {"Content-Type": "text/plain"}, b"no"
        if path == "/maps/api/streetview/metadata":
            return as_json(_google_metadata(query, over))
        if path == "/maps/api/streetview":
            size = tuple(int(side) for side in query["size"].split("x"))
            return _image(f"{query['pano']} {query['heading']}", size)
        if path == "/panorama/v2":
            if over:
                return as_json({"status": 302, "message": "day quota"})
            return _image(query["location"], (int(query["width"]), int(query["height"])))
        return 404, {"Content-Type": "text/plain"}, b"no such path"


def _image(text, size=(256, 256)):
    return 200, {"Content-Type": "image/jpeg"}, drawn(text, size)


def _streets():
    """Overpass response with the town's streets."""
    west, south, east, north = TOWN
    lons, lats = np.arange(west, east, 0.002), np.arange(south, north, 0.0015)
    number = 1 + np.arange(len(lons) * len(lats)).reshape(len(lons), len(lats))
    nodes = [
        {"type": "node", "id": int(number[i, j]), "lat": lat, "lon": lon}
        for i, lon in enumerate(lons)
        for j, lat in enumerate(lats)
    ]
    tags = {"highway": "residential", "name": "Street"}
    ways = [
        {"type": "way", "id": 1000 + k, "nodes": way, "tags": tags}
        for k, way in enumerate([*number.tolist(), *number.T.tolist()])
    ]
    return {"elements": nodes + ways, "remark": ""}


def _town():
    """Nominatim response for the town."""
    west, south, east, north = TOWN
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    return [
        {
            **{"place_id": 1, "osm_type": "relation", "osm_id": 1, "place_rank": 16},
            **{"class": "boundary", "type": "administrative", "addresstype": "city"},
            **{"importance": 0.5, "name": "Testville", "display_name": "Testville"},
            **{"lat": str((south + north) / 2), "lon": str((west + east) / 2)},
            "boundingbox": [str(south), str(north), str(west), str(east)],
            "geojson": {"type": "Polygon", "coordinates": [ring]},
        }
    ]


def _google_metadata(query, over):
    if over:
        return {"status": "OVER_QUERY_LIMIT"}
    lat, lon = (float(part) for part in query["location"].split(","))
    if int(lon * 1e5) % 7 == 0:
        return {"status": "ZERO_RESULTS"}
    return {
        "status": "OK",
        "pano_id": f"P{round(lon * 1e5)}_{round(lat * 1e5)}",
        "date": "2024-05",
        "copyright": "© somebody",
        "location": {"lat": lat, "lng": lon},
    }


__all__ = ["TOWN", "CityProvider", "drawn"]
