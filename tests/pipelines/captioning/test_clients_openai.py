"""The client of OpenAI-compatible servers against a loopback server with scripted faults."""

import asyncio
import base64
import logging
import threading
from typing import Any

import pytest

from pipelines.captioning.clients import open_model
from pipelines.captioning.clients.openai_compatible import MAX_REFUSALS
from pipelines.captioning.errors import ModelUnavailableError, RequestFailedError
from pipelines.captioning.records import Request, Sampling
from tests.servers import Call, LoopbackServer, Response, chat, chat_stream, error

JPEG = b"\xff\xd8\xff" + bytes(range(256)) * 700
KEY = "sk-very-secret-0123456789"


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
    quick = {"backoff_s": 0.01, "max_backoff_s": 0.05, "max_attempts": 4, "timeout_s": 600}
    fields = {"name": "m", "model": "org/model", "client": "openai", "base_url": url}
    return open_model(fields | quick | changes)


def ask(server: LoopbackServer, count: int = 1, **changes):
    """Replies or errors of `count` requests at once."""

    async def main():
        model = model_at(server.url, **changes)
        try:
            tasks = [model.complete(request()) for _ in range(count)]
            return await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            await model.close()

    return asyncio.run(main())


def test_openai_sends_image_prompt_and_sampling():
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
    assert int(call.headers["Content-Length"]) == len(call.body)
    assert "Authorization" not in call.headers
    assert (reply.text, reply.finish_reason, reply.attempts) == ("A street.", "stop", 1)
    assert (reply.prompt_tokens, reply.completion_tokens) == (100, 20)
    assert reply.seconds > 0


def test_openai_names_fields_as_the_service_wants_them():
    with LoopbackServer([chat()]) as server:
        ask(server, omit=["seed", "top_p"], max_tokens_field="max_completion_tokens", stream=True)
    body = server.calls[0].json
    assert {"seed", "top_p", "max_tokens"}.isdisjoint(body)
    assert body["max_completion_tokens"] == 64
    assert body["stream"] is True


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        pytest.param(error(429), "http_429", id="429"),
        pytest.param(error(408), "http_408", id="408"),
        pytest.param(error(409), "http_409", id="409"),
        pytest.param(error(425), "http_425", id="425"),
        pytest.param(error(500), "http_500", id="500"),
        pytest.param(error(502), "http_502", id="502"),
        pytest.param(error(503), "http_503", id="503"),
        pytest.param(error(504), "http_504", id="504"),
        pytest.param(Response(disconnect=True), "connection", id="disconnect"),
        pytest.param(chat(cut=30), "connection", id="cut short"),
        pytest.param(Response(body=chat().body[:50]), "invalid_json", id="truncated JSON"),
        pytest.param(Response(body=b"[" * 100_000), "invalid_json", id="deep JSON"),
        pytest.param(Response(body=b'["a"]'), "invalid_json", id="no object"),
        pytest.param(Response(body=b"<html>Welcome</html>"), "html", id="HTML"),
        pytest.param(
            Response(body=b"Busy", headers={"Content-Type": "text/html"}), "html", id="type HTML"
        ),
        pytest.param(Response(body=b""), "empty", id="no body"),
        pytest.param(chat(""), "empty", id="empty text"),
        pytest.param(chat(" \n"), "empty", id="blank text"),
        pytest.param(chat(None), "empty", id="null text"),
        pytest.param(chat("<think>hm"), "empty", id="only thoughts"),
        pytest.param(Response(body=b'{"choices": []}'), "no_choices", id="no choices"),
        pytest.param(Response(body=b'{"choices": null}'), "no_choices", id="null choices"),
        pytest.param(Response(body=b'{"choices": [{}]}'), "empty", id="no message"),
        pytest.param(Response(body=b'{"error": {"message": "x"}}'), "server_error", id="error"),
        pytest.param(chat_stream(["A", " cut"], done=False), "truncated_stream", id="cut stream"),
    ],
)
def test_openai_retries_what_may_pass(fault, reason):
    with LoopbackServer([fault, fault, chat("A road.")]) as server:
        (reply,) = ask(server)
    assert (reply.text, reply.attempts, len(server.calls)) == ("A road.", 3, 3)
    with LoopbackServer([fault]) as server:
        (failed,) = ask(server, max_attempts=2, outage_timeout_s=0.1)
    assert isinstance(failed, RequestFailedError)
    assert failed.reason == reason
    assert failed.attempts == len(server.calls)
    if reason != "http_429":  # uses up patience, no attempts
        assert failed.attempts == 2


def test_openai_retries_a_server_that_hangs():
    done = threading.Event()
    with LoopbackServer([chat(hold=done)]) as server:
        (failed,) = ask(server, max_attempts=2, timeout_s=0.1)
        done.set()
    assert isinstance(failed, RequestFailedError)
    assert (failed.reason, failed.attempts) == ("timeout", 2)


@pytest.mark.parametrize("status", [400, 405, 413, 415, 422])
def test_openai_gives_up_at_once_what_would_fail_again(status):
    with LoopbackServer([error(status, "The image\nis too large.")]) as server:
        (failed,) = ask(server)
    assert isinstance(failed, RequestFailedError)
    assert (failed.reason, failed.attempts) == (f"http_{status}", 1)
    assert failed.detail == "The image is too large."
    assert len(server.calls) == 1


def test_openai_gives_up_filtered_and_refused_answers_at_once():
    refusal = Response(
        body=b'{"choices": [{"message": {"content": null, "refusal": "I cannot."}}]}'
    )
    for fault, reason in ((chat("", "content_filter"), "content_filter"), (refusal, "refused")):
        with LoopbackServer([fault]) as server:
            (failed,) = ask(server)
        assert (failed.reason, len(server.calls)) == (reason, 1)


@pytest.mark.parametrize("status", [401, 402, 403, 404, 307])
def test_openai_stops_the_run_when_every_request_would_fail(status):
    with LoopbackServer([error(status, "no such thing")]) as server:
        (failed,) = ask(server)
    assert isinstance(failed, ModelUnavailableError)
    assert f"HTTP {status} no such thing" in str(failed)
    assert len(server.calls) == 1


def test_openai_stops_the_run_when_the_account_is_empty():
    body = b'{"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}}'
    with LoopbackServer([chat(), Response(429, body)]) as server:
        results = ask(server, 2, max_concurrency=1)
    assert isinstance(results[1], ModelUnavailableError)
    assert len(server.calls) == 2


def test_openai_forbidden_images_are_rejects_until_all_are_forbidden():
    with LoopbackServer([chat(), error(403), chat()]) as server:
        first, second, third = ask(server, 3, max_concurrency=1)
    assert first.text
    assert third.text
    assert isinstance(second, RequestFailedError)
    assert second.reason == "http_403"
    with LoopbackServer([chat(), error(403)]) as server:
        results = ask(server, MAX_REFUSALS + 1, max_concurrency=1)
    kinds = [type(one) for one in results[1:]]
    assert kinds == [RequestFailedError] * (MAX_REFUSALS - 1) + [ModelUnavailableError]


def test_openai_stops_the_run_when_no_request_was_ever_good():
    with LoopbackServer([error(400, "no such model")]) as server:
        results = ask(server, MAX_REFUSALS, max_concurrency=1)
    kinds = [type(one) for one in results]
    assert kinds == [RequestFailedError] * (MAX_REFUSALS - 1) + [ModelUnavailableError]
    with LoopbackServer([chat(), error(400)]) as server:  # many bad images, after a good one
        results = ask(server, MAX_REFUSALS + 5, max_concurrency=1)
    assert [type(one) for one in results[1:]] == [RequestFailedError] * (MAX_REFUSALS + 4)


def test_openai_waits_as_long_as_the_server_asks():
    with LoopbackServer([error(429, Retry_After="0.5"), chat()]) as server:
        first, second = ask(server, 2, max_concurrency=1)
    assert first.text == second.text == "A street."
    # the pause is everybody's: the second request has not gone ahead of it
    waits = [later.at - server.calls[0].at for later in server.calls[1:]]
    assert len(waits) == 2
    assert min(waits) >= 0.5


def test_openai_refusals_for_want_of_capacity_use_up_no_attempt():
    with LoopbackServer([*[error(429)] * 9, chat()]) as server:
        (reply,) = ask(server, max_attempts=1)
    assert reply.attempts == 10


def test_openai_assembles_streams():
    with LoopbackServer([chat_stream(["A ", "tall", " tree."], "length")]) as server:
        (reply,) = ask(server, stream=True)
    assert (reply.text, reply.finish_reason) == ("A tall tree.", "length")
    assert (reply.prompt_tokens, reply.completion_tokens) == (100, 20)


def test_openai_bounds_and_fills_its_concurrency():
    six = threading.Barrier(6)  # no request is answered before six are there

    def respond(call: Call) -> Response:
        six.wait()
        return chat()

    with LoopbackServer(respond) as server:
        replies = ask(server, 24, max_concurrency=6)
    assert all(reply.text for reply in replies)
    assert server.max_in_flight == 6


def test_openai_server_that_dies_and_comes_back_costs_no_request(caplog):
    back = threading.Event()

    async def main(server: LoopbackServer):
        model = model_at(server.url, max_concurrency=4, max_attempts=3, outage_timeout_s=600)
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

    def respond(call: Call) -> Response:  # ten answers, and then those that are on the way
        return chat(hold=back if call.number > 10 else None)

    with LoopbackServer(respond) as server, caplog.at_level(logging.WARNING):
        replies = asyncio.run(main(server))
    assert len(replies) == 40
    # an attempt is lost only by who was on the way
    assert max(reply.attempts for reply in replies) == 2
    assert sum(reply.attempts > 1 for reply in replies) == 4
    assert "answers after" in caplog.text


def test_openai_server_that_stays_away_is_given_up_and_welcomed_back():
    async def main(server: LoopbackServer):
        model = model_at(server.url, outage_timeout_s=0.3, max_attempts=50)
        server.stop()
        with pytest.raises(RequestFailedError, match="unavailable: no server for 0 s") as caught:
            await model.complete(request())
        assert caught.value.attempts >= 1
        with pytest.raises(RequestFailedError, match="unavailable") as caught:
            await model.complete(request())
        assert caught.value.attempts == 0  # given up without an attempt
        server.start()
        while True:
            try:
                return await model.complete(request())
            except RequestFailedError:  # the next probe finds it
                await asyncio.sleep(0.01)

    with LoopbackServer([chat()]) as server:
        assert asyncio.run(main(server)).text == "A street."


def test_openai_image_that_breaks_the_server_is_rejected():
    """Each attempt kills the connection, while the server itself stays."""
    with LoopbackServer([Response(disconnect=True)]) as server:
        (failed,) = ask(server, max_attempts=3)
    assert (failed.reason, failed.attempts, len(server.calls)) == ("connection", 3, 3)
    assert server.probes >= 2


def test_openai_opens_again_after_close_and_in_another_loop():
    with LoopbackServer([chat()]) as server:
        model = model_at(server.url)

        async def twice():
            await model.complete(request())
            await model.close()
            await model.complete(request())

        asyncio.run(twice())
        asyncio.run(twice())
    assert len(server.calls) == 4


def test_openai_key_is_sent_and_shown_nowhere(monkeypatch, caplog):
    monkeypatch.setenv("TEST_MODEL_KEY", KEY)

    def respond(call: Call) -> Response:  # a server that repeats what it got
        header = call.headers["Authorization"]
        page = Response(body=f"<html>{header}</html>".encode())
        wrong = Response(body=f'{{"error": "{header}"}}'.encode())
        return [page, wrong, error(500, header), error(400, header), error(401, header)][
            call.number - 1
        ]

    with LoopbackServer(respond) as server, caplog.at_level(logging.DEBUG):
        model = model_at(server.url, api_key_env="TEST_MODEL_KEY")

        async def main():
            results: list[Any] = [None, None]
            for index in range(2):
                try:
                    await model.complete(request())
                except (RequestFailedError, ModelUnavailableError) as problem:
                    results[index] = problem
            shown = [repr(model), repr(vars(model)), repr(vars(model._session)), model.revision]
            await model.close()
            return results, shown

        (rejected, stopped), shown = asyncio.run(main())
    assert server.calls[0].headers["Authorization"] == f"Bearer {KEY}"
    assert isinstance(rejected, RequestFailedError)
    assert isinstance(stopped, ModelUnavailableError)
    assert "Bearer ***" in str(rejected)
    assert "Bearer ***" in str(stopped)
    shown += [repr(rejected), repr(stopped), rejected.detail, caplog.text]
    for text in shown:
        assert KEY not in text


def test_openai_rejects_bytes_that_are_no_image():
    async def main():
        model = model_at("http://127.0.0.1:9/v1")
        with pytest.raises(RequestFailedError, match="bad_image: not a JPEG, PNG or WebP"):
            await model.complete(request(image=b"GIF89a"))
        await model.close()

    asyncio.run(main())
