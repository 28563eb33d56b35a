"""The parts of the page, put together of Gradio's components and our own HTML."""

from functools import partial
from importlib.resources import files
from typing import Any

import gradio as gr

from . import own_images
from .caption_page import Candidates, caption_page
from .cities import VIEW_TITLES, Cities
from .map_panel import MapPanel
from .markup import SYNTHETIC, text, titled
from .model import Towers
from .search_tab import EXAMPLES, search_regions, views_for_search
from .uploads import MAX_STREET_VIEWS

SANS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
MONO = ["ui-monospace", "Menlo", "Consolas", "monospace"]


def theme() -> Any:
    """Fonts of the reader's own machine: none is fetched."""
    return gr.themes.Base(primary_hue="teal", neutral_hue="slate", font=SANS, font_mono=MONO)


def style() -> str:
    """Of the whole page."""
    return _asset("demo.css")


def header(cities: Cities, towers: Towers) -> None:
    """What this is, and whether it is real."""
    shown = ", ".join(
        f"{titled(city.name)}{f' {SYNTHETIC}' if city.synthetic else ''}"
        for city in cities.values()
    )
    regions = sum(len(city.region_ids) for city in cities.values())
    gr.HTML(
        '<header class="page"><h1>UrbanLN</h1><p>Street views and satellite pictures in, '
        f"region representations out. {shown}: {regions:,} regions, vectors of "
        f"{text(towers.name)}.</p></header>",
        js_on_load=None,
        apply_default_css=False,
    )


def map_tab(panel: MapPanel) -> None:
    """The choropleth and the card of a region."""
    with gr.Tab("Map", id="map"):
        gr.HTML(
            panel.html(),
            elem_id="map-panel",
            js_on_load=_asset("map.js"),
            apply_default_css=False,
            server_functions=panel.functions,
        )


def search_tab(cities: Cities, towers: Towers) -> None:
    """Words to regions."""

    def search(query: str, city: str, view: str) -> str:
        return search_regions(cities, towers.tower, query, city, view)

    first = next(iter(cities.values()))
    with gr.Tab("Search", id="search"):
        with gr.Row(elem_classes="asking"):
            query = gr.Textbox(
                label="What to look for", placeholder=EXAMPLES[0], max_length=2000, scale=4,
                elem_id="query",
            )  # fmt: skip
            city = gr.Dropdown(_choices(cities), value=first.name, label="City", min_width=170)
            view = gr.Dropdown(
                [(VIEW_TITLES[name], name) for name in views_for_search(first)],
                label="In pictures", min_width=170,
            )  # fmt: skip
            button = gr.Button("Search", variant="primary", min_width=110, elem_id="search-button")
        gr.Examples(
            [[example] for example in EXAMPLES], [query], label="Examples", api_visibility="private"
        )
        found = gr.HTML(
            elem_id="search-results", js_on_load=_asset("leads.js"), apply_default_css=False
        )
    asked: Any = {"fn": search, "inputs": [query, city, view], "outputs": found}
    for event in (button.click, query.submit):
        event(**asked, api_visibility="private", show_progress="minimal")


def own_images_tab(cities: Cities, towers: Towers) -> None:
    """Pictures from the reader's own disk."""

    def describe(
        city: str, street_views: list[str] | None, satellite: str | None
    ) -> tuple[str, Any]:
        found = own_images.answer(cities, towers, city, street_views, satellite)
        return found.html, gr.File(value=found.files or None, visible=bool(found.files))

    with gr.Tab("Your images", id="own"):
        gr.HTML(
            '<p class="soft">Street views, a satellite picture, or both, of one place. They are '
            "read on this server and deleted within two hours; no address is ever fetched. At most "
            f"{MAX_STREET_VIEWS} street views, 20 MB each.</p>",
            js_on_load=None,
        )
        with gr.Row():
            street_views = gr.File(
                label="Street views", file_count="multiple", height=170, elem_id="street-views"
            )
            satellite = gr.File(label="Satellite picture", height=170, elem_id="satellite")
        with gr.Row(elem_classes="asking"):
            city = gr.Dropdown(
                _choices(cities), value=next(iter(cities)), label="Compare with the regions of"
            )
            button = gr.Button("Describe", variant="primary", min_width=110, elem_id="describe")
        found = gr.HTML(
            elem_id="own-results", js_on_load=_asset("leads.js"), apply_default_css=False
        )
        files = gr.File(
            label="The vectors: Parquet (an embedding table) and CSV",
            visible=False, interactive=False, elem_id="vectors",
        )  # fmt: skip
    button.click(
        describe, [city, street_views, satellite], [found, files],
        api_visibility="private", show_progress="minimal",
    )  # fmt: skip


def captions_tab(cities: Cities) -> None:
    """Candidates, consensus and what was struck out."""
    tables = {name: Candidates(city) for name, city in cities.items()}

    def show(city: str, image_id: str | None) -> str:
        return caption_page(tables, city, image_id)

    def show_city(city: str) -> tuple[Any, str]:
        ids = tables[city].image_ids if city in tables else []
        first = ids[0] if ids else None
        return gr.Dropdown(choices=ids, value=first), show(city, first)

    def step(city: str, image_id: str | None, by: int) -> str | None:
        ids = tables[city].image_ids if city in tables else []
        if not ids:
            return None
        return ids[(ids.index(image_id) + by) % len(ids) if image_id in ids else 0]

    first = next(iter(cities))
    ids = tables[first].image_ids
    with gr.Tab("Captions", id="captions"):
        with gr.Row(elem_classes="asking", visible=bool(ids) or len(cities) > 1):
            city = gr.Dropdown(_choices(cities), value=first, label="City", min_width=170)
            image = gr.Dropdown(
                ids, value=ids[0] if ids else None, label="Image", allow_custom_value=True,
                scale=3, elem_id="image-id",
            )  # fmt: skip
            before = gr.Button("‹ Previous", min_width=100)
            after = gr.Button("Next ›", min_width=100, elem_id="next-image")
        page = gr.HTML(
            caption_page(tables, first, ids[0] if ids else None),
            elem_id="caption-page", js_on_load=None, apply_default_css=False,
        )  # fmt: skip
    quiet: Any = {"api_visibility": "private", "show_progress": "hidden"}
    city.input(show_city, city, [image, page], **quiet)
    image.change(show, [city, image], page, **quiet)
    before.click(partial(step, by=-1), [city, image], image, **quiet)
    after.click(partial(step, by=1), [city, image], image, **quiet)


def _choices(cities: Cities) -> list[tuple[str, str]]:
    """Names as they are shown and as they are asked for; Gradio escapes them."""
    return [(name.replace("_", " ").capitalize(), name) for name in cities]


def _asset(name: str) -> str:
    return files("demo").joinpath(f"assets/{name}").read_text(encoding="utf-8")


__all__ = ["captions_tab", "header", "map_tab", "own_images_tab", "search_tab", "style", "theme"]
