import csv
import html
import math
import re

from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.evaluation.report.rendering import (
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


def cells(page):
    found = re.findall("<t[hd](?: [^>]*)?>(.*?)</t[hd]>", page, re.DOTALL)
    return [html.unescape(re.sub("<[^>]*>", "", cell)) for cell in found]


def test_html_escapes_names_and_marks_bold():
    page = make_table().html()
    assert cells(page) == [
        "", "=one", "", "system", "gdp", "gdp",
        NASTY, "0.123 ± 0.010", "-0.500 [-0.600, -0.400]",
        "b", "0.900", "+0.100 [-0.100, +0.200]",
        "c", "–", "+0.200",
        "n test", "180", "",
    ]  # fmt: skip
    assert re.findall("<strong>(.*?)</strong>", page) == ["0.900", "-0.500"][::-1]


@settings(max_examples=30)
@given(st.text())
def test_html_round_trips_any_text(text):
    # unprintable characters are replaced
    text = re.sub(r"[^\t\n -~\xa0-\u2027]", "", text)
    page = make_table(system=text).html()
    assert cells(page)[6] == text
    tags = {"table", "thead", "tbody", "tr", "th", "td", "span", "em", "strong"}
    assert set(re.findall("</?([^ >]*)", page)) <= tags


def test_markdown_marks_bold_and_keeps_columns():
    lines = make_table().markdown().splitlines()
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {4}
    assert lines[0].split("|")[2].strip() == "=one gdp"
    assert "<script>" not in lines[2].replace("\\<", "")
    assert "**0.900**" in lines[3]
    assert lines[5].split("|")[1].strip() == "*n test*"


def test_html_markdown_and_csv_hold_the_same_report(tmp_path):
    figure = Figure("figures/a.png", "A [figure]", "Seen.")
    nested = Section("Part & `code`", [["one"], figure, "**Mind** <b>this</b>."])
    folded = Section("More", [make_table("inner")], folded=True)
    report = Section("<Title>", [make_table(), nested, folded])
    write_report_files(report, "**Simulated** & more", tmp_path)
    text, page = ((tmp_path / f"report.{kind}").read_text() for kind in ("md", "html"))
    assert "![A (figure)](figures/a.png)" in text
    assert text.count("**Scores (synthetic)**") == 2
    assert "<title>&lt;Title&gt;</title>" in page
    assert '<p class="banner"><strong>Simulated</strong> &amp; more</p>' in page
    assert "<strong>Mind</strong> &lt;b&gt;this&lt;/b&gt;." in page
    assert '<a href="#part-code">' in page
    assert '<h2 id="part-code">' in page
    assert "default-src 'none'" in page
    assert "<script" not in page
    assert html.escape(NASTY) in page
    assert {path.name for path in (tmp_path / "tables").iterdir()} == {"inner.csv", "t.csv"}
    header, first, *_, last = csv.reader((tmp_path / "tables" / "t.csv").open())
    names = ["system", "'=one gdp", "'=one gdp sd", "gdp", "gdp low", "gdp high"]
    assert header == names, "no formula"
    assert first == [NASTY, "0.12345", "0.01", "-0.5", "-0.6", "-0.4"], "unrounded"
    assert last == ["n test", "180", *[""] * 4]
