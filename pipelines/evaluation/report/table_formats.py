"""One table, four notations: Markdown, LaTeX, HTML and CSV.

Text comes from datasets and models: each notation escapes it in its own way.
"""

import csv
import html
import io
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipelines.common.csv_files import defused

DASH = "–"
LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "±": r"$\pm$",
    "²": r"$^2$", "−": "$-$", "–": "--", "—": "---", "×": r"$\times$", "µ": r"$\mu$",
    "μ": r"$\mu$", "→": r"$\to$", "≥": r"$\ge$", "≤": r"$\le$", "…": r"\ldots{}",
    "\n": " ", "\r": " ", "\t": " ",
}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """What stands in one place of a table.

    Attributes:
        text: as shown; without the mark of the best.
        value: the number that is shown, unrounded; None for words.
        spread: its standard deviation over splits; None where there is none.
        best: of its column.
        soft: set apart: not a result of this table's own.
    """

    text: str
    value: float | None = None
    spread: float | None = None
    best: bool = False
    soft: bool = False


@dataclass(frozen=True)
class Table:
    """A table, whatever it is written in.

    Attributes:
        name: of its files; lower-case letters, digits and hyphens.
        title: what it shows, and that it is synthetic where it is.
        header: of each column.
        rows: of as many cells.
        notes: sentences below it.
        groups: names over several columns each, with their number; empty where there are none.
    """

    name: str
    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()
    groups: tuple[tuple[str, int], ...] = ()

    def __post_init__(self) -> None:
        widths = {len(row) for row in self.rows} | {len(self.header)}
        if self.groups:
            widths.add(sum(span for _, span in self.groups))
        if len(widths) > 1:
            raise ValueError(f"The rows of table {self.name} have {sorted(widths)} cells.")

    @property
    def flat_header(self) -> list[str]:
        """Of each column, with the name of its group before it."""
        names = [name for name, span in self.groups for _ in range(span)]
        groups = names or [""] * len(self.header)
        return [f"{group} {own}".strip() for group, own in zip(groups, self.header, strict=True)]


def words(*texts: str, soft: bool = False) -> tuple[Cell, ...]:
    """Cells of text alone."""
    return tuple(Cell(text, soft=soft) for text in texts)


def number(
    value: float | None, spread: float | None = None, form: str = ".3f", soft: bool = False
) -> Cell:
    """A cell of a number and its standard deviation; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return Cell(DASH, soft=soft)
    text = format(value, form)
    if spread is not None and math.isfinite(spread):
        return Cell(f"{text} ± {format(spread, form)}", value, spread, soft=soft)
    return Cell(text, value, soft=soft)


def to_markdown(table: Table) -> str:
    """The table alone, its columns aligned in plain text too."""
    rows = [[markdown_text(text) for text in table.flat_header]]
    rows += [[_markdown_cell(cell) for cell in row] for row in table.rows]
    widths = [max(3, *(len(row[column]) for row in rows)) for column in range(len(table.header))]

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(c.ljust(w) for c, w in zip(cells, widths, strict=True)) + " |"

    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([line(rows[0]), rule, *map(line, rows[1:])])


def markdown_text(text: str) -> str:
    """Text with what Markdown would take for a mark escaped; names with underscores stay whole."""
    for mark in "\\`*<>|[]":
        text = text.replace(mark, "\\" + mark)
    return " ".join(text.split())


def _markdown_cell(cell: Cell) -> str:
    head, sign, rest = cell.text.partition(" ± ")
    text = markdown_text(head)
    if cell.best:
        text = f"**{text}**"
    if sign:
        text += f" ± {markdown_text(rest)}"
    return f"*{text}*" if cell.soft and text else text


def to_latex(table: Table) -> str:
    """A `table` environment for booktabs."""
    columns = "".join("l" if _is_text(table, i) else "r" for i in range(len(table.header)))
    lines = [
        "% \\usepackage{booktabs}",
        "\\begin{table}",
        "\\centering",
        f"\\caption{{{latex(' '.join([table.title + '.', *table.notes]))}}}",
        f"\\label{{tab:{table.name}}}",
        f"\\begin{{tabular}}{{{columns}}}",
        "\\toprule",
    ]
    if table.groups:
        spans = [
            f"\\multicolumn{{{span}}}{{c}}{{{latex(name)}}}" if span > 1 else latex(name)
            for name, span in table.groups
        ]
        lines += [" & ".join(spans) + " \\\\", *_rules(table.groups)]
    lines += [" & ".join(map(latex, table.header)) + " \\\\", "\\midrule"]
    lines += [" & ".join(map(_latex_cell, row)) + " \\\\" for row in table.rows]
    lines += ["\\bottomrule", "\\end{tabular}", "\\end{table}"]
    return "\n".join(lines) + "\n"


def latex(text: str) -> str:
    """Text with all that LaTeX would take for a command escaped."""
    return "".join(LATEX.get(character, character) for character in text)


def _rules(groups: Sequence[tuple[str, int]]) -> list[str]:
    rules, start = [], 1
    for name, span in groups:
        if name:
            rules.append(f"\\cmidrule(lr){{{start}-{start + span - 1}}}")
        start += span
    return [" ".join(rules)] if rules else []


def _latex_cell(cell: Cell) -> str:
    head, sign, rest = cell.text.partition(" ± ")
    text = _latex_number(cell, head)
    if cell.best:
        text = f"\\textbf{{{text}}}"
    text += latex(sign + rest)
    return f"\\textit{{{text}}}" if cell.soft and text else text


def _latex_number(cell: Cell, text: str) -> str:
    """With minus signs for hyphens, where it is a number."""
    text = latex(text)
    return text if cell.value is None else re.sub(r"-(?=\d)", "$-$", text)


def _is_text(table: Table, column: int) -> bool:
    return all(row[column].value is None for row in table.rows)


def to_html(table: Table) -> str:
    """A `table` element with caption and notes."""
    numeric = [not _is_text(table, i) for i in range(len(table.header))]
    lines = [f'<table id="{html.escape(table.name)}">']
    lines.append(f"<caption>{html.escape(table.title)}</caption><thead>")
    if table.groups:
        spans = (f'<th colspan="{n}">{html.escape(name)}</th>' for name, n in table.groups)
        lines.append(f'<tr class="groups">{"".join(spans)}</tr>')
    names = "".join(
        f'<th scope="col"{_class("n" if is_number else "")}>{html.escape(name)}</th>'
        for name, is_number in zip(table.header, numeric, strict=True)
    )
    lines.append(f"<tr>{names}</tr></thead><tbody>")
    for row in table.rows:
        cells = "".join(
            _html_cell(cell, is_number) for cell, is_number in zip(row, numeric, strict=True)
        )
        lines.append(f"<tr>{cells}</tr>")
    lines.append("</tbody></table>")
    lines += [f'<p class="note">{html.escape(note)}</p>' for note in table.notes]
    return "\n".join(lines)


def _html_cell(cell: Cell, is_number: bool) -> str:
    shown, sign, rest = cell.text.partition(" ± ")
    head, bracket, interval = shown.partition(" [")
    text = html.escape(head)
    if cell.best:
        text = f"<strong>{text}</strong>"
    if bracket:
        text += f' <span class="interval">[{html.escape(interval)}</span>'
    if sign:
        text += f"<span> ± {html.escape(rest)}</span>"
    classes = " ".join(name for name, is_so in (("n", is_number), ("soft", cell.soft)) if is_so)
    return f"<td{_class(classes)}>{text}</td>"


def _class(names: str) -> str:
    return f' class="{names}"' if names else ""


def to_csv(table: Table) -> str:
    """Unrounded numbers; a column `<name> sd` beside those that have a spread."""
    spread = [
        any(row[i].spread is not None for row in table.rows) for i in range(len(table.header))
    ]
    header: list[str] = []
    for name, has_spread in zip(table.flat_header, spread, strict=True):
        header += [name, f"{name} sd"] if has_spread else [name]
    output = io.StringIO()
    writer = csv.writer(output, lineterminator="\n")
    writer.writerow(map(defused, header))
    for row in table.rows:
        writer.writerow(_csv_cells(row, spread))
    return output.getvalue()


def _csv_cells(row: Sequence[Cell], spread: Sequence[bool]) -> Iterable[str]:
    for cell, has_spread in zip(row, spread, strict=True):
        if cell.value is not None:
            yield repr(float(cell.value))
        else:
            yield "" if cell.text == DASH else defused(cell.text)
        if has_spread:
            yield "" if cell.spread is None else repr(float(cell.spread))


__all__ = [
    "DASH",
    "Cell",
    "Table",
    "latex",
    "markdown_text",
    "number",
    "to_csv",
    "to_html",
    "to_latex",
    "to_markdown",
    "words",
]
