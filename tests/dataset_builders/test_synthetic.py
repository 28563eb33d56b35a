"""Synthetic datasets: reproducible, readable, and marked as synthetic."""

import io
import json
import os
import re
from pathlib import Path

import datasets
import geopandas
import numpy as np
import pyarrow.parquet as pq
import pytest
import shapely
from PIL import Image

from dataset_builders.errors import DatasetError
from dataset_builders.synthetic import build_dataset
from dataset_builders.synthetic.__main__ import main
from dataset_builders.synthetic.captioners import CAPTIONERS
from dataset_builders.synthetic.labels import POI_KINDS
from dataset_builders.synthetic.satellite import COVER_BITS, COVERS, MARKS, TILE_PX, render_tile
from dataset_builders.synthetic.scene import CLASSES, HEIGHT, WIDTH
from dataset_builders.synthetic.world import World


@pytest.fixture(scope="module")
def city(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("city")
    return build_dataset(root, ["oldgate"], 3, 1, seed=4, with_masks=True, num_workers=1)


def test_same_bytes_with_one_and_two_processes(city, tmp_path):
    build_dataset(tmp_path, ["oldgate"], 3, 1, seed=4, with_masks=True, num_workers=2)
    names = [path.relative_to(city) for path in city.rglob("*") if path.is_file()]
    assert names
    for name in names:
        assert (tmp_path / name).read_bytes() == (city / name).read_bytes(), name


def test_finished_builds_are_neither_rendered_again_nor_mixed(city):
    before = {path: os.stat(path).st_mtime_ns for path in city.rglob("part-*.parquet")}
    build_dataset(city, ["oldgate"], 3, 1, seed=4, with_masks=True, num_workers=1)
    with pytest.raises(DatasetError, match="was built with"):
        build_dataset(city, ["oldgate"], 3, 2, seed=4, with_masks=True, num_workers=1)
    assert before == {path: os.stat(path).st_mtime_ns for path in city.rglob("part-*.parquet")}


def test_load_dataset_reads_every_config(city, tmp_path):
    for table, rows in {"regions": 9, "street_view": 9, "satellite": 9, "captions": 108}.items():
        name = f"oldgate-{table}"
        found = datasets.load_dataset(str(city), name, cache_dir=str(tmp_path))["train"]
        assert len(found) == rows
        if "image" in found.column_names:
            size = (WIDTH, HEIGHT) if table == "street_view" else (TILE_PX, TILE_PX)
            assert found[0]["image"].size == size


def test_everything_is_marked_synthetic(city):
    assert "synthetic" in (city / "README.md").read_text().lower()
    for path in city.rglob("*.parquet"):
        schema = pq.read_schema(path)
        if path.name != "rejects.parquet":
            assert json.loads(schema.metadata[b"urbanln"])["synthetic"] is True, path
    for table in ("street_view", "satellite"):
        rows = pq.read_table(city / "data" / f"oldgate-{table}", columns=["source"])
        assert set(rows["source"].to_pylist()) == {"synthetic"}
    regions = pq.read_table(city / "data" / "oldgate-regions").to_pylist()
    assert all(row[key] == "synthetic" for row in regions for key in row if key.endswith("_source"))
    assert all(captioner.name.startswith("synthetic-") for captioner in CAPTIONERS)


def test_regions_are_adjacent_square_kilometres(city):
    regions = geopandas.read_parquet(city / "data" / "oldgate-regions")
    # tolerance for the scale factor of the UTM projection
    assert regions["area_m2"].between(0.99e6, 1.01e6).all()
    centre = regions.set_index("region_id").loc["oldgate_001_001"].geometry
    assert regions.geometry.touches(centre).sum() == 8
    assert shapely.intersects_xy(regions.geometry, regions["lon"], regions["lat"]).all()
    kinds = regions[[f"poi_{kind}" for kind in POI_KINDS]]
    assert kinds.sum(axis=1).tolist() == regions["poi"].tolist()


def test_masks_and_covers_match_the_images(city):
    truth = {row["image_id"]: row for row in pq.read_table(city / "truth" / "oldgate").to_pylist()}
    for name, row in truth.items():
        assert (row["mask"] is None) == (row["cover"] is not None) == name.endswith("_sat")
    stored = np.asarray(Image.open(io.BytesIO(truth["oldgate_001_001_sv0"]["mask"])))
    assert stored.shape == (HEIGHT, WIDTH)
    assert stored.max() < len(CLASSES)
    cover = np.asarray(Image.open(io.BytesIO(truth["oldgate_001_001_sat"]["cover"])))
    tile = render_tile(World("oldgate", 3, 4), 1, 1)
    assert cover.shape == (TILE_PX, TILE_PX)
    ground = np.bincount((cover & COVER_BITS).ravel(), minlength=len(COVERS)) / cover.size
    for name, share in zip(COVERS, ground.tolist(), strict=True):
        assert share == pytest.approx(tile.shares[name], abs=0.01), name
    for name in ("trees", "building"):
        share = np.mean((cover & MARKS[name]) > 0)
        assert share == pytest.approx(tile.shares[name], abs=0.01), name


def test_truth_lists_facts_and_caption_errors(city):
    captions = pq.read_table(city / "data" / "oldgate-captions").to_pylist()
    texts = {(row["image_id"], row["model"]): row["text"] for row in captions}
    made_up = 0
    for row in pq.read_table(city / "truth" / "oldgate").to_pylist():
        assert row["facts"] == [f"{one['value']} {one['key']}" for one in row["statements"]]
        weights = [one["weight"] for one in row["statements"]]
        assert weights == sorted(weights, reverse=True)
        for caption in row["captions"]:
            assert not set(caption["hallucinated"]) & set(row["facts"])
            assert set(caption["omitted"]) <= set(row["facts"])
            made_up += len(caption["hallucinated"])
            assert texts[row["image_id"], caption["model"]]
    assert made_up > 0


def test_acquisition_changes_only_the_images(city, tmp_path):
    options = {"seed": 4, "with_masks": True, "num_workers": 1}
    plain = build_dataset(tmp_path, ["oldgate"], 3, 1, acquisition="plain", **options)
    for folder in ("data/oldgate-regions", "data/oldgate-captions", "truth/oldgate"):
        one, other = (pq.read_table(root / folder) for root in (city, plain))
        assert one.equals(other), folder
    for view in ("satellite", "street_view"):
        one, other = (pq.read_table(root / "data" / f"oldgate-{view}") for root in (city, plain))
        assert one.drop_columns("image").equals(other.drop_columns("image"))
        pairs = zip(one["image"].to_pylist(), other["image"].to_pylist(), strict=True)
        assert all(a["bytes"] != b["bytes"] for a, b in pairs)


def test_cities_with_their_own_seeds(city, tmp_path):
    root = build_dataset(tmp_path, ["oldgate-4", "oldgate-5"], 3, 0, seed=0, num_workers=1)
    same, other = (
        [row["image"]["bytes"] for row in pq.read_table(root / "data" / name).to_pylist()]
        for name in ("oldgate-4-satellite", "oldgate-5-satellite")
    )
    first = pq.read_table(city / "data" / "oldgate-satellite")["image"].to_pylist()
    assert same == [image["bytes"] for image in first]
    assert not set(same) & set(other)
    assert "Oldgate 4 (synthetic), Oldgate 5 (synthetic)" in (root / "README.md").read_text()
    truth = pq.read_table(root / "truth" / "oldgate-4")
    assert truth["mask"].null_count == truth["cover"].null_count == len(truth)


def test_reference_captions(tmp_path):
    build_dataset(tmp_path, ["oldgate"], 3, 0, caption_source="reference", num_workers=1)
    rows = pq.read_table(tmp_path / "data" / "oldgate-satellite", columns=["caption_model"])
    assert set(rows["caption_model"].to_pylist()) == {"synthetic-reference"}
    assert not (tmp_path / "data" / "oldgate-street_view").exists()


def test_rejects_invalid_arguments(tmp_path, capsys):
    folder = tmp_path / "out"
    for arguments, message in (
        ("--cities harborview-x", "one of .*harborview.*<style>-<seed>.*got 'harborview-x'"),
        ("--grid_size 2", "`grid_size` must be at least 3, got 2"),
        ("--num_workers 0", "`num_workers` must be 1 or more, got 0"),
    ):
        assert main(["--output_dir", str(folder), *arguments.split()]) == 2
        assert re.search(message, capsys.readouterr().err.replace("\n", " "))
    assert not folder.exists()
