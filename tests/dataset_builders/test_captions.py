import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataset_builders.captions import clean_caption, join_sentences


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, None),
        ("", None),
        (" \t\n\x00 ", None),
        ("a\r\nb\tc", "a b c"),
        ("tall\x07 \x00house\u200b", "tall house"),
        ("bad \ud800 surrogate", "bad surrogate"),
        ("left\u202eright", "leftright"),
        ("a\x85b\u2028c", "a b c"),
        ("\N{MAN}\u200d\N{ROCKET} 北京 café", "\N{MAN}\u200d\N{ROCKET} 北京 café"),
    ],
)
def test_clean_caption(text, expected):
    assert clean_caption(text) == expected


def test_a_caption_of_10000_words_stays_whole():
    assert clean_caption("  word " * 10_000) == " ".join(["word"] * 10_000)


@given(st.text(st.characters(exclude_categories=())))
def test_a_clean_caption_is_clean_and_can_be_stored(text):
    cleaned = clean_caption(text)
    if cleaned is None:
        return
    assert clean_caption(cleaned) == cleaned
    assert cleaned.isprintable() or any(not char.isprintable() for char in cleaned)
    assert "  " not in cleaned
    assert cleaned.encode("utf-8").decode("utf-8") == cleaned


def test_sentences_are_joined_in_order_and_ended_once():
    assert (
        join_sentences(["A park", "Trees.", "Why? ", "", "shops,"]) == "A park. Trees. Why? shops."
    )
    assert join_sentences(["", " "]) is None
