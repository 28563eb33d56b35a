"""Self-contained HTML pages: the Jinja2 environment of all reports.

Templates that end in `.html.j2` escape all values and extend `page.html.j2`, whose
Content-Security-Policy allows only its own style sheet and script, by their hashes.
"""

import base64
import hashlib
import re
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

# control characters invalid in HTML, lone surrogates, bidirectional controls
UNPRINTABLE = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069\ufffe\uffff]"
)


def printable(value: Any) -> Any:
    """Replace unprintable characters in a string; other values are returned unchanged."""
    plain = isinstance(value, str) and not isinstance(value, Markup)
    return UNPRINTABLE.sub("\ufffd", value) if plain else value


def page_environment(package: str | None = None) -> Environment:
    """Jinja2 environment with the base page and the templates of a package.

    Args:
        package: Name of a package with a folder `templates`.
    """
    packages = [name for name in (package, __package__) if name]
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(name) for name in packages]),
        autoescape=lambda name: name is not None and name.endswith(".html.j2"),
        finalize=printable,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["csp_hash"] = _csp_hash
    return environment


def _csp_hash(content: str) -> Markup:
    digest = hashlib.sha256(content.encode()).digest()
    return Markup(f"'sha256-{base64.b64encode(digest).decode()}'")


__all__ = ["page_environment", "printable"]
