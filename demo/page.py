"""Rendering of the jinja2 templates in `assets/`, with all values escaped."""

import base64
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader

from pipelines.common.pages import printable


def asset(name: str) -> str:
    """Read a file of `assets/`."""
    return files("demo").joinpath(f"assets/{name}").read_text(encoding="utf-8")


def render(template: str, **values: Any) -> str:
    """Render a template to HTML."""
    return _environment().get_template(f"{template}.html.j2").render(**values)


def notice(sentence: str, kind: str = "error") -> str:
    """Message box of kind `error` (announced at once by screen readers), `warning` or `fine`."""
    return render("notice", sentence=sentence, kind=kind)


def words(name: str) -> str:
    """Name of a column or city with spaces instead of underscores."""
    return name.replace("_", " ")


def title(name: str) -> str:
    """Name of a city with spaces and an initial capital."""
    return words(name[:1].upper() + name[1:])


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("demo", "assets"),
        autoescape=True,
        finalize=printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"words": words, "title": title, "data_address": _data_address}
    return environment


def _data_address(jpeg: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


__all__ = ["asset", "notice", "render", "title", "words"]
