import asyncio
import collections
import io
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataset_builders import download
from dataset_builders.download import (
    Fetcher,
    Item,
    Limit,
    RateLimiter,
    StoppedError,
    Store,
    Verdict,
    check_image,
)
from dataset_builders.errors import DatasetError
from tests.clock import FakeTime

ROOT = Path(__file__).resolve().parents[2]
FAST = Limit(1000, 32)


def picture(seed: int, format: str = "PNG", size: int = 32) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format)
    return buffer.getvalue()


def blank() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), (9, 9, 9)).save(buffer, "PNG")
    return buffer.getvalue()


class TileServer(ThreadingHTTPServer):
    """Answers by the name in the path: /ok/7, /flaky/3, /quota/1, ...

    Attributes:
        done: what is held goes when this is set.
        five: and what comes in fives when so many are there.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked = collections.Counter()
        self.agents = set()
        self.moments = []
        self.seen = []
        self.elsewhere = ""
        self.now = self.most = 0
        self.lock = threading.Lock()
        self.done, self.five = threading.Event(), threading.Barrier(5)
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def shutdown(self):
        self.done.set()
        super().shutdown()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, code, body=b"", media_type="image/png", **headers):
        self.send_response(code)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(headers.pop("length", len(body))))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        server = self.server
        with server.lock:
            server.asked[self.path.partition("?")[0]] += 1
            times = server.asked[self.path.partition("?")[0]]
            server.agents.add(self.headers["User-Agent"])
            server.moments.append(time.monotonic())
            server.seen.append(f"{self.path} {self.headers}")
            server.now += 1
            server.most = max(server.most, server.now)
        try:
            _, kind, number = self.path.partition("?")[0].split("/")
            getattr(self, f"do_{kind}")(int(number), times)
        finally:
            with server.lock:
                server.now -= 1

    def do_ok(self, number, times):
        self.answer(200, picture(number))

    def do_slow(self, number, times):
        time.sleep(0.05)
        self.answer(200, picture(number))

    def do_held(self, number, times):
        self.server.done.wait()

    def do_fives(self, number, times):
        self.server.five.wait()
        self.answer(200, picture(number))

    def do_flaky(self, number, times):
        self.answer(500) if times < 3 else self.answer(200, picture(number))

    def do_busy(self, number, times):
        self.answer(429, Retry_After="0.2") if times == 1 else self.answer(200, picture(number))

    def do_dated(self, number, times):
        later = formatdate(time.time() + 1, usegmt=True)
        self.answer(503, Retry_After=later) if times == 1 else self.answer(200, picture(number))

    def do_moved(self, number, times):
        self.answer(302, Location=f"/ok/{number}")

    def do_away(self, number, times):
        query = self.path.partition("?")[2]
        self.answer(302, Location=f"{self.server.elsewhere}/ok/{number}?{query}")

    def do_dead(self, number, times):
        self.answer(503)

    def do_gone(self, number, times):
        self.answer(404)

    def do_html(self, number, times):
        self.answer(200, b"<html>please log in</html>", "text/html")

    def do_cut(self, number, times):
        body = picture(number)
        if times == 1:
            self.close_connection = True
            self.answer(200, body[:50], length=len(body))
        else:
            self.answer(200, body)

    def do_broken(self, number, times):
        self.answer(200, picture(number, "JPEG", 64)[:-200], "image/jpeg")

    def do_blank(self, number, times):
        self.answer(200, blank())

    def do_same(self, number, times):
        self.answer(200, picture(0))

    def do_empty(self, number, times):
        self.answer(200)

    def do_quota(self, number, times):
        self.after_three_others()
        self.answer(200, b'{"status": 302, "message": "quota"}', "application/json")

    def do_denied(self, number, times):
        self.after_three_others()
        self.answer(403)

    def after_three_others(self):
        """Three of four slots are at what is held: so all that came before is settled."""
        while sum(path.startswith("/held/") for path in list(self.server.asked)) < 3:
            time.sleep(0.001)


@pytest.fixture
def server():
    server = TileServer()
    yield server
    server.shutdown()
    server.server_close()


def items(server, kind, numbers, **fields):
    return [Item(f"{kind}/{n}", f"{server.url}/{kind}/{n}", **fields) for n in numbers]


def fetch(folder, wanted, check=check_image, **settings):
    async def main():
        store = Store(folder)
        settings.setdefault("limits", {"127.0.0.1": FAST})
        settings.setdefault("backoff_s", 0.01)
        try:
            async with Fetcher(store, **settings) as fetcher:
                return {one.key: one async for one in fetcher.fetch_all(wanted, check)}
        finally:
            store.close()

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("kind", "status", "asked"),
    [
        ("ok", "ok", 1),
        ("flaky", "ok", 3),
        ("busy", "ok", 2),
        ("dated", "ok", 2),
        ("cut", "ok", 2),
        ("gone", "missing", 1),
        ("html", "invalid", 1),
        ("broken", "invalid", 1),
        ("empty", "invalid", 1),
        ("blank", "blank", 1),
        ("dead", "failed", 5),
    ],
)
def test_every_answer_has_its_state(server, tmp_path, kind, status, asked):
    found = fetch(tmp_path, items(server, kind, [7]))[f"{kind}/7"]
    assert (found.status, server.asked[f"/{kind}/7"]) == (status, asked)
    content = Store(tmp_path).read(f"{kind}/7")
    assert (content == picture(7)) if status == "ok" else (content is None)


def test_retry_after_holds_back_every_request_to_the_host(server, tmp_path):
    limits = {"127.0.0.1": Limit(1000, 1)}
    fetch(tmp_path, items(server, "busy", [1, 2]), limits=limits)
    gaps = np.diff(server.moments)
    assert gaps.max() >= 0.19


def test_a_second_run_asks_for_what_failed_and_for_nothing_else(server, tmp_path):
    wanted = [
        *items(server, "ok", range(5)),
        *items(server, "gone", [1]),
        *items(server, "dead", [1]),
    ]
    fetch(tmp_path, wanted, max_attempts=2)
    before = dict(server.asked)
    fetch(tmp_path, wanted, max_attempts=2)
    again = {path for path, count in server.asked.items() if count > before[path]}
    assert again == {"/dead/1"}


def judge_quota(content, media_type):
    return Verdict("quota", "quota") if b"quota" in content else check_image(content, media_type)


@pytest.mark.parametrize(("kind", "remedy"), [("quota", "quota is renewed"), ("denied", "key")])
def test_quota_and_refusal_stop_everything(server, tmp_path, kind, remedy):
    wanted = [*items(server, "ok", range(3)), *items(server, kind, [0])]
    wanted += items(server, "held", range(500))
    with pytest.raises(StoppedError, match=remedy):
        fetch(tmp_path, wanted, judge_quota, limits={"127.0.0.1": Limit(1000, 4)})
    assert sum(path.startswith("/held/") for path in server.asked) <= 4
    assert Store(tmp_path).counts("ok/") == {"ok": 3}


def test_a_host_that_never_answers_stops_everything(server, tmp_path):
    wanted = [*items(server, "ok", range(3)), *items(server, "dead", range(500))]
    with pytest.raises(StoppedError, match="50 items in a row failed"):
        fetch(tmp_path, wanted, max_attempts=1)
    assert sum(server.asked.values()) < 250
    # some that fail among others that do not are no reason to stop
    mixed = [one for n in range(60) for one in items(server, "dead", [1000 + n])]
    mixed = [
        one for pair in zip(mixed, items(server, "ok", range(60)), strict=True) for one in pair
    ]
    found = fetch(tmp_path / "mixed", mixed, max_attempts=1)
    assert sum(one.status == "ok" for one in found.values()) == 60


def test_secrets_are_neither_stored_nor_shown(server, tmp_path):
    (item,) = items(server, "dead", [1], params={"ak": "S3CRET"}, headers={"X-Key": "S3CRET"})
    found = fetch(tmp_path, [item], max_attempts=1)
    other = Item("x", "http://127.0.0.1:1/S3CRET/x", {"ak": "S3CRET"})
    found |= fetch(tmp_path, [other], max_attempts=1)
    assert "S3CRET" not in repr(item) + repr(other) + repr(found)
    assert not any(b"S3CRET" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_secrets_are_not_logged_whatever_is_logged(server, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    (item,) = items(server, "ok", [1], params={"ak": "S3CRET"}, headers={"X-Key": "S3CRET"})
    fetch(tmp_path, [item, Item("x", f"{server.url}/S3CRET/x")])
    assert "HTTP Request: GET 127.0.0.1" in caplog.text
    assert "S3CRET" not in caplog.text


def test_the_same_picture_too_often_is_a_placeholder(server, tmp_path):
    fetch(tmp_path, [*items(server, "same", range(6)), *items(server, "ok", range(1, 4))])
    store = Store(tmp_path)
    assert store.mark_placeholders("same/", 6) == 0
    assert store.mark_placeholders("same/", 5) == 6
    assert store.counts() == {"ok": 3, "placeholder": 6}
    assert store.read("same/0") is None
    assert store.forget_failures() == 6


def test_no_more_requests_at_once_than_allowed(server, tmp_path):
    fetch(tmp_path, items(server, "fives", range(40)), limits={"127.0.0.1": Limit(1000, 5)})
    assert server.most == 5


@pytest.mark.parametrize(("kind", "requests"), [("ok", 20), ("moved", 40)])
def test_every_request_goes_by_the_limit_those_of_redirections_too(
    server, tmp_path, monkeypatch, kind, requests
):
    moments, go = [], RateLimiter.go

    async def noted(self):
        await go(self)
        moments.append(time.monotonic())

    monkeypatch.setattr(RateLimiter, "go", noted)
    fetch(tmp_path, items(server, kind, range(20)), limits={"127.0.0.1": Limit(100, 64)})
    assert len(moments) == sum(server.asked.values()) == requests


@pytest.fixture
def other():
    server = TileServer()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("secret", ["S3CRET", "a+b/c= d"])
def test_a_key_in_a_query_is_not_taken_to_another_host(server, other, tmp_path, secret):
    server.elsewhere = other.url
    wanted = items(server, "away", [7], params={"key": secret}, secret=secret)
    with pytest.raises(StoppedError, match="redirects to another host") as stopped:
        fetch(tmp_path, wanted)
    assert stopped.value.fetched.status == "denied"
    assert not other.seen


def test_a_key_in_a_header_is_not_taken_to_another_host(server, other, tmp_path):
    server.elsewhere = other.url
    wanted = items(server, "away", [7], headers={"Authorization": "OAuth S3CRET"}, secret="S3CRET")
    assert fetch(tmp_path, wanted)["away/7"].status == "ok"
    assert "S3CRET" in server.seen[0]
    assert len(other.seen) == 1
    assert "S3CRET" not in other.seen[0]
    wanted = items(server, "away", [8], headers={"X-Api-Key": "S3CRET"}, secret="S3CRET")
    with pytest.raises(StoppedError, match="redirects to another host"):
        fetch(tmp_path, wanted)
    assert len(other.seen) == 1


def test_a_key_follows_a_redirection_within_its_host(server, tmp_path):
    server.elsewhere = server.url
    wanted = items(server, "away", [7], params={"key": "S3CRET"}, secret="S3CRET")
    assert fetch(tmp_path, wanted)["away/7"].status == "ok"
    assert "/ok/7?key=S3CRET" in server.seen[1]


def test_redirections_without_end_are_given_up(server, tmp_path, monkeypatch):
    monkeypatch.setattr(
        Handler, "do_moved", lambda self, n, _: self.answer(302, Location=self.path)
    )
    found = fetch(tmp_path, items(server, "moved", [7]), max_attempts=1)["moved/7"]
    assert (found.status, found.detail) == ("failed", "TooManyRedirects after 1 attempts")


@pytest.fixture
def clock(monkeypatch):
    clock = FakeTime()
    monkeypatch.setattr(download, "time", clock)
    return clock


def test_a_pause_also_holds_back_those_that_wait_for_their_moment(clock):
    async def main():
        limiter, moments = RateLimiter(Limit(50, 8)), []

        async def one():
            await limiter.turn()
            moments.append(clock.now)

        tasks = [asyncio.create_task(one()) for _ in range(5)]
        while not moments:
            await asyncio.sleep(0)
        limiter.pause(0.3)
        await asyncio.gather(*tasks)
        return np.array(moments)

    moments = clock.run(main())
    assert moments[1] - moments[0] >= 0.3


def test_the_user_agent_says_who_asks(server, tmp_path):
    fetch(tmp_path, items(server, "ok", [1]))
    (agent,) = server.agents
    assert "UrbanLN" in agent
    with pytest.raises(DatasetError, match="ASCII"):
        Fetcher(Store(tmp_path), user_agent="城市")


def went(clock, limit, count, busy):
    """When each of so many requests went, while the loop is held up now and then."""

    async def main():
        limiter, moments = RateLimiter(limit), []

        async def one():
            await limiter.turn()
            await limiter.go()
            moments.append(clock.now)

        async def stall():
            while True:
                await asyncio.sleep(0.02)
                clock.sleep(busy)

        other = asyncio.create_task(stall())
        await asyncio.gather(*(one() for _ in range(count)))
        other.cancel()
        return np.array(moments)

    return clock.run(main())


@pytest.mark.parametrize("per_second", [200, 50, 2.5])
@pytest.mark.parametrize("busy", [0.0, 0.03])
def test_no_second_holds_more_than_the_rate(clock, per_second, busy):
    count = int(per_second * 5) + 1
    moments = went(clock, Limit(per_second, 50), count, busy)
    at_most = int(per_second)
    # of any `at_most` + 1 in a row the last goes a second after the first, or the share of one
    assert (moments[at_most:] - moments[:-at_most]).min() >= at_most / per_second - 1e-4
    # and what was held up is made up for
    assert (count - 1) / (moments[-1] - moments[0]) > 0.9 * per_second


@pytest.mark.parametrize("limit", [(0, 1), (1, 0), (-1, 2)])
def test_an_impossible_limit_is_refused(limit):
    with pytest.raises(DatasetError, match="a rate above 0"):
        Limit(*limit)


KILLED = """
import asyncio, sys
from dataset_builders.download import *
url, folder = sys.argv[1:]

async def main():
    async with Fetcher(Store(folder), {"127.0.0.1": Limit(1000, 8)}) as fetcher:
        items = [Item(f"slow/{n}", f"{url}/slow/{n}") for n in range(120)]
        async for one in fetcher.fetch_all(items, check_image, in_flight=8):
            print(one.key, flush=True)

asyncio.run(main())
"""


def test_after_sigkill_nothing_that_was_finished_is_fetched_again(server, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, server.url, str(tmp_path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    done = {process.stdout.readline().strip() for _ in range(30)}
    os.kill(process.pid, signal.SIGKILL)
    done |= set(process.stdout.read().split())
    process.wait()
    before = dict(server.asked)
    found = fetch(tmp_path, items(server, "slow", range(120)))
    assert {one.status for one in found.values()} == {"ok"}
    again = {path[1:] for path, count in server.asked.items() if count > before.get(path, 0)}
    assert not (again & done)
    assert {key: one.sha256 for key, one in found.items()} == {
        key: one.sha256
        for key, one in fetch(tmp_path / "b", items(server, "slow", range(120))).items()
    }
