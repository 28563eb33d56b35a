import csv
import html
import math
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.evaluation.report.rendering import (
    Bullets,
    Figure,
    Section,
    Table,
    intervals,
    numbers,
    words,
    write_report_files,
)

NASTY = "a_b & 100 % <script>alert(1)</script> | $x^2$ \\cmd{} # ~ *i* `c`"


def make_table(name="t", system=NASTY):
    return Table(
        name,
        "Scores (synthetic)",
        [
            words("system", [system, "b", "c"]),
            numbers("gdp", [0.12345, 0.9, None], spread=[0.01, math.nan, math.nan],
                    bold=[False, True, False], group="=one"),
            intervals("gdp", [-0.5, 0.1, 0.2], [-0.6, -0.1, math.nan], [-0.4, 0.2, math.nan]),
        ],
        footer=[("n test", "180", "")],
    )  # fmt: skip


class Cells(HTMLParser):
    """Texts of all cells, and the set of tags."""

    def __init__(self, page):
        super().__init__()
        self.cells, self.tags, self._inside = [], set(), False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag in ("td", "th"):
            self._inside = True
            self.cells.append("")

    def handle_endtag(self, tag):
        self._inside &= tag not in ("td", "th")

    def handle_data(self, data):
        if self._inside:
            self.cells[-1] += data


def test_html_escapes_names_and_marks_bold():
    page = make_table().html()
    assert Cells(page).cells == [
        "", "=one", "", "system", "gdp", "gdp",
        NASTY, "0.123 ± 0.010", "-0.500 [-0.600, -0.400]",
        "b", "0.900", "+0.100 [-0.100, +0.200]",
        "c", "–", "+0.200",
        "n test", "180", "",
    ]  # fmt: skip
    assert re.findall("<strong>(.*?)</strong>", page) == ["0.900", "-0.500"][::-1]


@given(st.text())
def test_html_round_trips_any_text(text):
    # parsers normalise line ends, and unprintable characters are replaced
    text = re.sub(r"[^\t\n -~\xa0-\u2027]", "", text)
    found = Cells(make_table(system=text).html())
    assert found.cells[6] == text
    assert found.tags <= {"table", "thead", "tbody", "tr", "th", "td", "span", "em", "strong"}


def test_markdown_marks_bold_and_keeps_columns():
    lines = make_table().markdown().splitlines()
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {4}
    assert lines[0].split("|")[2].strip() == "=one gdp"
    assert "<script>" not in lines[2].replace("\\<", "")
    assert "**0.900**" in lines[3]
    assert lines[5].split("|")[1].strip() == "*n test*"


def test_the_files_hold_the_same_report(tmp_path):
    figure = Figure("figures/a.png", "A [picture]", "Seen.")
    nested = Section("Part & `code`", [Bullets(["one"]), figure, "**Mind** <b>this</b>."])
    folded = Section("More", [make_table("inner")], folded=True)
    report = Section("<Title>", [make_table(), nested, folded])
    write_report_files(report, "**Simulated** & more", tmp_path)
    text, page = ((tmp_path / f"report.{kind}").read_text() for kind in ("md", "html"))
    assert "![A (picture)](figures/a.png)" in text
    assert text.count("**Scores (synthetic)**") == 2
    assert "<title>&lt;Title&gt;</title>" in page
    assert '<p class="banner"><strong>Simulated</strong> &amp; more</p>' in page
    assert "<strong>Mind</strong> &lt;b&gt;this&lt;/b&gt;." in page
    assert '<a href="#part-code">' in page
    assert '<h2 id="part-code">' in page
    assert "default-src 'none'" in page
    assert "<script" not in page
    assert html.escape(NASTY) in page
    files = {path.name: path for path in (tmp_path / "tables").iterdir()}
    assert set(files) == {"inner.csv", "t.csv"}
    header, first, *_, last = csv.reader(files["t.csv"].open())
    names = ["system", "'=one gdp", "'=one gdp sd", "gdp", "gdp low", "gdp high"]
    assert header == names, "no formula"
    assert first == [NASTY, "0.12345", "0.01", "-0.5", "-0.6", "-0.4"], "unrounded"
    assert last == ["n test", "180", *[""] * 4]


@pytest.mark.parametrize(
    ("value", "form", "text"),
    [(-0.5, ".3f", "-0.500"), (4584, ",.0f", "4,584"), (None, ".3f", "–"), (math.inf, ".3f", "–")],
)
def test_numbers_are_rounded_and_missing_is_a_dash(value, form, text):
    assert numbers("x", [value], form).text == [text]
