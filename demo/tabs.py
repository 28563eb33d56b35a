"""Tabs of the page, built from Gradio components and rendered templates."""

import tempfile
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from . import own_images
from .caption_page import Candidates, caption_page
from .cities import VIEW_TITLES, Cities
from .map_panel import MapPanel
from .model import Towers
from .page import asset, notice, render, title
from .search_tab import EXAMPLES, Search, views_for_search
from .uploads import MAX_STREET_VIEWS

SANS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
MONO = ["ui-monospace", "Menlo", "Consolas", "monospace"]
QUIET: Any = {"api_visibility": "private", "show_progress": "hidden"}
BUSY: Any = {"api_visibility": "private", "show_progress": "minimal"}
PLAIN: Any = {"js_on_load": None, "apply_default_css": False}


def theme() -> Any:
    """Gradio theme with system fonts, so that no font is downloaded."""
    return gr.themes.Base(primary_hue="teal", neutral_hue="slate", font=SANS, font_mono=MONO)


def header(cities: Cities, towers: Towers) -> None:
    """Page header with cities, number of regions and encoder."""
    regions = sum(len(city.region_ids) for city in cities.values())
    gr.HTML(render("header", cities=cities, regions=regions, encoder=towers.name), **PLAIN)


def map_tab(panel: MapPanel) -> None:
    """Map with the card of a region."""
    with gr.Tab("Map", id="map"):
        gr.HTML(
            panel.html(),
            elem_id="map-panel",
            js_on_load=asset("map.js"),
            apply_default_css=False,
            server_functions=panel.functions,
        )


def search_tab(cities: Cities, towers: Towers) -> None:
    """Text search over regions, with its measured recall."""
    with gr.Tab("Search", id="search") as tab:
        if towers.tower is None:
            sentence = (
                f"{towers.name} has no text tower, so text search is not available. Start the "
                "demo with an image-text model, such as UrbanLN or CLIP (--encoder)."
            )
            gr.HTML(notice(sentence, "fine"), elem_id="search-results", **PLAIN)
            return
        search = Search(cities, towers)
        first = next(iter(cities.values()))
        note = gr.HTML(elem_id="search-recall", **PLAIN)
        with gr.Row(elem_classes="asking"):
            query = gr.Textbox(
                label="Search query", placeholder=EXAMPLES[0], max_length=2000, scale=4,
                elem_id="query",
            )  # fmt: skip
            city = gr.Dropdown(_choices(cities), value=first.name, label="City", min_width=170)
            view = gr.Dropdown(
                _views(views_for_search(first)), value=views_for_search(first)[0],
                label="Images", min_width=170,
            )  # fmt: skip
            button = gr.Button("Search", variant="primary", min_width=110, elem_id="search-button")
        examples = gr.Dataset(
            components=[query], samples=[[one] for one in EXAMPLES], label="Examples",
            elem_id="search-examples",
        )  # fmt: skip
        found = gr.HTML(elem_id="search-results", **PLAIN)

    def samples(city: str, view: str) -> Any:
        return gr.Dataset(samples=[[one] for one in search.examples(city, view)])

    def open_tab(city: str, view: str, shown: str) -> tuple[Any, ...]:
        """Search for an example when the tab is first opened."""
        if shown:
            return (gr.skip(),) * 4
        example = search.examples(city, view)[0]
        page = search.page(example, city, view)
        return search.note(city, view), samples(city, view), example, page

    def choose_city(name: str) -> Any:
        views = views_for_search(cities[name])
        return gr.Dropdown(choices=_views(views), value=views[0])

    def choose_view(city: str, view: str) -> tuple[Any, ...]:
        return search.note(city, view), samples(city, view)

    tab.select(open_tab, [city, view, found], [note, examples, query, found], **BUSY)
    city.input(choose_city, city, view, **QUIET)
    gr.on([city.change, view.change], choose_view, [city, view], [note, examples], **QUIET)
    examples.click(lambda sample: sample[0], examples, query, **QUIET).then(
        search.page, [query, city, view], found, **BUSY
    )
    gr.on([button.click, query.submit], search.page, [query, city, view], found, **BUSY)


def own_images_tab(cities: Cities, towers: Towers) -> None:
    """Upload and description of images."""
    opening = next(iter(cities.values()))
    folder = tempfile.TemporaryDirectory(prefix="urbanln-example-")

    def describe(
        city: str, street_views: list[str] | None, satellite: str | None, example: str = ""
    ) -> tuple[str, Any]:
        html, files = own_images.answer(cities, towers, city, street_views, satellite, example)
        return html, gr.File(value=files or None, visible=bool(files))

    def open_tab(city: str, shown: str) -> tuple[Any, ...]:
        """Describe the example images when the tab is first opened."""
        examples = own_images.example_files(opening, Path(folder.name))
        if shown or not any(examples):
            return (gr.skip(),) * 4
        return *examples, *describe(city, *examples, opening.opening)

    with gr.Tab("Your images", id="own") as tab:
        gr.HTML(
            '<p class="soft">Upload street views, a satellite image, or both, of one location. '
            "Files are processed on this server and deleted within two hours. At most "
            f"{MAX_STREET_VIEWS} street views, 20 MB per file.</p>",
            js_on_load=None,
        )
        with gr.Row():
            street_views = gr.File(
                label="Street views", file_count="multiple", height=170, elem_id="street-views"
            )
            satellite = gr.File(label="Satellite image", height=170, elem_id="satellite")
        with gr.Row(elem_classes="asking"):
            city = gr.Dropdown(
                _choices(cities), value=opening.name, label="Compare with regions of"
            )
            button = gr.Button("Describe", variant="primary", min_width=110, elem_id="describe")
        found = gr.HTML(elem_id="own-results", **PLAIN)
        files = gr.File(
            label="Embeddings as Parquet (embedding table) and CSV",
            visible=False, interactive=False, elem_id="vectors",
        )  # fmt: skip
    tab.select(open_tab, [city, found], [street_views, satellite, found, files], **BUSY)
    button.click(describe, [city, street_views, satellite], [found, files], **BUSY)


def captions_tab(tables: Mapping[str, Candidates], city_first: str) -> None:
    """Caption candidates with their consensus and removed phrases."""

    def show(city: str, image_id: str | None) -> str:
        return caption_page(tables, city, image_id)

    def show_city(city: str) -> tuple[Any, str]:
        own = tables[city]
        return gr.Dropdown(choices=own.image_ids, value=own.opening), show(city, own.opening)

    def step(city: str, image_id: str | None, by: int) -> str | None:
        ids = tables[city].image_ids if city in tables else []
        if not ids:
            return None
        return ids[(ids.index(image_id) + by) % len(ids) if image_id in ids else 0]

    first = city_first if city_first in tables else next(iter(tables))
    own = tables[first]
    with gr.Tab("Captions", id="captions"):
        with gr.Row(elem_classes="asking", visible=bool(own.image_ids) or len(tables) > 1):
            city = gr.Dropdown(_choices(tables), value=first, label="City", min_width=170)
            image = gr.Dropdown(
                own.image_ids, value=own.opening, label="Image", allow_custom_value=True,
                scale=3, elem_id="image-id",
            )  # fmt: skip
            before = gr.Button("‹ Previous", min_width=100)
            after = gr.Button("Next ›", min_width=100, elem_id="next-image")
        page = gr.HTML(show(first, own.opening), elem_id="caption-page", **PLAIN)
    city.input(show_city, city, [image, page], **QUIET)
    image.change(show, [city, image], page, **QUIET)
    before.click(partial(step, by=-1), [city, image], image, **QUIET)
    after.click(partial(step, by=1), [city, image], image, **QUIET)


def _choices(names: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs of label and value for a dropdown; Gradio escapes the labels."""
    return [(title(name), name) for name in names]


def _views(names: Iterable[str]) -> list[tuple[str, str]]:
    return [(VIEW_TITLES[name], name) for name in names]


__all__ = ["captions_tab", "header", "map_tab", "own_images_tab", "search_tab", "theme"]
