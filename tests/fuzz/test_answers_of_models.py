import json

from hypothesis import example, given
from hypothesis import strategies as st

from dataset_builders.captions import caption_text, join_sentences
from pipelines.captioning.clients.answers import FaultError, error_detail, read_answer
from pipelines.captioning.text import names_any, tidy_caption

from .harness import TEXTS, altered, damaged, inputs, knock, nested

DOOR = "answers of caption models"
MESSAGE = {
    **{"role": "assistant", "reasoning_content": None, "refusal": None},
    "content": [{"type": "text", "text": "A wide street. Cars are parked."}],
}
ANSWER = {
    "id": "1",
    "choices": [{"finish_reason": "stop", "message": MESSAGE}],
    "usage": {"prompt_tokens": 300, "completion_tokens": 12},
}
ERROR = {"error": {"message": "Rate limit", "type": "x", "code": 429}}
REFUSALS = (FaultError, RecursionError)  # the client handles both as invalid responses
LARGEST = 2**63 - 1


def stored(answer):
    try:
        return read_answer(answer)
    except FaultError as fault:
        (fault.reason + fault.detail).encode()  # as the ledger stores them
        raise


@inputs(75)
@given(altered(ANSWER) | altered(ERROR))
@example({"choices": ["\ud800"]})
@example({"choices": [{"message": {"content": "x"}, "finish_reason": "\ud800"}]})
@example({**ANSWER, "usage": {"prompt_tokens": 10**30, "completion_tokens": 1}})
def test_answers(answer):
    found = knock(DOOR, lambda: stored(answer), *REFUSALS)
    if found is not None:
        text, reason, asked, answered = found
        assert text
        (text + reason).encode()  # no lone surrogates
        assert 0 <= asked <= LARGEST
        assert 0 <= answered <= LARGEST


def test_deep_answers():
    for deep in map(nested, (100, 900, 10_000)):
        for answer in ({"choices": [{"message": {"content": deep}}]}, {"error": deep}):
            knock(DOOR, lambda answer=answer: read_answer(answer), *REFUSALS)


@inputs(30)
@given(damaged(json.dumps(ANSWER).encode()) | damaged(json.dumps(ERROR).encode()))
@example(b"[" * 100_000)
def test_bodies(content):
    text = content.decode(errors="replace")
    knock(DOOR, lambda: read_answer(text), *REFUSALS)
    assert "\n" not in knock(DOOR, lambda: error_detail(text))


PIECES = st.sampled_from(
    ("**", "# ", "```", "\n", "- ", "1. ", "<think>", "</think>", "<|im_end|>", "[INST]", "</s>")
) | st.sampled_from(("Sure! ", "Caption: ", '"', "\u202e", "\x00", " ", ".", "A street", "\ud800"))


@inputs(40)
@given(st.lists(PIECES | TEXTS, max_size=40).map("".join))
@example("<" * 200_000)
@example(" " * 200_000 + "x")
@example("**" * 100_000)
def test_captions(text):
    caption, _ = knock("captions", lambda: tidy_caption(text))
    for one in (caption, text):
        cleaned, reason = knock("captions", lambda one=one: caption_text(one))
        assert (cleaned is None) == bool(reason)
        if cleaned is not None:
            cleaned.encode()
            assert "\n" not in cleaned
            assert "<|im_end|>" not in cleaned
    knock("captions", lambda: names_any(text, ["street", text[:20]], [text[:30]]))
    knock("captions", lambda: join_sentences(text.split(".")))
