"""The gallery in a real browser: what it shows, that nothing in it runs, and how it is used."""

import base64
import io
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from pipelines.captioning.gallery import SIDE, WHY_NAMES, write_gallery
from pipelines.captioning.records import Box, LocalCaption, SourceImage
from pipelines.captioning.summary import examine
from pipelines.captioning.tables import write_candidates

from .fake_run import HOSTILE, FakeRun, candidates_of, drawn_image, drawn_run

UNPRINTABLE = "[\u202e\x00\x07]"


def count_words(text: str) -> int:
    return len(text.split())


def written(run: FakeRun, folder: Path, images=None, **options) -> Path:
    found = examine(run.parts, run.rejects, count_words, **options)
    path = folder / "gallery.html"
    write_gallery(path, run.parts, found, images or run.read_images, "Captions of Harborview")
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> FakeRun:
    return drawn_run(tmp_path_factory.mktemp("run"), 10, hostile={3, 7}, failed={5})


@pytest.fixture(scope="module")
def page(run, tmp_path_factory) -> Path:
    return written(run, tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def browser(start_browser):
    return start_browser()


@pytest.fixture
def opened(browser, page):
    browser.get(page.as_uri())
    return browser


def found(driver, selector: str, value: str = "node.textContent") -> list:
    """An expression of every element that a CSS selector finds."""
    script = f"return [...document.querySelectorAll(arguments[0])].map((node) => {value})"
    return driver.execute_script(script, selector)


def visible(driver) -> list[str]:
    return found(driver, "article:not([hidden]) h2")


def set_field(driver, name: str, value: str) -> None:
    driver.execute_script(
        "const field = document.querySelector('form')[arguments[0]]; field.value = arguments[1];"
        "field.dispatchEvent(new Event('input', {bubbles: true}))",
        name,
        value,
    )


# ---- hostile captions ---------------------------------------------------------------------------


def test_no_hostile_caption_runs_or_becomes_an_element(opened):
    opened.execute_script("document.querySelectorAll('details').forEach((one) => one.open = true)")
    assert opened.execute_script("return window.hacked") is None
    assert len(found(opened, "script")) == 1
    assert not found(opened, "a, iframe, object, article meta, article style")
    assert all(
        src.startswith("data:image/jpeg;base64,") for src in found(opened, "img", "node.src")
    )
    assert not any(found(opened, "*", "[...node.attributes].some((a) => /^on|style/.test(a.name))"))
    addresses = found(opened, "[src], [href], [action], [srcset]", "node.src || node.href")
    assert all(address.startswith("data:") for address in addresses)
    assert opened.get_log("browser") == []


def test_hostile_text_is_shown_to_the_letter(opened, run):
    texts = found(opened, ".candidate > .text")
    for one in run.candidates:
        if one.text and one.image_id in HOSTILE:
            assert re.sub(UNPRINTABLE, "\ufffd", one.text) in texts


def test_the_policy_stops_a_script_that_were_in_the_page_all_the_same(browser, page, tmp_path):
    path = tmp_path / "worse.html"
    bad = "<script>window.hacked = 1</script><img src='x' onerror='window.hacked = 2'>"
    path.write_text(page.read_text().replace("<main>", f"<main>{bad}"))
    browser.get(path.as_uri())
    assert browser.execute_script("return window.hacked") is None
    refused = [entry["message"] for entry in browser.get_log("browser")]
    assert any("Content Security Policy" in message for message in refused)
    assert found(browser, ".bar", "node.hidden") == [False]


# ---- what it shows ------------------------------------------------------------------------------


def test_every_image_of_a_small_run_has_all_candidates_the_chosen_one_first(opened, run):
    shown = found(
        opened,
        "article",
        "[node.querySelector('h2').textContent, node.querySelectorAll('.candidate').length,"
        " node.querySelector('.candidates > :first-child.chosen .text')?.textContent,"
        " Boolean(node.querySelector('.chosen .text')?.offsetHeight)]",
    )
    by_name = {name: rest for name, *rest in shown}
    assert by_name.pop("broken-1") == [0, None, False]
    assert by_name["street-0005"] == [6, None, False]
    assert len(by_name) == len(run.groups)
    for group in run.groups:
        name = re.sub(UNPRINTABLE, "\ufffd", group[0].image_id)
        best = [re.sub(UNPRINTABLE, "\ufffd", one.text) for one in group if one.chosen]
        assert by_name[name] == [len(group), *(best or [None]), bool(best)]


def test_dropped_phrases_are_struck_through_with_score_and_reason(opened):
    shown = found(
        opened,
        ".chosen .dropped",
        "[node.querySelector('s').textContent, getComputedStyle(node.querySelector('s'))"
        ".textDecorationLine, node.textContent]",
    )
    texts = [text for phrase, line, text in shown if (phrase, line) == ("red bus", "line-through")]
    assert texts
    assert all("0.0031" in text and "below threshold" in text for text in texts)


def test_refinement_is_shown_word_by_word(opened):
    pairs = "[node.querySelector('del')?.textContent, node.querySelector('ins')?.textContent]"
    assert ["A red bus waits at a stop beside a row of", "There are"] in found(
        opened, ".change", pairs
    )
    timed_out = f"#image-{1 + visible(opened).index('street-0005')}"
    assert "As first written" in found(opened, f"{timed_out} h4")
    assert not found(opened, f"{timed_out} del")


def test_boxes_lie_where_they_are_in_the_image_and_are_numbered_as_the_details(opened, run):
    article = f"#image-{1 + visible(opened).index('street-0002')}"
    places = found(
        opened,
        f"{article} .line",
        "(() => { const image = node.closest('.frame').querySelector('img')"
        ".getBoundingClientRect(), r = node.getBoundingClientRect(), s = 480 / image.width;"
        "return [(r.top - image.top) * s, (r.left - image.left) * s, r.height * s, r.width * s]"
        "})()",
    )
    boxes = [detail.box for detail in run.groups[2][0].details]
    assert len(places) == len(boxes) == 3
    for place, box in zip(places, boxes, strict=True):
        assert place == pytest.approx([box.top, box.left, box.height, box.width], abs=3)
    assert found(opened, f"{article} svg text") == ["1", "2", "3"]
    assert found(opened, f"{article} .chosen .box") == ["1", "2", "3"]


@pytest.mark.parametrize("side", [64, 256, 3000])
def test_no_number_of_a_box_is_clipped_by_the_edge_of_the_image(browser, tmp_path, side):
    corners = [(top, left) for top in (0, side - 4) for left in (0, side - 4)]
    boxes = [Box(*corner, 4, 4) for corner in corners] + [Box(0, n, 4, 4) for n in range(8)]
    details = tuple(LocalCaption(box, "A wall.") for box in boxes)  # two-digit numbers too
    run = FakeRun(tmp_path, [(drawn_image(0, (side, side)), (side, side))])
    group = [replace(one, details=details) for one in run.candidates]
    write_candidates(run.parts[0], group)
    browser.get(written(run, tmp_path).as_uri())
    labels = found(
        browser,
        ".frame text, .frame .label",
        "(() => { const b = node.getBBox(); return [b.x, b.y, b.x + b.width, b.y + b.height] })()",
    )
    assert len(labels) == 2 * len(dict.fromkeys(boxes))
    for left, top, right, bottom in labels:
        assert -0.01 * side <= min(left, top)  # a glyph's box has some air around the ink
        assert max(right, bottom) <= 1.01 * side


def test_synthetic_is_stated_for_every_image(browser, run, tmp_path):
    browser.get(written(run, tmp_path, synthetic=True).as_uri())
    assert all("synthetic" in text for text in found(browser, "article .head"))
    assert "Synthetic" in found(browser, ".banner")[0]


# ---- how it is used -----------------------------------------------------------------------------


def test_search_leaves_the_images_and_candidates_that_have_all_words(opened, run):
    set_field(opened, "search", "PARK benches street-0002")
    assert visible(opened) == ["street-0002"]
    fits = [one for one in run.groups[2] if "park with benches" in one.generated]
    shown = "article:not([hidden]) .candidate:not([hidden])"
    assert found(opened, shown, "node.open !== false") == [True] * len(fits)
    set_field(opened, "search", "no such words")
    assert visible(opened) == []
    opened.execute_async_script(
        "document.querySelector('button[type=reset]').click(); setTimeout(arguments[0], 50)"
    )
    assert len(visible(opened)) == len(run.groups) + 1


def test_filters_by_model_reason_and_why(opened):
    set_field(opened, "model", "internvl")
    assert found(opened, ".candidate:not([hidden]) .model bdi") == ["internvl"] * 20
    set_field(opened, "model", "")
    set_field(opened, "reason", "timeout")
    assert visible(opened) == ["street-0005"]
    set_field(opened, "reason", "")
    set_field(opened, "why", "failed")
    assert sorted(visible(opened)) == ["broken-1", "street-0005"]


def test_keys_go_from_image_to_image_and_not_while_typing(opened):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    def press(key: str) -> int:
        ActionChains(opened).send_keys(key).perform()
        return opened.execute_script(
            "return [...document.querySelectorAll('article')].indexOf(document.activeElement)"
        )

    keys = ("j", "j", Keys.ARROW_RIGHT, "k", Keys.ARROW_LEFT, "k", "/")
    assert [press(key) for key in keys] == [0, 1, 2, 1, 0, 0, -1]
    ActionChains(opened).send_keys("jj").perform()
    assert found(opened, "[name=search]", "node.value") == ["jj"]


def test_next_brings_an_image_below_the_bar(opened):
    for _ in range(3):
        opened.execute_script("document.querySelector('.next').click()")
    gap = opened.execute_script(
        "return document.activeElement.getBoundingClientRect().top"
        " - document.querySelector('.bar').getBoundingClientRect().bottom"
    )
    assert 0 <= gap < 60


@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_is_wider_than_the_window(opened, width):
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        opened.execute_script("document.querySelectorAll('details').forEach((d) => d.open = true)")
        assert found(opened, "html", "node.scrollWidth <= window.innerWidth") == [True]
    finally:
        opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_light_and_dark(opened, scheme):
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    pairs = found(
        opened,
        ".text, .soft, .badge, s, del, ins, .box, h4",
        "[getComputedStyle(node).color, (() => { for (let n = node; n; n = n.parentElement) {"
        " const c = getComputedStyle(n).backgroundColor; if (!c.endsWith(', 0)')) return c } })()]",
    )
    for front, back in {tuple(pair) for pair in pairs}:
        assert contrast(front, back) >= 4.5, (front, back)


def contrast(first: str, second: str) -> float:
    """WCAG 2.2, 1.4.3."""

    def luminance(colour: str) -> float:
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def test_page_can_be_read_without_javascript(start_browser, page, run):
    driver = start_browser("--blink-settings=scriptEnabled=false")
    driver.get(page.as_uri())
    best = next(one for one in run.groups[2] if one.chosen)
    assert best.text in driver.find_element("tag name", "main").text
    assert not driver.find_element("css selector", ".bar").is_displayed()
    folded = driver.find_element("css selector", "details.candidate")
    folded.find_element("tag name", "summary").click()
    assert folded.get_attribute("open")


# ---- files, no browser --------------------------------------------------------------------------


def image_sizes(path: Path) -> list[tuple[int, int]]:
    data = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', path.read_text())
    return [Image.open(io.BytesIO(base64.b64decode(one))).size for one in data]


def test_large_images_are_reduced_and_small_ones_keep_their_size(page, tmp_path):
    run = FakeRun(tmp_path, [(drawn_image(0, (1600, 1200)), (1600, 1200))])
    assert image_sizes(written(run, tmp_path)) == [(SIDE, SIDE * 3 // 4)]
    assert set(image_sizes(page)) == {(480, 320)}


def test_an_image_of_another_table_with_the_same_id_is_not_taken_for_it(tmp_path):
    run = drawn_run(tmp_path, 2)
    other = SourceImage("street-0000", "satellite", "0" * 64, drawn_image(99, (64, 64)))
    path = written(run, tmp_path, lambda ids: [other, *run.sources])
    assert image_sizes(path) == [(480, 320)] * 2


def test_an_image_that_cannot_be_decoded_is_said_to_be_missing(tmp_path):
    run = drawn_run(tmp_path, 1)
    run.sources = [replace(run.sources[0], data=b"GIF89a broken")]
    assert "no image" in written(run, tmp_path).read_text()


def test_no_more_images_are_read_than_are_needed(tmp_path):
    run = drawn_run(tmp_path, 6)
    read, asked = [], []

    def images(ids: frozenset[str]) -> Iterator[SourceImage]:
        asked.append(ids)
        for source in run.sources:
            read.append(source.image_id)
            yield source

    run.rejects = []
    written(run, tmp_path, images, gallery_size=2)
    assert len(asked) == 1
    assert read[-1] == max(asked[0]) < run.sources[-1].image_id


def test_a_text_without_end_is_cut_and_said_to_be(tmp_path):
    run = drawn_run(tmp_path, 1)
    group = [
        replace(one, text="word " * 5_000, generated="other " * 5_000)
        for one in candidates_of(1, b"", per_model=1)
    ]
    write_candidates(run.parts[0], group)
    page = written(run, tmp_path, lambda ids: []).read_text()
    assert "17,000 more characters" in page
    assert len(page) < 120_000


def test_every_reason_to_be_shown_has_a_name(page):
    assert set(re.findall(r'data-why="(\w+)"', page.read_text())) <= set(WHY_NAMES)
