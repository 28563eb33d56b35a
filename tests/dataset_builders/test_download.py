import asyncio
import hashlib
import logging
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from dataset_builders import download, transport
from dataset_builders.download import (
    Host,
    Item,
    Limit,
    StoppedError,
    Store,
    Verdict,
    check_image,
)
from tests.clock import FakeTime

from .download_server import Server, fetch, items, picture, zipped

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def server():
    with Server() as one:
        yield one


@pytest.fixture
def other():
    with Server() as one:
        yield one


STATES = {
    "ok": "ok flaky busy dated zipped",
    "missing": "gone",
    "invalid": "html broken empty torn noise other nowhere",
    "blank": "blank",
    "failed": "dead round",
}
REQUESTS = {"flaky": 3, "busy": 2, "dated": 2, "dead": 5, "round": 105}


def test_each_response_has_its_state(server, tmp_path):
    expected = {kind: status for status, kinds in STATES.items() for kind in kinds.split()}
    server.answers["/ok/8"] = [50]  # cut off
    wanted = [Item(f"{kind}/7", f"{server.url}/{kind}/7") for kind in expected]
    found = fetch(tmp_path, [*wanted, *items(server, "ok", [8])])
    assert (found.pop("ok/8").status, server.asked["/ok/8"]) == ("ok", 2)
    assert {key[:-2]: one.status for key, one in found.items()} == expected
    # the last request for ok/7 is that of a redirect
    for kind in expected:
        assert server.asked[f"/{kind}/7"] == REQUESTS.get(kind, 1), kind
    store = Store(tmp_path)
    for kind, status in expected.items():
        content = picture(7) if status == "ok" else None
        assert store.read(f"{kind}/7") == content, kind
    assert found["round/7"].detail == "TooManyRedirects after 5 attempts"
    before = dict(server.asked)
    fetch(tmp_path, wanted)  # requests only what failed
    again = {path for path, count in server.asked.items() if count > before[path]}
    assert again == {"/dead/7", "/round/7"}


@pytest.mark.parametrize("url", ["s3://bucket/key", "bucket/key", "http://", "file:///etc/hosts"])
def test_rejects_addresses_that_are_not_http(tmp_path, url):
    # 60 of these do not count as an outage, and none is retried
    wanted = [Item(f"x/{n}", url) for n in range(60)]
    found = fetch(tmp_path, wanted, backoff_s=1e9)
    assert {one.status for one in found.values()} == {"invalid"}
    assert "not an http(s):// address" in found["x/0"].detail


def test_large_responses_are_not_held_in_memory(server, tmp_path):
    server.answers["/ok/1"] = [zipped(bytes(2**26))]
    tracemalloc.start()
    try:
        found = fetch(tmp_path, items(server, "ok", [1], max_bytes=2**20))["ok/1"]
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (found.status, found.detail) == ("invalid", "more than 1,048,576 bytes")
    assert most < 2**24


def judge_quota(content, media_type):
    return Verdict("quota", "quota") if b"quota" in content else check_image(content, media_type)


@pytest.mark.parametrize(("kind", "remedy"), [("quota", "quota is renewed"), ("denied", "key")])
def test_quota_and_refusal_stop_the_run(server, tmp_path, kind, remedy):
    wanted = [*items(server, "ok", range(3)), *items(server, kind, [0])]
    wanted += items(server, "held", range(500))
    with pytest.raises(StoppedError, match=remedy):
        fetch(tmp_path, wanted, judge_quota, limits={"127.0.0.1": Limit(1000, 4)})
    assert sum(path.startswith("/held/") for path in server.asked) <= 4
    assert Store(tmp_path).counts("ok/") == {"ok": 3}


def test_outage_stops_the_run(server, tmp_path):
    wanted = [*items(server, "ok", range(3)), *items(server, "dead", range(500))]
    with pytest.raises(StoppedError, match="50 items in a row failed"):
        fetch(tmp_path, wanted, max_attempts=1)
    assert server.total < 250
    # failures among successes do not stop the run
    pairs = zip(items(server, "dead", range(60)), items(server, "ok", range(60)), strict=True)
    found = fetch(tmp_path / "mixed", [one for pair in pairs for one in pair], max_attempts=1)
    assert sum(one.status == "ok" for one in found.values()) == 60


# ---- keys ---------------------------------------------------------------------------------------


def assert_not_stored(secret: bytes, folder: Path) -> None:
    for path in folder.rglob("*"):
        assert path.is_dir() or secret not in path.read_bytes(), path


@pytest.mark.parametrize("kind", ["ok", "away", "dead"])
def test_keys_are_neither_stored_nor_shown_nor_logged(server, tmp_path, caplog, kind):
    server.elsewhere = server.url  # the Location repeats the query
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, logger="httpx2")  # as another client may set it
    (item,) = items(server, kind, [1], params={"ak": "S3CRET"}, headers={"X-Key": "S3CRET"})
    unreachable = Item("x", "http://127.0.0.1:1/S3CRET/x", {"ak": "S3CRET"})
    found = fetch(tmp_path, [item, unreachable], max_attempts=1)
    assert "HTTP Request: GET 127.0.0.1" in caplog.text
    assert "S3CRET" not in caplog.text + repr(item) + repr(unreachable) + repr(found)
    assert_not_stored(b"S3CRET", tmp_path)


@pytest.mark.parametrize("said", ["no such S3/CRET", "no%20such%20S3%2FCRET"])
def test_keys_repeated_by_responses_are_not_kept(server, tmp_path, said):
    (item,) = items(server, "ok", [1], params={"ak": "S3/CRET"}, secret="S3/CRET")
    with pytest.raises(StoppedError) as stopped:
        fetch(tmp_path, [item], lambda *_: Verdict("denied", f"status {said}"))
    assert "CRET" not in str(stopped.value)
    assert_not_stored(b"CRET", tmp_path)
    long = fetch(tmp_path, items(server, "ok", [2]), lambda *_: Verdict("invalid", "x" * 10_000))
    assert len(long["ok/2"].detail) == download.MAX_DETAIL


@pytest.mark.parametrize(
    "key",
    [
        {"params": {"key": "S3CRET"}, "secret": "S3CRET"},
        {"params": {"key": "a+b/c= d"}, "secret": "a+b/c= d"},
        {"headers": {"X-Api-Key": "S3CRET"}, "secret": "S3CRET"},
    ],
    ids=["query", "encoded query", "header"],
)
def test_redirects_take_no_key_to_another_host(server, other, tmp_path, key):
    server.elsewhere = other.url
    with pytest.raises(StoppedError, match="redirects to another host") as stopped:
        fetch(tmp_path, items(server, "away", [7], **key))
    assert stopped.value.fetched.status == "denied"
    assert not other.requests
    # the client removes this header by itself
    wanted = items(server, "away", [8], headers={"Authorization": "OAuth S3CRET"}, secret="S3CRET")
    assert fetch(tmp_path, wanted)["away/8"].status == "ok"
    assert server.requests[-1].headers["Authorization"] == "OAuth S3CRET"
    assert "Authorization" not in other.requests[0].headers
    server.elsewhere = server.url  # within the host
    assert fetch(tmp_path, items(server, "away", [9], **key))["away/9"].status == "ok"
    assert (server.requests[-1].path, server.requests[-1].query) == ("/ok/9", key.get("params", {}))


# ---- rates --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "requests"), [("fives", 40), ("moved", 80)])
def test_requests_and_redirects_respect_the_limits(server, tmp_path, monkeypatch, kind, requests):
    turns, turn = [], Host.turn

    async def noted(self):
        turns.append(await turn(self))

    monkeypatch.setattr(Host, "turn", noted)
    fetch(tmp_path, items(server, kind, range(40)), limits={"127.0.0.1": Limit(1000, 5)})
    assert len(turns) == server.total == requests
    assert server.most <= 5
    assert server.most == 5 or kind == "moved"  # `fives` waits for five requests
    assert "UrbanLN" in server.requests[0].headers["User-Agent"]


@pytest.fixture
def clock(monkeypatch):
    clock = FakeTime()
    monkeypatch.setattr(download, "time", clock)
    return clock


def went(clock, limit, count, pause_s=0.0):
    """Times at which `count` requests are sent; the host requests a pause after the first."""

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


@pytest.mark.parametrize("per_second", [1000, 50, 0.2])
def test_rate_is_kept_with_short_bursts(clock, per_second):
    count = int(per_second * 5) + 10
    moments = went(clock, Limit(per_second, 50), count)
    seconds = np.searchsorted(moments, moments + 1 - 1e-9) - np.arange(count)
    assert seconds.max() <= per_second + 1
    assert (count - 1) / (moments[-1] - moments[0]) == pytest.approx(per_second, rel=0.15)


def test_pause_delays_waiting_requests(clock):
    moments = went(clock, Limit(50, 8), 6, pause_s=0.3)
    assert moments[1:].min() >= 0.3  # one was sent before it
    assert moments[-1] - moments[1] >= 0.02  # and they are not sent all at once


def test_retry_after_pauses_the_host(server, tmp_path):
    fetch(tmp_path, items(server, "busy", [1, 2]), limits={"127.0.0.1": Limit(1000, 1)})
    assert np.diff(server.moments).max() >= 0.19


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("3", 3.0),
        (" 0.5 ", 0.5),
        ("Thu, 01 Jan 1970 00:16:50 GMT", 10.0),
        ("Thu, 01 Jan 1970 00:16:50 -0000", 10.0),
        ("Thu, 01 Jan 1970 02:16:50 +0200", 10.0),
        ("Thu, 01 Jan 1970 00:16:30 GMT", 0.0),
        ("9e9", transport.MAX_RETRY_AFTER_S),
        ("nan", 0.0),
        ("", None),
        ("Thu, 99 Jan 2026 00:00:00 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(monkeypatch, value, expected):
    monkeypatch.setattr(transport.time, "time", lambda: 1000.0)
    monkeypatch.setenv("TZ", "Asia/Shanghai")
    time.tzset()
    try:
        assert transport.retry_after({"retry-after": value}) == expected
    finally:
        monkeypatch.undo()
        time.tzset()


KILLED = """
import asyncio, sys
from dataset_builders.download import *
url, folder = sys.argv[1:]

async def main():
    async with Fetcher(Store(folder), {"127.0.0.1": Limit(1000, 8)}) as fetcher:
        items = [Item(f"slow/{n}", f"{url}/slow/{n}") for n in range(60)]
        async for one in fetcher.fetch_all(items, check_image, in_flight=8):
            print(one.key, flush=True)

asyncio.run(main())
"""


def test_resumes_after_sigkill(server, tmp_path):
    command = [sys.executable, "-c", KILLED, server.url, str(tmp_path)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    done = {process.stdout.readline().strip() for _ in range(20)}
    os.kill(process.pid, signal.SIGKILL)
    done |= set(process.stdout.read().split())
    process.wait()
    before = dict(server.asked)
    found = fetch(tmp_path, items(server, "slow", range(60)))
    again = {path[1:] for path, count in server.asked.items() if count > before.get(path, 0)}
    assert not (again & done)
    assert {key: one.sha256 for key, one in found.items()} == {
        f"slow/{n}": hashlib.sha256(picture(n)).hexdigest() for n in range(60)
    }
