"""Build, train and evaluate on Monaco, with each stage reading the output of the previous one."""

import json

import geopandas as gpd
import numpy as np
import pandas as pd
import rasterio
import yaml
from datasets import load_dataset

from dataset_builders.roads import read_roads_pbf
from dataset_builders.storage import read_metadata
from dataset_builders.writer import DatasetWriter
from pipelines.evaluation import cli
from train import main as train

from .dataset_builders.provider import CityProvider
from .dataset_builders.rasters import write_raster
from .dataset_builders.town import quick_build
from .test_end_to_end import TINY

CITY = "monaco"


def recipe(url, pbf):
    return {
        "city": CITY,
        "boundary": {"bbox": [7.405, 43.722, 7.442, 43.753]},
        "regions": {"side_m": 250, "plane": "epsg32632"},
        "roads": {"pbf": str(pbf), "spacing_m": 400},
        "satellite": {"provider": "tiles", "name": "demo", "zoom": 16,
                      "url": url + "/tiles/{z}/{x}/{y}.jpg"},
        "street_view": [{"provider": "google", "base_url": url, "size_px": 64, "headings": [0]}],
        "indicators": [
            {"name": "population", "reader": "raster", "files": "mco_ppp_2020_UNadj.tif"},
            {"name": "poi", "reader": "osm_pois", "files": str(pbf), "by_category": True},
        ],
        "network": {"limits": {"127.0.0.1": {"per_second": 2000, "at_once": 16}}},
        "costs": {"ask_above_price": 100},
    }  # fmt: skip


def write_captions(dataset, output):
    """Copy the dataset with a caption for each image."""
    writer = DatasetWriter(output, read_metadata(dataset, CITY))
    for view in ("satellite", "street_view", "regions"):
        frame = pd.read_parquet(dataset / "data" / f"{CITY}-{view}").astype(object)
        if "image" in frame:
            frame["caption"] = [f"A picture of the place {one}." for one in frame["region_id"]]
        writer.write_shard(CITY, view, 0, frame.where(frame.notna(), None).to_dict("records"))
    writer.finish()


def test_build_train_and_evaluate(tmp_path, shared_data, monkeypatch):
    monkeypatch.setenv("GOOGLE_MAPS_API_KEY", "S3CRET")
    pbf = shared_data / "osm" / "monaco.osm.pbf"
    transform = rasterio.transform.from_origin(7.39, 43.77, 1 / 1200, 1 / 1200)
    values = np.random.default_rng(0).gamma(2, 20, (72, 80)).astype("float32")
    write_raster(tmp_path / "mco_ppp_2020_UNadj.tif", values, transform)
    with CityProvider("S3CRET") as provider:
        path = tmp_path / "monaco.yaml"
        path.write_text(yaml.safe_dump(recipe(provider.url, pbf)))
        dataset = quick_build(path, tmp_path / "city").dataset
    # the table of regions is a map and a dataset
    (shard,) = (dataset / "data" / f"{CITY}-regions").glob("*.parquet")
    regions = gpd.read_parquet(shard)
    assert regions.crs == "EPSG:4326"
    np.testing.assert_allclose(regions["area_m2"], 250**2, rtol=1e-3)
    # categories of points of interest sum to the total
    categories = [name for name in regions if name.startswith("poi_") and name != "poi_source"]
    assert len(categories) == 14
    np.testing.assert_allclose(regions[categories].sum(axis=1), regions["poi"])
    assert regions["poi"].sum() > 1000
    rows = load_dataset(str(dataset), f"{CITY}-regions", split="train")
    assert rows["region_id"][:] == regions["region_id"].tolist()
    # street views lie along the streets
    views = pd.read_parquet(dataset / "data" / f"{CITY}-street_view")
    roads = read_roads_pbf(pbf).to_crs("EPSG:32632")
    points = gpd.GeoSeries.from_xy(views["lon"], views["lat"], crs="EPSG:4326").to_crs("EPSG:32632")
    assert len(points) > 50
    assert points.distance(roads.union_all()).max() < 1.0
    # a model is trained and scored on what was built
    captioned = str(tmp_path / "captioned")
    write_captions(dataset, tmp_path / "captioned")
    city = ["--dataset_name", captioned, "--city", CITY]
    assert train(
        ["--config_overrides", TINY, "--dataset_name", captioned, "--output_dir",
         str(tmp_path / "model"), "--per_device_train_batch_size", "8", "--max_train_steps", "2",
         "--split_column", "split_random", "--use_cpu", "true"]
    ) == 0  # fmt: skip
    assert cli.main(
        ["embed", "--model_name_or_path", str(tmp_path / "model"), *city, "--output_dir",
         str(tmp_path / "embeddings"), "--label", "urbanln"]
    ) == 0  # fmt: skip
    assert cli.main(
        ["probe", "--embeddings", str(tmp_path / "embeddings" / CITY / "urbanln.parquet"), *city,
         "--output_dir", str(tmp_path / "results"), "--seeds", "1", "--probes", "ridge",
         "--views", "satellite"]
    ) == 0  # fmt: skip
    lines = (tmp_path / "results" / CITY / "results.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert {row["indicator"] for row in rows} == {"population", "poi"}
    assert {row["system"] for row in rows} >= {"mean", "coordinates", "urbanln"}
    assert not any(row["synthetic"] for row in rows)
