"""Report elements (sections, tables, figures) and their output as HTML, Markdown and CSV.

Names come from datasets and models, so every output format escapes them.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
from markupsafe import Markup, escape

from dataset_builders.files import atomic_path
from pipelines.common.csv_files import write_csv
from pipelines.common.pages import page_environment, printable

DASH = "–"
TEMPLATE = "report.html.j2"

T = TypeVar("T")


@dataclass(frozen=True)
class Column:
    """Column of a table, with one entry per row in each sequence that is not empty.

    Attributes:
        name: Header.
        text: Displayed texts.
        values: Unrounded numbers or words for the CSV file; None where missing.
        more: Suffix to further numbers for the CSV file: "sd", or "low" and "high".
        bold: Whether to print values in bold, optional.
        numeric: Whether the values are numbers.
        group: Header spanning several columns.
    """

    name: str
    text: Sequence[str]
    values: Sequence[Any]
    more: Mapping[str, Sequence[float]] = field(default_factory=dict)
    bold: Sequence[bool] = ()
    numeric: bool = True
    group: str = ""

    @property
    def full_name(self) -> str:
        """Header preceded by the group header."""
        return f"{self.group} {self.name}".strip()

    def is_bold(self, row: int) -> bool:
        """Whether to print a value in bold."""
        return bool(self.bold) and self.bold[row]


@dataclass(frozen=True)
class Table:
    """Table with a caption and notes.

    Attributes:
        name: File name without suffix: lower-case letters, digits and hyphens.
        title: Caption, which marks synthetic data.
        columns: Columns of equal lengths.
        footer: Additional text rows that are not results.
        notes: Sentences below the table.
    """

    name: str
    title: str
    columns: Sequence[Column]
    footer: Sequence[Sequence[str]] = ()
    notes: Sequence[str] = ()

    def frame(self) -> pd.DataFrame:
        """Unrounded values, with columns `<name> sd`, `<name> low` and `<name> high` if known."""
        names: list[str] = []
        parts: list[list[Any]] = []
        for number, column in enumerate(self.columns):
            names.append(column.full_name)
            parts.append([*column.values, *(row[number] for row in self.footer)])
            for suffix, values in column.more.items():
                names.append(f"{column.full_name} {suffix}")
                known = [value if math.isfinite(value) else None for value in values]
                parts.append([*known, *[None] * len(self.footer)])
        return pd.DataFrame(dict(enumerate(parts)), dtype=object).set_axis(names, axis=1)

    def html(self) -> Markup:
        """Escaped HTML table; numeric cells contain `<span class="n">`."""
        groups = [str(escape(one.group)) for one in self.columns]
        shown = pd.DataFrame(
            {
                number: [
                    *map(
                        _html,
                        one.text,
                        [one.numeric] * len(one.text),
                        one.bold or [False] * len(one.text),
                    ),
                    *(_html(row[number], one.numeric, soft=True) for row in self.footer),
                ]
                for number, one in enumerate(self.columns)
            }
        )
        # column numbers keep headers unique and are not shown
        if any(groups):
            shown.columns = pd.MultiIndex.from_arrays([groups, range(len(groups))])
        heads = [_html(one.name, one.numeric) for one in self.columns]
        styler = shown.style.hide(axis="index")
        styler.relabel_index(heads, axis="columns", level=shown.columns.nlevels - 1)
        return Markup(styler.to_html(exclude_styles=True))

    def markdown(self) -> str:
        """Markdown table with aligned columns, without caption and notes."""
        cells = [
            [
                markdown_text(one.full_name),
                *(_markdown(t, one.is_bold(row)) for row, t in enumerate(one.text)),
                *(f"*{t}*" if (t := markdown_text(row[number])) else "" for row in self.footer),
            ]
            for number, one in enumerate(self.columns)
        ]
        widths = [max(3, *map(len, column)) for column in cells]
        lines = [
            "| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |"
            for row in zip(*cells, strict=True)
        ]
        rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
        return "\n".join([lines[0], rule, *lines[1:]])


@dataclass(frozen=True)
class Figure:
    """Image file with a path relative to the page."""

    path: str
    title: str
    caption: str


@dataclass(frozen=True)
class Section:
    """Section with a heading.

    Attributes:
        title: Heading.
        blocks: Texts, bullet lists, tables, figures and subsections; texts may contain `code` and
            **strong**.
        folded: Whether the section is collapsed on the page.
    """

    title: str
    blocks: "Sequence[Block]"
    folded: bool = False

    @property
    def anchor(self) -> str:
        """HTML id."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")

    def all(self, kind: type[T]) -> Iterator[T]:
        """All tables or figures of the section and its subsections."""
        for block in self.blocks:
            if isinstance(block, kind):
                yield block
            elif isinstance(block, Section):
                yield from block.all(kind)


Block = str | list[str] | Table | Figure | Section


# ---- columns ------------------------------------------------------------------------------------


def words(name: str, values: Iterable[Any]) -> Column:
    """Create a column of texts."""
    texts = ["" if value is None else str(value) for value in values]
    return Column(name, texts, [None if t == DASH else t for t in texts], numeric=False)


def numbers(
    name: str,
    values: Iterable[Any],
    form: str = ".3f",
    spread: Iterable[float] = (),
    bold: Sequence[bool] = (),
    group: str = "",
) -> Column:
    """Create a column of numbers, optionally with standard deviations."""
    known = [None if v is None or not math.isfinite(v) else float(v) for v in values]
    texts = [DASH if value is None else format(value, form) for value in known]
    sds = [sd if v is not None else math.nan for v, sd in zip(known, spread, strict=False)]
    for row, sd in enumerate(sds):
        texts[row] += f" ± {format(sd, form)}" if math.isfinite(sd) else ""
    more = {"sd": sds} if any(map(math.isfinite, sds)) else {}
    return Column(name, texts, known, more, bold, group=group)


def intervals(name: str, estimate: Any, low: Any, high: Any) -> Column:
    """Create a column of differences with their intervals, bold where these exclude 0."""
    plain = numbers(name, estimate, form="+.3f")
    low, high = (list(map(float, values)) for values in (low, high))
    ends = list(zip(low, high, strict=True))
    texts = [
        f"{text} [{lo:+.3f}, {hi:+.3f}]" if text != DASH and math.isfinite(hi - lo) else text
        for text, (lo, hi) in zip(plain.text, ends, strict=True)
    ]
    bold = [lo > 0 or hi < 0 for lo, hi in ends]
    return replace(plain, text=texts, more={"low": low, "high": high}, bold=bold)


# ---- output formats -----------------------------------------------------------------------------


def _html(text: str, numeric: bool, bold: bool = False, soft: bool = False) -> str:
    """HTML of a cell, with intervals and standard deviations in elements of their own."""
    parts = re.fullmatch(r"(.*?)( \[.*\]| ± .*)?", text, re.DOTALL)
    head, tail = parts.groups() if parts and numeric else (text, None)
    found = escape(printable(head))
    found = Markup("<strong>{}</strong>").format(found) if bold else found
    if tail:
        kind = "interval" if tail.startswith(" [") else "sd"
        found += Markup('<span class="{}">{}</span>').format(kind, tail)
    if soft:
        found = Markup("<em>{}</em>").format(found)
    return str(Markup('<span class="n">{}</span>').format(found) if numeric else found)


def markdown_text(text: str) -> str:
    """Escape Markdown syntax except underscores, for readable names."""
    for mark in "\\`*<>|[]":
        text = text.replace(mark, "\\" + mark)
    return " ".join(text.split())


def _markdown(text: str, bold: bool) -> str:
    head, sign, rest = text.partition(" ± ")
    shown = markdown_text(head)
    shown = f"**{shown}**" if bold else shown
    return f"{shown} ± {markdown_text(rest)}" if sign else shown


def inline(text: str) -> Markup:
    """Convert a text with `code` and **strong** to HTML, escaping the rest."""
    found = str(escape(printable(text)))
    found = re.sub(r"`([^`]+)`", r"<code>\1</code>", found)
    return Markup(re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", found))


def write_report_files(report: Section, banner: str, output: Path) -> None:
    """Write `report.html`, `report.md` and `tables/<name>.csv`.

    Args:
        report: Root section of the report.
        banner: Notice at the top of the report, optional.
        output: Report folder, which contains the figures.
    """
    environment = page_environment(__package__)
    environment.filters["inline"] = inline
    kinds = {"section": Section, "table": Table, "figure": Figure, "bullets": list}
    environment.tests |= {n: lambda one, k=k: isinstance(one, k) for n, k in kinds.items()}
    assert environment.loader is not None
    style, _, _ = environment.loader.get_source(environment, "report.css")
    page = environment.get_template(TEMPLATE).render(
        title=report.title, report=report, banner=banner, style=style, images="'self' data: file:"
    )
    text = "\n\n".join(_markdown_blocks(report, banner)) + "\n"
    for name, content in (("report.html", page), ("report.md", text)):
        with atomic_path(output / name) as temporary:
            temporary.write_text(content, encoding="utf-8")
    for table in report.all(Table):
        write_csv(output / "tables" / f"{table.name}.csv", table.frame())


def _markdown_blocks(section: Section, banner: str = "", level: int = 1) -> Iterator[str]:
    yield f"**{section.title}**" if section.folded else f"{'#' * level} {section.title}"
    if banner:
        yield f"> {banner}"
    for block in section.blocks:
        match block:
            case str():
                yield block
            case list():
                yield "\n".join(f"- {item}" for item in block)
            case Table():
                yield f"**{block.title}**\n\n{block.markdown()}"
                yield from block.notes
            case Figure():
                alt = block.title.replace("[", "(").replace("]", ")")
                yield f"![{alt}]({block.path})"
                yield f"*{block.caption}*"
            case Section():
                yield from _markdown_blocks(block, level=min(level + 1, 4))


__all__ = [
    "DASH",
    "Block",
    "Column",
    "Figure",
    "Section",
    "Table",
    "inline",
    "intervals",
    "numbers",
    "words",
    "write_report_files",
]
