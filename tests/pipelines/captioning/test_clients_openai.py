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


def request(**changes) -> Request:
    fields: dict[str, Any] = {
        "task": "describe",
        "prompt": "Describe <|im_end|> the image.",
        "image": JPEG,
        "sampling": Sampling(0.7, 0.9, 64, 11),
        "image_id": "a",
        "image_sha256": "0" * 64,
        "view": "street_view",
    }
    return Request(**(fields | changes))


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
        (reply,) = ask(server, extra_body={"repetition_penalty": 1.1})
    (call,) = server.calls
    assert call.path == "/v1/chat/completions"
    body = call.json
    image, text = body.pop("messages")[0]["content"]
    assert image["image_url"]["url"] == "data:image/jpeg;base64," + base64.b64encode(JPEG).decode()
    assert text == {"type": "text", "text": "Describe < |im_end|> the image."}
    assert body == {
        "model": "org/model",
        "temperature": 0.7,
        "top_p": 0.9,
        "max_tokens": 64,
        "seed": 11,
        "repetition_penalty": 1.1,
    }
    assert KEY not in str(call.headers)  # the key of another service
    assert (reply.text, reply.finish_reason, reply.attempts) == ("A street.", "stop", 1)
    assert (reply.prompt_tokens, reply.completion_tokens) == (100, 20)
    assert reply.seconds > 0


def test_field_names_and_omitted_fields_follow_the_settings():
    with LoopbackServer([chat()]) as server:
        ask(server, omit=["seed", "top_p"], max_tokens_field="max_completion_tokens")
    body = server.calls[0].json
    assert {"seed", "top_p", "max_tokens"}.isdisjoint(body)
    assert body["max_completion_tokens"] == 64


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        pytest.param(error(408), "http_408", id="408"),
        pytest.param(error(409), "http_409", id="409"),
        pytest.param(error(500), "http_500", id="500"),
        pytest.param(Response(disconnect=True), "connection", id="disconnect"),
        pytest.param(chat(cut=30), "connection", id="cut short"),
        pytest.param(Response(body=chat().body[:50]), "invalid_answer", id="truncated JSON"),
        pytest.param(
            Response(body=chat().body[:50], headers={"Content-Type": "application/json"}),
            "invalid_answer",
            id="truncated JSON, so called",
        ),
        pytest.param(Response(body=b"[" * 100_000), "invalid_answer", id="deep JSON"),
        pytest.param(Response(body=b'["a"]'), "invalid_answer", id="no object"),
        pytest.param(Response(body=b"<html>Welcome</html>"), "invalid_answer", id="HTML"),
        pytest.param(Response(body=b""), "invalid_answer", id="no body"),
        pytest.param(Response(body=b'{"choices": []}'), "invalid_answer", id="no choices"),
        pytest.param(Response(body=b'{"choices": [{}]}'), "invalid_answer", id="no message"),
        pytest.param(Response(body=b'{"error": {"message": "x"}}'), "server_error", id="error"),
        pytest.param(chat(" \n"), "empty", id="blank text"),
        pytest.param(chat(None), "empty", id="null text"),
    ],
)
def test_temporary_faults_are_retried(fault, reason):
    with LoopbackServer([fault, fault, chat("A road.")]) as server:
        (reply,) = ask(server)
    assert (reply.text, reply.attempts, len(server.calls)) == ("A road.", 3, 3)
    with LoopbackServer([fault]) as server:
        (failed,) = ask(server, max_attempts=2)
    assert isinstance(failed, RequestFailedError)
    assert (failed.reason, failed.attempts, len(server.calls)) == (reason, 2, 2)


def test_timeouts_are_retried():
    done = threading.Event()
    with LoopbackServer([chat(hold=done)]) as server:
        (failed,) = ask(server, max_attempts=2, timeout_s=0.1)
        done.set()
    assert isinstance(failed, RequestFailedError)
    assert (failed.reason, failed.attempts) == ("timeout", 2)


@pytest.mark.parametrize("status", [400, 413, 422])
def test_permanent_faults_are_not_retried(status):
    with LoopbackServer([error(status, "The image\nis too large.")]) as server:
        (failed,) = ask(server)
    assert isinstance(failed, RequestFailedError)
    assert (failed.reason, failed.detail) == (f"http_{status}", "The image is too large.")
    assert failed.attempts == len(server.calls) == 1


@pytest.mark.parametrize("status", [401, 403, 404, 307])
def test_a_fault_of_all_requests_stops_the_run(status):
    with LoopbackServer([error(status, "no such thing")]) as server:
        (failed,) = ask(server)
    assert isinstance(failed, ModelUnavailableError)
    assert f"Model 'm' (org/model) at {server.url} returned HTTP {status} (no such thing)" in str(
        failed
    )
    assert len(server.calls) == 1


def test_retry_after_is_respected():
    with LoopbackServer([error(429, Retry_After="0.5"), chat()]) as server:
        (reply,) = ask(server)
    assert reply.attempts == 2
    assert server.calls[1].at - server.calls[0].at >= 0.5


def test_concurrency_is_bounded_and_used():
    six = threading.Barrier(6)  # no request is answered before six have arrived

    def respond(call: Call) -> Response:
        six.wait()
        return chat()

    with LoopbackServer(respond) as server:
        replies = ask(server, 24, max_concurrency=6)
    assert all(reply.text for reply in replies)
    assert server.max_in_flight == 6


def test_a_server_restart_fails_no_request(caplog):
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


@pytest.mark.parametrize("kind", ["stopped", "behind a gateway", "without capacity"])
def test_a_long_outage_stops_the_run(kind):
    server = {
        "stopped": LoopbackServer([]),
        "behind a gateway": LoopbackServer([error(503)]),
        "without capacity": LoopbackServer([error(429)]),
    }[kind]
    with server:
        if kind == "stopped":
            server.stop()
        results = ask(server, 3, outage_timeout_s=0.3, max_attempts=1)
    assert {type(one) for one in results} == {ModelUnavailableError}
    assert "Model 'm' (org/model) at http://127.0.0.1" in str(results[0])
    assert "did not answer for 0 s" in str(results[0])
    assert "rerun the command to resume" in str(results[0])


def test_one_request_without_capacity_fails_while_others_are_answered():
    answered = threading.Event()

    def respond(call: Call) -> Response:
        if call.json["seed"] == 1:
            return chat()
        return replace(error(429), hold=answered if call.number > 1 else None)

    async def main():
        model = model_at(server.url, outage_timeout_s=0.3)
        poor = asyncio.create_task(model.complete(request(sampling=Sampling(seed=0))))
        while len(server.calls) < 2:
            await asyncio.sleep(0.01)
        await model.complete(request(sampling=Sampling(seed=1)))
        await asyncio.sleep(0.3)
        answered.set()
        with pytest.raises(RequestFailedError, match="http_429"):
            await poor
        await model.close()

    with LoopbackServer(respond) as server:
        asyncio.run(main())


def test_answers_are_bounded(monkeypatch):
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


def test_model_reopens_after_close_and_in_another_loop():
    with LoopbackServer([chat()]) as server:
        model = model_at(server.url)

        async def twice():
            await model.complete(request())
            await model.close()
            await model.complete(request())

        asyncio.run(twice())
        asyncio.run(twice())
    assert len(server.calls) == 4


def sent_key(call: Call) -> str:
    return {name.lower(): value for name, value in call.headers.items()}["authorization"]


def test_the_key_is_sent_but_never_shown(monkeypatch, caplog):
    monkeypatch.setenv("TEST_MODEL_KEY", KEY)

    def respond(call: Call) -> Response:  # a server that repeats the key everywhere
        said = sent_key(call)
        headers = {"Location": f"/{said}", "X-Echo": said}
        page = Response(200, f"<html>{said}</html>".encode(), headers, phrase=said)
        wrong = Response(200, f'{{"error": "{said}"}}'.encode(), headers)
        message = f'{{"choices": [{{"message": {{"content": "{said}"}}}}]}}'.encode()
        script = [page, wrong, error(500, said), error(400, said), Response(200, message)]
        return [*script, error(401, said)][call.number - 1]

    with LoopbackServer(respond) as server, caplog.at_level(logging.DEBUG):
        model = model_at(server.url, api_key_env="TEST_MODEL_KEY")

        async def main():
            results: list[Any] = []
            for _ in range(3):
                try:
                    results.append(await model.complete(request()))
                except (RequestFailedError, ModelUnavailableError) as problem:
                    results.append(problem)
            shown = [repr(model), repr(model.settings), model.revision]
            await model.close()
            return results, shown

        (rejected, answered, stopped), shown = asyncio.run(main())
    assert sent_key(server.calls[0]) == f"Bearer {KEY}"
    assert isinstance(stopped, ModelUnavailableError)
    for said in (rejected.detail, answered.text, str(stopped)):
        assert "Bearer ***" in said
    shown += [repr(rejected), repr(answered), repr(stopped), str(rejected), caplog.text]
    for text in shown:
        assert KEY not in text
