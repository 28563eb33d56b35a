from hypothesis import given, settings
from hypothesis import strategies as st

from dataset_builders.captions import (
    EMPTY,
    TEMPLATE,
    caption_text,
    clean_caption,
    has_template_token,
    join_sentences,
    plain_text,
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


def test_clean_caption():
    for text, expected in (
        (None, None),
        (" \t\n\x00 ", None),
        ("tall\x07 \x00house\u200b", "tall house"),
        ("bad \ud800 surrogate", "bad surrogate"),
        ("left\u202eright", "leftright"),
        ("a\x85b\u2028c", "a b c"),
        ("\N{MAN}\u200d\N{ROCKET} 北京 café", "\N{MAN}\u200d\N{ROCKET} 北京 café"),
    ):
        assert clean_caption(text) == expected


def test_template_tokens_are_removed_at_both_ends_and_rejected_within():
    for mark in MARKS:
        assert caption_text(f" {mark}{mark} {STREET} {mark}\n{mark}") == (STREET, "")
        assert caption_text(mark) == (None, EMPTY)
        assert caption_text(f"{STREET}{mark}{STREET}") == (None, TEMPLATE)
        hidden = f"{STREET} {mark[:2]}\u200b{mark[2:]} {STREET}"  # a token, once cleaned
        assert caption_text(hidden) == (None, TEMPLATE)
    # search queries are not captions: tokens are kept
    assert has_template_token(plain_text(f"{STREET}</s>{STREET}"))


def test_speakers_are_rejected_and_other_brackets_kept():
    for text, expected in (
        ("<|im_start|>user A wide street.", None),
        ("A wide street.<|im_end|>\n<|im_start|>user\n", STREET),
        ("A wide street.<|im_end|>\n<|im_start|>user Where is it?", None),
        ("<s>[INST] Describe this. [/INST] A wide street.</s>", None),
        ("<s>model trains stand on a table", "model trains stand on a table"),
        ("Prices < 3 and > 2, [sic] |a|, x<y>", "Prices < 3 and > 2, [sic] |a|, x<y>"),
    ):
        assert caption_text(text) == (expected, "" if expected else TEMPLATE)


@settings(max_examples=100)
@given(
    st.lists(
        st.sampled_from([*MARKS, STREET, "user"]) | st.text(st.characters(exclude_categories=()))
    )
)
def test_cleaning_is_idempotent_and_storable(parts):
    text, reason = caption_text(" ".join(parts))
    assert (text is None) == bool(reason)
    if text is not None:
        assert not has_template_token(text)
        assert "  " not in text
        assert text.encode("utf-8").decode("utf-8") == text
        assert caption_text(text) == (text, "")


def test_writer_cleans_captions_and_lists_rejects(tmp_path):
    cut = "A wide street.<|endoftext|> Several cars."
    texts = {"a": " A\u202e wide\x00 street.\x07</s>", "b": cut, "c": "\x00"}
    image = {"image": {"bytes": b"x", "path": None}, "region_id": "r", "caption_model": "m"}
    rows = [{**image, "image_id": name, "caption": text} for name, text in texts.items()]
    candidates = [{"image_id": name, "text": text, "kept": True} for name, text in texts.items()]
    candidates += [{"image_id": "e", "text": cut, "kept": False, "drop_reason": "short"}]
    writer = DatasetWriter(tmp_path / "d", DatasetMetadata("t", "d", "s", "CC0-1.0"))
    writer.write_shard("town", "satellite", 0, rows)
    writer.write_shard("town", "captions", 0, candidates)
    writer.finish()
    images = read_table(tmp_path / "d", "town", "satellite").fillna("")
    assert images["caption"].tolist() == [STREET, "", ""]
    assert images["caption_model"].tolist() == ["m", "", ""]
    table = read_table(tmp_path / "d", "town", "captions").fillna("")
    assert table["text"].tolist() == [STREET, cut, "", cut]
    assert table["kept"].tolist() == [True, False, False, False]
    assert table["drop_reason"].tolist() == ["", TEMPLATE, EMPTY, "short"]
    rejects = read_rejects(tmp_path / "d")
    assert sorted(rejects[["table", "item", "reason"]].itertuples(index=False, name=None)) == [
        ("town-captions", "b", TEMPLATE),
        ("town-captions", "c", EMPTY),
        ("town-satellite", "b", TEMPLATE),
    ]


def test_joins_sentences():
    assert (
        join_sentences(["A park", "Trees.", "Why? ", "", "shops,"]) == "A park. Trees. Why? shops."
    )
    assert join_sentences(["", " "]) is None
