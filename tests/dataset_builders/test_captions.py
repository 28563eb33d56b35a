import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataset_builders.captions import (
    EMPTY,
    TEMPLATE,
    caption_text,
    clean_caption,
    has_template_token,
    join_sentences,
    plain_text,
    strip_template,
)
from dataset_builders.schema import DatasetMetadata
from dataset_builders.storage import read_rejects, read_table
from dataset_builders.writer import DatasetWriter

STREET = "A wide street."
MARKS = (
    *("<|im_start|>", "<|im_start|>assistant\n", "<|im_end|>", "<|endoftext|>", "<|eot_id|>"),
    *("<|start_header_id|>assistant<|end_header_id|>\n\n", "<start_of_turn>model\n"),
    *("<end_of_turn>", "<end_of_text>", "<｜end▁of▁sentence｜>", "<s>", "</s>", "<pad>", "<image>"),
    *("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "[IMG]", "[SEP]"),
)


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


@pytest.mark.parametrize("mark", MARKS)
def test_template_tokens_around_a_caption_go_and_one_within_it_drops_it(mark):
    assert caption_text(mark + STREET) == (STREET, "")
    assert caption_text(f" {mark}{mark} {STREET} {mark}\n{mark}") == (STREET, "")
    assert caption_text(mark) == (None, EMPTY)
    assert caption_text(f"{STREET}{mark}{STREET}") == (None, TEMPLATE)
    hidden = f"{STREET} {mark[:2]}\u200b{mark[2:]} {STREET}"  # a token, once cleaned
    assert caption_text(hidden) == (None, TEMPLATE)
    # search queries are not captions: tokens are kept
    assert has_template_token(plain_text(f"{STREET}{mark}{STREET}"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<|im_start|>user A wide street.", (None, TEMPLATE)),
        ("A wide street.<|im_end|>\n<|im_start|>user\n", (STREET, "")),
        ("A wide street.<|im_end|>\n<|im_start|>user Where is it?", (None, TEMPLATE)),
        ("<s>[INST] Describe this. [/INST] A wide street.</s>", (None, TEMPLATE)),
        ("<s>model trains stand on a table", ("model trains stand on a table", "")),
        ("Prices < 3 and > 2, [sic] |a|, x<y>", ("Prices < 3 and > 2, [sic] |a|, x<y>", "")),
    ],
)
def test_a_speaker_is_no_caption_and_other_brackets_are_text(text, expected):
    assert caption_text(text) == expected


@given(st.lists(st.one_of(st.sampled_from([*MARKS, STREET, "user", "assistant"]), st.text())))
def test_a_caption_holds_no_template_token_and_stays_as_it_is(parts):
    text, reason = caption_text(" ".join(parts))
    assert (text is None) == bool(reason)
    if text is not None:
        assert not has_template_token(text)
        assert caption_text(text) == (text, "")


def test_many_tokens_and_much_white_space_take_no_time():
    started = time.process_time()
    for text in (
        " <s>" * 20_000 + "a" + " </s>" * 20_000,
        "<|" * 30_000,
        ("<|im_start|>" + " " * 50) * 2_000 + "a",
        "<|im_start|> " * 9_000 + "user",
        "a" + " " * 50_000 + "<s>" + " " * 50_000 + "b",
    ):
        strip_template(text)
        caption_text(text)
    assert time.process_time() - started < 10


def test_a_dataset_takes_clean_captions_only_and_counts_what_it_refuses(tmp_path):
    cut = "A wide street.<|endoftext|> Several cars."
    texts = {"a": " A\u202e wide\x00 street.\x07</s>", "b": cut, "c": "\x00", "d": STREET}
    image = {"bytes": b"x", "path": None}
    ids = [{"image_id": name, "region_id": "r"} for name in texts]
    rows = [
        {"image": image, **one, "caption": text, "caption_model": "m", "caption_score": 0.5}
        for one, text in zip(ids, texts.values(), strict=True)
    ]
    candidates = [{"image_id": name, "text": text, "kept": True} for name, text in texts.items()]
    candidates.append(
        {"image_id": "e", "text": cut + "\x07", "kept": False, "drop_reason": "short"}
    )
    writer = DatasetWriter(tmp_path / "d", DatasetMetadata("t", "d", "s", "CC0-1.0"))
    writer.write_shard("town", "satellite", 0, rows)
    writer.write_shard("town", "captions", 0, candidates)
    writer.write_shard("town", "regions", 0, [{"region_id": "r", "city": "town"}])
    writer.finish()
    images = read_table(tmp_path / "d", "town", "satellite").set_index("image_id")
    assert images["caption"].fillna("").to_dict() == {"a": STREET, "b": "", "c": "", "d": STREET}
    assert images["caption_model"].notna().tolist() == [True, False, False, True]
    assert images["caption_score"].notna().tolist() == [True, False, False, True]
    table = read_table(tmp_path / "d", "town", "captions").set_index("image_id")
    assert table["text"].to_dict() == {"a": STREET, "b": cut, "c": "", "d": STREET, "e": cut}
    assert table["kept"].to_dict() == {**dict.fromkeys("bce", False), "a": True, "d": True}
    reasons = table["drop_reason"].fillna("").to_dict()
    assert reasons == {"a": "", "b": TEMPLATE, "c": EMPTY, "d": "", "e": "short"}
    rejects = read_rejects(tmp_path / "d")
    assert sorted(rejects[["table", "item", "reason"]].itertuples(index=False, name=None)) == [
        ("town-captions", "b", TEMPLATE),
        ("town-captions", "c", EMPTY),
        ("town-satellite", "b", TEMPLATE),
    ]
    assert cut in set(rejects["detail"])


@given(st.text(st.characters(exclude_categories=())))
def test_a_clean_caption_is_clean_and_can_be_stored(text):
    cleaned = clean_caption(text)
    if cleaned is None:
        return
    assert clean_caption(cleaned) == cleaned
    assert "  " not in cleaned
    assert cleaned.encode("utf-8").decode("utf-8") == cleaned


def test_sentences_are_joined_in_order_and_ended_once():
    assert (
        join_sentences(["A park", "Trees.", "Why? ", "", "shops,"]) == "A park. Trees. Why? shops."
    )
    assert join_sentences(["", " "]) is None
