"""A town that is built once, and a larger dataset of drawn images, for what is published."""

import shutil

import pandas as pd
import pytest

from dataset_builders.city.build import build
from dataset_builders.city.recipe import read_recipe
from dataset_builders.schema import DatasetMetadata
from dataset_builders.storage import DatasetWriter

from .provider import CityProvider, drawn
from .test_city_build import KEY, write_recipe

CITY = "testville"


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """The town, built once, and what its provider was asked for."""
    folder = tmp_path_factory.mktemp("built")
    with CityProvider(KEY) as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("GOOGLE_MAPS_API_KEY", KEY)
        patch.setenv("BAIDU_MAP_AK", KEY)
        path = write_recipe(folder, server.url)
        report = build(read_recipe(path), folder / "run", draw=False, recipe_text=path.read_text())
        server.shutdown()
    return report.dataset, server.asked


@pytest.fixture
def town(built, write, provider, tmp_path):
    """The town as if it had been built from the test's own provider: the recipe alone names it."""
    dataset, asked = built
    provider.asked.update(asked)
    folder = tmp_path / "run" / "dataset"
    shutil.copytree(dataset, folder)
    (folder / "recipe.yaml").write_text(write().read_text())
    return folder


def images(folder, view):
    frames = [
        pd.read_parquet(path) for path in sorted((folder / "data" / f"{CITY}-{view}").glob("*"))
    ]
    return pd.concat(frames, ignore_index=True)


def licensed(folder, allowed, count=40, size=(32, 32)):
    """A dataset of pictures; `allowed` says of each number whether it may be passed on."""
    extra = {"satellite": {} if allowed is None else {"redistributable": "bool"}}
    writer = DatasetWriter(
        folder, DatasetMetadata("t", "d", "s", "l", indicators=(), extra_columns=extra)
    )
    rows = [
        {
            "image": {"bytes": drawn(str(n), size), "path": None},
            "image_id": f"i{n}",
            "region_id": f"r{n}",
            "source": "demo",
            **({} if allowed is None else {"redistributable": allowed(n)}),
        }
        for n in range(count)
    ]
    regions = [{"region_id": row["region_id"], "city": CITY} for row in rows]
    writer.write_shard(CITY, "regions", 0, regions)
    writer.write_shard(CITY, "satellite", 0, rows)
    writer.finish()
    return folder
