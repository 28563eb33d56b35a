import asyncio
import errno
import gc
import hashlib
import logging
import os
import signal
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from dataset_builders import download
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
from tests.clock import FakeTime

from .download_server import PNG, Server, fetch, items, picture, zipped

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def server():
    with Server() as one:
        yield one


@pytest.fixture
def other():
    with Server() as one:
        yield one


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
    # 60 of these do not count as an outage, and none is retried
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
    # failures among successes do not stop the run
    pairs = zip(items(server, "dead", range(60)), items(server, "ok", range(60)), strict=True)
    found = fetch(tmp_path / "mixed", [one for pair in pairs for one in pair], max_attempts=1)
    assert sum(one.status == "ok" for one in found.values()) == 60


def test_a_full_disk_ends_the_run_with_one_error(server, tmp_path, monkeypatch, caplog):
    together = threading.Barrier(4)

    def full(*_):
        together.wait()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Store, "put", full)
    with pytest.raises(OSError, match="No space left"):
        fetch(tmp_path, items(server, "ok", range(4)), limits={"127.0.0.1": Limit(1000, 4)})
    gc.collect()
    assert "never retrieved" not in caplog.text


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
    caplog.set_level(logging.DEBUG, logger="httpx2")  # as another client may set it
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


@pytest.mark.parametrize("per_second", [1000, 200, 50, 2.5, 0.2])
def test_requests_go_at_the_rate_and_in_short_bursts_at_most(clock, per_second):
    count = int(per_second * 5) + 10
    moments = went(clock, Limit(per_second, 50), count)
    seconds = np.searchsorted(moments, moments + 1 - 1e-9) - np.arange(count)
    assert seconds.max() <= per_second + 1
    assert (count - 1) / (moments[-1] - moments[0]) == pytest.approx(per_second, rel=0.15)


def test_a_pause_also_holds_back_those_that_wait_for_their_turn(clock):
    moments = went(clock, Limit(50, 8), 6, pause_s=0.3)
    assert moments[1:].min() >= 0.3  # one was sent before it
    assert moments[-1] - moments[1] >= 0.02  # and they are not sent all at once


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
