"""A page of HTML that runs nothing and fetches nothing, whatever its texts say."""

import base64
import hashlib
import html


def html_page(title: str, style: str, body: str) -> str:
    """A whole page; its Content-Security-Policy allows pictures beside or within it alone.

    Args:
        title: plain text.
        style: the one style sheet; no element has a style of its own.
        body: HTML whose texts are escaped.
    """
    style_hash = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = (
        "default-src 'none'; img-src 'self' data: file:; "
        f"style-src 'sha256-{style_hash}'; base-uri 'none'; form-action 'none'"
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>{html.escape(title)}</title>
<link rel="icon" href="data:,">
<style>{style}</style>
</head>
<body>
{body}
</body>
</html>
"""


__all__ = ["html_page"]
