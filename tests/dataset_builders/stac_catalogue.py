"""Loopback STAC catalogue with support for range requests."""

import json

from .loopback import Loopback

SIGNATURE = "se=2027&sig=S1GN%2BATURE%3D"
GEOJSON = {"Content-Type": "application/geo+json"}


class StacCatalogue(Loopback):
    """`/search` in pages of two items, and files under `/files/`.

    Attributes:
        items: Features in the order of the pages.
        files: Content of files by name.
        signed: Whether files require a signature in the URL.
        broken: Suffix of files of which only the first range can be read.
        busy: Number of file requests to answer with 503.
    """

    def __init__(self):
        super().__init__()
        self.items, self.files = [], {}
        self.signed, self.busy, self.broken = False, 0, "none"

    @property
    def searches(self):
        """Query parameters of the searches."""
        return [one.query for one in self.requests if one.path == "/search"]

    def add(self, name, footprint, assets, cloud=None, datetime="2024-06-01T10:30:00Z"):
        """Add an item with the content of its assets by name."""
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

    def name(self, request):
        return " ".join([request.path, request.headers.get("Range", "")]).strip()

    def answer(self, request):
        path, query = request.path, request.query
        if path == "/search":
            return 200, GEOJSON, json.dumps(self.search(query)).encode()
        if self.busy:
            self.busy -= 1
            return 503, {}, b""
        content = self.files.get(path.removeprefix("/files/"))
        if content is None:
            return 404, {}, b""
        if self.signed and query.get("sig") != "S1GN+ATURE=":
            return 403, {"Content-Type": "application/xml"}, b"<Error/>"
        headers = {"Content-Type": "image/tiff"}
        if "Range" not in request.headers:
            return 200, headers | {"Accept-Ranges": "bytes"}, content
        first, last = map(int, request.headers["Range"].removeprefix("bytes=").split("-"))
        if first and path.endswith(self.broken):
            return 404, {}, b""
        last = min(last, len(content) - 1)
        headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        return 206, headers, content[first : last + 1]

    def search(self, query):
        start, links = int(query.get("token", 0)), []
        if start + 2 < len(self.items):
            kept = "&".join(f"{name}={value}" for name, value in query.items() if name != "token")
            links = [{"rel": "next", "href": f"/search?{kept}&token={start + 2}"}]
        page = self.items[start : start + 2]
        return {"type": "FeatureCollection", "features": page, "links": links}


__all__ = ["SIGNATURE", "StacCatalogue"]
