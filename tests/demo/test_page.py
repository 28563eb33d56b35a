"""All tabs of the page in a real browser, with pointer, keyboard, phone size and bad files."""

import re
import time
from pathlib import Path
from urllib.parse import urlsplit

import pyogrio
import pytest

from .conftest import HOSTILE, requested

pytest.importorskip("selenium", reason="selenium is not installed")
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

PHONE = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
TABS = ("Map", "Search", "Your images", "Captions")


def wait(driver, script: str, *arguments):
    """Value of a script once it is true, without a timeout."""
    while not (found := driver.execute_script(f"return {script}", *arguments)):
        time.sleep(0.05)
    return found


def open_tab(driver, name: str) -> None:
    driver.execute_script(
        "[...document.querySelectorAll('button[role=tab]')]"
        ".find((tab) => tab.textContent.trim() === arguments[0]).click()",
        name,
    )
    wait(driver, "document.querySelector('button[role=tab][aria-selected=true]').textContent"
         ".trim() === arguments[0]", name)  # fmt: skip


def text_of(driver, selector: str) -> str:
    return driver.execute_script(
        "return (document.querySelector(arguments[0]) || {textContent: ''}).textContent", selector
    )


def problems(driver) -> list[str]:
    return [one["message"] for one in driver.get_log("browser") if one["level"] == "SEVERE"]


@pytest.fixture(scope="module")
def driver(start_browser, address):
    driver = start_browser()
    driver.get(address)
    wait(driver, "document.querySelectorAll('#map-panel svg.city .regions path').length === 36")
    wait(driver, "document.querySelector('.regions path').style.fill !== ''")
    yield driver
    hosts = {urlsplit(url).hostname for url in requested(driver) if url.startswith("http")}
    assert hosts == {urlsplit(address).hostname}
    assert problems(driver) == []


@pytest.fixture
def on_map(driver):
    open_tab(driver, "Map")
    return driver


def click_region(driver, number: int) -> str:
    driver.execute_script(
        "document.querySelectorAll('.regions path')[arguments[0]]"
        ".dispatchEvent(new MouseEvent('click', {bubbles: true}))",
        number,
    )
    region = driver.execute_script(
        "return JSON.parse(document.querySelector('.drawing').dataset.ids)[arguments[0]]", number
    )
    wait(driver, "document.querySelector('.card').dataset.region === arguments[0]", region)
    return region


def colours(driver) -> list[str]:
    return driver.execute_script(
        "return [...document.querySelectorAll('.regions path')].map((p) => p.style.fill)"
    )


def press(driver, *keys: str) -> None:
    ActionChains(driver).send_keys(*keys).perform()


def test_region_shows_images_estimates_and_similar_regions_on_click(on_map):
    assert text_of(on_map, ".card h3").strip().startswith("harborview_")  # no empty card
    assert "people" in text_of(on_map, "#map-panel .legend")
    assert len(re.findall(r"\d", text_of(on_map, "#map-panel .ticks"))) >= 5
    for place in ("header.page", "#map-panel .note"):
        assert "synthetic" in text_of(on_map, place)
    assert len(set(colours(on_map))) > 5

    on_map.find_elements("css selector", "#map-panel .regions path")[14].click()
    wait(on_map, "document.querySelector('.card').dataset.region === 'harborview_002_002'")
    card = wait(on_map, "document.querySelector('.card').innerHTML")
    assert text_of(on_map, ".card h3").startswith("harborview_002_002")
    assert (card.count("<figure>"), card.count("<tr>")) == (3, 3)
    words = text_of(on_map, ".card table")
    for said in ("measured", "estimated", "90 %"):
        assert said in words
    assert "between" in words or "up to" in words
    assert "Most similar in Harborview" in card
    assert "Most similar in other cities" in card

    shapes = on_map.execute_script(
        "return [...document.querySelectorAll('.pictures img')]"
        ".map((i) => [i.naturalWidth / i.naturalHeight, i.clientWidth / i.clientHeight])"
    )
    for natural, shown in shapes:
        assert shown == pytest.approx(natural, rel=0.02)  # not cropped
    small = on_map.find_element("css selector", ".pictures img")
    before, source = small.size["width"], small.get_attribute("src")
    small.click()
    large = wait(on_map, "document.querySelector('dialog[open] img')")
    assert large.get_attribute("src") == source
    assert large.size["width"] > before
    press(on_map, Keys.ESCAPE)
    wait(on_map, "!document.querySelector('dialog')")


def test_layers_change_colours_and_name_the_protocol(on_map):
    seen = [colours(on_map)]
    for layer in ("estimated", "error"):
        on_map.execute_script(
            "document.querySelector(`input[name=layer][value=${arguments[0]}]`).click()", layer
        )
        wait(on_map, "document.querySelector('.note').textContent.includes('estimated by a model')")
        wait(on_map, "[...document.querySelectorAll('.regions path')]"
             ".some((path, i) => path.style.fill !== arguments[0][i])", seen[-1])  # fmt: skip
        seen.append(colours(on_map))
    note = text_of(on_map, ".note")
    assert "R2" in note or "too few regions to judge" in note
    on_map.execute_script("document.querySelector('input[name=layer][value=measured]').click()")
    wait(on_map, "document.querySelector('.note').textContent.includes('Measured values')")


def test_arrow_keys_move_to_the_edge_and_enter_opens_the_card(on_map):
    click_region(on_map, 3)
    on_map.execute_script("document.querySelector('#map-panel svg.city').focus()")
    spoken = []
    for key in (Keys.ARROW_RIGHT, Keys.ARROW_UP, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT,
                Keys.ARROW_DOWN, Keys.ARROW_DOWN, Keys.ARROW_LEFT):  # fmt: skip
        press(on_map, key)
        spoken.append(text_of(on_map, "#map-panel .spoken"))
    assert "Population" in spoken[0]
    assert [one.split(":")[0].removeprefix("harborview_") for one in spoken] == [
        *("004_000", "004_001", "005_001", "005_001", "005_000", "005_000", "004_000")
    ]
    press(on_map, Keys.ENTER)
    wait(on_map, "document.activeElement.matches('.card h3')")
    shown = on_map.execute_script("return document.activeElement.textContent")
    assert shown.startswith("harborview_004_000")


def test_geopackage_downloads_and_gdal_opens_it(on_map, tmp_path):
    folder = {"behavior": "allow", "downloadPath": str(tmp_path)}
    on_map.execute_cdp_cmd("Browser.setDownloadBehavior", folder)
    on_map.find_element("css selector", "button.download").click()
    path = tmp_path / "harborview-both-synthetic.gpkg"
    while not path.is_file():
        time.sleep(0.05)
    table = pyogrio.read_dataframe(path, layer="predictions")
    assert {"population", "population_predicted", "population_low"} <= set(table.columns)
    assert table["n_images"].tolist() == [3] * 36
    assert "layer_styles" in pyogrio.list_layers(path)[:, 0]


def test_similar_region_of_another_city_opens_and_the_city_box_returns(on_map):
    click_region(on_map, 3)
    on_map.find_element("css selector", ".card button.region[data-city=oldgate]").click()
    wait(on_map, "document.querySelector('.drawing').dataset.city === 'oldgate'")
    wait(on_map, "(document.querySelector('.card').dataset.region || '').startsWith('oldgate')")
    on_map.execute_script(
        "const box = document.querySelector('select[name=city]'); box.value = 'harborview';"
        "box.dispatchEvent(new Event('change', {bubbles: true}))"
    )
    wait(on_map, "document.querySelector('.drawing').dataset.city === 'harborview'")


def test_captions_with_html_are_text_and_the_next_image_follows(on_map):
    click_region(on_map, 0)
    assert HOSTILE in text_of(on_map, ".card")
    open_tab(on_map, "Captions")
    wait(on_map, "document.querySelector('#caption-page .candidate')")
    assert HOSTILE in text_of(on_map, "#caption-page")
    assert on_map.execute_script("return window.hacked") is None
    title = "document.querySelector('#caption-page figcaption b').textContent"
    first = wait(on_map, title)
    on_map.find_element("id", "next-image").click()
    wait(on_map, f"{title} !== arguments[0]", first)
    assert "chosen" in text_of(on_map, "#caption-page")


def ask(driver, query: str) -> None:
    box = driver.find_element("css selector", "#query textarea, #query input")
    box.send_keys(Keys.CONTROL, "a")
    box.send_keys(query)


def test_search_opens_on_an_example_and_ranks_regions_by_words(driver):
    open_tab(driver, "Search")
    wait(driver, "document.querySelectorAll('#search-results button.region').length === 12")
    assert "Measured on 36 captioned satellite images" in text_of(driver, "#search-recall")
    examples = driver.find_elements("css selector", "#search-examples button.gallery-item")
    driver.execute_script("arguments[0].click()", examples[-1])
    wait(driver, "document.querySelector('#search-results h4').textContent.includes("
         "document.querySelector('#query textarea, #query input').value)")  # fmt: skip

    ask(driver, "   ")
    driver.find_element("id", "search-button").click()
    wait(driver, "document.querySelector('#search-results .notice.error')")
    assert "Enter a query" in text_of(driver, "#search-results")

    ask(driver, "a <b>river</b> with trees" + Keys.ENTER)
    wait(driver, "document.querySelector('#search-results h4')?.textContent.includes('river')")
    assert "a <b>river</b> with trees" in text_of(driver, "#search-results h4")
    for shown in ("button.region", "path.hit"):
        assert len(driver.find_elements("css selector", f"#search-results {shown}")) == 12
    region = driver.execute_script(
        "const button = document.querySelector('#search-results button.region'); button.click();"
        "return button.dataset.region"
    )
    wait(driver, "document.querySelector('.card').dataset.region === arguments[0]", region)


def drop(driver, where: str, files: list[str]) -> None:
    driver.execute_script(
        "const clear = document.querySelector(`${arguments[0]} button[aria-label=Clear],"
        " ${arguments[0]} button[title=Clear]`); if (clear) clear.click()",
        where,
    )
    wait(driver, "document.querySelector(arguments[0] + ' input[type=file]')", where)
    if files:
        field = driver.find_element("css selector", f"{where} input[type=file]")
        field.send_keys("\n".join(files))
        wait(driver, "document.querySelectorAll(arguments[0] + ' tr.file').length ==="
             " arguments[1]", where, len(files))  # fmt: skip


def describe(driver) -> str:
    nodes = "[...document.querySelectorAll('#own-results .own, #own-results .notice')]"
    driver.execute_script(f"{nodes}.forEach((node) => node.dataset.old = 1)")
    driver.find_element("id", "describe").click()
    wait(driver, f"{nodes}.some((node) => !node.dataset.old)")
    return text_of(driver, "#own-results")


def test_uploads_give_estimates_vectors_and_clear_errors(driver, picture_files, tmp_path: Path):
    open_tab(driver, "Your images")
    wait(driver, "document.querySelector('#own-results .own')")
    assert "Example: the images of region harborview_" in text_of(driver, "#own-results")
    wait(driver, "document.querySelectorAll('#street-views tr.file').length === 2")

    drop(driver, "#street-views", picture_files["street_view"])
    drop(driver, "#satellite", picture_files["satellite"][:1])
    answer = describe(driver)
    assert "Your 4 images" in answer
    assert "unlike those of" in answer or "similar to those of the training regions" in answer
    assert "Estimates for a region of Harborview" in answer
    assert "Zero-shot description" in answer
    wait(driver, "document.querySelectorAll('#vectors tr.file').length === 2")
    assert "region.parquet" in text_of(driver, "#vectors").replace(" ", "")

    drop(driver, "#street-views", [])
    drop(driver, "#satellite", [])
    assert "There are no images yet" in describe(driver)
    page = tmp_path / "page.jpg"
    page.write_text("<!doctype html><script>window.hacked = 3</script>")
    drop(driver, "#satellite", [str(page)])
    answer = describe(driver)
    assert "“page.jpg” cannot be used" in answer
    assert "web page" in answer
    assert driver.execute_script("return window.hacked") is None


def test_all_tabs_fit_the_width_of_a_phone(driver, address):
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)
    try:
        driver.get(address)
        wait(driver, "document.querySelectorAll('#map-panel svg.city .regions path').length === 36")
        click_region(driver, 20)
        for name in TABS:
            open_tab(driver, name)
            driver.execute_async_script(
                "requestAnimationFrame(() => requestAnimationFrame(arguments[0]))"
            )
            inside, outside = driver.execute_script(
                "return [document.documentElement.scrollWidth, window.innerWidth]"
            )
            assert inside <= outside, name
    finally:
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
