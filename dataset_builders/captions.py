"""Caption text."""

import unicodedata

# directions and invisible marks that change how a text reads, not what it says
_INVISIBLE = {0x00AD, 0x200B, 0x200E, 0x200F, 0x2060, 0xFEFF, *range(0x202A, 0x202F)}
_INVISIBLE |= set(range(0x2066, 0x206A))


def clean_caption(text: str | None) -> str | None:
    """Remove control and invisible characters, fold white space.

    Line breaks and tabs become single spaces; lone surrogates, which no file can hold, go.

    Returns:
        The text, or None if nothing is left.
    """
    if text is None:
        return None
    kept = "".join(char if _is_text(char) else " " * char.isspace() for char in text)
    return " ".join(kept.split()) or None


def join_sentences(sentences: list[str]) -> str | None:
    """One caption of sentences in their order, each ended by a full stop if it has no end.

    Returns:
        The caption, or None if no sentence has text.
    """
    cleaned = [text for text in map(clean_caption, sentences) if text]
    ended = [text if text[-1] in ".!?。！？" else f"{text.rstrip(',;: ')}." for text in cleaned]
    return " ".join(ended) or None


def _is_text(char: str) -> bool:
    return ord(char) not in _INVISIBLE and unicodedata.category(char) not in ("Cc", "Cs")


__all__ = ["clean_caption", "join_sentences"]
