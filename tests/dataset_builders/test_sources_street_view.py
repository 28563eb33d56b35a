"""Street-view sources with loopback servers and their faults."""

import collections
import io
import json

import mapbox_vector_tile
import pytest
from PIL import Image

from dataset_builders.coordinates import tile_index, tile_position
from dataset_builders.download import StoppedError, Store
from dataset_builders.errors import SourceError
from dataset_builders.sources.baidu import BaiduPanorama
from dataset_builders.sources.google import GoogleStreetView
from dataset_builders.sources.kartaview import KartaView
from dataset_builders.sources.mapillary import Mapillary, decode_tile
from dataset_builders.sources.street_view import Place, StreetViewSource

from .loopback import Loopback, as_json, with_fetcher
from .provider import CityProvider, drawn

PLACES = [Place(f"p{n}", 116.3 + n / 1000, 39.9, heading=30.0) for n in range(4)]
METADATA, PANORAMA = "/maps/api/streetview/metadata", "/panorama/v2"


class Provider(CityProvider):
    """Simulates the street-view services of Google, Baidu and Mapillary."""

    def __init__(self):
        super().__init__("S3CRET")
        self.mapillary_error = None
        self.served = 0

    def answer(self, request):
        path, query = request.path, request.query
        if path.startswith("/maps/vtp/"):
            assert query["access_token"] == "S3CRET"
            return 200, {"Content-Type": "application/x-protobuf"}, coverage(path)
        if path.startswith("/expiring/"):
            return 200, {"Content-Type": "image/jpeg"}, drawn(path.rpartition("/")[2], (640, 480))
        if not path[1:].isdigit():
            return super().answer(request)
        assert request.headers["Authorization"] == "OAuth S3CRET"
        return as_json(self.mapillary_entity(int(path[1:]), query["fields"].split(",")[-1]))

    def mapillary_entity(self, one, size):
        if self.mapillary_error:
            return {"error": {"code": self.mapillary_error}}
        self.served += 1
        lon, lat, _ = PICTURES[one]
        return {
            "id": str(one),
            size: f"{self.url}/expiring/{self.served}/{one}.jpg",
            "captured_at": TAKEN,
            "compass_angle": 370.0,
            "computed_geometry": {"type": "Point", "coordinates": [lon, lat]},
        }


def coverage(path):
    """Coverage tile with its images."""
    x, y = (int(part) for part in path.split("/")[-2:])
    features = []
    for one, (lon, lat, pano) in PICTURES.items():
        column, row = tile_position(lon, lat, 14, "xyz")
        if (int(column), int(row)) == (x, y):
            spot = (round(float(column - x) * 4096), round(float(y + 1 - row) * 4096))
            properties = {"id": one, "is_pano": pano, "captured_at": TAKEN}
            features.append({"geometry": f"POINT({spot[0]} {spot[1]})", "properties": properties})
    return mapbox_vector_tile.encode([{"name": "image", "features": features}])


TAKEN = 1_600_000_000_000
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


def assert_no_key_below(folder):
    assert not any(b"S3CRET" in path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_google_requests_metadata_first_and_shares_panoramas(provider, tmp_path):
    nothing = f"{METADATA}&location=39.9000000,116.3010000&radius=50&source=outdoor"
    provider.answers[nothing] = [as_json({"status": "ZERO_RESULTS"})]
    places = [*PLACES[:3], Place("beside p2", 116.302001, 39.9, heading=30.0)]
    source = GoogleStreetView(base_url=provider.url)
    views = views_of(source, tmp_path, places)
    assert [(view.image_id.split("/")[1], view.point_id, view.heading) for view in views] == [
        (panorama, place, heading)
        for panorama, place in (("P11630000_3990000", "p0"), ("P11630200_3990000", "p2"))
        for heading in (120.0, 300.0)
    ]
    paths = collections.Counter(one.path for one in provider.requests)
    assert paths == {METADATA: 4, "/maps/api/streetview": 4}
    assert (views[0].captured_at, views[0].attribution) == ("2024-05", "© somebody")
    assert (views[0].lon, views[0].lat) == (116.3, 39.9)
    content = Store(tmp_path).read(views[0].key)
    assert Image.open(io.BytesIO(content)).size == (640, 640)
    assert views_of(source, tmp_path, places) == views
    assert provider.total == 8  # no further requests
    assert {one.query["key"] for one in provider.requests} == {"S3CRET"}
    assert_no_key_below(tmp_path)


def test_baidu_states_wgs84_and_requests_the_largest_image(provider, tmp_path):
    provider.answers[PANORAMA] = [as_json({"status": "404"})]
    views = views_of(BaiduPanorama(base_url=provider.url), tmp_path)
    assert len(views) == 3
    assert {view.point_id for view in views} < {place.point_id for place in PLACES}
    assert {one.query["coordtype"] for one in provider.requests} == {"wgs84ll"}
    content = Store(tmp_path).read(views[0].key)
    assert Image.open(io.BytesIO(content)).size == (1024, 512)
    assert {one.query["ak"] for one in provider.requests} == {"S3CRET"}
    assert_no_key_below(tmp_path)


@pytest.mark.parametrize(
    ("name", "status", "state"),
    [
        ("baidu", "302", "quota"),
        ("baidu", "4", "quota"),
        ("baidu", "211", "denied"),
        ("google", "OVER_QUERY_LIMIT", "quota"),
        ("google", "REQUEST_DENIED", "denied"),
        ("mapillary", 4, "quota"),
        ("mapillary", 190, "denied"),
    ],
)
def test_errors_with_http_200_stop_the_run(provider, tmp_path, name, status, state):
    provider.mapillary_error = status
    for path in (METADATA, PANORAMA):
        provider.answers[path] = [as_json({"status": status})] * len(PLACES)
    url = provider.url
    source = {
        "baidu": BaiduPanorama(base_url=url),
        "google": GoogleStreetView(base_url=url),
        "mapillary": mapillary(provider),
    }[name]
    with pytest.raises(StoppedError) as caught:
        views_of(source, tmp_path)
    assert caught.value.fetched.status == state
    assert "S3CRET" not in str(caught.value)
    assert "/maps/api/streetview" not in {one.path for one in provider.requests}
    assert_no_key_below(tmp_path)


@pytest.mark.parametrize(
    ("source", "variable"),
    [(GoogleStreetView, "GOOGLE_MAPS_API_KEY"), (BaiduPanorama, "BAIDU_MAP_AK")],
)
def test_missing_key_is_named_and_a_repeated_one_hidden(
    provider, tmp_path, monkeypatch, source, variable
):
    for path in (METADATA, PANORAMA):
        provider.answers[path] = [as_json({"status": "BAD KEY S3CRET"})] * len(PLACES)
    views_of(source(base_url=provider.url), tmp_path)
    store = Store(tmp_path)
    assert store.counts() == {"invalid": 4}
    assert {one.detail for one in store.failures()} == {"an answer that repeats the key"}
    monkeypatch.delenv(variable)
    with pytest.raises(SourceError, match=f"environment variable {variable}"):
        views_of(source(base_url="http://127.0.0.1:1"), tmp_path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GoogleStreetView(size_px=1024), "up to 640 px, got 1024"),
        (lambda: BaiduPanorama(width=2048), "1024 x 512 px, got 2048 x 512"),
        (lambda: KartaView(per_place=0), "per_place"),
        (lambda: KartaView(size="large"), "must be one of fileurlTh, .* got 'large'"),
        (lambda: Mapillary(since="2020"), "a date such as 2020-01-31, got '2020'"),
    ],
)
def test_rejects_invalid_settings(make, message):
    with pytest.raises(SourceError, match=message):
        make()


def mapillary(provider, **fields):
    return Mapillary(tiles_url=provider.url, graph_url=provider.url, **fields)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"per_place": 2}, {"11": "p0", "12": "p0", "13": "p1"}),
        ({"panoramas": True}, {"13": "p1"}),
        ({"panoramas": False, "radius_m": 20}, {"11": "p0"}),
    ],
)
def test_mapillary_takes_the_nearest_images(provider, tmp_path, fields, expected):
    views = views_of(mapillary(provider, **fields), tmp_path)
    assert {view.image_id.split("/")[1]: view.point_id for view in views} == expected
    for view in views:
        assert (view.captured_at, view.heading) == ("2020-09-13T12:26:40Z", 10.0)
        assert Image.open(io.BytesIO(Store(tmp_path).read(view.key))).size == (640, 480)


def addresses(provider):
    return [path for path in provider.asked if path.startswith("/expiring/")]


def test_mapillary_requests_fresh_addresses_of_missing_images(provider, tmp_path):
    first = views_of(mapillary(provider), tmp_path)
    asked = provider.total
    assert views_of(mapillary(provider), tmp_path) == first
    assert provider.total == asked  # no further requests
    # another size and back
    assert len(views_of(mapillary(provider, size="thumb_2048_url"), tmp_path / "sizes")) == 2
    assert len(views_of(mapillary(provider), tmp_path / "sizes")) == 2
    assert len(views_of(mapillary(provider, size="thumb_2048_url"), tmp_path / "sizes")) == 2
    assert len(addresses(provider)) == 6
    Store(tmp_path).forget([first[0].key])  # as if killed between URL and image
    views_of(mapillary(provider), tmp_path)
    assert len(addresses(provider)) == 7


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
def test_mapillary_fields_may_hold_anything(provider, tmp_path, changes):
    entity = provider.mapillary_entity
    provider.mapillary_entity = lambda one, size: entity(one, size) | changes
    views = views_of(mapillary(provider, panoramas=False), tmp_path, PLACES[:1])
    assert len(views) == (0 if "thumb_1024_url" in changes else 1)


@pytest.mark.parametrize("code", [403, 503])
def test_refused_mapillary_image_does_not_stop_the_run(provider, tmp_path, code):
    provider.answers["/expiring/1/11.jpg"] = [(code, {}, b"")] * 5
    source = mapillary(provider, panoramas=False)
    assert views_of(source, tmp_path, PLACES[:1]) == []
    assert Store(tmp_path).counts("mapillary/picture/") == {"failed": 1}
    (view,) = views_of(source, tmp_path, PLACES[:1])
    assert view.image_id == "mapillary/11"
    assert len(addresses(provider)) == 2


def test_invalid_coverage_tile_is_requested_again(provider, tmp_path):
    x, y = tile_index(116.3, 39.9, 14, "xyz")
    provider.answers[f"/maps/vtp/mly1_public/2/14/{x}/{y}"] = [(200, {}, b"\x1a\xff\xff")]
    assert views_of(mapillary(provider), tmp_path) == []
    store = Store(tmp_path)
    assert store.get(f"mapillary/tile/14/{x}/{y}").status == "invalid"
    assert store.forget_failures("mapillary/") == 1
    assert len(views_of(mapillary(provider), tmp_path)) == 2


def test_coverage_tiles_place_images_to_a_metre():
    lon, lat, _ = PICTURES[12]
    x, y = tile_index(lon, lat, 14, "xyz")
    found = decode_tile(coverage(f"/{x}/{y}"), x, y)
    ((found_lon, found_lat, _),) = (one for one in found if one[2]["id"] == 12)
    assert (found_lon, found_lat) == pytest.approx((lon, lat), abs=1e-5)


@pytest.mark.parametrize("source", [Mapillary(), GoogleStreetView(), BaiduPanorama(), KartaView()])
def test_sources_follow_the_protocol(source):
    assert isinstance(source, StreetViewSource)
    assert source.redistributable == source.licence.startswith("cc-")


# ---- KartaView -----------------------------------------------------------------------------------

CORNERS = [Place(f"p{n}", 11.5 + n / 100, 48.1) for n in range(3)]


class PhotoServer(Loopback):
    """Simulates KartaView: three photos at each of three places."""

    def __init__(self):
        super().__init__()
        self.photos = {
            str(100 * n + k): {
                "id": str(100 * n + k),
                "lat": str(place.lat + k * 1e-5),
                "lng": str(place.lon),
                "heading": "370.5",
                "shotDate": f"202{k}-05-01 10:00:00",
                "fileurlProc": f"{self.url}/files/{100 * n + k}.jpg",
                "fileurl": f"{self.url}/files/{100 * n + k}-original.jpg",
            }
            for n, place in enumerate(CORNERS)
            for k in range(3)
        }

    def name(self, request):
        near = f"@{float(request.query['lng']):.2f}" if "lng" in request.query else ""
        return request.path + near

    def answer(self, request):
        if request.path.startswith("/files/"):
            return 200, {"Content-Type": "image/jpeg"}, drawn(request.path, (64, 48))
        data = self.photos.get(request.path.split("/")[-1])
        if "lng" in request.query:
            number = round((float(request.query["lng"]) - 11.5) * 100)
            data = [one for name, one in self.photos.items() if int(name) // 100 == number]
        return as_json({"status": {"httpCode": 200}, "result": {"data": data}})


@pytest.fixture
def photos():
    with PhotoServer() as one:
        yield one


def ids(found):
    return [view.image_id.removeprefix("kartaview/") for view in found]


def test_kartaview_takes_nearest_photos_once(photos, tmp_path):
    source = KartaView(base_url=photos.url, per_place=2)
    found = views_of(source, tmp_path, CORNERS)
    assert ids(found) == sorted(["0", "1", "100", "101", "200", "201"])
    first = found[0]
    assert (first.heading, first.captured_at) == (pytest.approx(10.5), "2020-05-01T10:00:00")
    assert first.licence == "cc-by-sa-4.0"
    assert first.attribution == "KartaView contributors"
    asked = dict(photos.asked)
    assert views_of(source, tmp_path, CORNERS) == found
    assert photos.asked == asked
    assert views_of(source, tmp_path, [Place("far", 12.9, 48.1)]) == []


@pytest.mark.parametrize(
    ("name", "since", "size", "expected"),
    [
        ("mapillary", "2020-09-13", "thumb_2048_url", ["11", "12"]),
        ("mapillary", "2020-09-14", "thumb_2048_url", []),
        ("kartaview", "2022-05-01", "fileurl", ["102", "2", "202"]),
    ],
)
def test_images_since_a_date_and_of_a_size(provider, photos, tmp_path, name, since, size, expected):
    fields = {"since": since, "size": size, "per_place": 3}
    if name == "mapillary":
        found = views_of(mapillary(provider, **fields, panoramas=False), tmp_path)
    else:
        found = views_of(KartaView(base_url=photos.url, **fields), tmp_path, CORNERS)
    assert [(view.image_id.split("/")[1], view.key.split("/")[-1]) for view in found] == [
        (one, size) for one in expected
    ]
    asked = {path.split("/")[2] for path in photos.asked if path.startswith("/files/")}
    assert asked == {f"{one}-original.jpg" for one in expected if name == "kartaview"}


def test_kartaview_faults_are_retried_or_left_out(photos, tmp_path):
    near = [f"/2.0/photo/@{place.lon:.2f}" for place in CORNERS]
    photos.answers[near[0]] = [(429, {"Retry-After": "0"}, b"")]
    photos.answers[near[1]] = [(200, {"Content-Type": "text/html"}, b"<html></html>")]
    photos.answers["/files/200.jpg"] = [100]
    photos.answers["/files/0.jpg"] = [(403, {}, b"")]
    assert ids(views_of(KartaView(base_url=photos.url), tmp_path, CORNERS)) == ["200"]
    assert photos.asked["/files/200.jpg"] == 2
    assert Store(tmp_path).counts("kartaview/near/") == {"invalid": 1, "ok": 2}
    # the refused photo is requested again by the next run
    assert ids(views_of(KartaView(base_url=photos.url), tmp_path, CORNERS)) == ["0", "200"]


def test_kartaview_fields_may_be_missing(photos, tmp_path):
    photos.photos["0"] = {"id": "0", "fileurlProc": f"{photos.url}/files/0.jpg"}
    del photos.photos["100"]["fileurlProc"]
    photos.photos["200"] |= {"heading": None, "lat": "north"}
    first, other, last = views_of(KartaView(base_url=photos.url), tmp_path, CORNERS)
    assert ids([first, other, last]) == ["0", "101", "200"]
    assert (first.lon, first.heading, first.captured_at) == (CORNERS[0].lon, None, None)
    assert last.lat == CORNERS[2].lat


@pytest.mark.parametrize(("code", "said"), [(403, "denied"), (429, "quota")])
def test_kartaview_errors_with_http_200_stop_the_run(photos, tmp_path, code, said):
    body = json.dumps({"status": {"httpCode": code}}).encode()
    photos.answers[f"/2.0/photo/@{CORNERS[0].lon:.2f}"] = [(200, {}, body)]
    with pytest.raises(StoppedError, match=said):
        views_of(KartaView(base_url=photos.url), tmp_path, CORNERS)


def test_kartaview_images_are_fetched_again_by_id(photos, tmp_path):
    async def job(fetcher, store):
        rows = [{"image_id": one} for one in ("kartaview/1", "kartaview/777")]
        pictures = KartaView(base_url=photos.url).pictures(rows, fetcher, store)
        return {one: store.read(key) async for one, key in pictures}

    assert with_fetcher(tmp_path, job) == {"kartaview/1": drawn("/files/1.jpg", (64, 48))}
