"""First paint and click latency of the demo in a headless browser.

python -m benchmarks.demo --dataset_name DATASET --encoder ENCODER --embeddings EMBEDDINGS

Needs chromium and chromedriver. An empty Gradio page is measured too, as a baseline for the first
paint. Each page is opened in a new profile without a cache. A click is measured from the event
until the card is on the page with its images decoded.
"""

import argparse
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from demo.app import build_app, launch_options
from demo.settings import DemoSettings

FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --window-size=1280,1000"
)
READY = {"demo": "#map-panel svg.city .regions path", "empty page": "#empty"}
PAINTED = """
const [selector, done] = arguments;
const look = () => document.querySelector(selector)
  ? requestAnimationFrame(() => setTimeout(() => done(performance.now())))
  : setTimeout(look, 5);
look();
"""
CLICKED = """
const [number, done] = arguments;
const card = document.querySelector(".card");
const ids = JSON.parse(document.querySelector(".drawing").dataset.ids);
const start = performance.now();
const look = async () => {
  if (card.dataset.region !== ids[number]) return setTimeout(look, 1);
  await Promise.all([...card.querySelectorAll("img")].map((image) => image.decode()));
  requestAnimationFrame(() => setTimeout(() => done(performance.now() - start)));
};
document.querySelectorAll(".regions path")[number]
  .dispatchEvent(new MouseEvent("click", { bubbles: true }));
look();
"""
FIRST_CONTENT = "return performance.getEntriesByName('first-contentful-paint')[0].startTime"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset_name", required=True)
    parser.add_argument("--encoder", "--model_name_or_path", required=True)
    parser.add_argument("--embeddings", nargs="+", required=True)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--clicks", type=int, default=40)
    options = parser.parse_args()
    settings = DemoSettings(options.dataset_name, options.encoder, tuple(options.embeddings))
    apps = {"demo": build_app(settings), "empty page": empty_page()}
    addresses = {name: served(app) for name, app in apps.items()}
    paints: dict[str, list[tuple[float, float]]] = {name: [] for name in apps}
    clicks: list[float] = []
    for turn in range(options.repeats + 1):
        for name, address in addresses.items():
            with browser() as driver:
                driver.get(address)
                ready = driver.execute_async_script(PAINTED, READY[name])
                if turn:  # the first turn is a warm-up of the server
                    paints[name].append((driver.execute_script(FIRST_CONTENT), ready))
                if name == "demo" and turn == options.repeats:
                    clicks += click(driver, options.clicks)
    for name, found in paints.items():
        first, ready = np.median(found, axis=0)
        print(f"{name}: first contentful paint {first:.0f} ms, content ready {ready:.0f} ms")
    for name, some in zip(("first", "second"), np.split(np.array(clicks), 2), strict=True):
        print(
            f"{name} click on a region: median {np.median(some):.0f} ms, "
            f"95th percentile {np.percentile(some, 95):.0f} ms, of {len(some)}"
        )
    for app in apps.values():
        app.close()


def click(driver: Any, count: int) -> list[float]:
    """Milliseconds of clicks on distant regions, followed by the same regions again."""
    regions = driver.execute_script("return document.querySelectorAll('.regions path').length")
    numbers = np.linspace(0, regions - 1, count).astype(int).tolist()
    return [driver.execute_async_script(CLICKED, number) for number in numbers * 2]


def empty_page() -> Any:
    import gradio as gr

    with gr.Blocks(analytics_enabled=False) as app:
        gr.HTML("<p>nothing</p>", elem_id="empty")
    return app


def served(app: Any) -> str:
    return str(app.launch(prevent_thread_lock=True, quiet=True, **launch_options())[1])


@contextmanager
def browser() -> Iterator[Any]:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    with tempfile.TemporaryDirectory() as profile:
        for flag in (*FLAGS.split(), f"--user-data-dir={profile}"):
            options.add_argument(flag)
        driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
        driver.set_script_timeout(120)
        try:
            yield driver
        finally:
            driver.quit()
            time.sleep(0.2)  # the browser still writes to its profile


if __name__ == "__main__":
    main()
