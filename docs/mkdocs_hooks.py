"""References to classes as docstrings of transformers write them: [`UrbanLNModel`] as code."""

import re
from typing import Any

REFERENCE = re.compile(r"\[(<code>[^<]+</code>)\]")


def on_page_content(html: str, **_: Any) -> str:
    """Called by MkDocs with every page."""
    return REFERENCE.sub(r"\1", html)
