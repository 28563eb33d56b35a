"""Render the docstring references of transformers, such as [`UrbanLNModel`], as code."""

import re
from typing import Any

REFERENCE = re.compile(r"\[(<code>[^<]+</code>)\]")


def on_page_content(html: str, **_: Any) -> str:
    """MkDocs event hook: remove the brackets around code."""
    return REFERENCE.sub(r"\1", html)
