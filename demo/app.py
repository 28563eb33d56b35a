"""Gradio demo: city map, text search, uploaded images and caption candidates.

    python -m demo.app --dataset_name DATASET --encoder ENCODER --embeddings EMBEDDINGS

`python -m demo.app --help` lists the other sources of settings. A Space needs this folder, the
project's packages with `configs/`, a `demo.json` beside this file, and an `app.py` of two lines:
`from demo.app import main` and `main()`.
"""

import os
import sys
from collections.abc import Sequence
from typing import Any

from dataset_builders.commands import run_command
from dataset_builders.errors import MissingExtraError
from pipelines.evaluation.errors import InputError

from .settings import DemoSettings, parse_arguments

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

TITLE = "UrbanLN"
MAX_UPLOAD = "20mb"  # per file


def build_app(settings: DemoSettings) -> Any:
    """Load all data and build the page as `gradio.Blocks`, to be launched with `launch_options()`.

    Raises:
        InputError: Dataset, encoder or embeddings are missing or do not match.
        MissingExtraError: Gradio is not installed.
    """
    try:
        import gradio as gr
    except ImportError as error:
        raise MissingExtraError("gradio", "demo") from error
    from .caption_page import open_candidates
    from .cities import open_cities
    from .map_panel import MapPanel
    from .model import load_towers
    from .tabs import captions_tab, header, map_tab, own_images_tab, search_tab

    towers = load_towers(settings.encoder)
    cities = open_cities(settings, towers.encoder.name, towers.encoder.dim)
    candidates = open_candidates(settings.captions or settings.dataset_name)
    next(iter(cities.values())).warm()
    with gr.Blocks(
        title=TITLE, analytics_enabled=False, fill_width=True, delete_cache=(3600, 3600)
    ) as app:
        header(cities, towers)
        with gr.Tabs():
            map_tab(MapPanel(cities))
            search_tab(cities, towers)
            own_images_tab(cities, towers)
            captions_tab(candidates, next(iter(cities)))
    return app


def launch_options() -> dict[str, Any]:
    """Keyword arguments of `launch` besides the port: styles, upload limits, no external hosts."""
    from starlette.middleware import Middleware

    from .page import asset
    from .tabs import theme
    from .uploads import UploadLimit

    return {
        "theme": theme(),
        # not as `css`: Gradio scopes each of its rules to a container within the page
        "head": f"<style>{asset('demo.css')}</style><script>{asset('page.js')}</script>",
        "max_file_size": MAX_UPLOAD,
        "footer_links": [],
        "share": False,
        "ssr_mode": False,
        "app_kwargs": {"middleware": [Middleware(UploadLimit)]},
        "enable_monitoring": False,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Start the demo and return the exit code of [`run_command`]."""

    def work() -> None:
        settings, port = parse_arguments(argv)
        app = build_app(settings)
        options = launch_options()
        app.queue(default_concurrency_limit=2, max_size=64)
        try:
            app.launch(server_port=port, **options)
        except OSError as error:  # raised by Gradio if the port is in use
            raise InputError(
                f"The page cannot be served ({error}). Choose another --server_port."
            ) from error

    return run_command(work, "demo")


__all__ = ["build_app", "launch_options", "main"]

if __name__ == "__main__":
    sys.exit(main())
