import hashlib
import io

import pytest
from PIL import Image

from dataset_builders.coordinates import tile_index, tile_position
from dataset_builders.download import Fetched, StoppedError, Store
from dataset_builders.errors import SourceError
from dataset_builders.sources.baidu import BaiduPanorama
from dataset_builders.sources.google import GoogleStreetView
from dataset_builders.sources.mapillary import Mapillary, decode_tile
from dataset_builders.sources.street_view import Place, StreetViewSource

from .loopback import Loopback, as_json, with_fetcher
from .provider import drawn

PLACES = [Place(f"p{n}", 116.3 + n / 1000, 39.9, heading=30.0) for n in range(4)]


class Provider(Loopback):
    """Simulates the street-view services of Google, Baidu and Mapillary."""

    def __init__(self):
        super().__init__()
        self.google_status, self.baidu_status = {}, {}
        self.mapillary_error = None
        self.served = 0

    def answer(self, request):
        path, query = request.path, request.query
        if path == "/maps/api/streetview/metadata":
            return as_json(self.google_metadata(query))
        if path == "/maps/api/streetview":
            size = tuple(int(side) for side in query["size"].split("x"))
            return 200, JPEG, drawn(query["pano"] + query["heading"], size)
        if path == "/panorama/v2":
            lon = float(query["location"].split(",")[0])
            if (status := self.baidu_status.get(round(lon, 3))) is not None:
                return as_json({"status": status, "message": "x"})
            return 200, JPEG, drawn(query["location"], (int(query["width"]), int(query["height"])))
        if path.startswith("/maps/vtp/"):
            assert query["access_token"] == "S3CRET"
            return 200, {"Content-Type": "application/x-protobuf"}, coverage(path)
        if path.startswith("/expiring/"):
            return 200, JPEG, drawn(path.rpartition("/")[2], (640, 480))
        assert request.headers["Authorization"] == "OAuth S3CRET"
        return as_json(self.mapillary_entity(int(path[1:])))

    def google_metadata(self, query):
        lon = float(query["location"].split(",")[1])
        if (status := self.google_status.get(round(lon, 3), "OK")) != "OK":
            return {"status": status}
        return {
            "status": "OK",
            # two locations share the last panorama
            "pano_id": f"PANO{min(round((lon - 116.3) * 1000), 2)}",
            "date": "2024-05",
            "copyright": "© somebody",
            "location": {"lat": 39.9001, "lng": lon + 0.0001},
        }

    def mapillary_entity(self, one):
        if self.mapillary_error:
            return {"error": {"code": self.mapillary_error}}
        self.served += 1
        lon, lat, _ = PICTURES[one]
        return {
            "id": str(one),
            "thumb_1024_url": f"{self.url}/expiring/{self.served}/{one}.jpg",
            "captured_at": TAKEN,
            "compass_angle": 370.0,
            "computed_geometry": {"type": "Point", "coordinates": [lon, lat]},
        }


def coverage(path):
    """Coverage tile with its images."""
    import mapbox_vector_tile

    x, y = (int(part) for part in path.split("/")[-2:])
    features = []
    for one, (lon, lat, pano) in PICTURES.items():
        column, row = tile_position(lon, lat, 14, "xyz")
        if (int(column), int(row)) == (x, y):
            spot = (round(float(column - x) * 4096), round(float(y + 1 - row) * 4096))
            properties = {"id": one, "is_pano": pano, "captured_at": TAKEN}
            features.append({"geometry": f"POINT({spot[0]} {spot[1]})", "properties": properties})
    return mapbox_vector_tile.encode([{"name": "image", "features": features}])


JPEG, TAKEN = {"Content-Type": "image/jpeg"}, 1_600_000_000_000
PICTURES = {
    11: (116.3001, 39.9, False),  # 9 m from p0
    12: (116.3003, 39.9, False),  # 26 m from p0
    13: (116.3011, 39.9, True),  # 9 m from p1, a panorama
    14: (116.3050, 39.9, False),  # out of range
}


@pytest.fixture
def provider(monkeypatch):
    monkeypatch.setenv("MAPILLARY_ACCESS_TOKEN", "S3CRET")
    monkeypatch.setenv("GOOGLE_MAPS_API_KEY", "S3CRET")
    monkeypatch.setenv("BAIDU_MAP_AK", "S3CRET")
    with Provider() as server:
        yield server


def views_of(source, folder, places=PLACES):
    async def job(fetcher, store):
        return [view async for view in source.views(places, fetcher, store)]

    return sorted(with_fetcher(folder, job), key=lambda view: view.image_id)


def test_google_asks_for_metadata_first_and_shares_panoramas(provider, tmp_path):
    provider.google_status = {116.301: "ZERO_RESULTS"}
    source = GoogleStreetView(base_url=provider.url)
    views = views_of(source, tmp_path)
    # two headings each; 116.301 has no panorama, 116.302 and 116.303 share one
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
    assert provider.total == 8  # no further requests


def test_baidu_gets_wgs84_said_and_the_largest_picture(provider, tmp_path):
    provider.baidu_status = {116.302: "404"}
    views = views_of(BaiduPanorama(base_url=provider.url), tmp_path)
    assert [view.point_id for view in views] == ["p0", "p1", "p3"]
    assert {one.query["coordtype"] for one in provider.requests} == {"wgs84ll"}
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
    for one in provider.requests:
        assert one.query.get("key", one.query.get("ak")) == "S3CRET"
    assert not any(b"S3CRET" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


@pytest.mark.parametrize("source", [GoogleStreetView, BaiduPanorama])
def test_a_missing_key_is_named(source, tmp_path, monkeypatch):
    monkeypatch.delenv("GOOGLE_MAPS_API_KEY", raising=False)
    monkeypatch.delenv("BAIDU_MAP_AK", raising=False)
    with pytest.raises(SourceError, match=r"environment variable (GOOGLE_MAPS_API_KEY|BAIDU_MAP)"):
        views_of(source(base_url="http://127.0.0.1:1"), tmp_path)


def test_a_key_in_a_status_of_the_answer_is_not_repeated(provider, tmp_path):
    provider.google_status = dict.fromkeys((116.3, 116.301, 116.302, 116.303), "BAD KEY S3CRET")
    provider.baidu_status = dict.fromkeys((116.3, 116.301, 116.302, 116.303), "BAD KEY S3CRET")
    views_of(GoogleStreetView(base_url=provider.url), tmp_path)
    views_of(BaiduPanorama(base_url=provider.url), tmp_path)
    store = Store(tmp_path)
    assert store.counts() == {"invalid": 8}
    assert {one.detail for one in store.failures()} == {"an answer that repeats the key"}


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
    asked = provider.total
    assert views_of(mapillary(provider), tmp_path) == first
    assert provider.total == asked  # no further requests
    store = Store(tmp_path)
    store.forget([first[0].key])  # as if killed between URL and image
    views_of(mapillary(provider), tmp_path)
    addresses = [path for path in provider.asked if path.startswith("/expiring/")]
    assert len(addresses) == 3  # a fresh one for the missing image


@pytest.mark.parametrize("code", [403, 503])
def test_a_picture_that_is_not_given_is_asked_for_again_at_a_fresh_address(
    provider, tmp_path, code
):
    provider.answers["/expiring/1/11.jpg"] = [(code, {}, b"")] * 5
    source = mapillary(provider, panoramas=False)
    assert views_of(source, tmp_path, PLACES[:1]) == []  # does not raise StoppedError
    assert Store(tmp_path).counts("mapillary/picture/") == {"failed": 1}
    addresses = [path for path in provider.asked if path.startswith("/expiring/")]
    (view,) = views_of(source, tmp_path, PLACES[:1])
    assert view.image_id == "mapillary/11"
    fresh = {path for path in provider.asked if path.startswith("/expiring/")} - {*addresses}
    assert len(fresh) == 1


TILE = "mapillary/tile/14"


@pytest.mark.parametrize("body", [b"\x1a\xff\xff", b"no tile", bytes(range(256))])
def test_a_coverage_tile_that_is_none_is_not_kept_as_one(provider, tmp_path, body):
    x, y = tile_index(116.3, 39.9, 14, "xyz")
    provider.answers[f"/maps/vtp/mly1_public/2/14/{x}/{y}"] = [(200, {}, body)]
    assert views_of(mapillary(provider), tmp_path) == []
    store = Store(tmp_path)
    assert store.get(f"{TILE}/{x}/{y}").status == "invalid"
    assert store.forget_failures("mapillary/") == 1
    assert len(views_of(mapillary(provider), tmp_path)) == 2


def test_a_coverage_tile_that_was_stored_unchecked_ends_no_build(provider, tmp_path):
    views_of(mapillary(provider), tmp_path)
    x, y = tile_index(116.3, 39.9, 14, "xyz")
    store, body = Store(tmp_path), b"no tile"
    sha256 = hashlib.sha256(body).hexdigest()
    store.put(Fetched(f"{TILE}/{x}/{y}", "ok", 200, sha256, len(body)), body)
    assert views_of(mapillary(provider), tmp_path) == []
    assert store.forget_failures("mapillary/") == 1
    assert len(views_of(mapillary(provider), tmp_path)) == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"thumb_1024_url": 5},
        {"thumb_1024_url": "s3://bucket/key"},
        {"computed_geometry": {"type": "Point", "coordinates": ["a", None]}},
        {"computed_geometry": [7]},
        {"compass_angle": "north", "captured_at": "1e999"},
    ],
)
def test_mapillarys_answers_may_hold_anything(provider, tmp_path, changes):
    entity = provider.mapillary_entity
    provider.mapillary_entity = lambda one: entity(one) | changes
    views = views_of(mapillary(provider, panoramas=False), tmp_path, PLACES[:1])
    assert len(views) == (0 if "thumb_1024_url" in changes else 1)


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
