import csv
import html
import io
import math
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.evaluation.report.documents import (
    Bullets,
    Folded,
    Heading,
    Picture,
    Text,
    write_html,
    write_markdown,
    write_tables,
)
from pipelines.evaluation.report.table_formats import (
    Cell,
    Table,
    latex,
    number,
    to_csv,
    to_html,
    to_latex,
    to_markdown,
    words,
)

NASTY = "a_b & 100 % <script>alert(1)</script> | $x^2$ \\cmd{} # ~ *i* `c`"


def make_table(**more):
    fields = {
        "name": "t",
        "title": "Scores (synthetic)",
        "header": ("system", "gdp"),
        "rows": (
            (*words(NASTY), number(0.12345, 0.01)),
            (*words("b"), Cell("0.900", 0.9, best=True)),
            (*words("c", soft=True), number(None)),
        ),
    }
    return Table(**{**fields, **more})


class Cells(HTMLParser):
    """The text of every cell, and the tags that are there."""

    def __init__(self):
        super().__init__()
        self.cells, self.tags, self._inside = [], set(), False

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag in ("td", "th"):
            self._inside = True
            self.cells.append("")

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self._inside = False

    def handle_data(self, data):
        if self._inside:
            self.cells[-1] += data


def html_cells(text):
    parser = Cells()
    parser.feed(text)
    return parser


def test_number_rounds_and_gives_a_dash_for_nothing():
    assert number(0.12345, 0.0149).text == "0.123 ± 0.015"
    assert number(-0.5).text == "-0.500"
    assert {number(x).text for x in (None, math.nan, math.inf)} == {"–"}
    assert number(4584, form=",.0f").text == "4,584"


def test_table_of_ragged_rows_is_refused():
    with pytest.raises(ValueError, match=r"rows of table t have \[1, 2\] cells"):
        make_table(rows=(words("a"),))
    with pytest.raises(ValueError, match="cells"):
        make_table(groups=(("", 1), ("gdp", 2)))


def test_html_holds_nasty_text_as_text():
    parsed = html_cells(to_html(make_table()))
    assert parsed.cells == ["system", "gdp", NASTY, "0.123 ± 0.010", "b", "0.900", "c", "–"]
    assert "script" not in parsed.tags
    assert "<strong>0.900</strong>" in to_html(make_table())


@given(st.text())
def test_html_gives_any_text_back(text):
    # a parser reads all line ends as one, and nul is no character of a page
    text = text.replace("\r", "").replace("\0", "")
    parsed = html_cells(to_html(make_table(rows=((Cell(text), number(1.0)),))))
    assert parsed.cells[2] == text
    assert parsed.tags <= {"table", "caption", "thead", "tbody", "tr", "th", "td", "span"}


@given(st.text(alphabet=st.characters(codec="ascii")))
def test_latex_leaves_no_command_of_the_text(text):
    written = latex(text)
    for known in sorted(latex(c) for c in set(text)):
        if known.startswith("\\") or "$" in known:
            written = written.replace(known, "")
    assert not re.search(r"[&%$#_^~<>|]", written)


def test_latex_is_a_booktabs_table():
    table = make_table(
        header=("system", "R²", "RMSE"),
        groups=(("", 1), ("gdp", 2)),
        rows=((*words("a_1"), Cell("-0.2 ± 0.1", -0.2, 0.1, best=True), number(1.0)),),
        notes=("100 % sure.",),
    )
    text = to_latex(table)
    assert "\\begin{tabular}{lrr}" in text
    assert "\\multicolumn{2}{c}{gdp} \\\\\n\\cmidrule(lr){2-3}" in text
    assert "system & R$^2$ & RMSE \\\\" in text
    assert "a\\_1 & \\textbf{$-$0.2} $\\pm$ 0.1 & 1.000 \\\\" in text
    assert "\\caption{Scores (synthetic). 100 \\% sure.}" in text
    rules = [line for line in text.splitlines() if line.endswith("rule")]
    assert rules == ["\\toprule", "\\midrule", "\\bottomrule"]


def test_markdown_marks_the_best_and_keeps_columns():
    lines = to_markdown(make_table()).splitlines()
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {3}
    assert "**0.900**" in lines[3]
    assert "<script>" not in lines[2].replace("\\<", "")
    assert lines[4].split("|")[1].strip() == "*c*"


def test_csv_is_unrounded_with_spread_apart():
    rows = list(csv.reader(io.StringIO(to_csv(make_table()))))
    assert rows[0] == ["system", "gdp", "gdp sd"]
    assert rows[1] == [NASTY, "0.12345", "0.01"]
    assert rows[2:] == [["b", "0.9", ""], ["c", "", ""]]


def test_page_and_markdown_hold_all_blocks(tmp_path):
    secret = Folded("Hidden", (make_table(name="inner"),), in_markdown=False)
    blocks = [
        Heading(1, "Title"),
        Heading(2, "Part & `code`"),
        Text("**Mind** <b>this</b>.", banner=True),
        Bullets(("one", "two")),
        Picture("figures/a.png", "A [picture]", "Seen."),
        Folded("More", (make_table(),)),
        secret,
    ]
    write_markdown(tmp_path / "r.md", blocks)
    write_html(tmp_path / "r.html", "<Title>", blocks)
    write_tables(tmp_path / "tables", blocks)
    text, page = ((tmp_path / name).read_text() for name in ("r.md", "r.html"))
    assert "![A (picture)](figures/a.png)" in text
    assert text.count("**Scores (synthetic)**") == 1
    assert page.count("<caption>Scores (synthetic)</caption>") == 2
    assert "<title>&lt;Title&gt;</title>" in page
    assert "<strong>Mind</strong> &lt;b&gt;this&lt;/b&gt;." in page
    assert '<a href="#part-code">' in page
    assert '<h2 id="part-code">' in page
    assert html.escape(NASTY) in page
    files = sorted(path.name for path in (tmp_path / "tables").iterdir())
    assert files == ["inner.csv", "inner.tex", "t.csv", "t.tex"]
