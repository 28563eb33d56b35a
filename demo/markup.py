"""Text from outside as HTML, and the small pieces that pages are made of."""

import base64
import html
from collections.abc import Iterable
from typing import Any

from pipelines.evaluation.search_page import UNPRINTABLE

SYNTHETIC = '<span class="badge">synthetic</span>'


def text(value: Any) -> str:
    """Escaped, for content and attributes; what cannot be printed is replaced."""
    return html.escape(UNPRINTABLE.sub("\ufffd", str(value)))


def readable(name: str) -> str:
    """A column's or a city's name as words, escaped."""
    return text(name.replace("_", " "))


def titled(name: str) -> str:
    """A city's name with a capital, escaped."""
    return readable(name[:1].upper() + name[1:])


def picture(data: bytes | None, label: str) -> str:
    """An image element of JPEG bytes; a sentence where there is none."""
    if data is None:
        return '<span class="no-picture">No picture: it cannot be decoded.</span>'
    encoded = base64.b64encode(data).decode()
    return f'<img alt="{text(label)}" src="data:image/jpeg;base64,{encoded}">'


def notice(sentence: str, kind: str = "error") -> str:
    """A sentence that stands out; `error` is read out at once."""
    role = "alert" if kind == "error" else "status"
    return f'<p class="notice {kind}" role="{role}">{text(sentence)}</p>'


def options(names: Iterable[str], chosen: str) -> str:
    """The options of a select box."""
    return "".join(
        f'<option value="{text(name)}"{" selected" if name == chosen else ""}>'
        f"{titled(name)}</option>"
        for name in names
    )


__all__ = ["SYNTHETIC", "notice", "options", "picture", "readable", "text", "titled"]
