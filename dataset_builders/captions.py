"""Cleaning of captions, applied before they are stored or used.

Invisible characters are removed, and so are tokens of a chat template or a tokenizer
(`<|im_start|>`, `</s>`, `[INST]`) before and after a caption. A token *within* a caption means that
the server did not stop at the end of the answer, so that nobody knows which part is the caption:
such a text is dropped with a reason.
"""

import re
import unicodedata
from collections.abc import Mapping
from typing import Any

EMPTY, TEMPLATE = "empty_caption", "template_token"
DROP_REASONS = {
    EMPTY: "the caption is null or empty",
    TEMPLATE: "a token of a chat template, such as <|im_end|>, stands within the caption",
}
"""Reasons why a text is no caption."""

DETAIL_LENGTH = 200
CAPTION_COLUMNS = ("caption", "caption_model", "caption_score")

# marks of the reading direction and other invisible characters
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
# the header of another speaker does not start an answer
_BEFORE = re.compile(
    rf"\s*(?:{_HEADER}(?:\s*(?:assistant|model)\b:?|(?!\s*(?:user|system|human|tool)\b))"
    rf"|(?!{_HEADER}){_TOKEN})"
)
_AFTER = re.compile(rf"{_HEADER}\s?(?:assistant|model|user|system|human|tool)\b|{_TOKEN}")


def clean_caption(text: str | None) -> str | None:
    """A text as a caption: on one line, without invisible characters and surrounding tokens.

    Returns:
        The caption, or None if the text is none; [`caption_text`] gives the reason.
    """
    return caption_text(text)[0]


def caption_text(text: str | None) -> tuple[str | None, str]:
    """A text as a caption, or the reason why it is none.

    Returns:
        The caption and "", or None and one of [`DROP_REASONS`].
    """
    bare = strip_template(text or "")
    if has_template_token(bare):
        return None, TEMPLATE
    cleaned = plain_text(bare)
    return cleaned, "" if cleaned else EMPTY


def plain_text(text: str | None) -> str | None:
    """Remove control and invisible characters, and fold white space.

    Line breaks and tabs become single spaces; lone surrogates, which no file can hold, are removed.

    Returns:
        The text, or None if nothing is left.
    """
    return " ".join(visible_text(text or "").split()) or None


def visible_text(text: str) -> str:
    """Remove control and invisible characters; line breaks and tabs stay."""
    if text.isprintable():
        return text
    kept = (char if _is_text(char) else " " * char.isspace() for char in text)
    return "".join(kept)


def strip_template(text: str) -> str:
    """Remove tokens of a chat template around a text, and the speaker that they name.

    Invisible characters are removed first, since they could hide a token. Inner white space stays.
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
    """Whether a text contains a token of a chat template or a tokenizer."""
    return _ANY_TOKEN.search(text) is not None


def clean_row(table: str, row: Mapping[str, Any]) -> tuple[Mapping[str, Any], str, str]:
    """A row of a dataset with its caption cleaned for storage.

    In an image table, a text that is no caption becomes null; in the table of candidates it stays
    for the record, with `kept` false.

    Args:
        table: one of the four tables.
        row: values by column.

    Returns:
        The row, one of [`DROP_REASONS`] or "", and the text that was dropped.
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
    """Join sentences into a caption; a full stop is added where one lacks its end.

    Returns:
        The caption, or None if no sentence has text.
    """
    cleaned = [text for text in map(plain_text, map(strip_template, sentences)) if text]
    ended = [text if text[-1] in ".!?。！？" else f"{text.rstrip(',;: ')}." for text in cleaned]
    return " ".join(ended) or None


def _is_text(char: str) -> bool:
    if unicodedata.category(char) in ("Cc", "Cs"):
        return char in "\n\t"
    return ord(char) not in _INVISIBLE


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
