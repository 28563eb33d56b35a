"""A tiny city with a tiny model, and a server of the demo."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("gradio", reason="gradio is not installed (extra `demo`)")

from dataset_builders.storage import iter_images
from demo.settings import DemoSettings
from pipelines.evaluation.embed.images import EmbedSettings, embed
from pipelines.evaluation.embed.sources import open_images

HOSTILE = "<img src=x onerror='window.hacked=1'>${window.hacked=2}{{constructor}}</script>"


@pytest.fixture(scope="session")
def two_cities(tiny_city, tmp_path_factory) -> Path:
    """Synthetic cities of 6 x 6 and 3 x 3 regions; the first captions are HTML with scripts."""
    from dataset_builders.synthetic import build_dataset

    folder = tmp_path_factory.mktemp("two_cities") / "dataset"
    shutil.copytree(tiny_city, folder)
    build_dataset(folder, ("oldgate",), grid_size=3, street_views=1, num_workers=1)
    for table, column in (("satellite", "caption"), ("captions", "text")):
        path = folder / "data" / f"harborview-{table}" / "part-00000.parquet"
        rows = pq.read_table(path)
        values = [HOSTILE, *rows[column].to_pylist()[1:]]
        place = rows.schema.get_field_index(column)
        pq.write_table(rows.set_column(place, column, pa.array(values)), path)
    return folder


@pytest.fixture(scope="session")
def towers(tiny_model_dir):
    from demo.model import load_towers

    return load_towers(str(tiny_model_dir))


@pytest.fixture(scope="session")
def settings(two_cities, towers, tmp_path_factory) -> DemoSettings:
    folder = tmp_path_factory.mktemp("embeddings")
    for city in ("harborview", "oldgate"):
        source = open_images(str(two_cities), city)
        embed(towers.encoder, source, folder / city, "urbanln", EmbedSettings(16, 64, 1))
    return DemoSettings(str(two_cities), str(towers.folder), (str(folder),))


@pytest.fixture(scope="session")
def cities(settings, towers):
    """Both cities with two of their indicators."""
    from demo.cities import from_dataset, open_cities

    def with_two_indicators(name, city, units, transform):
        return from_dataset(name, city, dict.fromkeys(("population", "carbon")), transform)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("demo.cities.from_dataset", with_two_indicators)
        return open_cities(settings, towers.encoder.name, towers.encoder.dim)


@pytest.fixture(scope="session")
def address(settings, cities, towers) -> Iterator[str]:
    """URL of the page, which shares cities and model with the tests."""
    from demo.app import build_app, launch_options

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("demo.cities.open_cities", lambda *_: cities)
        patch.setattr("demo.model.load_towers", lambda *_: towers)
        app = build_app(settings)
    _, url, _ = app.launch(prevent_thread_lock=True, quiet=True, **launch_options())
    yield url
    app.close()


@pytest.fixture(scope="session")
def picture_files(two_cities, tmp_path_factory) -> dict[str, list[str]]:
    """Image files of the other city to upload."""
    folder = tmp_path_factory.mktemp("pictures")
    found: dict[str, list[str]] = {}
    for view in ("street_view", "satellite"):
        for number, row in zip(range(3), iter_images(two_cities, "oldgate", view), strict=False):
            path = folder / f"{view}_{number}.jpg"
            path.write_bytes(row["image"])
            found.setdefault(view, []).append(str(path))
    return found


def requested(driver) -> set[str]:
    """URLs requested by the browser since the last call."""
    messages = (json.loads(entry["message"])["message"] for entry in driver.get_log("performance"))
    return {
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    }


os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
