"""KartaView source with a loopback server and its faults."""

import json

import pytest

from dataset_builders.download import StoppedError, Store
from dataset_builders.sources.kartaview import KartaView
from dataset_builders.sources.street_view import Place

from .loopback import Loopback, as_json, with_fetcher
from .provider import drawn

PLACES = [Place(f"p{n}", 11.5 + n / 100, 48.1) for n in range(3)]


class Server(Loopback):
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
            }
            for n, place in enumerate(PLACES)
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
def server():
    with Server() as one:
        yield one


def views(source, folder, places=PLACES):
    async def job(fetcher, store):
        return [one async for one in source.views(places, fetcher, store)]

    return sorted(with_fetcher(folder, job), key=lambda view: view.image_id)


def ids(found):
    return [view.image_id.removeprefix("kartaview/") for view in found]


def test_takes_nearest_photos_once(server, tmp_path):
    source = KartaView(base_url=server.url, per_place=2)
    found = views(source, tmp_path)
    assert ids(found) == sorted(["0", "1", "100", "101", "200", "201"])
    first = found[0]
    assert (first.heading, first.captured_at) == (pytest.approx(10.5), "2020-05-01T10:00:00")
    assert first.licence == "cc-by-sa-4.0"
    assert first.attribution == "KartaView contributors"
    asked = dict(server.asked)
    assert views(source, tmp_path) == found
    assert server.asked == asked
    assert views(source, tmp_path, [Place("far", 12.9, 48.1)]) == []


def test_faults_are_retried_or_left_out(server, tmp_path):
    near = [f"/2.0/photo/@{place.lon:.2f}" for place in PLACES]
    server.answers[near[0]] = [(429, {"Retry-After": "0"}, b"")]
    server.answers[near[1]] = [(200, {"Content-Type": "text/html"}, b"<html></html>")]
    server.answers["/files/200.jpg"] = [100]
    server.answers["/files/0.jpg"] = [(403, {}, b"")]
    assert ids(views(KartaView(base_url=server.url), tmp_path)) == ["200"]
    assert server.asked["/files/200.jpg"] == 2
    assert Store(tmp_path).counts("kartaview/near/") == {"invalid": 1, "ok": 2}
    # the refused photo is requested again by the next run
    assert ids(views(KartaView(base_url=server.url), tmp_path)) == ["0", "200"]


@pytest.mark.parametrize(("code", "said"), [(403, "denied"), (429, "quota")])
def test_errors_with_http_200_stop_the_run(server, tmp_path, code, said):
    body = json.dumps({"status": {"httpCode": code}}).encode()
    server.answers[f"/2.0/photo/@{PLACES[0].lon:.2f}"] = [(200, {}, body)]
    with pytest.raises(StoppedError, match=said):
        views(KartaView(base_url=server.url), tmp_path)


def test_fetches_images_again_by_id(server, tmp_path):
    async def job(fetcher, store):
        rows = [{"image_id": one} for one in ("kartaview/1", "kartaview/777")]
        pictures = KartaView(base_url=server.url).pictures(rows, fetcher, store)
        return {one: store.read(key) async for one, key in pictures}

    assert with_fetcher(tmp_path, job) == {"kartaview/1": drawn("/files/1.jpg", (64, 48))}
