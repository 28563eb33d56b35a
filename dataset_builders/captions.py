"""Caption cleaning, applied before captions are stored or used.

Removes invisible characters, and tokens of chat templates and tokenizers (`<|im_start|>`, `</s>`,
`[INST]`) at either end. A token *within* a caption means that generation did not stop at the end of
the answer; such a text is dropped with a reason.
"""

import re
import unicodedata
from collections.abc import Mapping
from typing import Any

EMPTY, TEMPLATE = "empty_caption", "template_token"
DROP_REASONS = {
    EMPTY: "the caption is null or empty",
    TEMPLATE: "a token of a chat template, such as <|im_end|>, is within the caption",
}
"""Reasons for dropping a caption."""

DETAIL_LENGTH = 200
CAPTION_COLUMNS = ("caption", "caption_model", "caption_score")

# bidirectional marks and other invisible characters
_INVISIBLE = {0x00AD, 0x061C, 0x200B, 0x200E, 0x200F, 0x2060, 0xFEFF, *range(0x202A, 0x202F)}
_INVISIBLE |= set(range(0x2066, 0x206A))
# ChatML, Llama 3, Phi and Qwen; DeepSeek (with a wide bar); Gemma, SmolVLM and open_clip; Llama 2
# and Mistral; sentencepiece and BERT; image placeholders
_TOKEN = (
    r"(?:<[|｜][^\s<>|｜]{1,40}[|｜]>"
    r"|<(?:start|end)_of_[a-zA-Z_]{1,20}>"
    r"|<</?SYS>>|\[/?(?:INST|SYSTEM_PROMPT)\]"
    r"|</?s>|<(?:pad|unk|bos|eos|mask)>|\[(?:CLS|SEP|PAD|UNK|MASK)\]"
    r"|</?(?:image|img|IMG_CONTEXT|image_soft_token|video)>|\[IMG(?:_BREAK|_END)?\])"
)
_HEADER = r"(?:<\|(?:im_start|start_header_id|start_of_role)\|>|<start_of_turn>)"
_ANY_TOKEN = re.compile(_TOKEN)
# the header of another role does not start an answer
_BEFORE = re.compile(
    rf"\s*(?:{_HEADER}(?:\s*(?:assistant|model)\b:?|(?!\s*(?:user|system|human|tool)\b))"
    rf"|(?!{_HEADER}){_TOKEN})"
)
_AFTER = re.compile(rf"{_HEADER}\s?(?:assistant|model|user|system|human|tool)\b|{_TOKEN}")


def clean_caption(text: str | None) -> str | None:
    """Clean a caption; None if [`caption_text`] drops it."""
    return caption_text(text)[0]


def caption_text(text: str | None) -> tuple[str | None, str]:
    """Clean a caption, or give the reason for dropping it.

    Returns:
        The caption on one line and "", or None and one of [`DROP_REASONS`].
    """
    bare = strip_template(text or "")
    if has_template_token(bare):
        return None, TEMPLATE
    cleaned = plain_text(bare)
    return cleaned, "" if cleaned else EMPTY


def plain_text(text: str | None) -> str | None:
    """Remove control and invisible characters, and collapse white space.

    Lone surrogates, which UTF-8 cannot encode, are removed.

    Returns:
        The text, or None if nothing is left.
    """
    return " ".join(visible_text(text or "").split()) or None


def visible_text(text: str) -> str:
    """Remove control and invisible characters, except line breaks and tabs."""
    if text.isprintable():
        return text
    hidden = {"\n": False, "\t": False}
    for char in set(text) - set(hidden):
        hidden[char] = unicodedata.category(char) in ("Cc", "Cs") or ord(char) in _INVISIBLE
    return "".join(" " * char.isspace() if hidden[char] else char for char in text)


def strip_template(text: str) -> str:
    """Remove chat-template tokens and role names at both ends of a text.

    Invisible characters are removed first, since they could split a token.
    """
    text = visible_text(text)
    start, stop = 0, len(text)
    while before := _BEFORE.match(text, start):
        start = before.end()
    for after in reversed(list(_AFTER.finditer(text, start))):
        if text[after.end() : stop].strip():
            break
        stop = after.start()
    return text[start:stop].strip()


def has_template_token(text: str) -> bool:
    """Whether a text contains a token of a chat template or tokenizer."""
    return _ANY_TOKEN.search(text) is not None


def clean_row(table: str, row: Mapping[str, Any]) -> tuple[Mapping[str, Any], str, str]:
    """Clean the caption in a dataset row.

    In image tables a dropped caption becomes null; in the table of candidates its text is kept,
    with `kept` false.

    Args:
        table: Name of the table.
        row: Values by column.

    Returns:
        The row, one of [`DROP_REASONS`] or "", and the dropped text.
    """
    column = "text" if table == "captions" else "caption"
    if not isinstance(text := row.get(column), str):
        return row, "", ""
    cleaned, reason = caption_text(text)
    if not reason:
        return {**row, column: cleaned}, "", ""
    shown = plain_text(text) or ""
    if table != "captions":
        lost = {name: None for name in CAPTION_COLUMNS if name in row}
        return {**row, **lost}, "" if reason == EMPTY else reason, shown[:DETAIL_LENGTH]
    if row.get("kept") is False:  # dropped earlier
        return {**row, column: shown}, "", ""
    return {**row, column: shown, "kept": False, "drop_reason": reason}, reason, shown


def join_sentences(sentences: list[str]) -> str | None:
    """Join sentences into a caption, adding missing full stops; None if no sentence has text."""
    cleaned = [text for text in map(plain_text, map(strip_template, sentences)) if text]
    ended = [text if text[-1] in ".!?。！？" else f"{text.rstrip(',;: ')}." for text in cleaned]
    return " ".join(ended) or None


__all__ = [
    "DROP_REASONS",
    "EMPTY",
    "TEMPLATE",
    "caption_text",
    "clean_caption",
    "clean_row",
    "has_template_token",
    "join_sentences",
    "plain_text",
    "strip_template",
    "visible_text",
]
