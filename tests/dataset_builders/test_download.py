import asyncio
import email.utils
import gzip
import hashlib
import io
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import pytest
from PIL import Image

from dataset_builders import download, transport
from dataset_builders.download import (
    Fetcher,
    Host,
    Item,
    Limit,
    StoppedError,
    Store,
    Verdict,
    check_image,
)
from dataset_builders.errors import DatasetError
from dataset_builders.ledger import DamagedStoreError
from tests.clock import FakeTime

from .loopback import Loopback, with_fetcher

ROOT = Path(__file__).resolve().parents[2]
PNG = {"Content-Type": "image/png"}


def picture(seed: int, format: str = "PNG", size: int = 32) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format)
    return buffer.getvalue()


def blank() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), (9, 9, 9)).save(buffer, "PNG")
    return buffer.getvalue()


def zipped(body: bytes) -> tuple[int, dict[str, str], bytes]:
    return 200, {**PNG, "Content-Encoding": "gzip"}, gzip.compress(body)


class Server(Loopback):
    """Answers by the name in the path: /ok/7, /flaky/3, /quota/1, ...

    Attributes:
        done: what is held goes when this is set.
        five: and what comes in fives when so many are there.
    """

    def __init__(self):
        super().__init__()
        self.moments, self.elsewhere, self.now, self.most = [], "", 0, 0
        self.done, self.five = threading.Event(), threading.Barrier(5)

    def __exit__(self, *_):
        self.done.set()
        super().__exit__()

    def answer(self, request):
        _, kind, number = request.path.split("/")
        with self.lock:
            self.moments.append(time.monotonic())
            self.now += 1
            self.most = max(self.most, self.now)
        try:
            return self.made(kind, int(number), self.asked[request.path], request)
        finally:
            with self.lock:
                self.now -= 1

    def made(self, kind, number, times, request):
        right = (200, PNG, picture(number))
        if kind in ("quota", "denied"):
            # three of four slots are at what is held: so all that came before is settled
            while sum(path.startswith("/held/") for path in list(self.asked)) < 3:
                time.sleep(0.001)
        if kind == "slow":
            time.sleep(0.05)
        elif kind == "held":
            self.done.wait()
        elif kind == "fives":
            self.five.wait()
        later = email.utils.formatdate(time.time() + 1, usegmt=True)
        first = {
            "busy": (429, {"Retry-After": "0.2"}, b""),
            "dated": (503, {"Retry-After": later}, b""),
        }
        query = urlencode(request.query)
        always = {
            "moved": (302, {"Location": f"/ok/{number}"}, b""),
            "away": (302, {"Location": f"{self.elsewhere}/ok/{number}?{query}"}, b""),
            "nowhere": (302, {"Location": "s3://bucket/key"}, b""),
            "round": (302, {"Location": request.path}, b""),
            "dead": (503, {}, b""),
            "gone": (404, {}, b""),
            "html": (200, {"Content-Type": "text/html"}, b"<html>please log in</html>"),
            "broken": (200, {"Content-Type": "image/jpeg"}, picture(number, "JPEG", 64)[:-200]),
            "blank": (200, PNG, blank()),
            "same": (200, PNG, picture(0)),
            "empty": (200, PNG, b""),
            "quota": (200, {"Content-Type": "application/json"}, b'{"message": "quota"}'),
            "denied": (403, {}, b""),
            "zipped": zipped(picture(number)),
            "torn": (*zipped(picture(number))[:2], gzip.compress(picture(number))[:-20]),
            "noise": (*zipped(b"")[:2], b"no gzip data at all"),
            "other": (200, {**PNG, "Content-Encoding": "br"}, picture(number)),
        }
        if kind == "flaky":
            return right if times >= 3 else (500, {}, b"")
        if kind in first and times == 1:
            return first[kind]
        return always.get(kind, right)


@pytest.fixture
def server():
    with Server() as one:
        yield one


@pytest.fixture
def other():
    with Server() as one:
        yield one


def items(server, kind, numbers, **fields):
    return [Item(f"{kind}/{n}", f"{server.url}/{kind}/{n}", **fields) for n in numbers]


def fetch(folder, wanted, check=check_image, **settings):
    async def job(fetcher, _):
        return {one.key: one async for one in fetcher.fetch_all(wanted, check)}

    return with_fetcher(folder, job, **settings)


@pytest.mark.parametrize(
    ("kind", "status", "asked"),
    [
        ("ok", "ok", 1),
        ("flaky", "ok", 3),
        ("busy", "ok", 2),
        ("dated", "ok", 2),
        ("zipped", "ok", 1),
        ("gone", "missing", 1),
        ("html", "invalid", 1),
        ("broken", "invalid", 1),
        ("empty", "invalid", 1),
        ("torn", "invalid", 1),
        ("noise", "invalid", 1),
        ("other", "invalid", 1),
        ("nowhere", "invalid", 1),
        ("blank", "blank", 1),
        ("dead", "failed", 5),
    ],
)
def test_every_answer_has_its_state(server, tmp_path, kind, status, asked):
    found = fetch(tmp_path, items(server, kind, [7]))[f"{kind}/7"]
    assert (found.status, server.asked[f"/{kind}/7"]) == (status, asked)
    content = Store(tmp_path).read(f"{kind}/7")
    assert (content == picture(7)) if status == "ok" else (content is None)


def test_an_answer_that_was_cut_off_is_asked_for_again(server, tmp_path):
    server.answers["/ok/7"] = [50]
    assert fetch(tmp_path, items(server, "ok", [7]))["ok/7"].status == "ok"
    assert server.asked["/ok/7"] == 2


@pytest.mark.parametrize("url", ["s3://bucket/key", "bucket/key", "http://", "file:///etc/hosts"])
def test_an_address_of_no_web_server_is_refused_at_once(tmp_path, url):
    # so many of them are no outage, and none is tried five times
    wanted = [Item(f"x/{n}", url) for n in range(60)]
    found = fetch(tmp_path, wanted, backoff_s=1e9)
    assert {one.status for one in found.values()} == {"invalid"}
    assert "not an http(s):// address" in found["x/0"].detail


@pytest.mark.parametrize("times", [1, 2], ids=["gzip", "plain"])
def test_an_answer_larger_than_its_limit_is_not_held_in_memory(server, tmp_path, times):
    body = bytes(2**28)
    answer = zipped(body) if times == 1 else (200, PNG, body[: 2**25])
    assert len(answer[2]) < 2**26
    server.answers["/ok/1"] = [answer]
    tracemalloc.start()
    try:
        found = fetch(tmp_path, items(server, "ok", [1], max_bytes=2**20))["ok/1"]
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (found.status, found.detail) == ("invalid", "more than 1,048,576 bytes")
    assert most < 2**24


def test_retry_after_holds_back_every_request_to_the_host(server, tmp_path):
    limits = {"127.0.0.1": Limit(1000, 1)}
    fetch(tmp_path, items(server, "busy", [1, 2]), limits=limits)
    assert np.diff(server.moments).max() >= 0.19


@pytest.mark.parametrize("zone", ["-0000", "GMT", "+0200"])
def test_a_date_to_wait_for_is_in_its_own_zone(monkeypatch, zone):
    monkeypatch.setenv("TZ", "Asia/Shanghai")
    time.tzset()
    try:
        hour = "02" if zone == "+0200" else "00"
        monkeypatch.setattr(transport.time, "time", lambda: 1_767_225_600.0)  # 2026-01-01 UTC
        text = f"Thu, 01 Jan 2026 {hour}:01:00 {zone}"
        assert transport.retry_after({"retry-after": text}) == 60.0
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("text", ["", "soon", "Thu, 99 Jan 2026 00:00:00 GMT"])
def test_a_time_to_wait_for_that_nobody_understands_is_passed_over(text):
    assert transport.retry_after({"retry-after": text}) is None
    assert transport.retry_after({"retry-after": "1e9"}) == transport.MAX_RETRY_AFTER_S


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
    assert server.total < 250
    # some that fail among others that do not are no reason to stop
    pairs = zip(items(server, "dead", range(60)), items(server, "ok", range(60)), strict=True)
    found = fetch(tmp_path / "mixed", [one for pair in pairs for one in pair], max_attempts=1)
    assert sum(one.status == "ok" for one in found.values()) == 60


# ---- the store ----------------------------------------------------------------------------------


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    path.unlink()
    if how != "missing":
        path.write_bytes(content[:-1] if how == "truncated" else content[:-1] + b"\0")


@pytest.mark.parametrize("how", ["missing", "truncated", "altered"])
def test_a_damaged_content_is_set_aside_counted_and_fetched_again(server, tmp_path, how):
    wanted = items(server, "ok", range(3))
    found = fetch(tmp_path, wanted)
    store = Store(tmp_path)
    for key in ("ok/0", "ok/1"):
        damage(store.path(found[key].sha256), how)
    # one that is read tells of all
    with pytest.raises(DamagedStoreError, match=r"^2 downloads stored in .* missing or altered"):
        store.read("ok/0")
    assert store.counts() == {"failed": 2, "ok": 1}
    assert len(list((tmp_path / "damaged").glob("*"))) == (0 if how == "missing" else 2)
    fetch(tmp_path, wanted)
    assert [store.read(f"ok/{n}") for n in range(3)] == [picture(n) for n in range(3)]
    assert server.asked == {"/ok/0": 2, "/ok/1": 2, "/ok/2": 1}


@pytest.mark.parametrize("how", ["missing", "truncated"])
def test_a_content_that_is_not_there_in_full_is_fetched_again_before_it_is_read(
    server, tmp_path, how
):
    found = fetch(tmp_path, items(server, "ok", [1]))
    damage(Store(tmp_path).path(found["ok/1"].sha256), how)
    fetch(tmp_path, items(server, "ok", [1]))
    assert Store(tmp_path).read("ok/1") == picture(1)


def test_the_same_picture_too_often_is_a_placeholder(server, tmp_path):
    fetch(tmp_path, [*items(server, "same", range(6)), *items(server, "ok", range(1, 4))])
    store = Store(tmp_path)
    assert store.mark_placeholders("same/", 6) == 0
    assert store.mark_placeholders("same/", 5) == 6
    assert store.counts() == {"ok": 3, "placeholder": 6}
    assert store.read("same/0") is None
    assert store.forget_failures() == 6


# ---- keys ---------------------------------------------------------------------------------------


def bytes_below(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_secrets_are_neither_stored_nor_shown(server, tmp_path):
    (item,) = items(server, "dead", [1], params={"ak": "S3CRET"}, headers={"X-Key": "S3CRET"})
    found = fetch(tmp_path, [item], max_attempts=1)
    other = Item("x", "http://127.0.0.1:1/S3CRET/x", {"ak": "S3CRET"})
    found |= fetch(tmp_path, [other], max_attempts=1)
    assert "S3CRET" not in repr(item) + repr(other) + repr(found)
    assert b"S3CRET" not in bytes_below(tmp_path)


@pytest.mark.parametrize("kind", ["ok", "away"])
def test_secrets_are_not_logged_whatever_is_logged(server, tmp_path, caplog, kind):
    server.elsewhere = server.url  # the Location repeats the query
    caplog.set_level(logging.DEBUG)
    (item,) = items(server, kind, [1], params={"ak": "S3CRET"}, headers={"X-Key": "S3CRET"})
    fetch(tmp_path, [item, Item("x", f"{server.url}/S3CRET/1")])
    assert "HTTP Request: GET 127.0.0.1" in caplog.text
    assert "S3CRET" not in caplog.text


@pytest.mark.parametrize("said", ["no such S3/CRET", "no%20such%20S3%2FCRET"])
def test_a_key_that_an_answer_repeats_is_not_kept(server, tmp_path, said):
    (item,) = items(server, "ok", [1], params={"ak": "S3/CRET"}, secret="S3/CRET")
    with pytest.raises(StoppedError) as stopped:
        fetch(tmp_path, [item], lambda *_: Verdict("denied", f"status {said}"))
    assert "CRET" not in str(stopped.value)
    assert b"CRET" not in bytes_below(tmp_path)
    long = fetch(tmp_path, items(server, "ok", [2]), lambda *_: Verdict("invalid", "x" * 10_000))
    assert len(long["ok/2"].detail) == download.MAX_DETAIL


@pytest.mark.parametrize("secret", ["S3CRET", "a+b/c= d"])
def test_a_key_in_a_query_is_not_taken_to_another_host(server, other, tmp_path, secret):
    server.elsewhere = other.url
    wanted = items(server, "away", [7], params={"key": secret}, secret=secret)
    with pytest.raises(StoppedError, match="redirects to another host") as stopped:
        fetch(tmp_path, wanted)
    assert stopped.value.fetched.status == "denied"
    assert not other.requests


def test_a_key_in_a_header_is_not_taken_to_another_host(server, other, tmp_path):
    server.elsewhere = other.url
    wanted = items(server, "away", [7], headers={"Authorization": "OAuth S3CRET"}, secret="S3CRET")
    assert fetch(tmp_path, wanted)["away/7"].status == "ok"
    assert server.requests[0].headers["Authorization"] == "OAuth S3CRET"
    (only,) = other.requests
    assert "Authorization" not in only.headers
    wanted = items(server, "away", [8], headers={"X-Api-Key": "S3CRET"}, secret="S3CRET")
    with pytest.raises(StoppedError, match="redirects to another host"):
        fetch(tmp_path, wanted)
    assert len(other.requests) == 1


def test_a_key_follows_a_redirection_within_its_host(server, tmp_path):
    server.elsewhere = server.url
    wanted = items(server, "away", [7], params={"key": "S3CRET"}, secret="S3CRET")
    assert fetch(tmp_path, wanted)["away/7"].status == "ok"
    assert (server.requests[1].path, server.requests[1].query) == ("/ok/7", {"key": "S3CRET"})


def test_redirections_without_end_are_given_up(server, tmp_path):
    found = fetch(tmp_path, items(server, "round", [7]), max_attempts=1)["round/7"]
    assert (found.status, found.detail) == ("failed", "TooManyRedirects after 1 attempts")


# ---- rates --------------------------------------------------------------------------------------


def test_no_more_requests_at_once_than_allowed(server, tmp_path):
    fetch(tmp_path, items(server, "fives", range(40)), limits={"127.0.0.1": Limit(1000, 5)})
    assert server.most == 5


@pytest.mark.parametrize(("kind", "requests"), [("ok", 20), ("moved", 40)])
def test_every_request_goes_by_the_limit_those_of_redirections_too(
    server, tmp_path, monkeypatch, kind, requests
):
    turns, turn = [], Host.turn

    async def noted(self):
        turns.append(await turn(self))

    monkeypatch.setattr(Host, "turn", noted)
    fetch(tmp_path, items(server, kind, range(20)), limits={"127.0.0.1": Limit(100, 64)})
    assert len(turns) == server.total == requests


@pytest.fixture
def clock(monkeypatch):
    clock = FakeTime()
    monkeypatch.setattr(download, "time", clock)
    return clock


def went(clock, limit, count, pause_s=0.0):
    """When each of so many requests went; after the first the host asks for a pause."""

    async def main():
        host, moments = Host(limit), []

        async def one():
            await host.turn()
            moments.append(clock.now)

        tasks = [asyncio.create_task(one()) for _ in range(count)]
        while not moments:
            await asyncio.sleep(0)
        host.pause(pause_s)
        await asyncio.gather(*tasks)
        return np.array(moments)

    return clock.run(main())


@pytest.mark.parametrize("per_second", [1000, 200, 50, 2.5, 0.2])
def test_requests_go_at_the_rate_and_in_short_bursts_at_most(clock, per_second):
    count = int(per_second * 5) + 10
    moments = went(clock, Limit(per_second, 50), count)
    seconds = np.searchsorted(moments, moments + 1 - 1e-9) - np.arange(count)
    assert seconds.max() <= per_second + 1
    assert (count - 1) / (moments[-1] - moments[0]) == pytest.approx(per_second, rel=0.15)


def test_a_pause_also_holds_back_those_that_wait_for_their_turn(clock):
    moments = went(clock, Limit(50, 8), 6, pause_s=0.3)
    assert moments[1:].min() >= 0.3  # one went before it
    assert moments[-1] - moments[1] >= 0.02  # and they do not go all at once then


def test_the_user_agent_says_who_asks(server, tmp_path):
    fetch(tmp_path, items(server, "ok", [1]))
    assert "UrbanLN" in server.requests[0].headers["User-Agent"]
    with pytest.raises(DatasetError, match="ASCII"):
        Fetcher(Store(tmp_path), user_agent="城市")


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
    again = {path[1:] for path, count in server.asked.items() if count > before.get(path, 0)}
    assert not (again & done)
    assert {key: one.sha256 for key, one in found.items()} == {
        f"slow/{n}": hashlib.sha256(picture(n)).hexdigest() for n in range(120)
    }
