"""Caption text: what every caption passes through before it is stored or used.

Two things are told apart. Characters that nobody sees are taken out. Tokens of a chat template or
of a tokenizer (`<|im_start|>`, `</s>`, `[INST]`) around a caption are taken out too: the answer
within them is whole. One *within* a caption says that a model's server did not stop where the
answer ended, so nobody knows which part is the caption: such a text is dropped, with a reason.
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
"""Why a text is no caption."""

DETAIL_LENGTH = 200
CAPTION_COLUMNS = ("caption", "caption_model", "caption_score")

# directions and invisible marks that change how a text reads, not what it says
_INVISIBLE = {0x00AD, 0x061C, 0x200B, 0x200E, 0x200F, 0x2060, 0xFEFF, *range(0x202A, 0x202F)}
_INVISIBLE |= set(range(0x2066, 0x206A))
# the families in use: ChatML, Llama 3, Phi and Qwen; DeepSeek (with a wide bar); Gemma, SmolVLM and
# open_clip; Llama 2 and Mistral; sentencepiece and BERT; the places of images
_TOKEN = (
    r"(?:<[|｜][^\s<>|｜]{1,40}[|｜]>"
    r"|<(?:start|end)_of_[a-zA-Z_]{1,20}>"
    r"|<</?SYS>>|\[/?(?:INST|SYSTEM_PROMPT)\]"
    r"|</?s>|<(?:pad|unk|bos|eos|mask)>|\[(?:CLS|SEP|PAD|UNK|MASK)\]"
    r"|</?(?:image|img|IMG_CONTEXT|image_soft_token|video)>|\[IMG(?:_BREAK|_END)?\])"
)
_HEADER = r"(?:<\|(?:im_start|start_header_id|start_of_role)\|>|<start_of_turn>)"
_ANY_TOKEN = re.compile(_TOKEN)
# a header of another speaker begins no answer
_BEFORE = re.compile(
    rf"\s*(?:{_HEADER}(?:\s*(?:assistant|model)\b:?|(?!\s*(?:user|system|human|tool)\b))"
    rf"|(?!{_HEADER}){_TOKEN})"
)
_AFTER = re.compile(rf"{_HEADER}\s?(?:assistant|model|user|system|human|tool)\b|{_TOKEN}")


def clean_caption(text: str | None) -> str | None:
    """The text as a caption: without invisible characters and tokens around it, on one line.

    Returns:
        The text, or None if it is no caption; [`caption_text`] says why.
    """
    return caption_text(text)[0]


def caption_text(text: str | None) -> tuple[str | None, str]:
    """The text as a caption, and why it is none.

    Returns:
        The text and "", or None and one of [`DROP_REASONS`].
    """
    bare = strip_template(text or "")
    if has_template_token(bare):
        return None, TEMPLATE
    cleaned = plain_text(bare)
    return cleaned, "" if cleaned else EMPTY


def plain_text(text: str | None) -> str | None:
    """Remove control and invisible characters, fold white space.

    Line breaks and tabs become single spaces; lone surrogates, which no file can hold, go.

    Returns:
        The text, or None if nothing is left.
    """
    return " ".join(visible_text(text or "").split()) or None


def visible_text(text: str) -> str:
    """Remove control characters and marks of the reading direction; lines and tabs stay."""
    if text.isprintable():
        return text
    kept = (char if _is_text(char) else " " * char.isspace() for char in text)
    return "".join(kept)


def strip_template(text: str) -> str:
    """Remove tokens of a chat template before and after a text, and the speaker they name.

    Invisible characters go first, since they could hide a token. White space within stays.
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
    """Whether a text holds a token of a chat template or of a tokenizer, spelled out."""
    return _ANY_TOKEN.search(text) is not None


def clean_row(table: str, row: Mapping[str, Any]) -> tuple[Mapping[str, Any], str, str]:
    """A row of a dataset with its caption as it may be stored.

    An image loses a text that is no caption; a candidate keeps it, for the record, but is not
    `kept`.

    Args:
        table: one of the layout's.
        row: by column.

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
    if row.get("kept") is False:  # dropped before, for whatever reason
        return {**row, column: shown}, "", ""
    return {**row, column: shown, "kept": False, "drop_reason": reason}, reason, shown


def join_sentences(sentences: list[str]) -> str | None:
    """One caption of sentences in their order, each ended by a full stop if it has no end.

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
