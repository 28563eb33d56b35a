import asyncio
import hashlib
import json
import zlib
from dataclasses import astuple
from unittest import mock

import mapbox_vector_tile
import pyarrow as pa
import pytest
import shapely
from hypothesis import example, given
from hypothesis import strategies as st

from dataset_builders.city.layout import _geocode
from dataset_builders.city.recipe import BoundarySettings
from dataset_builders.download import Fetched, check_image
from dataset_builders.errors import SourceError
from dataset_builders.roads import read_roads_overpass
from dataset_builders.sources.baidu import BaiduPanorama, check_panorama
from dataset_builders.sources.google import GoogleStreetView
from dataset_builders.sources.kartaview import KartaView
from dataset_builders.sources.mapillary import Mapillary, check_entity, check_tile
from dataset_builders.sources.stac import StacSource, _candidates, check_search
from dataset_builders.sources.street_view import Place
from dataset_builders.transport import UnusableAnswerError, read

from ..dataset_builders.helpers import encoded, picture
from ..dataset_builders.provider import _streets, _town
from .harness import ODD, altered, damaged, inputs, knock, peak_mb

PLACES = [Place("p1", 7.404, 43.732, 45.0), Place("p2", 7.405, 43.733)]
JPEG = encoded(picture(), "JPEG")
METADATA = {
    **{"status": "OK", "pano_id": "abc-DEF_1", "location": {"lat": 43.73, "lng": 7.4}},
    **{"date": "2023-05", "copyright": "© Google"},
}
PHOTO = {
    "id": "77",
    "lat": "43.7",
    "lng": "7.4",
    "heading": "90",
    "shotDate": "2020-01-02 03:04:05",
}
PHOTOS = {
    "status": {"httpCode": 200},
    "result": {"data": [{**PHOTO, "fileurlProc": "https://cdn.example/77.jpg"}]},
}
ENTITY = {
    "id": "5",
    "captured_at": 1_600_000_000_000,
    "compass_angle": 12.5,
    "computed_geometry": {"type": "Point", "coordinates": [7.4, 43.7]},
    "thumb_1024_url": "https://cdn.example/5.jpg",
}
POINTS = [
    {"geometry": f"POINT({n * 700} {n * 600})", "properties": {"id": n, "captured_at": 1.6e12}}
    for n in range(1, 6)
]
TILE = mapbox_vector_tile.encode([{"name": "image", "features": POINTS}])
SCENE = {
    "type": "Feature",
    "id": "S2A",
    "geometry": json.loads(shapely.to_geojson(shapely.box(7, 43, 8, 44))),
    "bbox": [7, 43, 8, 44],
    "properties": {"datetime": "2024-06-01T10:30:00Z", "eo:cloud_cover": 3.5},
    "assets": {name: {"href": f"../{name}.tif"} for name in ("red", "green", "blue")},
}
SCENES = {
    "features": [SCENE, {**SCENE, "id": "S2B"}],
    "links": [{"rel": "next", "href": "https://stac.example/search?page=2", "method": "GET"}],
}


class Web:
    """In-memory fetcher and store with one response to all queries and an image at all URLs."""

    def __init__(self, answer: bytes, tile: bytes = TILE):
        self.answer, self.tile, self.contents = answer, tile, {}

    async def fetch_all(self, items, check):
        for item in items:
            yield (await self.ask(item, check))[0]

    async def ask(self, item, check):
        import httpx2

        content = self.answer
        if "/tile/" in item.key:
            content = self.tile
        elif check is check_image:
            content = JPEG
        verdict = check(content, "application/json")
        try:
            httpx2.URL(item.url)
        except httpx2.InvalidURL:
            verdict = check(b"", "text/plain")
        detail, key = verdict.detail[:300], item.key
        fetched = Fetched(key, verdict.status, 200, hashlib.sha256(content).hexdigest(), 1, detail)
        json.dumps(astuple(fetched), ensure_ascii=False).encode()  # as SQLite stores it
        if verdict.status == "ok":
            self.contents[key] = content
        return fetched, content

    def read(self, key):
        return self.contents.get(key)

    def settled(self, key):
        return None

    def forget(self, keys):
        list(keys)

    def mark(self, keys, status, detail):
        list(keys)


@pytest.fixture(autouse=True)
def keys(monkeypatch):
    for name in ("GOOGLE_MAPS_API_KEY", "MAPILLARY_ACCESS_TOKEN", "BAIDU_MAP_AK"):
        monkeypatch.setenv(name, "S3CRET")


def views_of(source, answer, tile=TILE):
    async def collect():
        web = Web(answer, tile)
        return [view async for view in source.views(PLACES, web, web)]

    door = f"answers of {source.name}"
    found = knock(door, lambda: asyncio.run(collect())) or []
    texts = [[one.image_id, one.captured_at, one.attribution] for one in found]
    numbers = [[one.lon, one.lat, one.heading] for one in found]
    pa.array(texts, pa.list_(pa.string()))
    pa.array(numbers, pa.list_(pa.float64()))


SOURCES = ((GoogleStreetView(), METADATA), (KartaView(), PHOTOS), (Mapillary(), ENTITY))


@pytest.mark.parametrize(("source", "valid"), SOURCES, ids=[one.name for one, _ in SOURCES])
@inputs(28)
@given(data=st.data())
def test_street_views(source, valid, data):
    answers = altered(valid).map(lambda answer: json.dumps(answer).encode())
    views_of(source, data.draw(answers | damaged(json.dumps(valid).encode())))


def test_answers_that_were_tracebacks():
    for number, change in (
        (0, {"pano_id": "a/b"}),
        (0, {"pano_id": "\ud800"}),
        (0, {"date": {}}),
        (0, {"status": "\ud800"}),
        (0, {"location": {"lat": 10**400, "lng": 0}}),
        (1, {"result": {"data": {**PHOTO, "fileurlProc": "\ud800"}}}),
        (2, {"captured_at": 10**400}),
        (2, {"thumb_1024_url": "http://\ud800/"}),
    ):
        source, valid = SOURCES[number]
        views_of(source, json.dumps({**valid, **change}).encode())


@inputs(30)
@given(damaged(TILE))
@example(TILE.replace(b"\x28\x80\x20", b"\x28\x80\x00"))  # of extent 0
def test_vector_tiles(content):
    views_of(Mapillary(), json.dumps(ENTITY).encode(), content)
    knock("answers of mapillary", lambda: check_tile(content, ""))


@inputs(20)
@given(ODD | altered({"status": 302, "message": "x"}) | altered({"error": {"code": 4}}))
def test_errors(answer):
    content = json.dumps(answer).encode()
    for check in (check_panorama, check_entity, check_tile):
        verdict = knock("errors of providers", lambda c=check: c(content, "application/json"))
        verdict.detail.encode()
    views_of(BaiduPanorama(), content)


IDS = st.lists(st.text(max_size=6) | st.just("90"), max_size=6).map("/".join) | ODD
ROWS = st.fixed_dictionaries(
    {"image_id": IDS, **dict.fromkeys(("point_id", "lon", "lat", "heading"), ODD)}
)


@inputs(20)
@given(st.lists(ROWS, max_size=3))
def test_rows_of_images(rows):
    async def collect(source):
        web = Web(json.dumps(PHOTOS).encode())
        return [one async for one in source.pictures(rows, web, web)]

    for source in (GoogleStreetView(), KartaView(), Mapillary(), BaiduPanorama()):
        knock("rows that name images", lambda one=source: asyncio.run(collect(one)))


STAC = StacSource("stac", "https://stac.example", "s2", "2024-05-01/2024-09-30", (0.0, 3000.0))


def scenes_of(content):
    async def search():
        found = await STAC._search((7.0, 43.0, 7.1, 43.1), Web(content))
        return _candidates(STAC._usable(found), shapely.box(7.4, 43.7, 7.41, 43.71))

    knock("answers of STAC", lambda: asyncio.run(search()))


@inputs(20)
@given(altered(SCENES))
@example({**SCENES, "links": ["next"]})
@example({**SCENES, "links": [{"rel": "next", "href": "http://[::1"}]})
@example({"features": [{**SCENE, "properties": {"eo:cloud_cover": 10**400}}]})
@example({"features": [{**SCENE, "id": "\ud800"}]})
def test_catalogues(answer):
    with mock.patch("dataset_builders.sources.stac.MAX_PAGES", 3):
        scenes_of(json.dumps(answer).encode())


@inputs(10)
@given(damaged(json.dumps(SCENES).encode()))
@example(b'{"features": ' + b"[" * 100_000)
def test_bytes_of_catalogues(content):
    assert knock("answers of STAC", lambda: check_search(content, "")).status in ("ok", "invalid")


@pytest.fixture(scope="module")
def osm(tmp_path_factory):
    return tmp_path_factory.mktemp("osm")


def osm_answers(answer):
    parsed = json.loads(json.dumps(answer))
    return mock.patch("osmnx._http._retrieve_from_cache", return_value=parsed)


@inputs(5)
@given(altered(_streets()))
def test_overpass(osm, answer):
    with osm_answers(answer):
        area = shapely.box(7.40, 43.73, 7.412, 43.739)
        knock("answers of Overpass", lambda: read_roads_overpass(area, osm, ["residential"]))


@inputs(3, long=100)
@given(altered(_town()))
def test_nominatim(osm, answer):
    settings = BoundarySettings(place="Town")
    with osm_answers(answer):
        knock("answers of Nominatim", lambda: _geocode(settings, osm), SourceError)


class Answer:
    """Chunked response of a server."""

    def __init__(self, pieces, encoding):
        self.pieces, self.headers = pieces, {"content-encoding": encoding}

    async def aiter_raw(self):
        for piece in self.pieces:
            yield piece


@inputs(30)
@given(
    st.lists(st.binary(max_size=40), max_size=5), st.sampled_from(("identity", "gzip", "br", ""))
)
def test_transport(pieces, encoding):
    answer = Answer(pieces, encoding)
    knock("transport", lambda: asyncio.run(read(answer, 100)), UnusableAnswerError)


def test_gzip_bomb_is_cut_while_streaming():
    packer = zlib.compressobj(9, wbits=31)
    bomb = [packer.compress(bytes(2**20)) for _ in range(128)] + [packer.flush()]
    answer = Answer(bomb, "gzip")
    before = peak_mb()
    assert knock("transport", lambda: asyncio.run(read(answer, 2**22)), UnusableAnswerError) is None
    assert peak_mb() - before < 50
