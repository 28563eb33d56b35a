import asyncio
import collections
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlparse

import numpy as np
import pytest
from PIL import Image

from dataset_builders.coordinates import tile_index, tile_position
from dataset_builders.download import Fetcher, Limit, StoppedError, Store
from dataset_builders.errors import SourceError
from dataset_builders.sources.baidu import BaiduPanorama
from dataset_builders.sources.google import GoogleStreetView
from dataset_builders.sources.mapillary import Mapillary, decode_tile
from dataset_builders.sources.street_view import Place, StreetViewSource

LIMITS = {"127.0.0.1": Limit(2000, 16)}
PLACES = [Place(f"p{n}", 116.3 + n / 1000, 39.9, heading=30.0) for n in range(4)]


def picture(text, size):
    rng = np.random.default_rng(abs(hash(text)) % 2**32)
    buffer = io.BytesIO()
    pixels = rng.integers(0, 256, (size[1] // 8, size[0] // 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize(size).save(buffer, "JPEG")
    return buffer.getvalue()


class Provider(ThreadingHTTPServer):
    """Speaks as Google's and Baidu's street view services do."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked = collections.Counter()
        self.queries = []
        self.google_status = {}
        self.baidu_status = {}
        self.mapillary_error = None
        self.served = 0
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        parts = urlparse(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        self.server.asked[parts.path] += 1
        self.server.queries.append((parts.path, query))
        answers = {
            "/maps/api/streetview/metadata": self.google_metadata,
            "/maps/api/streetview": self.google_picture,
            "/panorama/v2": self.baidu_picture,
        }
        if parts.path.startswith("/maps/vtp/"):
            body, kind = self.mapillary_tile(parts.path, query)
        elif parts.path.startswith("/expiring/"):
            body, kind = picture(parts.path, (640, 480)), "image/jpeg"
        else:
            body, kind = answers.get(parts.path, self.mapillary_entity)(query)
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def google_metadata(self, query):
        lon = float(query["location"].split(",")[1])
        status = self.server.google_status.get(round(lon, 3), "OK")
        answer = {"status": status}
        if status == "OK":
            # two places share the last panorama
            number = min(round((lon - 116.3) * 1000), 2)
            answer |= {
                "pano_id": f"PANO{number}",
                "date": "2024-05",
                "copyright": "© somebody",
                "location": {"lat": 39.9001, "lng": lon + 0.0001},
            }
        return json.dumps(answer).encode(), "application/json"

    def google_picture(self, query):
        size = tuple(int(side) for side in query["size"].split("x"))
        return picture(query["pano"] + query["heading"], size), "image/jpeg"

    def baidu_picture(self, query):
        lon = float(query["location"].split(",")[0])
        if (status := self.server.baidu_status.get(round(lon, 3))) is not None:
            return json.dumps({"status": status, "message": "x"}).encode(), "application/json"
        return picture(query["location"], (int(query["width"]), int(query["height"]))), "image/jpeg"

    def mapillary_tile(self, path, query):
        import mapbox_vector_tile

        assert query["access_token"] == "S3CRET"
        x, y = (int(part) for part in path.split("/")[-2:])
        features = []
        for one, (lon, lat, pano) in PICTURES.items():
            column, row = tile_position(lon, lat, 14, "xyz")
            if (int(column), int(row)) == (x, y):
                spot = (round(float(column - x) * 4096), round(float(y + 1 - row) * 4096))
                features.append(
                    {
                        "geometry": f"POINT({spot[0]} {spot[1]})",
                        "properties": {
                            "id": one,
                            "is_pano": pano,
                            "captured_at": TAKEN,
                        },
                    }
                )
        layer = {"name": "image", "features": features}
        return mapbox_vector_tile.encode([layer]), "application/x-protobuf"

    def mapillary_entity(self, query):
        one = int(urlparse(self.path).path[1:])
        assert self.headers["Authorization"] == "OAuth S3CRET"
        self.server.served += 1
        if self.server.mapillary_error:
            return json.dumps({"error": {"code": self.server.mapillary_error}}).encode(), JSON
        lon, lat, _ = PICTURES[one]
        url = f"{self.server.url}/expiring/{self.server.served}/{one}.jpg"
        answer = {
            "id": str(one),
            "thumb_1024_url": url,
            "captured_at": TAKEN,
            "compass_angle": 370.0,
            "computed_geometry": {"type": "Point", "coordinates": [lon, lat]},
        }
        return json.dumps(answer).encode(), JSON


JSON, TAKEN = "application/json", 1_600_000_000_000
PICTURES = {
    11: (116.3001, 39.9, False),  # 9 m from p0
    12: (116.3003, 39.9, False),  # 26 m from p0
    13: (116.3011, 39.9, True),  # 9 m from p1, a panorama
    14: (116.3050, 39.9, False),  # far from all
}


@pytest.fixture
def provider(monkeypatch):
    monkeypatch.setenv("MAPILLARY_ACCESS_TOKEN", "S3CRET")
    monkeypatch.setenv("GOOGLE_MAPS_API_KEY", "S3CRET")
    monkeypatch.setenv("BAIDU_MAP_AK", "S3CRET")
    server = Provider()
    yield server
    server.shutdown()
    server.server_close()


def views_of(source, folder, places=PLACES):
    async def main():
        store = Store(folder)
        try:
            async with Fetcher(store, LIMITS, backoff_s=0.01) as fetcher:
                return [view async for view in source.views(places, fetcher, store)]
        finally:
            store.close()

    return sorted(asyncio.run(main()), key=lambda view: view.image_id)


def test_google_asks_for_metadata_first_and_shares_panoramas(provider, tmp_path):
    provider.google_status = {116.301: "ZERO_RESULTS"}
    source = GoogleStreetView(base_url=provider.url)
    views = views_of(source, tmp_path)
    # panoramas 0 and 2, two headings each; 116.301 has none, 116.302 and 116.303 share one
    assert [(view.image_id.split("/")[1], view.heading) for view in views] == [
        ("PANO0", 120.0),
        ("PANO0", 300.0),
        ("PANO2", 120.0),
        ("PANO2", 300.0),
    ]
    assert provider.asked == {"/maps/api/streetview/metadata": 4, "/maps/api/streetview": 4}
    assert (views[0].captured_at, views[0].attribution) == ("2024-05", "© somebody")
    assert (views[0].lon, views[0].lat) == (pytest.approx(116.3001), 39.9001)
    content = Store(tmp_path).read(views[0].key)
    assert Image.open(io.BytesIO(content)).size == (640, 640)
    assert views_of(source, tmp_path) == views
    assert sum(provider.asked.values()) == 8  # nothing again


def test_baidu_gets_wgs84_said_and_the_largest_picture(provider, tmp_path):
    provider.baidu_status = {116.302: "404"}
    views = views_of(BaiduPanorama(base_url=provider.url), tmp_path)
    assert [view.point_id for view in views] == ["p0", "p1", "p3"]
    assert {query["coordtype"] for _, query in provider.queries} == {"wgs84ll"}
    content = Store(tmp_path).read(views[0].key)
    assert Image.open(io.BytesIO(content)).size == (1024, 512)


@pytest.mark.parametrize(
    ("code", "state"), [("302", "quota"), ("4", "quota"), ("211", "denied"), ("240", "denied")]
)
def test_baidu_errors_with_http_200_stop_the_run(provider, tmp_path, code, state):
    provider.baidu_status = {round(place.lon, 3): code for place in PLACES}
    with pytest.raises(StoppedError) as caught:
        views_of(BaiduPanorama(base_url=provider.url), tmp_path)
    assert caught.value.fetched.status == state
    assert "S3CRET" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "state"), [("OVER_QUERY_LIMIT", "quota"), ("REQUEST_DENIED", "denied")]
)
def test_google_errors_in_metadata_stop_the_run(provider, tmp_path, status, state):
    provider.google_status = {round(place.lon, 3): status for place in PLACES}
    with pytest.raises(StoppedError) as caught:
        views_of(GoogleStreetView(base_url=provider.url), tmp_path)
    assert caught.value.fetched.status == state
    assert "/maps/api/streetview" not in provider.asked


def test_a_source_keeps_its_key_to_itself(provider, tmp_path):
    views_of(GoogleStreetView(base_url=provider.url), tmp_path)
    views_of(BaiduPanorama(base_url=provider.url), tmp_path)
    assert all(query.get("key", query.get("ak")) == "S3CRET" for _, query in provider.queries)
    assert not any(b"S3CRET" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


@pytest.mark.parametrize("source", [GoogleStreetView, BaiduPanorama])
def test_a_missing_key_is_named(source, tmp_path, monkeypatch):
    monkeypatch.delenv("GOOGLE_MAPS_API_KEY", raising=False)
    monkeypatch.delenv("BAIDU_MAP_AK", raising=False)
    with pytest.raises(SourceError, match=r"environment variable (GOOGLE_MAPS_API_KEY|BAIDU_MAP)"):
        views_of(source(base_url="http://127.0.0.1:1"), tmp_path)


def test_pictures_larger_than_the_provider_gives_are_refused():
    with pytest.raises(SourceError, match="up to 640 px, got 1024"):
        GoogleStreetView(size_px=1024)
    with pytest.raises(SourceError, match="1024 x 512 px, got 2048 x 512"):
        BaiduPanorama(width=2048)


def mapillary(provider, **fields):
    return Mapillary(tiles_url=provider.url, graph_url=provider.url, **fields)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, {"11": "p0", "13": "p1"}),
        ({"per_place": 2}, {"11": "p0", "12": "p0", "13": "p1"}),
        ({"panoramas": True}, {"13": "p1"}),
        ({"panoramas": False, "radius_m": 20}, {"11": "p0"}),
        ({"since": "2021-01-01"}, {}),
    ],
)
def test_mapillary_takes_the_nearest_pictures(provider, tmp_path, fields, expected):
    views = views_of(mapillary(provider, **fields), tmp_path)
    assert {view.image_id.split("/")[1]: view.point_id for view in views} == expected
    for view in views:
        assert (view.captured_at, view.heading) == ("2020-09-13T12:26:40Z", 10.0)
        assert Image.open(io.BytesIO(Store(tmp_path).read(view.key))).size == (640, 480)


def test_mapillary_keeps_ids_and_never_an_expired_address(provider, tmp_path):
    first = views_of(mapillary(provider), tmp_path)
    asked = sum(provider.asked.values())
    assert views_of(mapillary(provider), tmp_path) == first
    assert sum(provider.asked.values()) == asked  # nothing again
    store = Store(tmp_path)
    store.forget([first[0].key])  # as if killed between address and picture
    views_of(mapillary(provider), tmp_path)
    addresses = [path for path in provider.asked if path.startswith("/expiring/")]
    assert len(addresses) == 3  # a fresh one for the picture that was missing


@pytest.mark.parametrize(("code", "state"), [(4, "quota"), (190, "denied")])
def test_mapillary_errors_stop_the_run(provider, tmp_path, code, state):
    provider.mapillary_error = code
    with pytest.raises(StoppedError) as caught:
        views_of(mapillary(provider), tmp_path)
    assert caught.value.fetched.status == state
    assert not any(b"S3CRET" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_coverage_tiles_place_their_pictures_to_a_metre():
    import mapbox_vector_tile

    lon, lat = 116.3456, 39.9123
    x, y = tile_index(lon, lat, 14, "xyz")
    column, row = tile_position(lon, lat, 14, "xyz")
    spot = (round(float(column - x) * 4096), round(float(y + 1 - row) * 4096))
    feature = {"geometry": f"POINT({spot[0]} {spot[1]})", "properties": {"id": 5}}
    content = mapbox_vector_tile.encode([{"name": "image", "features": [feature]}])
    ((found_lon, found_lat, _),) = decode_tile(content, x, y)
    assert (found_lon, found_lat) == pytest.approx((lon, lat), abs=1e-5)


@pytest.mark.parametrize("source", [Mapillary(), GoogleStreetView(), BaiduPanorama()])
def test_sources_keep_the_protocol_and_say_what_may_be_published(source):
    assert isinstance(source, StreetViewSource)
    assert source.redistributable == source.licence.startswith("cc-")
