import asyncio
import base64
import contextlib
import email.utils
import json
import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.captioning.clients import outage
from pipelines.captioning.clients.outage import (
    MAX_RETRY_AFTER_S,
    Backoff,
    OutageError,
    OutageGate,
    retry_after,
)
from pipelines.captioning.clients.wire import (
    BadAnswerError,
    ChatBody,
    error_detail,
    media_type,
    plain_text,
    read_answer,
    without_thoughts,
)
from tests.clock import FakeTime

HEADS = {
    "image/jpeg": b"\xff\xd8\xff",
    "image/png": b"\x89PNG\r\n\x1a\n",
    "image/webp": b"RIFF\0\0\0\0WEBP",
}


@pytest.mark.parametrize("kind", HEADS)
def test_media_type_is_read_from_the_bytes(kind):
    assert media_type(HEADS[kind] + b"rest") == kind


@given(st.binary(max_size=300_000), st.text(max_size=200))
def test_chat_body_is_the_json_that_it_says(rest, prompt):
    image = HEADS["image/png"] + rest
    body = ChatBody(image, prompt, {"model": "\0image\0", "seed": 3})
    data = b"".join(body.blocks())
    assert len(data) == len(body)
    read = json.loads(data)
    url = read["messages"][0]["content"][0]["image_url"]["url"]
    assert url == "data:image/png;base64," + base64.b64encode(image).decode()
    assert read["messages"][0]["content"][1]["text"] == plain_text(prompt)
    assert (read["model"], read["seed"]) == ("\0image\0", 3)


@pytest.mark.parametrize("size", [393_216, 393_217, 5_000_000])
def test_chat_body_sends_large_images_in_pieces(size):
    image = HEADS["image/jpeg"] + bytes(size - 3)
    pieces = list(ChatBody(image, "x", {}).blocks())
    assert len(pieces) == -(-size // 393_216)
    assert max(map(len, pieces)) < 530_000
    url = json.loads(b"".join(pieces))["messages"][0]["content"][0]["image_url"]["url"]
    assert base64.b64decode(url.partition(",")[2]) == image


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a <|im_end|> b", "a < |im_end|> b"),
        ("<image>", "< image>"),
        ("</s><s>[INST] x [/INST]", "< /s>< s>[ INST] x [ /INST]"),
        ("<\uff5cAssistant\uff5c>", "< \uff5cAssistant\uff5c>"),
        ("a < b, c |> d, <caption>x</caption>, <b>", "a < b, c |> d, <caption>x</caption>, <b>"),
    ],
)
def test_plain_text_leaves_no_control_tokens(text, expected):
    assert plain_text(text) == expected
    assert plain_text(expected) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A road.", "A road."),
        ("<think>hm</think>\nA road.", "\nA road."),
        ("hm</think>A road.", "A road."),
        (" <think>no end", ""),
        ("A <think> sign.", "A <think> sign."),
    ],
)
def test_without_thoughts(text, expected):
    assert without_thoughts(text) == expected


def test_read_answer_tolerates_what_servers_do():
    parts = [{"type": "text", "text": "A "}, {"type": "text", "text": "road."}, "odd"]
    message = {"content": parts, "reasoning_content": "hm"}
    usage: Any = {"prompt_tokens": None, "completion_tokens": "7"}
    body = {"choices": [{"message": message, "finish_reason": None}], "usage": usage}
    answer = read_answer(json.dumps(body).encode(), "")
    assert (answer.text, answer.finish_reason) == ("A road.", "stop")
    assert (answer.prompt_tokens, answer.completion_tokens) == (0, 0)


def test_read_answer_gives_text_that_can_be_stored():
    body = b'{"choices": [{"message": {"content": "half \\ud83d, whole \\ud83d\\ude00"}}]}'
    text = read_answer(body, "").text
    assert text == "half \ufffd, whole \U0001f600"
    text.encode("utf-8")


def test_read_answer_reads_streams_of_any_line_ending():
    pieces = ["A\u2028", "road", "."]
    events: list[Any] = [{"choices": [{"delta": {"content": piece}}]} for piece in pieces]
    events.append({"choices": [{"delta": {}, "finish_reason": "stop"}]})
    for end in ("\n", "\r\n", "\r"):
        lines = [f"data:{json.dumps(event, ensure_ascii=False)}{end}{end}" for event in events]
        body = f": hello{end}{end}" + "".join(lines)
        assert read_answer(body.encode(), "text/event-stream").text == "A\u2028road."


def test_read_answer_finds_an_error_within_a_stream():
    events = [b'{"choices": [{"delta": {"content": "A"}}]}', b'{"error": "no memory"}']
    body = b"".join(b"data: " + event + b"\n\n" for event in events)
    with pytest.raises(BadAnswerError, match="server_error: no memory"):
        read_answer(body, "text/event-stream")


@given(st.binary(max_size=200), st.sampled_from(["", "application/json", "text/event-stream"]))
def test_read_answer_of_noise_is_an_answer_or_a_bad_one(body, content_type):
    with contextlib.suppress(BadAnswerError):
        assert read_answer(body, content_type).text


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["choices", "message", "delta", "content", "text", "usage", "error", "refusal"]
            ),
            inner,
            max_size=4,
        )
    ),
)


@given(JSON, st.booleans())
def test_read_answer_of_any_json_is_an_answer_or_a_bad_one(value, stream):
    data = json.dumps(value).encode()
    with contextlib.suppress(BadAnswerError):
        answer = read_answer(b"data: " + data + b"\n\ndata: [DONE]\n\n" if stream else data, "")
        assert answer.text == answer.text.strip() != ""


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"error": {"message": "too\\n large"}}', "too large"),
        (b'{"error": "no"}', "no"),
        (b'{"detail": [{"loc": ["body"]}]}', '[{"loc": ["body"]}]'),
        (b"<html>\n bad", "<html> bad"),
        (b"[1]", "[1]"),
        (b"", ""),
    ],
)
def test_error_detail_is_one_line(body, expected):
    assert error_detail(body) == expected


@pytest.fixture
def clock(monkeypatch) -> FakeTime:
    clock = FakeTime()
    monkeypatch.setattr(outage, "time", clock)
    return clock


def test_retry_after_reads_seconds_and_dates(clock):
    assert retry_after({"retry-after": "3"}) == 3
    assert retry_after({"retry-after": " 0.5 "}) == 0.5
    for usegmt in (True, False):
        date = email.utils.formatdate(clock.time() + 30, usegmt=usegmt)
        assert retry_after({"retry-after": date}) == 30
    past = email.utils.formatdate(clock.time() - 30, usegmt=True)
    assert retry_after({"retry-after": past}) == 0
    assert retry_after({"retry-after": "9e9"}) == MAX_RETRY_AFTER_S
    for nothing in ("", "soon", "Mon, 99 Foo"):
        assert retry_after({"retry-after": nothing}) is None
    assert retry_after({"retry-after": "nan"}) == 0
    assert retry_after({"retry-after": "-5"}) == 0
    assert retry_after({}) is None


def test_backoff_doubles_and_is_capped():
    backoff = Backoff(1.0, 20.0)
    for number, longest in ((1, 1), (2, 2), (3, 4), (5, 16), (6, 20), (5000, 20)):
        waits = [backoff.wait(number) for _ in range(50)]
        assert longest / 2 <= min(waits) < max(waits) <= longest


def gate_after(clock: FakeTime, failures: int, timeout_s: float) -> tuple[float, int]:
    """Seconds that a request waits at a gate whose first probes fail, and the probes made."""
    probes = 0

    async def probe() -> bool:
        nonlocal probes
        probes += 1
        return probes > failures

    async def main() -> float:
        gate = OutageGate(probe, Backoff(5, 5), timeout_s, "server")
        gate.close("why")
        gate.close("again")  # one outage, one series of probes
        started = clock.now
        try:
            await asyncio.gather(*(gate.wait() for _ in range(10)))
            return clock.now - started
        finally:
            await gate.aclose()

    return clock.run(main()), probes


def test_outage_gate_opens_at_once_for_a_server_that_answers(clock, caplog):
    with caplog.at_level(logging.WARNING):
        assert gate_after(clock, 0, 1000) == (0, 1)
    assert not caplog.records


def test_outage_gate_waits_for_the_server(clock):
    waited, probes = gate_after(clock, 4, 1000)
    assert 4 * 2.5 <= waited <= 4 * 5
    assert probes == 5


def test_outage_gate_loses_patience_and_opens_when_the_server_is_back(clock, caplog):
    there = False

    async def probe() -> bool:
        return there

    async def main() -> None:
        nonlocal there
        gate = OutageGate(probe, Backoff(5, 5), 30, "server")
        gate.close("why")
        started = clock.now
        with pytest.raises(OutageError):
            await gate.wait()
        assert clock.now - started == pytest.approx(30)
        with pytest.raises(OutageError):  # who comes later does not wait
            await gate.wait()
        assert clock.now - started == pytest.approx(30)
        there = True
        await asyncio.sleep(5)
        await gate.wait()
        await gate.aclose()

    with caplog.at_level(logging.WARNING):
        clock.run(main())
    assert "given up" in caplog.text
    assert "answers after" in caplog.text
