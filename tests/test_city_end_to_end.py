"""Build, train and evaluate on Monaco, with each stage reading the output of the previous one."""

import json

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import yaml

from dataset_builders.__main__ import main as build
from dataset_builders.storage import read_metadata
from dataset_builders.writer import DatasetWriter
from pipelines.evaluation import cli
from train import main as train

from .dataset_builders.provider import CityProvider
from .test_end_to_end import TINY

rasterio = pytest.importorskip("rasterio")
CITY = "monaco"


@pytest.fixture(scope="module")
def run(tmp_path_factory, shared_data):
    out = tmp_path_factory.mktemp("monaco")
    with pytest.MonkeyPatch.context() as patch, CityProvider("S3CRET") as provider:
        patch.setenv("GOOGLE_MAPS_API_KEY", "S3CRET")
        recipe = _recipe(provider.url, shared_data / "osm" / "monaco.osm.pbf")
        (out / "monaco.yaml").write_text(yaml.safe_dump(recipe))
        _write_population(out / "mco_ppp_2020_UNadj.tif")
        arguments = ["build", str(out / "monaco.yaml"), "--output_dir", str(out / "city"), "--yes"]
        assert build(arguments) == 0
        provider.shutdown()
    return out


def _recipe(url, pbf):
    return {
        "city": CITY,
        "boundary": {"bbox": [7.405, 43.722, 7.442, 43.753]},
        "regions": {"side_m": 250, "plane": "epsg32632"},
        "roads": {"pbf": str(pbf), "spacing_m": 200},
        "satellite": {"provider": "tiles", "name": "demo", "zoom": 17,
                      "url": url + "/tiles/{z}/{x}/{y}.jpg"},
        "street_view": [{"provider": "google", "base_url": url, "size_px": 64, "headings": [0]}],
        "indicators": [
            {"name": "population", "reader": "raster", "files": "mco_ppp_2020_UNadj.tif"},
            {"name": "poi", "reader": "osm_pois", "files": str(pbf), "by_category": True},
        ],
        "network": {"limits": {"127.0.0.1": {"per_second": 2000, "at_once": 16}}},
        "costs": {"ask_above_price": 100},
    }  # fmt: skip


def _write_population(path):
    transform = rasterio.transform.from_origin(7.39, 43.77, 1 / 1200, 1 / 1200)
    values = np.random.default_rng(0).gamma(2, 20, (72, 80)).astype("float32")
    profile = {"driver": "GTiff", "height": 72, "width": 80, "count": 1, "dtype": "float32"}
    with rasterio.open(
        path, "w", **profile, crs="EPSG:4326", transform=transform, nodata=-99999
    ) as file:
        file.write(values, 1)


def _caption(dataset, output):
    """Copy the dataset with a caption for each image."""
    from datasets import load_dataset

    writer = DatasetWriter(output, read_metadata(dataset, CITY))
    for view in ("satellite", "street_view"):
        files = sorted(str(path) for path in (dataset / "data" / f"{CITY}-{view}").glob("*"))
        rows = load_dataset("parquet", data_files=files, split="train", cache_dir=output / "hf")
        frame = rows.to_pandas().astype(object)
        frame["caption"] = [f"A picture of the place {one}." for one in frame["region_id"]]
        writer.write_shard(CITY, view, 0, frame.where(frame.notna(), None).to_dict("records"))
    regions = pd.concat(
        pd.read_parquet(path) for path in (dataset / "data" / f"{CITY}-regions").glob("*")
    ).astype(object)
    writer.write_shard(CITY, "regions", 0, regions.where(regions.notna(), None).to_dict("records"))
    writer.finish()


def test_the_table_of_regions_is_a_map_and_a_dataset(run):
    from datasets import load_dataset

    (shard,) = (run / "city" / "dataset" / "data" / f"{CITY}-regions").glob("*.parquet")
    regions = gpd.read_parquet(shard)
    assert regions.crs == "EPSG:4326"
    np.testing.assert_allclose(regions["area_m2"], 250**2, rtol=1e-3)
    # categories of points of interest sum to the total
    categories = [name for name in regions if name.startswith("poi_") and name != "poi_source"]
    assert len(categories) == 14
    np.testing.assert_allclose(regions[categories].sum(axis=1), regions["poi"])
    assert regions["poi"].sum() > 1000
    rows = load_dataset(str(run / "city" / "dataset"), f"{CITY}-regions", split="train")
    assert rows["region_id"][:] == regions["region_id"].tolist()


def test_street_views_lie_along_the_real_streets(run, shared_data):
    from dataset_builders.roads import read_roads_pbf

    views = pd.concat(
        pd.read_parquet(path)
        for path in (run / "city" / "dataset" / "data" / f"{CITY}-street_view").glob("*")
    )
    roads = read_roads_pbf(shared_data / "osm" / "monaco.osm.pbf").to_crs("EPSG:32632")
    points = gpd.GeoSeries.from_xy(views["lon"], views["lat"], crs="EPSG:4326").to_crs("EPSG:32632")
    assert len(points) > 100
    assert points.distance(roads.union_all()).max() < 1.0


def test_a_model_is_trained_and_scored_on_what_was_built(run):
    _caption(run / "city" / "dataset", run / "captioned")
    city = ["--dataset_name", str(run / "captioned"), "--city", CITY]
    assert train(
        ["--config_overrides", TINY, "--dataset_name", str(run / "captioned"), "--output_dir",
         str(run / "model"), "--per_device_train_batch_size", "16", "--max_train_steps", "3",
         "--split_column", "split_random", "--use_cpu", "true"]
    ) == 0  # fmt: skip
    assert cli.main(
        ["embed", "--model_name_or_path", str(run / "model"), *city, "--output_dir",
         str(run / "embeddings"), "--label", "urbanln"]
    ) == 0  # fmt: skip
    assert cli.main(
        ["probe", "--embeddings", str(run / "embeddings" / CITY / "urbanln.parquet"), *city,
         "--output_dir", str(run / "results"), "--seeds", "1", "--probes", "ridge",
         "--views", "satellite"]
    ) == 0  # fmt: skip
    lines = (run / "results" / CITY / "results.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert {row["indicator"] for row in rows} == {"population", "poi"}
    assert {row["system"] for row in rows} >= {"mean", "coordinates", "urbanln"}
    assert not any(row["synthetic"] for row in rows)
