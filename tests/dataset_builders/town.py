"""A town with all providers on loopback, built once per session, and datasets of random images."""

import collections
import contextlib
import io
import logging
import shutil
from functools import partial
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import rasterio
import yaml

from dataset_builders.__main__ import main
from dataset_builders.city.build import build
from dataset_builders.city.recipe import read_recipe
from dataset_builders.publish import publish
from dataset_builders.schema import DatasetMetadata
from dataset_builders.writer import DatasetWriter

from .provider import TOWN, CityProvider, drawn
from .rasters import write_raster

CITY, KEY = "testville", "S3CRET"
FAST = {"per_second": 2000, "at_once": 16}


def recipe_values(url):
    """Recipe of the town."""
    return {
        "city": CITY,
        "boundary": {"place": "Testville", "nominatim_url": f"{url}/nominatim"},
        "regions": {"side_m": 200, "plane": "epsg32632"},
        "roads": {"overpass_url": f"{url}/overpass", "spacing_m": 120, "thin_m": 20},
        "satellite": {
            "provider": "tiles",
            "name": "demo",
            "url": url + "/tiles/{z}/{x}/{y}.jpg",
            "zoom": 17,
            "licence": "cc0-1.0",
            "attribution": "a demo",
            "redistributable": True,
        },
        "street_view": [
            {"provider": "google", "base_url": url, "size_px": 64, "headings": [90]},
            {"provider": "baidu", "base_url": url, "width": 64, "height": 32},
        ],
        "indicators": [
            {"name": "population", "reader": "raster", "files": "mco_ppp_2020_UNadj.tif"},
            {"name": "comments", "reader": "points", "files": "comments.csv",
             "coord_system": "wgs84", "count_column": "reviews"},
        ],
        "network": {"limits": {"127.0.0.1": FAST}},
        "costs": {"ask_above_price": 100},
        "data_dir": "data",
    }  # fmt: skip


def write_recipe(folder, url, **changes):
    """Write the recipe of the town and its input files; returns the path of the recipe."""
    data, rng = folder / "data", np.random.default_rng(0)
    data.mkdir(exist_ok=True)
    west, south, east, north = TOWN
    transform = rasterio.transform.from_origin(west - 0.005, north + 0.005, 1 / 1200, 1 / 1200)
    population = rng.gamma(2, 20, (24, 28)).astype("float32")
    write_raster(data / "mco_ppp_2020_UNadj.tif", population, transform)
    lon, lat = rng.uniform(west, east, 200), rng.uniform(south, north, 200)
    comments = pd.DataFrame({"lon": lon, "lat": lat, "reviews": rng.integers(0, 50, 200)})
    comments.loc[0, "reviews"] = -1
    comments.to_csv(data / "comments.csv", index=False)
    path = folder / "town.yaml"
    path.write_text(yaml.safe_dump(recipe_values(url) | changes))
    return path


def quick_build(recipe, folder, **options):
    """Build without maps, from a recipe or its path."""
    recipe = recipe if hasattr(recipe, "city") else read_recipe(recipe)
    return build(recipe, folder, draw=False, **options)


@pytest.fixture
def keys(monkeypatch):
    """Keys of the town's providers."""
    monkeypatch.setenv("GOOGLE_MAPS_API_KEY", KEY)
    monkeypatch.setenv("BAIDU_MAP_AK", KEY)


@pytest.fixture
def provider(keys):
    """Loopback providers of the town, for one test."""
    with CityProvider(KEY) as server:
        yield server


@pytest.fixture
def write(provider, tmp_path):
    """Function that writes the recipe and its input files, and returns the path of the recipe."""
    return partial(write_recipe, tmp_path, provider.url)


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """The built town: `provider`, `recipe`, the folder `run`, requests `asked` and output `said`.

    Tests must not change `run`: `again(folder)` copies it for another build.
    """
    folder, log = tmp_path_factory.mktemp("built"), io.StringIO()
    handler, root = logging.StreamHandler(log), logging.getLogger()
    with CityProvider(KEY) as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("GOOGLE_MAPS_API_KEY", KEY)
        patch.setenv("BAIDU_MAP_AK", KEY)
        path, run = write_recipe(folder, server.url), folder / "run"
        root.addHandler(handler)
        level = root.level
        root.setLevel(logging.DEBUG)
        with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            assert main(["build", str(path), "--output_dir", str(run), "--yes"]) == 0
        root.setLevel(level)
        root.removeHandler(handler)
        yield SimpleNamespace(
            provider=server,
            path=path,
            recipe=read_recipe(path),
            run=run,
            dataset=run / "dataset",
            asked=collections.Counter(server.asked),
            said=log.getvalue(),
            again=lambda target: shutil.copytree(run, target / "run"),
        )


@pytest.fixture(scope="session")
def published(built, tmp_path_factory):
    """Folder of the published town, and the result of publishing; not to be changed."""
    folder = tmp_path_factory.mktemp("published") / "out"
    return folder, publish(built.dataset, folder)


def images(folder, view):
    return pd.read_parquet(folder / "data" / f"{CITY}-{view}")


def licensed(folder, allowed, count=40, images_per_shard=500, notes=()):
    """Dataset of random images; `allowed(number)` is whether an image may be redistributed."""
    extra = {"satellite": {} if allowed is None else {"redistributable": "bool"}}
    metadata = DatasetMetadata("t", "d", "s", "l", indicators=(), extra_columns=extra, notes=notes)
    writer = DatasetWriter(folder, metadata)
    rows = [
        {
            "image": {"bytes": drawn(str(n), (32, 32)), "path": None},
            "image_id": f"i{n:03d}",
            "region_id": f"r{n:03d}",
            "source": "demo",
            **({} if allowed is None else {"redistributable": allowed(n)}),
        }
        for n in range(count)
    ]
    regions = [{"region_id": row["region_id"], "city": CITY} for row in rows]
    for index, start in enumerate(range(0, count, images_per_shard)):
        part = slice(start, start + images_per_shard)
        writer.write_shard(CITY, "satellite", index, rows[part])
        writer.write_shard(CITY, "regions", index, regions[part])
    writer.finish()
    return folder
