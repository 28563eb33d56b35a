"""A report as a list of blocks, written as Markdown and as one HTML page.

Sentences may hold `code` and **strong**; all else in them is text.
"""

import html
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dataset_builders.files import atomic_path
from pipelines.common.pages import html_page

from .table_formats import Table, to_csv, to_html, to_latex, to_markdown

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #777; --accent: #1f5f8b; }
@media (prefers-color-scheme: dark) { :root { --soft: #aaa; --accent: #7db8dd; } }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1340px; margin: 0 auto; padding: 1.5rem;
  box-sizing: border-box; }
h1, h2, h3 { line-height: 1.25; margin: 2.2em 0 .6em; } h1 { margin-top: .4em; }
h2 { border-bottom: 2px solid var(--line); padding-bottom: .2em; }
p, li { max-width: 85ch; }
a { color: var(--accent); }
nav { font-size: 13px; columns: 22rem; } nav ul { margin: 0; padding-left: 1.1rem; }
.table { overflow-x: auto; margin: 1.2em 0; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: .3em 0; }
th, td { padding: .18em .6em; text-align: left; vertical-align: top; }
th { vertical-align: bottom; } .n { white-space: nowrap; } td:not(.n) { min-width: 4.5rem; }
tbody td:first-child { min-width: 8rem; position: sticky; left: 0; background: Canvas; }
thead { border-top: 2px solid; border-bottom: 1px solid; } tbody { border-bottom: 2px solid; }
tr.groups th { text-align: center; border-bottom: 1px solid var(--line); }
th.n, td.n { text-align: right; } td span, .soft, .note { color: var(--soft); }
.soft { font-style: italic; } .note { font-size: 12.5px; margin: .2em 0; }
tbody tr:hover { background: #8881; } td span.interval { display: block; font-size: 11.5px; }
figure { margin: 1.4em 0; } figure img { max-width: 100%; background: #fff; }
figcaption { color: var(--soft); font-size: 13px; max-width: 85ch; }
details { margin: 1em 0; } summary { cursor: pointer; color: var(--accent); }
.banner { border-left: 4px solid #c77700; padding: .4em .9em; background: #c7770018; }
code { font-size: .92em; background: #8882; padding: 0 .25em; border-radius: 3px; }
"""


@dataclass(frozen=True)
class Heading:
    """A heading of level 1 to 4."""

    level: int
    text: str


@dataclass(frozen=True)
class Text:
    """A paragraph; `banner` sets it apart."""

    text: str
    banner: bool = False


@dataclass(frozen=True)
class Bullets:
    """A list of sentences."""

    items: tuple[str, ...]


@dataclass(frozen=True)
class Picture:
    """A figure; its path is relative to the page."""

    path: str
    title: str
    caption: str = ""


@dataclass(frozen=True)
class Folded:
    """Blocks that the page hides until they are asked for.

    Attributes:
        summary: what they are.
        blocks: that are hidden.
        in_markdown: whether Markdown, which can hide nothing, shows them.
    """

    summary: str
    blocks: "tuple[Block, ...]"
    in_markdown: bool = True


Block = Heading | Text | Bullets | Picture | Table | Folded


def write_markdown(path: Path, blocks: Sequence[Block]) -> None:
    """Write the blocks as Markdown."""
    parts = list(_markdown(blocks))
    with atomic_path(path) as temporary:
        temporary.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _markdown(blocks: Iterable[Block]) -> Iterator[str]:
    for block in blocks:
        match block:
            case Heading():
                yield f"{'#' * block.level} {block.text}"
            case Text():
                yield f"> {block.text}" if block.banner else block.text
            case Bullets():
                yield "\n".join(f"- {item}" for item in block.items)
            case Picture():
                alt = block.title.replace("[", "(").replace("]", ")")
                yield f"![{alt}]({block.path})"
                if block.caption:
                    yield f"*{block.caption}*"
            case Table():
                yield f"**{block.title}**\n\n{to_markdown(block)}"
                yield from block.notes
            case Folded() if block.in_markdown:
                yield from _markdown(block.blocks)


def write_html(path: Path, title: str, blocks: Sequence[Block]) -> None:
    """Write the blocks as one page with a table of contents; pictures stay files beside it.

    No script and no address outside: its Content-Security-Policy allows neither.
    """
    body = "\n".join(_html(blocks))
    headings = [block for block in blocks if isinstance(block, Heading) and block.level in (2, 3)]
    links = "".join(
        f'<li><a href="#{_anchor(one.text)}">{_inline(one.text)}</a></li>' for one in headings
    )
    page = html_page(title, STYLE, f"<nav><ul>{links}</ul></nav>\n{body}")
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _html(blocks: Iterable[Block]) -> Iterator[str]:
    for block in blocks:
        match block:
            case Heading():
                tag, anchor = f"h{block.level}", _anchor(block.text)
                yield f'<{tag} id="{anchor}">{_inline(block.text)}</{tag}>'
            case Text():
                banner = ' class="banner"' if block.banner else ""
                yield f"<p{banner}>{_inline(block.text)}</p>"
            case Bullets():
                yield "<ul>" + "".join(f"<li>{_inline(i)}</li>" for i in block.items) + "</ul>"
            case Picture():
                source, alt = html.escape(block.path), html.escape(block.title)
                yield (
                    f'<figure><img src="{source}" alt="{alt}" loading="lazy">'
                    f"<figcaption>{_inline(block.caption or block.title)}</figcaption></figure>"
                )
            case Table():
                yield f'<div class="table">{to_html(block)}</div>'
            case Folded():
                inner = "\n".join(_html(block.blocks))
                yield f"<details><summary>{_inline(block.summary)}</summary>{inner}</details>"


def _inline(text: str) -> str:
    text = html.escape(text)
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", text)
    return re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", text)


def _anchor(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def tables_of(blocks: Iterable[Block]) -> Iterator[Table]:
    """All tables, also the folded ones."""
    for block in blocks:
        if isinstance(block, Table):
            yield block
        elif isinstance(block, Folded):
            yield from tables_of(block.blocks)


def write_tables(folder: Path, blocks: Iterable[Block]) -> None:
    """Every table as `<name>.tex` and `<name>.csv`."""
    for table in tables_of(blocks):
        for suffix, content in (("tex", to_latex(table)), ("csv", to_csv(table))):
            with atomic_path(folder / f"{table.name}.{suffix}") as temporary:
                temporary.write_text(content, encoding="utf-8")


__all__ = [
    "Block",
    "Bullets",
    "Folded",
    "Heading",
    "Picture",
    "Text",
    "tables_of",
    "write_html",
    "write_markdown",
    "write_tables",
]
