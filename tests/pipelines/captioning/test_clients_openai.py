"""The client of OpenAI-compatible servers against a loopback server with scripted faults."""

import asyncio
import base64
import gzip
import logging
import threading
from dataclasses import replace
from typing import Any

import pytest

from pipelines.captioning.clients import open_model, openai_compatible
from pipelines.captioning.errors import ModelUnavailableError, RequestFailedError
from pipelines.captioning.records import Request, Sampling
from tests.servers import Call, LoopbackServer, Response, chat, error

JPEG = b"\xff\xd8\xff" + bytes(range(256)) * 700
KEY = "sk-very-secret-0123456789"


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch):
    monkeypatch.setattr(openai_compatible, "BACKOFF_S", 0.01)
    monkeypatch.setattr(openai_compatible, "MAX_BACKOFF_S", 0.05)


def request() -> Request:
    ids = ("a", "0" * 64, "street_view")
    prompt = "Describe <|im_end|> the image."
    return Request("describe", prompt, JPEG, Sampling(0.7, 0.9, 64, 11), *ids)


def model_at(url: str, **changes) -> Any:
    quick = {"max_attempts": 4, "timeout_s": 600}
    return open_model({"name": "m", "model": "org/model", "base_url": url} | quick | changes)


def ask(server: LoopbackServer, count: int = 1, **changes):
    """Replies or errors of `count` concurrent requests."""

    async def main():
        model = model_at(server.url, **changes)
        try:
            tasks = [model.complete(request()) for _ in range(count)]
            return await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            await model.close()

    return asyncio.run(main())


def test_sends_image_prompt_and_sampling(monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(name, KEY)
    with LoopbackServer([chat("  A street.\n")]) as server:
        (reply,) = ask(server, extra_body={"repetition_penalty": 1.1}, omit=["top_p"])
        ask(server, max_tokens_field="max_completion_tokens")
    call, other = server.calls
    assert call.path == "/v1/chat/completions"
    body = call.json
    image, text = body.pop("messages")[0]["content"]
    assert image["image_url"]["url"] == "data:image/jpeg;base64," + base64.b64encode(JPEG).decode()
    assert text == {"type": "text", "text": "Describe < |im_end|> the image."}
    assert body == {
        "model": "org/model",
        "temperature": 0.7,
        "max_tokens": 64,
        "seed": 11,
        "repetition_penalty": 1.1,
    }
    assert other.json["max_completion_tokens"] == 64
    assert KEY not in str(call.headers)  # the key of another service
    assert (reply.text, reply.finish_reason, reply.attempts) == ("A street.", "stop", 1)
    assert (reply.prompt_tokens, reply.completion_tokens) == (100, 20)
    assert reply.seconds > 0


JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (error(500), "http_500"),
        (Response(disconnect=True), "connection"),
        (chat(cut=30), "connection"),
        (Response(body=chat().body[:50], headers=JSON), "invalid_answer"),
        (Response(body=b"[" * 100_000), "invalid_answer"),
        (Response(body=b"<html>Welcome</html>"), "invalid_answer"),
        (Response(body=b'{"error": {"message": "x"}}'), "server_error"),
        (chat(" \n"), "empty"),
    ],
)
def test_retries_temporary_faults(fault, reason):
    with LoopbackServer([fault, fault, chat("A road."), fault, fault, chat()]) as server:
        (reply,) = ask(server)
        (failed,) = ask(server, max_attempts=2)
    assert (reply.text, reply.attempts) == ("A road.", 3)
    assert isinstance(failed, RequestFailedError)
    assert (failed.reason, failed.attempts, len(server.calls)) == (reason, 2, 5)


def test_retries_after_timeouts_and_waits_as_requested():
    done = threading.Event()
    with LoopbackServer([chat(hold=done)]) as server:
        (failed,) = ask(server, max_attempts=2, timeout_s=0.1)
        done.set()
    assert (failed.reason, failed.attempts) == ("timeout", 2)
    with LoopbackServer([error(429, Retry_After="0.2"), chat()]) as server:
        (reply,) = ask(server)
    assert reply.attempts == 2
    assert server.calls[1].at - server.calls[0].at >= 0.2


def test_does_not_retry_permanent_faults():
    with LoopbackServer([error(413, "The image\nis too large.")]) as server:
        (failed,) = ask(server)
    assert isinstance(failed, RequestFailedError)
    assert (failed.reason, failed.detail) == ("http_413", "The image is too large.")
    assert failed.attempts == len(server.calls) == 1


@pytest.mark.parametrize("status", [401, 404, 307])
def test_stops_the_run_if_no_request_can_succeed(status):
    with LoopbackServer([error(status, "no such thing")]) as server:
        (failed,) = ask(server)
    assert isinstance(failed, ModelUnavailableError)
    assert f"{server.url} returned HTTP {status} (no such thing)" in str(failed)
    assert len(server.calls) == 1


def test_uses_and_bounds_concurrency():
    six = threading.Barrier(6)  # no request is answered before six have arrived

    def respond(call: Call) -> Response:
        six.wait()
        return chat()

    with LoopbackServer(respond) as server:
        replies = ask(server, 24, max_concurrency=6)
    assert all(reply.text for reply in replies)
    assert server.max_in_flight == 6


def test_survives_a_server_restart(caplog):
    back = threading.Event()

    async def main(server: LoopbackServer):
        model = model_at(server.url, max_concurrency=4, max_attempts=2)
        tasks = [asyncio.create_task(model.complete(request())) for _ in range(40)]
        while len(server.calls) < 14:
            await asyncio.sleep(0.01)
        await asyncio.to_thread(server.stop)
        while "does not answer" not in caplog.text:
            await asyncio.sleep(0.01)
        assert sum(task.done() for task in tasks) == 10
        back.set()
        await asyncio.to_thread(server.start)
        replies = await asyncio.gather(*tasks)
        await model.close()
        return replies

    def respond(call: Call) -> Response:  # ten answers, then requests are held
        return chat(hold=back if call.number > 10 else None)

    with LoopbackServer(respond) as server, caplog.at_level(logging.WARNING):
        replies = asyncio.run(main(server))
    assert sum(reply.attempts > 1 for reply in replies) == 4
    assert caplog.text.count("does not answer") == caplog.text.count("answers again") == 1


@pytest.mark.parametrize("status", [None, 503])
def test_a_long_outage_stops_the_run(status):
    with LoopbackServer([error(503)]) as server:
        if status is None:
            server.stop()
        results = ask(server, 3, outage_timeout_s=0.1, max_attempts=1)
    assert {type(one) for one in results} == {ModelUnavailableError}
    assert f"Model 'm' (org/model) at {server.url} did not answer" in str(results[0])


def test_a_request_without_capacity_fails_while_others_are_answered():
    async def main():
        model = model_at(server.url, outage_timeout_s=0.1)
        poor = asyncio.create_task(model.complete(replace(request(), prompt="No capacity.")))
        while not poor.done():
            await model.complete(request())
        await model.close()
        with pytest.raises(RequestFailedError, match="http_429"):
            poor.result()

    with LoopbackServer(lambda call: error(429) if b"No cap" in call.body else chat()) as server:
        asyncio.run(main())


def test_reopens_after_close_and_in_another_loop():
    async def twice():
        await model.complete(request())
        await model.close()
        await model.complete(request())

    with LoopbackServer([chat()]) as server:
        model = model_at(server.url)
        asyncio.run(twice())
        asyncio.run(twice())
    assert len(server.calls) == 4


def test_bounds_the_size_of_answers(monkeypatch):
    monkeypatch.setattr(openai_compatible, "MAX_ANSWER_BYTES", 100_000)
    packed = {"Content-Encoding": "gzip"}
    for fault in (
        Response(body=b" " * 1_000_000),
        error(500, "x" * 1_000_000),
        Response(body=gzip.compress(b" " * 10_000_000), headers=packed),
    ):
        with LoopbackServer([fault]) as server:
            (failed,) = ask(server, max_attempts=1)
        assert failed.reason == "invalid_answer"
        assert "more than 100000 bytes" in failed.detail or "compressed" in failed.detail


def test_sends_the_key_but_never_shows_it(monkeypatch, caplog):
    monkeypatch.setenv("TEST_MODEL_KEY", KEY)

    def respond(call: Call) -> Response:  # a server that repeats the key everywhere
        said = {name.lower(): value for name, value in call.headers.items()}["authorization"]
        headers = {"Location": f"/{said}", "X-Echo": said}
        page = Response(200, f"<html>{said}</html>".encode(), headers, phrase=said)
        script = [page, error(500, said), error(400, said), chat(said), error(401, said)]
        return script[call.number - 1]

    with LoopbackServer(respond) as server, caplog.at_level(logging.DEBUG):
        model = model_at(server.url, api_key_env="TEST_MODEL_KEY")

        async def main():
            tasks = [asyncio.create_task(model.complete(request()))]
            for _ in range(2):
                await asyncio.wait(tasks)
                tasks.append(asyncio.create_task(model.complete(request())))
            found = await asyncio.gather(*tasks, return_exceptions=True)
            await model.close()
            return found

        rejected, answered, stopped = asyncio.run(main())
    assert f"Bearer {KEY}" in str(server.calls[0].headers)
    assert isinstance(stopped, ModelUnavailableError)
    for said in (rejected.detail, answered.text, str(stopped)):
        assert "Bearer ***" in said
    shown = (repr(model), repr(model.settings), model.revision, caplog.text)
    for text in (*shown, repr(rejected), repr(answered), repr(stopped), str(rejected)):
        assert KEY not in text
