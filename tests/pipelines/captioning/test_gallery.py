"""The page in a real browser: what it shows, that nothing in it runs, and how it is used."""

import base64
import io
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from dataset_builders.images import encode_image
from pipelines.captioning.gallery import PICTURE_BYTES, WHY_NAMES, box_overlay, write_gallery
from pipelines.captioning.records import Box, SourceImage
from pipelines.captioning.summary import examine
from pipelines.captioning.tables import write_candidates

from .fake_run import HOSTILE, FakeRun, candidates_of, drawn_image, drawn_run

TITLE = "Captions of Harborview"


def count_words(text: str) -> int:
    return len(text.split())


def written(run: FakeRun, folder: Path, size: int = 50, synthetic: bool = False) -> Path:
    found = examine(run.parts, count_words, run.rejects, synthetic, size)
    path = folder / "gallery.html"
    write_gallery(path, run.parts, found, run.read_images, TITLE)
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


def visible(driver) -> list[str]:
    return driver.execute_script(
        "return [...document.querySelectorAll('article:not([hidden]) h2')]"
        ".map((node) => node.textContent)"
    )


def set_field(driver, name: str, value: str) -> None:
    driver.execute_script(
        "const field = document.querySelector('form')[arguments[0]]; field.value = arguments[1];"
        "field.dispatchEvent(new Event('input', {bubbles: true}))",
        name,
        value,
    )


def option_of(driver, name: str, text: str) -> str:
    return driver.execute_script(
        "return [...document.querySelector('form')[arguments[0]].options]"
        ".find((one) => one.textContent === arguments[1]).value",
        name,
        text,
    )


# ---- hostile captions ---------------------------------------------------------------------------


def test_no_hostile_caption_runs_or_becomes_an_element(opened):
    opened.execute_script(
        "document.querySelectorAll('details').forEach((node) => { node.open = true })"
    )
    state = opened.execute_script(
        "return {hacked: window.hacked, scripts: document.scripts.length,"
        " images: [...document.images].filter((i) => !i.src.startsWith('data:image/jpeg')).length,"
        " links: document.querySelectorAll('a').length, display: getComputedStyle(document.body)"
        ".display, handlers: [...document.querySelectorAll('*')].filter((node) =>"
        " [...node.attributes].some((one) => one.name.startsWith('on'))).length}"
    )
    assert state == {
        "hacked": None,
        "scripts": 1,
        "images": 0,
        "links": 0,
        "display": "block",
        "handlers": 0,
    }
    assert opened.get_log("browser") == []


def test_hostile_text_is_shown_to_the_letter(opened, run):
    texts = opened.execute_script(
        "return [...document.querySelectorAll('.candidate > .text')].map((n) => n.textContent)"
    )
    for one in run.candidates:
        if one.text and one.image_id in HOSTILE:
            shown = re.sub("[\u202e\x00\x07]", "\ufffd", one.text)
            assert shown in texts


def test_the_policy_stops_a_script_that_were_in_the_page_all_the_same(browser, page, tmp_path):
    path = tmp_path / "worse.html"
    bad = "<script>window.hacked = 1</script><img src='x' onerror='window.hacked = 2'>"
    path.write_text(page.read_text().replace("<main>", f"<main>{bad}"))
    browser.get(path.as_uri())
    assert browser.execute_script("return window.hacked") is None
    refused = [entry["message"] for entry in browser.get_log("browser")]
    assert any("Content Security Policy" in message for message in refused)
    assert browser.execute_script("return document.querySelector('.bar').hidden") is False


class _Attributes(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.addresses += [
            value for name, value in attrs if name in ("src", "href", "action", "style", "srcset")
        ]


def test_page_asks_nothing_of_the_network(page):
    parser = _Attributes()
    parser.feed(page.read_text())
    assert parser.addresses
    assert all(address.startswith("data:") for address in parser.addresses)


# ---- what it shows ------------------------------------------------------------------------------


def test_every_image_of_a_small_run_is_there_with_all_candidates(opened, run):
    counts = opened.execute_script(
        "return [...document.querySelectorAll('article')].map((a) =>"
        " [a.querySelector('h2').textContent, a.querySelectorAll('.candidate').length])"
    )
    wanted = {
        re.sub("[\u202e\x00\x07]", "\ufffd", group[0].image_id): len(group) for group in run.groups
    }
    assert dict(map(tuple, counts)) == {**wanted, "broken-1": 0}


def test_chosen_caption_comes_first_and_open(opened, run):
    first = opened.execute_script(
        "return [...document.querySelectorAll('article')].map((a) => [a.querySelector('h2')"
        ".textContent, (a.querySelector('.candidates > :first-child.chosen .text') || {})"
        ".textContent, Boolean((a.querySelector('.chosen .text') || {}).offsetHeight)])"
    )
    shown = {name: (text, seen) for name, text, seen in first}
    for group in run.groups:
        best = [one for one in group if one.chosen]
        if best and group[0].image_id not in HOSTILE:
            assert shown[group[0].image_id] == (best[0].text, True)
    assert shown["street-0005"] == (None, False)


def test_dropped_phrases_are_struck_through_with_score_and_reason(opened):
    shown = opened.execute_script(
        "return [...document.querySelectorAll('.chosen li.dropped')].map((node) =>"
        " [node.querySelector('s').textContent, getComputedStyle(node.querySelector('s'))"
        ".textDecorationLine, node.textContent])"
    )
    assert ["red bus", "line-through"] in [one[:2] for one in shown]
    for phrase, _, text in shown:
        if phrase == "red bus":
            assert "0.0031" in text
            assert "below threshold" in text


def test_refinement_is_shown_word_by_word(opened):
    shown = opened.execute_script(
        "return [...document.querySelectorAll('.change')].map((node) =>"
        " [node.querySelector('del').textContent, node.querySelector('ins').textContent])"
    )
    assert ["A red bus waits at a stop beside a row of", "There are"] in shown


def test_boxes_lie_where_they_are_in_the_image_and_are_numbered_as_the_details(opened, run):
    places = opened.execute_script(
        "const article = [...document.querySelectorAll('article')].find((a) =>"
        " a.querySelector('h2').textContent === 'street-0002');"
        "const image = article.querySelector('img').getBoundingClientRect();"
        "return [...article.querySelectorAll('rect.line')].map((node) => {"
        " const r = node.getBoundingClientRect(), s = 480 / image.width;"
        " return [(r.top - image.top) * s, (r.left - image.left) * s, r.height * s, r.width * s]})"
    )
    boxes = [detail.box for detail in run.groups[2][0].details]
    assert len(places) == len(boxes) == 3
    for place, box in zip(places, boxes, strict=True):
        assert place == pytest.approx([box.top, box.left, box.height, box.width], abs=3)
    numbers = opened.execute_script(
        "const article = [...document.querySelectorAll('article')].find((a) =>"
        " a.querySelector('h2').textContent === 'street-0002');"
        "return [[...article.querySelectorAll('svg text')], [...article.querySelectorAll("
        "'.chosen .box')]].map((nodes) => nodes.map((node) => node.textContent))"
    )
    assert numbers == [["1", "2", "3"], ["1", "2", "3"]]


def test_synthetic_is_said_in_the_gallery(browser, run, tmp_path):
    browser.get(written(run, tmp_path, synthetic=True).as_uri())
    count = browser.execute_script(
        "return [...document.querySelectorAll('article .head')]"
        ".filter((node) => node.textContent.includes('synthetic')).length"
    )
    assert count == 11
    assert "Synthetic" in browser.execute_script(
        "return document.querySelector('.banner').textContent"
    )


# ---- how it is used -----------------------------------------------------------------------------


def test_search_leaves_the_images_and_candidates_that_have_all_words(opened, run):
    set_field(opened, "search", "PARK benches street-0002")
    assert visible(opened) == ["street-0002"]
    fits = [one for one in run.groups[2] if "park with benches" in one.generated]
    shown = opened.execute_script(
        "return [...document.querySelectorAll('article:not([hidden]) .candidate:not([hidden])')]"
        ".map((node) => node.open !== false)"
    )
    assert shown == [True] * len(fits)
    set_field(opened, "search", "no such words")
    assert visible(opened) == []
    opened.execute_script("document.querySelector('button[type=reset]').click()")
    assert (
        opened.execute_async_script(
            "const done = arguments[0]; setTimeout(() => done("
            "document.querySelectorAll('article:not([hidden])').length), 50)"
        )
        == len(run.groups) + 1
    )


def test_filters_by_model_reason_and_why(opened, run):
    set_field(opened, "model", option_of(opened, "model", "internvl"))
    models = opened.execute_script(
        "return [...document.querySelectorAll('.candidate:not([hidden]) .model bdi')]"
        ".map((node) => node.textContent)"
    )
    assert set(models) == {"internvl"}
    assert len(models) == 20
    set_field(opened, "model", "")
    set_field(opened, "reason", option_of(opened, "reason", "timeout"))
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

    assert [press(key) for key in ("j", "j", Keys.ARROW_RIGHT, "k", Keys.ARROW_LEFT)] == [
        *(0, 1, 2, 1, 0)
    ]
    assert press("k") == 0
    assert press("/") == -1
    ActionChains(opened).send_keys("jj").perform()
    value = opened.execute_script("return document.querySelector('form').search.value")
    assert value == "jj"


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
    opened.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600},
    )
    try:
        opened.execute_script(
            "document.querySelectorAll('details').forEach((node) => { node.open = true })"
        )
        inside, outside = opened.execute_script(
            "return [document.documentElement.scrollWidth, window.innerWidth]"
        )
        assert inside <= outside
    finally:
        opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_light_and_dark(opened, scheme):
    opened.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {"features": [{"name": "prefers-color-scheme", "value": scheme}]},
    )
    pairs = opened.execute_script(
        "const back = (n) => { for (; n; n = n.parentElement) { const c ="
        " getComputedStyle(n).backgroundColor; if (!c.endsWith(', 0)')) return c } };"
        "return ['.text', '.soft', '.badge.bad', '.badge.good', '.badge.note', 's', 'del', 'ins',"
        " '.box', 'dl.origin', 'h4'].map((q) => { const n = document.querySelector(q);"
        " return [q, getComputedStyle(n).color, back(n)] })"
    )
    for name, front, back in pairs:
        assert contrast(front, back) >= 4.5, (name, front, back)


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
    text = driver.find_element("tag name", "main").text
    best = next(one for one in run.groups[2] if one.chosen)
    assert best.text in text
    assert not driver.find_element("css selector", ".bar").is_displayed()
    folded = driver.find_element("css selector", "details.candidate")
    folded.find_element("tag name", "summary").click()
    assert folded.get_attribute("open")


# ---- files, no browser --------------------------------------------------------------------------


def pictures(path: Path) -> list[Image.Image]:
    found = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', path.read_text())
    return [Image.open(io.BytesIO(base64.b64decode(one))) for one in found]


def test_many_large_pictures_are_reduced_until_they_fit(tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.captioning.gallery.PICTURE_BYTES", 200_000)
    noisy = Image.effect_noise((1600, 1200), 90).convert("RGB")
    images = [(encode_image(noisy), (1600, 1200))] * 4
    path = written(FakeRun(tmp_path, images), tmp_path)
    assert path.stat().st_size < 200_000 * 4 / 3 + 250_000
    assert {max(image.size) for image in pictures(path)} <= {320, 240}
    assert PICTURE_BYTES * 4 / 3 < 20_000_000


def test_small_pictures_keep_their_size(page):
    assert {image.size for image in pictures(page)} == {(480, 320)}


def test_an_image_of_another_table_with_the_same_id_is_not_taken_for_it(tmp_path):
    run = drawn_run(tmp_path, 2)
    other = SourceImage("street-0000", "satellite", "0" * 64, drawn_image(99, (64, 64)))
    found = examine(run.parts, count_words)
    path = tmp_path / "g.html"
    write_gallery(path, run.parts, found, lambda ids: [other, *run.sources], TITLE)
    assert [image.size for image in pictures(path)] == [(480, 320)] * 2


def test_a_picture_that_cannot_be_decoded_is_said_to_be_missing(tmp_path):
    run = drawn_run(tmp_path, 1)
    run.sources = [replace(run.sources[0], data=b"GIF89a broken")]
    assert "no picture" in written(run, tmp_path).read_text()


def test_images_are_asked_for_by_the_ids_of_the_gallery_alone(run, tmp_path):
    asked: list[frozenset[str]] = []

    def read(ids: frozenset[str]) -> list[SourceImage]:
        asked.append(ids)
        return []

    found = examine(run.parts, count_words, gallery_size=3)
    path = tmp_path / "g.html"
    write_gallery(path, run.parts, found, read, TITLE)
    assert asked == [frozenset(choice.image_id for choice in found.gallery)]


def test_no_more_images_are_read_than_are_needed(tmp_path):
    run = drawn_run(tmp_path, 6)
    read = []

    def images(ids: frozenset[str]) -> Iterator[SourceImage]:
        for source in run.sources:
            read.append(source.image_id)
            yield source

    found = examine(run.parts, count_words, gallery_size=2)
    write_gallery(tmp_path / "g.html", run.parts, found, images, TITLE)
    last = max(choice.image_id for choice in found.gallery)
    assert read[-1] == last < run.sources[-1].image_id


def test_a_text_without_end_is_cut_and_said_to_be(tmp_path):
    group = [
        replace(one, text="word " * 5_000, generated="other " * 5_000)
        for one in candidates_of(1, b"", per_model=1)
    ]
    write_candidates(tmp_path / "a.parquet", group)
    found = examine([tmp_path / "a.parquet"], count_words)
    write_gallery(tmp_path / "g.html", [tmp_path / "a.parquet"], found, None, TITLE)
    page = (tmp_path / "g.html").read_text()
    assert "17,000 more characters" in page
    assert len(page) < 120_000


def test_every_reason_to_be_shown_has_a_name(page):
    assert set(re.findall(r'data-why="(\w+)"', page.read_text())) <= set(WHY_NAMES)


@pytest.mark.parametrize("number", [1, 12, 123])
def test_the_number_of_a_box_in_a_corner_stays_within_the_image(browser, number):
    corner = Box(top=246, left=246, height=10, width=10)
    browser.get("data:text/html,<body></body>")
    inside = browser.execute_script(
        "document.body.innerHTML = `<div style='width:256px'>${arguments[0]}</div>`;"
        "document.querySelector('text').style.fontWeight = 700;"
        "const box = document.querySelector('text').getBBox();"
        "return [box.x >= 0, box.x + box.width <= 256, box.y >= 0, box.y + box.height <= 260]",
        box_overlay(256, 256, {corner: number}),
    )
    assert all(inside)
